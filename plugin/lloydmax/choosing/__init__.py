"""Choosing the centroids of every layer: the sweep, the search under a budget, and what both stand on."""

from lloydmax.choosing.search import SearchResult, search
from lloydmax.choosing.sweep import Sweep
from lloydmax.choosing.sweeping import sweep

__all__ = ["SearchResult", "Sweep", "search", "sweep"]
