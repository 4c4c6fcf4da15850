"""Packed codes: whatever the width, the parts of the bytes make the codes again, in as few bytes as in our file."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from lloydmax.exporting.packed_codes import parts

pytest.importorskip("onnx_ir")


@given(st.integers(1, 16), st.integers(1, 70), st.integers(0, 1 << 32))
def test_parts_make_the_codes_again(bits: int, count: int, seed: int) -> None:
    codes = np.random.default_rng(seed).integers(0, 1 << bits, count)
    codes[0] = (1 << bits) - 1
    found, stored = np.zeros(count, np.int64), 0
    for width, shift, packed in parts(codes):
        fields = [(packed >> start) & ((1 << width) - 1) for start in range(0, 8, width)]
        found |= np.concatenate(fields)[:count].astype(np.int64) << shift
        stored += len(packed)
    assert np.array_equal(found, codes)
    assert stored <= (bits * count + 7) // 8 + 7 * bits.bit_count()
