"""Exports that keep the codes small: a compressed model as a file that another runtime runs."""

from lloydmax.exporting.export import Export, export

__all__ = ["Export", "export"]
