"""Layout: shapes and counts that follow from five values, and the way from codes to the dense weight and back."""

from __future__ import annotations

import pytest
import torch
from lloydmax import FitError
from lloydmax.codebook import Codebook, Layout
from lloydmax.codebook.layout import code_bits, code_dtype

LAYOUTS = [
    Layout((6, 4, 3), 5),
    Layout((6, 4, 3), 5, "channel"),
    Layout((7, 4, 3), 5, "group:3"),
    Layout((4, 6, 3), 5, "group:4", axis=1),
    Layout((6, 4, 3), 5, "tensor", block=4),
    Layout((4, 6, 3), 5, "channel", axis=1, block=6),
    Layout((7, 4, 3), 5, "group:3", block=3),
    Layout((3, 4, 5), 2, "channel", axis=1, matrices=3),
    Layout((3, 5, 4), 2, "channel", axis=2, matrices=3),
    Layout((12, 5), 3, "group:2", axis=1, matrices=3),
    Layout((6, 5, 4), 3, "group:3", axis=2, block=5, matrices=3),
    Layout((), 2),
]
RUNS = [
    Layout((6, 4, 3), 5, "weights:4"),
    Layout((6, 4, 3), 5, "weights:5"),
    Layout((4, 6, 3), 5, "weights:4", axis=1),
    Layout((3, 5, 4), 2, "weights:3", axis=2, matrices=3),
    Layout((6,), 2, "weights:8"),
]


def _first(layout: Layout, tensor: torch.Tensor) -> torch.Tensor:
    """Matrix by matrix, the output channels first."""
    parts = tensor.chunk(layout.matrices)
    return torch.cat([part.movedim(layout.axis, 0).reshape(part.shape[layout.axis], -1) for part in parts])


def _counted(layout: Layout) -> tuple[torch.Tensor, torch.Tensor]:
    """Centroids that are all different, and codes that use them all."""
    values = torch.arange(layout.codebooks * layout.values, dtype=torch.float32)
    codes = torch.arange(layout.codes).view(layout.code_shape) % layout.centroids
    return values.view(layout.centroids_shape), codes


