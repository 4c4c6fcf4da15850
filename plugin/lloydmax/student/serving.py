"""Which weights a kernel serves, and the choice of one."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from lloydmax import native
from lloydmax.data.opening import unlabelled
from lloydmax.data.sources import Source
from lloydmax.errors import KernelError
from lloydmax.network.given import network
from lloydmax.student import kernels
from lloydmax.student.attachment import attached
from lloydmax.student.kernels import (
    CODES_NEEDS,
    FAST_TOLERANCE,
    FROM_CODES,
    INT8_NEEDS,
    KERNELS,
    Kernel,
    codes_serve,
    int8_serves,
)
from lloydmax.student.layers import (
    CodebookConv1d,
    CodebookConv2d,
    CodebookEmbedding,
    CodebookLayer,
    CodebookLinear,
    CodebookTensor,
    CodesHolder,
)

_NEVER = (nn.RNNBase, nn.RNNCellBase, nn.EmbeddingBag, nn.MultiheadAttention)
"""What makes no product with a weight that can be told apart."""
_BATCH = 16
_SAMPLES = 64
"""Of data, on which a kernel is checked."""


def set_kernel(model: nn.Module, kernel: Kernel | None, data: Any = None) -> nn.Module:
    """Choose what large layers run with in inference on the CPU.

    Linear layers, heads that are tied to an embedding, and whatever else a module multiplies by: GPT-2's ``Conv1D``;
    with ``"int8"`` also stacked experts (one after the other, or by grouped products), from codes also embeddings
    and convolutions in one and two dimensions.

    - ``"int8"``: weights of at least 512 x 1024 multiply up to 16 input vectors on PyTorch's int8 weight-only kernel.
      Their centroids are rounded to multiples of a bfloat16 scale, -127 to 127, the inputs and outputs to bfloat16; a
      weight that would be off by more than 1 % (relative, root mean square) stays as it is. Made at the first use;
      takes one byte a weight beside the codes.
    - ``"codes"``: weights of at least 4,096 run straight from their codes in the native core, whatever the number of
      inputs: the same up to the order of the sums. The codes are packed, 1 to 8 bits each; there is no other copy of
      the weight, and a product takes at most 1 MB beside them.
    - ``"codes-fast"``: the same, but up to 4 input vectors of linear layers multiply in integers, as far as the machine
      looks up tables in them (16 centroids and fewer with AVX2, 256 with AVX-512): centroids to 13 bits, inputs to
      15; about 2e-4 off (relative, root mean square). Inputs whose largest value is above 32 times their root mean
      square run as ``"codes"``. With ``data``, layers that are off by more than 1e-3 on it run as ``"codes"``, too,
      with a warning that names them.
    - ``None``: PyTorch's float operations, the default.

    Everything else (gradients, autocast, other layers and devices, vector codebooks; with int8 more input vectors,
    inputs whose length 16 does not divide, compiled and exported programs) runs as without it, by the decoded weight
    that :func:`lloydmax.set_cache` keeps or not. Compiled and exported programs run from codes by operators of lloydmax
    (``torch.ops.lloydmax``); :func:`lloydmax.export` writes the plain way. State dicts and files stay the same; copies
    and pickles keep the choice, files do not. Without the native core, ``"codes"`` and ``"codes-fast"`` decode at every
    use, with a warning.

    Args:
        model: finished, as :func:`~lloydmax.compress` and :func:`~lloydmax.load` give it; changed in place.
        kernel: the choice.
        data: unlabelled inputs, anything that :func:`~lloydmax.compress` takes, to check ``"codes-fast"`` on; its
            first 64 samples are run.

    Returns:
        ``model``.

    Raises:
        KernelError: an unknown kernel, or one that serves no layer of this model.
        ModelError: what is given is not a network.
        DataError: data that cannot be used.
    """
    network(model)
    if kernel is not None and kernel not in KERNELS:
        raise KernelError(f"there is no kernel {kernel!r}; choose one of {', '.join(map(repr, KERNELS))}, or None")
    source = None if data is None or kernel != "codes-fast" else unlabelled(data, model)
    known = {place.holder: place for place in _places(model, kernel)}
    serves = int8_serves if kernel == "int8" else codes_serve
    served = [place for place in known.values() if kernel is None or serves(place.holder.holding(place.centroids))]
    if kernel is not None and not served:
        kinds, needs = ("linear layers", INT8_NEEDS) if kernel == "int8" else ("layers that it knows", CODES_NEEDS)
        raise KernelError(
            f"the kernel {kernel!r} serves none of the {len(known)} finished {kinds} with codebooks in this model: it "
            f"needs {needs}"
        )
    before = {place.holder: place.holder.kernel for place in served}
    for holder in before:
        holder.set_kernel(kernel)
    if kernel in FROM_CODES and not native.active():
        warnings.warn(
            "the native core was not built, so that weights are decoded at every use, which is slow; install lloydmax "
            "where there is a C compiler, or use set_cache(model, True) and no kernel",
            stacklevel=2,
        )
    if source is not None:
        try:
            _check(model, served, source)
        except BaseException:  # what was not checked does not stay
            for holder, earlier in before.items():
                holder.set_kernel(earlier)
            raise
    return model


class _Place(NamedTuple):
    """A weight that a kernel may serve."""

    name: str
    holder: CodesHolder
    centroids: Tensor


def _check(model: nn.Module, served: Sequence[_Place], source: Source) -> None:
    """Layers that integers put off by too much on this data run in floats."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad(), kernels.watching() as off:
            for _, batch in source.batches(_BATCH, torch.arange(min(_SAMPLES, len(source)))):
                batch.run(model)
    finally:
        for module, mode in modes.items():
            module.training = mode
    errors = {place.name: off.get(id(place.holder.planes), 0.0) for place in served}
    refused = [place for place in served if not errors[place.name] <= FAST_TOLERANCE]
    for place in refused:
        place.holder.set_kernel("codes")
    if refused:
        warnings.warn(
            f"{', '.join(f'{place.name} ({errors[place.name]:.1e} off)' for place in refused)}: 'codes-fast' exceeds "
            f"{FAST_TOLERANCE:.0e} on this data; they run as 'codes'",
            stacklevel=3,
        )


def _places(model: nn.Module, kernel: str | None) -> Iterator[_Place]:
    from_codes = kernel != "int8"
    finished = (CodebookLinear, CodebookEmbedding, CodebookConv1d, CodebookConv2d) if from_codes else (CodebookLinear,)
    for prefix, module in model.named_modules():
        if isinstance(module, CodebookLayer if kernel is None else finished) and "weight" in module.codebooks:
            holder = module.codebooks["weight"]
            assert isinstance(holder, CodebookTensor)
            if kernel is None or _in_rows(module, holder):
                yield _Place(f"{prefix}.weight".lstrip("."), holder, holder.centroids)
    for name, module, _, weight, centroids in attached(model):
        axes, convolves = len(weight.layout.shape), isinstance(module, (nn.Conv1d, nn.Conv2d))
        told_apart = not isinstance(module, (*_NEVER, _ConvNd)) and not (
            kernel == "int8" and isinstance(module, nn.Embedding)
        )
        if kernel is None or (from_codes and convolves) or (told_apart and (axes == 2 or not from_codes)):
            yield _Place(name, weight, centroids)


def _in_rows(module: nn.Module, holder: CodesHolder) -> bool:
    """Whether its rows are output channels, enough of them in each group."""
    groups: Any = getattr(module, "groups", 1)
    return holder.layout.axis == 0 and (groups == 1 or holder.layout.outputs >= groups * kernels.FEWEST_ROWS)
