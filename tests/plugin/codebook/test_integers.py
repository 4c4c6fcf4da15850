"""Codebooks of integers and a scale."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from lloydmax.codebook import integers


@given(st.lists(st.floats(-(2.0**99), 2.0**99, width=32), min_size=1, max_size=20))
def test_rounding_twice_is_rounding_once(values):
    rows = torch.tensor([values, values[::-1]])
    once = integers.rounded(rows)
    stored = integers.to_bytes(once)
    if stored is None:  # so small that the scale is no bfloat16
        assert rows.abs().max() < 1e-30
        return
    assert stored.dtype == torch.int8 and torch.equal(integers.from_bytes(stored), once)
    assert torch.equal(integers.rounded(once), once)
    step = rows.abs().amax(1, keepdim=True) / 127
    assert ((once - rows).abs() <= 0.505 * step + 1e-38).all()
