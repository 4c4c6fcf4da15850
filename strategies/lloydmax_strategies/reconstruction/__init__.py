"""Error feedback between the columns of a weight, for :mod:`lloydmax_strategies.reconstruct`."""
