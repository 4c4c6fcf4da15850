"""What a person is told of an exported file: what its runtime will do with the weights, and why the file is large."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch import nn

from lloydmax.exporting.even_weights import Kind, compressed_weights
from lloydmax.exporting.formats import Format
from lloydmax.format.parts import settings
from lloydmax.format.sizes import accountings

_FEW = 0.01
"""A share of the compressed weights that is not worth a note."""


def notes(model: nn.Module, chosen: Format, size: int) -> Iterator[str]:
    """Lines for a person, none where everything is as it should be.

    Args:
        model: what was exported, as the caller has it.
        chosen: the format, with its options.
        size: bytes that were written.
    """
    books = compressed_weights(model)
    kinds = [Kind.of(book) for book in books]
    whole = sum(book.layout.weights for book in books)
    for kind in dict.fromkeys(kinds):
        of_kind = sum(book.layout.weights for book, found in zip(books, kinds, strict=True) if found == kind)
        if of_kind > _FEW * whole and (said := chosen.at_run_time(kind)):
            yield f"{of_kind / whole:.0%} of the compressed weights have {kind}: {said}"
    _, storage = settings(model, None, None)
    sizes = accountings(model)
    saved, dense = sizes.file, sizes.original
    if size <= saved:
        return
    widths = {book.bits: chosen.code_bits(kind, book.bits) for book, kind in zip(books, kinds, strict=True)}
    reasons = [*_reasons(widths, storage), "graph of the model"]
    larger = f"{size / saved:.2f} times the lloydmax file ({saved:,} bytes), for the {', '.join(reasons)}"
    if size > dense:
        larger = (
            f"larger than the model in its own dtypes ({dense:,} bytes), which pays only for larger ones: export the "
            f"original; {larger}"
        )
    yield f"the file is {larger}"


def _reasons(widths: Mapping[int, int], storage: Mapping[str, str]) -> Iterator[str]:
    """What takes more bytes than in the lloydmax file.

    Args:
        widths: of codes here, by their bits there.
        storage: of that file.
    """
    if wider := sorted({here for there, here in widths.items() if here > there}):
        yield f"codes of {' and '.join(map(str, wider))} bits"
    if storage["codes"] != "packed":
        yield "codes of fixed width, which it has entropy-coded"
    if storage["floats"] != "float32" or storage["codebooks"] == "int8":
        yield "floats, which it has narrower"
