"""Fitting: the codebook of one parameter, and what its codes will cost."""
