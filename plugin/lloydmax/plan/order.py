"""The layers of a model in the order that ranges count."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lloydmax.data.batch import Batch
from lloydmax.errors import DataError, LloydmaxError
from lloydmax.network.layers import Layer, layers_of
from lloydmax.teacher.refusal import refusal


def ordered_layers(model: nn.Module, example_inputs: Any = None) -> list[Layer]:
    """See :func:`~lloydmax.network.layers.layers_of`.

    Raises:
        DataError: the model does not run on the example inputs.
    """
    if example_inputs is None:
        return layers_of(model)
    by_name = isinstance(example_inputs, dict)
    given = example_inputs if isinstance(example_inputs, (tuple, list)) else (example_inputs,)
    batch = Batch((), example_inputs) if by_name else Batch(tuple(given))
    if not any(isinstance(tensor, Tensor) and tensor.ndim for tensor in batch.tensors()):
        raise DataError(
            f"example_inputs is of type {type(example_inputs).__name__}: give a tensor with the samples along its "
            "first axis, a tuple of what forward takes, or a dict by its names"
        )
    try:
        return layers_of(model, example_inputs)
    except (LloydmaxError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise DataError(f"example_inputs: {refusal(model, batch, error)}") from error
