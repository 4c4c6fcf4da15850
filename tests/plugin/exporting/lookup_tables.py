"""What a Core ML package holds, read back from its specification and weight file."""

from __future__ import annotations

from pathlib import Path

import lloydmax
import numpy as np
from torch import nn


def lookup_tables(path: Path) -> dict[str, np.ndarray]:
    """The decoded values of all lookup-table operations, by the name of the parameter, ``_`` for its dots."""
    import coremltools
    from coremltools.converters.mil.frontend.milproto.load import load

    model = coremltools.models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir)
    found = program.functions["main"].find_ops(op_type="constexpr_lut_to_dense")
    return {op.name.removeprefix("p_").removesuffix("_cast_fp16"): op.materialized_val_inference() for op in found}


def check_lookup_tables(path: Path, model: nn.Module, tolerance: float) -> None:
    """Every parameter of more than one axis that has a codebook is a lookup table with its values, and nothing else.

    Args:
        path: of the package.
        model: what was exported; each of its codebooks is used, and under one name.
        tolerance: largest difference, as a share of the largest magnitude.
    """
    found = lookup_tables(path)
    books = {name: book for name, book in lloydmax.codebooks(model).items() if len(book.shape) > 1}
    assert set(found) == {name.replace(".", "_") for name in books}
    for name, book in books.items():
        wanted = book.dequantize().numpy()
        written = found[name.replace(".", "_")]
        assert written.shape == wanted.shape
        assert np.abs(written.astype(np.float32) - wanted).max() <= tolerance * np.abs(wanted).max(), name
