"""One-dimensional k-means: from a weight to centroids and codes, for :mod:`lloydmax_strategies.kmeans`."""
