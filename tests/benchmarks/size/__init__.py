"""The evidence for the smallest file at a given accuracy; ``tests/benchmarks/accuracy_at_size.py`` runs it."""
