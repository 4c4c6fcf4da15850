"""The compiled core: fitting, packing and running in C11, where it was built; its twins in Python elsewhere.

The core is a shared library of plain functions on addresses and sizes, opened by ctypes, which releases the GIL. What
is here checks dtypes and sizes first. Every function has a twin in torch or numpy, named in its docstring, that gives
the same codes and the same bytes: who calls asks :func:`active` and takes the twin where it is false.
"""

from lloydmax.native.histogram import bins, count_keys, float_keys, look_up, solve_points
from lloydmax.native.library import active, path
from lloydmax.native.packing import from_symbols, huffman, pack, repeats, to_symbols, unpack
from lloydmax.native.rows import fit_rows
from lloydmax.native.running import FEW, bits_of, close_codes, convolve_codes, decode_codes, linear_codes, open_codes

__all__ = [
    "FEW",
    "active",
    "bins",
    "bits_of",
    "close_codes",
    "convolve_codes",
    "count_keys",
    "decode_codes",
    "fit_rows",
    "float_keys",
    "from_symbols",
    "huffman",
    "linear_codes",
    "look_up",
    "open_codes",
    "pack",
    "path",
    "repeats",
    "solve_points",
    "to_symbols",
    "unpack",
]
