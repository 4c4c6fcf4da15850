"""Exports that keep the codes small: a compressed model as a file that another runtime runs."""
