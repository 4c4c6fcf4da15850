"""Models that coremltools has palettized: :func:`from_coremltools`.

``coremltools.optimize.torch`` leaves dense weights, and beside each the table that it is made of, in buffers called
``_COREML_/<parameter>/...`` (coremltools, "Compression metadata"; what :mod:`lloydmax.exporting.to_coreml` writes).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from lloydmax.codebook.codebook import Codebook
from lloydmax.errors import IntegrationError
from lloydmax.importing.tables import codebook_of
from lloydmax.network.baking import copied
from lloydmax.network.private import bare, refuse, refuse_scripts
from lloydmax.runtime.modes import own_modes
from lloydmax.student.attachment import attach_all, finish

_PREFIX = "_COREML_/"
_PRUNING, _PALETTIZATION = 1, 2


def from_coremltools(model: nn.Module) -> nn.Module:
    """A model with the tables and codes that coremltools gave it, as codebooks; nothing is clustered anew.

    Tables of tensors and of groups of channels keep their entries, in their order; where coremltools keeps a scale for
    each channel, each gets a codebook of its own, of the scaled entries. Outputs are the same, bit for bit.

    Args:
        model: what ``compress`` or ``finalize`` of a palettizer of ``coremltools.optimize.torch`` returned; not
            changed.

    Returns:
        A copy, in evaluation mode, without the metadata; :func:`lloydmax.save` and all else take it.

    Raises:
        IntegrationError: no palettized weights, a weight that training has moved away from its table, or tables that
            change along several axes. ModelError: not a network, or a script.
    """
    refuse_scripts(model)
    with own_modes(), torch.no_grad():
        made = bare(copied(model))
        refuse(made, runs=False)
        found: dict[str, Codebook] = {}
        others: list[str] = []
        for prefix, module in made.named_modules():
            for leaf, said in _metadata(module).items():
                name = f"{prefix}.{leaf}".lstrip(".")
                kinds = said["compression_type"].flatten().tolist() if "compression_type" in said else []
                weight = module._parameters.get(leaf)
                if "lut" in said and weight is not None:
                    found[name] = _codebook(name, weight, said, _PRUNING in kinds)
                elif kinds:
                    others.append(name)
            _strip(module)
        if not found:
            raise IntegrationError(
                "the model holds no weight that coremltools has palettized (no buffers _COREML_/<parameter>/lut): give "
                "what compress or finalize of a palettizer of coremltools.optimize.torch returned"
            )
        if others:
            warnings.warn(
                f"{', '.join(others)}: pruned or quantized by coremltools without a table, and left as they are",
                stacklevel=2,
            )
        attach_all(made, found)
        return finish(made).eval()


def _codebook(name: str, weight: Tensor, said: dict[str, Tensor], pruned: bool) -> Codebook:
    along = int(said["vector_axis"]) if "vector_axis" in said else None
    scale = said.get("palettization_scale")
    return codebook_of(name, weight, said["lut"], scale=scale, along=along, pruned=pruned)


def _metadata(module: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What the buffers of a module say of each of its parameters, by the last part of their names."""
    found: dict[str, dict[str, Tensor]] = {}
    for leaf, key, tensor in _buffers(module):
        if leaf:
            found.setdefault(leaf, {})[key] = tensor
    return found


def _buffers(module: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    for name, tensor in module._buffers.items():
        if name.startswith(_PREFIX) and tensor is not None:
            leaf, _, key = name.removeprefix(_PREFIX).rpartition("/")
            yield leaf, key, tensor


def _strip(module: nn.Module) -> None:
    """Take out the metadata, and what training with coremltools left behind and does nothing."""
    for name in [name for name in module._buffers if name.startswith(_PREFIX)]:
        del module._buffers[name]
    if type(module._modules.get("activation_post_process")) is nn.Identity:
        del module._modules["activation_post_process"]
