"""Fitting: the codebook of one parameter, and what its codes will cost."""

from lloydmax.fitting.codebook import fit_codebook

__all__ = ["fit_codebook"]
