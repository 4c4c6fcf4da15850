"""What pulls low-level features of two domains together, for :mod:`lloydmax_strategies.align`."""
