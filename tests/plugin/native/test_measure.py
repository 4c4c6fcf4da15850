"""What reports count in the core is what torch counts."""

from __future__ import annotations

import math

import pytest
import torch
from lloydmax import native
from lloydmax.codebook.codebook import Codebook
from lloydmax.report.layers import in_bins

pytestmark = pytest.mark.skipif(not native.active(), reason="needs the core")


@pytest.mark.parametrize("n", [1, 17, 4097, 9000])
def test_bins_and_ends(n: int) -> None:
    values = torch.randn(n, generator=torch.Generator().manual_seed(n))
    low, high = native.ends(values)
    assert (low, high) == (float(values.min()), float(values.max()))
    for count in (1, 64, 1000):
        factor = count / (high - low) if high > low else 0.0
        for start in (low, low + 0.5):
            assert torch.equal(native.bins(values, start, factor, count), in_bins(values, start, factor, count))


@pytest.mark.parametrize(("k", "dtype"), [(3, torch.uint8), (256, torch.uint8), (300, torch.int16), (300, torch.int32)])
@pytest.mark.parametrize("shape", [(6, 7), (3, 5000), (2, 3, 11)])
@pytest.mark.parametrize("granularity", ["tensor", "channel", "group:2"])
def test_members_and_noise(
    k: int, dtype: torch.dtype, shape: tuple[int, ...], granularity: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = torch.Generator().manual_seed(k)
    codes = torch.randint(0, k, shape, generator=draw).to(dtype)
    count = {"tensor": 0, "channel": shape[0], "group:2": -(-shape[0] // 2)}[granularity]
    book = Codebook(torch.randn(*((count, k) if count else (k,)), generator=draw), codes, granularity)
    weight = torch.randn(shape, generator=draw)
    found = book.member_counts(), book.snr(weight)
    monkeypatch.setattr(native, "active", lambda: False)
    assert torch.equal(found[0], book.member_counts())
    assert math.isclose(found[1], book.snr(weight), rel_tol=1e-12)


def test_codes_that_name_no_centroid_are_refused() -> None:
    values, table = torch.zeros(4), torch.zeros(1, 3)
    with pytest.raises(ValueError, match=r"codes 3 \.\. 3 of 3 centroids"):
        native.noise(values, torch.full((4,), 3, dtype=torch.uint8), table)
    with pytest.raises(ValueError, match=r"-1 \.\."):
        native.members(torch.full((4,), -1, dtype=torch.int16), 300)
    with pytest.raises(ValueError, match="int64"):
        native.members(torch.zeros(4, dtype=torch.int64), 3)
    with pytest.raises(TypeError, match="float64"):
        native.ends(values.double())