@pytest.mark.parametrize("layout", RUNS, ids=str)
def test_runs_of_weights_have_their_own_codebooks(layout: Layout) -> None:
    centroids, codes = _counted(layout)
    assert layout.run is not None and layout.runs == -(-layout.weights_per_channel // layout.run)
    rows = _first(layout, layout.decode(centroids, codes)).reshape(layout.outputs, -1).long()
    runs = torch.arange(layout.outputs)[:, None] * layout.runs + torch.arange(rows.shape[1]) // layout.run
    assert torch.equal(rows // layout.centroids, runs)
    assert torch.equal(rows % layout.centroids, _first(layout, codes).reshape(layout.outputs, -1))
    held = Codebook.of(layout, centroids, codes.to(torch.uint8))
    assert torch.equal(torch.cat([part.dequantize() for _, part in held.parts()]), held.dequantize())
    assert torch.equal(held.reassigned(held.dequantize()).codes, held.codes)
    assert int(held.member_counts().sum()) == layout.weights
    if layout.runs > 1:
        with pytest.raises(FitError, match="one codebook for each output channel is needed here"):
            layout.owners()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_every_weight_is_the_centroid_of_its_code_in_its_own_codebook(layout: Layout) -> None:
    centroids, codes = _counted(layout)
    dense = layout.decode(centroids, codes)
    assert tuple(dense.shape) == layout.shape
    if not layout.shape:
        assert float(dense) == float(centroids[int(codes)])
        return
    books = centroids.reshape(layout.codebooks, layout.centroids, layout.block)
    rows = _first(layout, dense).reshape(layout.outputs, -1, layout.block)
    own = (_first(layout, codes) if layout.block == 1 else codes).reshape(len(rows), -1)
    for channel, (row, chosen) in enumerate(zip(rows, own, strict=True)):
        book = books[channel // (layout.channels or len(rows))]
        assert torch.equal(row, book[chosen])


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.shape], ids=str)
def test_blocks_and_groups_hold_every_weight_once(layout: Layout) -> None:
    weight = torch.arange(layout.weights, dtype=torch.float32).view(layout.shape)
    blocks, groups = layout.blocks(weight), list(layout.groups(weight))
    assert blocks.shape == (layout.outputs, layout.weights_per_channel // layout.block, layout.block)
    assert sum(len(group) for group in groups) == layout.codebooks
    assert torch.equal(torch.cat([group.reshape(-1) for group in groups]), blocks.reshape(-1))
    assert blocks.reshape(-1).sort().values.tolist() == list(range(layout.weights))


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.shape], ids=str)
def test_owners_are_the_codebooks_of_the_channels(layout: Layout) -> None:
    owners = layout.owners()
    assert len(owners) == layout.outputs
    assert owners.tolist() == [channel // (layout.channels or len(owners)) for channel in range(len(owners))]
    assert int(owners.max()) + 1 == layout.codebooks


@pytest.mark.parametrize("layout", [layout for layout in LAYOUTS if layout.shape], ids=str)
def test_channels_are_moved_and_spread(layout: Layout) -> None:
    weight = torch.arange(layout.weights, dtype=torch.float32).view(layout.shape)
    rows = layout.channels_first(weight)
    assert torch.equal(rows.flatten(1), _first(layout, weight))
    assert torch.equal(layout.channels_back(rows), weight)
    each = torch.arange(layout.outputs)
    assert torch.equal(
        _first(layout, layout.spread(each).expand(layout.shape)), each[:, None].expand_as(rows.flatten(1))
    )


@pytest.mark.parametrize(("shape", "axis", "matrices"), [((6, 4), 0, 3), ((6, 4), 1, 4), ((6, 4), 1, 0)])
def test_matrices_lie_along_the_first_axis(shape: tuple[int, ...], axis: int, matrices: int) -> None:
    with pytest.raises(FitError, match="matrices do not lie along the first axis"):
        Layout(shape, 2, axis=axis, matrices=matrices)


def test_counts_follow_from_the_five_values() -> None:
    layout = Layout((8, 3, 3), 17, "group:3", block=9)
    assert (layout.weights, layout.weights_per_channel, layout.codes, layout.codebooks) == (72, 9, 8, 3)
    assert (layout.bits, layout.bits_per_weight, layout.values) == (5, 5 / 9, 153)
    assert (layout.code_shape, layout.centroids_shape) == ((8, 1), (3, 17, 9))
    assert str(layout) == "17 centroids per group:3 in blocks of 9"
    assert str(Layout((4,), 2)) == "2 centroids per tensor"


def test_a_codebook_fits_a_layout_with_as_many_centroids_or_more() -> None:
    planned = Layout((4, 4), 8, "channel")
    assert planned.fits(planned.with_centroids(5)) and planned.fits(planned)
    assert not planned.fits(planned.with_centroids(9))
    assert not planned.fits(Layout((4, 4), 8)) and not planned.fits(Layout((4, 5), 8, "channel"))
    assert not planned.fits(Layout((4, 4), 8, "channel", block=2))


@pytest.mark.parametrize("spelling", ["tensors", "group:0", "group:", "group:-1", "group:1.5", "", "Channel"])
def test_another_granularity_is_refused(spelling: str) -> None:
    with pytest.raises(FitError, match="granularity is"):
        Layout((4, 4), 2, spelling)


def test_blocks_that_do_not_divide_a_channel_are_refused_with_lengths_that_do() -> None:
    with pytest.raises(FitError, match=r"blocks of 5 do not divide; lengths that do: 1, 2, 3, 4, 6, 12$"):
        Layout((6, 4, 3), 2, block=5)


@pytest.mark.parametrize(("shape", "axis"), [((3, 4), 2), ((3, 4), -1), ((), 1)])
def test_an_axis_that_the_shape_does_not_have_is_refused(shape: tuple[int, ...], axis: int) -> None:
    with pytest.raises(FitError, match=f"axis {axis} is not one of its shape"):
        Layout(shape, 2, axis=axis)


def test_layouts_are_values() -> None:
    assert Layout((2, 2), 3) == Layout((2, 2), 3) and hash(Layout((2, 2), 3)) == hash(Layout((2, 2), 3))
    with pytest.raises(AttributeError):
        Layout((2, 2), 3).centroids = 4  # type: ignore[misc]


def test_a_codebook_has_the_layout_that_it_was_made_with() -> None:
    layout = Layout((4, 6), 3, "group:2", block=2)
    book = Codebook.of(layout, torch.randn(layout.centroids_shape), torch.zeros(layout.code_shape, dtype=torch.uint8))
    assert book.layout == layout
    assert (book.k, book.shape, book.granularity, book.axis, book.block) == (3, (4, 6), "group:2", 0, 2)


@pytest.mark.parametrize(
    ("centroids", "bits", "dtype"),
    [(1, 0, torch.uint8), (2, 1, torch.uint8), (256, 8, torch.uint8), (257, 9, torch.int16), (32769, 16, torch.int32)],
)
def test_codes_take_as_many_bits_as_they_need(centroids: int, bits: int, dtype: torch.dtype) -> None:
    assert (code_bits(centroids), code_dtype(centroids)) == (bits, dtype)
