"""One module for each host; importing one activates it. They only translate the host's configuration."""
