"""Codebooks: centroids and codes in place of a weight, and the layout that divides it."""

from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import Layout

__all__ = ["Codebook", "Layout"]
