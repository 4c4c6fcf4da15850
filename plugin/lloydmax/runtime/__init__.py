"""What every run needs of the machine: modes, seeds, processes, files, state. Knows nothing of compression."""
