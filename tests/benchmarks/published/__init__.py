"""The evidence for the four published systems that lloydmax contains; ``tests/benchmarks/seeds.py`` runs it."""
