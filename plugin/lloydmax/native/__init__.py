"""The compiled core: fitting, packing and running in C11, where it was built; its twins in Python elsewhere.

The core is a shared library of plain functions on addresses and sizes, opened by ctypes, which releases the GIL. What
is here checks dtypes and sizes first. Every function has a twin in torch or numpy, named in its docstring, that gives
the same codes and the same bytes: who calls asks :func:`active` and takes the twin where it is false.
"""

from lloydmax.native.arithmetic import SPARE, ArithmeticCoder
from lloydmax.native.histogram import count_keys, encode, scan, solve_points
from lloydmax.native.library import active, path
from lloydmax.native.measure import CODES, bins, ends, members, noise
from lloydmax.native.packing import from_symbols, huffman, pack, repeats, to_symbols, unpack
from lloydmax.native.priced import assign, evenly, price_points
from lloydmax.native.rows import fit_rows
from lloydmax.native.running import FEW, bits_of, close_codes, convolve_codes, decode_codes, linear_codes, open_codes

__all__ = [
    "CODES",
    "FEW",
    "SPARE",
    "ArithmeticCoder",
    "active",
    "assign",
    "bins",
    "bits_of",
    "close_codes",
    "convolve_codes",
    "count_keys",
    "decode_codes",
    "encode",
    "ends",
    "evenly",
    "fit_rows",
    "from_symbols",
    "huffman",
    "linear_codes",
    "members",
    "noise",
    "open_codes",
    "pack",
    "path",
    "price_points",
    "repeats",
    "scan",
    "solve_points",
    "to_symbols",
    "unpack",
]
