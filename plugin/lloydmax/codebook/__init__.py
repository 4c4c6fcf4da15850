"""Codebooks: centroids and codes in place of a weight, and the layout that divides it."""
