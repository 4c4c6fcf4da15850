"""Choosing the centroids of every layer: the sweep, the search under a budget, and what both stand on."""
