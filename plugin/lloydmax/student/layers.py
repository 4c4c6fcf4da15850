"""Codebook layers: the standard modules, run from centroids and codes.

They are deliberately no subclasses of ``nn.Linear`` or ``nn.Conv2d``: quantization toolkits choose layers by
``isinstance`` and would quantize the decoded weight a second time.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from lloydmax import native
from lloydmax.codebook.codebook import Codebook
from lloydmax.codebook.layout import with_layout
from lloydmax.errors import ModelError
from lloydmax.student import kernels


class CodesHolder(nn.Module):
    """Codes of one compressed parameter, and the decoded weight if it is kept.

    Attributes:
        layout: of the weight.
        price, zeros: see :class:`~lloydmax.Codebook`.
        dense: the decoded weight, filled at the first use. A plain attribute, so that no state dict, pickle, copy
            or exported program carries it.
        kernel: what inference runs with, see :func:`lloydmax.set_kernel`.
        planes: while a kernel runs from codes, what holds them in place of the buffer ``codes``: rows of output
            channels, packed by :func:`lloydmax.native.close_codes`.
    """

    kernel: str | None = None
    zeros: bool = False
    _int8: tuple[int, tuple[Tensor, Tensor, Tensor]] | None = None
    _opened: Callable[[], Tensor | None] | None = None

    def __init__(self, codebook: Codebook) -> None:
        super().__init__()
        self.layout, self.price, self.zeros, self.cached = codebook.layout, codebook.price, codebook.zeros, True
        self.register_buffer("codes", codebook.codes)
        self.dense: Tensor | None = None
        self._version = -1

    @property
    def planes(self) -> Tensor | None:
        """The packed codes, if that is how they are held."""
        return self._buffers.get("closed")

    @property
    def codes(self) -> Tensor:
        """Integers, as :class:`~lloydmax.Codebook` has them; a buffer unless they are packed."""
        closed = self._buffers.get("closed")
        if closed is None:
            held = self._buffers.get("codes")
            if held is None:
                raise AttributeError("codes")
            return held
        plainly = kernels.plainly()
        found = None if plainly or self._opened is None else self._opened()
        if found is None:
            flat = native.open_codes(closed, max(1, self.layout.bits), self.layout.codes)
            found = self.layout.channels_back(flat.view(self.layout.outputs, -1))
            if not plainly:  # whoever still has them shares them, and tied weights are known by them
                self._opened = weakref.ref(found)
        return found

    def take(self, codes: Tensor) -> None:
        """Take over other codes of the same shape, in place."""
        if self.planes is None:
            self.codes.copy_(codes)
        else:
            self._buffers["closed"] = self._closed(codes)
        self._forget()

    def _closed(self, codes: Tensor) -> Tensor:
        return native.close_codes(self.layout.channels_first(codes).contiguous(), max(1, self.layout.bits))

    def _pack(self, wanted: bool) -> None:
        """Hold the codes packed, or as they are."""
        with torch.inference_mode(False), torch.no_grad():
            if wanted and self.planes is None:
                closed = self._closed(self.codes)
                del self._buffers["codes"]
                self.register_buffer("closed", closed, persistent=False)
            elif not wanted and self.planes is not None:
                codes = self.codes
                del self._buffers["closed"]
                self._non_persistent_buffers_set.discard("closed")
                self._buffers["codes"] = codes

    def decoded(self, centroids: Tensor) -> Tensor:
        """The dense weight; from the cache unless the centroids learn here or have changed since."""
        learns = centroids.requires_grad and torch.is_grad_enabled()
        if learns or torch.compiler.is_exporting():
            if self.dense is not None and not torch.compiler.is_compiling():
                self.dense = None  # what learns changes soon
            return self._decode(centroids)
        if torch.compiler.is_compiling():
            return self._decode(centroids) if self.dense is None else self.dense
        if not self.cached:
            return self._expand(centroids)
        version = _version(centroids)
        if self.dense is None or self._version != version:
            with torch.inference_mode(False):
                self.dense = self._expand(centroids)
            self._version = version
        return self.dense

    def holding(self, centroids: Tensor) -> Codebook:
        """The codebook of these centroids and the codes (not copied)."""
        return Codebook.of(self.layout, centroids.detach(), self.codes, self.price, self.zeros)

    def in_int8(self, centroids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What int8 runs with, made at the first use; see :func:`kernels.int8_weight`."""
        held, version = self._int8, _version(centroids)
        if held is None or held[0] != version:
            with torch.inference_mode(False):
                held = self._int8 = version, kernels.int8_weight(self.holding(centroids))
        return held[1]

    def _decode(self, centroids: Tensor) -> Tensor:
        if self.planes is not None and not centroids.requires_grad:
            return self._from_planes(centroids)
        return self.layout.decode(centroids, self.codes)

    def _expand(self, centroids: Tensor) -> Tensor:
        if self.planes is not None:
            return self._from_planes(centroids)
        return self._decode(centroids) if torch.jit.is_tracing() else kernels.dense(self.holding(centroids))

    def _from_planes(self, centroids: Tensor) -> Tensor:
        layout, tables, planes = self.layout, centroids.detach().view(-1, self.layout.centroids).float(), self.planes
        assert planes is not None
        shared = layout.channels or layout.outputs
        rows = native.decode_codes(None, planes, tables, layout.outputs, layout.weights_per_channel, shared)
        return layout.channels_back(rows).to(centroids.dtype)

    def set_cache(self, enabled: bool) -> None:
        """Keep the decoded weight after its first use, or not."""
        self.cached = enabled
        self._forget()

    def set_kernel(self, kernel: str | None) -> None:
        """Run with one of :data:`kernels.KERNELS`, or plainly."""
        self.kernel = kernel
        self._pack(kernel in kernels.FROM_CODES)
        self._forget()

    def _forget(self) -> None:
        self.dense = self._int8 = self._opened = None

    def extra_repr(self) -> str:
        """Shape and granularity."""
        block = f", block={self.layout.block}" if self.layout.block > 1 else ""
        return f"{self.layout.shape}, granularity={self.layout.granularity}, axis={self.layout.axis}{block}"

    def _apply(self, *args: Any, **kwargs: Any) -> Any:
        self._forget()
        return super()._apply(*args, **kwargs)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        if self.planes is not None:
            destination[f"{prefix}codes"] = self.codes
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._forget()
        packed = self.planes is not None
        self._pack(False)
        super()._load_from_state_dict(*args, **kwargs)
        self._pack(packed)

    def __setstate__(self, state: dict[str, Any]) -> None:
        if "layout" not in state:
            held = state["_buffers"].get("centroids", state["_buffers"].get("counts"))
            state = with_layout(state, held.shape[-2 if state["block"] > 1 else -1])
        super().__setstate__(state)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "dense": None, "_int8": None, "_opened": None, "_version": -1}


class CodebookTensor(CodesHolder):
    """One compressed parameter of a finished module: frozen ``centroids`` and ``codes``."""

    centroids: Tensor

    def __init__(self, codebook: Codebook) -> None:
        super().__init__(codebook)
        self.register_buffer("centroids", codebook.centroids.detach().clone())

    def codebook(self) -> Codebook:
        """The centroids and codes (not copied)."""
        return self.holding(self.centroids)

    def forward(self) -> Tensor:
        """The dense weight."""
        return self.decoded(self.centroids)

    def plain(self) -> Tensor:
        """The dense weight."""
        return self.decoded(self.centroids)

    def int8(self) -> tuple[Tensor, Tensor, Tensor]:
        """What int8 runs with, made at the first use."""
        return self.in_int8(self.centroids)


def _version(tensor: Tensor) -> int:
    return -1 if tensor.is_inference() else tensor._version


class CodebookLayer(nn.Module):
    """Base: ``weight`` and ``bias`` are each either the original's parameter or decoded from ``codebooks``."""

    attributes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, module: nn.Module, tensors: dict[str, CodebookTensor]) -> None:
        super().__init__()
        self.training = module.training
        self.codebooks = nn.ModuleDict(tensors)
        for name, parameter in module._parameters.items():
            if name not in tensors:
                self._parameters[name] = parameter
        for name in self.attributes:
            setattr(self, name, getattr(module, name))

    @property
    def weight(self) -> Tensor:
        """The dense weight."""
        weight = self._value("weight")
        assert weight is not None
        return weight

    @property
    def bias(self) -> Tensor | None:
        """The dense bias, or ``None``."""
        return self._value("bias")

    def _value(self, name: str) -> Tensor | None:
        if name in self.codebooks:
            decoded: Tensor = self.codebooks[name]()
            return decoded
        return self._parameters.get(name)

    def __prepare_scriptable__(self) -> nn.Module:
        """What TorchScript compiles: nothing; it reads the source of every method.

        Raises:
            ModelError: always.
        """
        raise ModelError(
            f"torch.jit.script cannot compile a {type(self).__name__}, which decodes its weight: write "
            "torch.jit.trace(model, inputs), or torch.export.export(model, (inputs,))"
        )

    def extra_repr(self) -> str:
        """The attributes of the original."""
        return ", ".join(f"{name}={getattr(self, name)}" for name in self.attributes)


class CodebookLinear(CodebookLayer):
    """``nn.Linear`` run from a codebook."""

    attributes = ("in_features", "out_features")

    def forward(self, input: Tensor) -> Tensor:
        """``(*, in_features)`` -> ``(*, out_features)``."""
        if "weight" in self.codebooks:
            return kernels.linear(input, self.codebooks["weight"], self.bias)  # type: ignore[arg-type]
        return F.linear(input, self.weight, self.bias)


class CodebookEmbedding(CodebookLayer):
    """``nn.Embedding`` run from a codebook."""

    attributes = ("num_embeddings", "embedding_dim", "padding_idx")

    def forward(self, input: Tensor) -> Tensor:
        """Integers ``(*)`` -> ``(*, embedding_dim)``."""
        if "weight" in self.codebooks:
            weight: Any = self.codebooks["weight"]
            if (found := kernels.embedding(input, weight)) is not None:
                return found
        padding: Any = self.padding_idx
        return F.embedding(input, self.weight, padding)


class _CodebookConv(CodebookLayer):
    attributes = ("in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups")
    convolve: Callable[..., Tensor]

    def __init__(self, module: nn.Module, tensors: dict[str, CodebookTensor]) -> None:
        super().__init__(module, tensors)
        self.padding_mode = module.padding_mode
        self._around = module._reversed_padding_repeated_twice

    def forward(self, input: Tensor) -> Tensor:
        """``(N, in_channels, *size)`` -> ``(N, out_channels, *size)``."""
        padding: Any = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._around, mode=str(self.padding_mode))  # type: ignore[arg-type]
            padding = 0
        if "weight" in self.codebooks:
            weight: Any = self.codebooks["weight"]
            found = kernels.convolution(input, weight, self.bias, self.stride, padding, self.dilation, self.groups)  # type: ignore[arg-type]
            if found is not None:
                return found
        return self.convolve(input, self.weight, self.bias, self.stride, padding, self.dilation, self.groups)


class CodebookConv1d(_CodebookConv):
    """``nn.Conv1d`` run from a codebook."""

    convolve = staticmethod(F.conv1d)


class CodebookConv2d(_CodebookConv):
    """``nn.Conv2d`` run from a codebook."""

    convolve = staticmethod(F.conv2d)


class CodebookConv3d(_CodebookConv):
    """``nn.Conv3d`` run from a codebook."""

    convolve = staticmethod(F.conv3d)


class _CodebookConvTranspose(CodebookLayer):
    attributes = (*_CodebookConv.attributes, "output_padding")
    convolve: Callable[..., Tensor]

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        """``(N, in_channels, *size)`` -> ``(N, out_channels, *size)``; see the original on ``output_size``."""
        original: Any = self
        padding = nn.ConvTranspose1d._output_padding(
            original,
            input,
            output_size,
            original.stride,
            original.padding,
            original.kernel_size,
            len(original.kernel_size),
            original.dilation,
        )
        return self.convolve(
            input, self.weight, self.bias, self.stride, self.padding, padding, self.groups, self.dilation
        )


class CodebookConvTranspose1d(_CodebookConvTranspose):
    """``nn.ConvTranspose1d`` run from a codebook."""

    convolve = staticmethod(F.conv_transpose1d)


class CodebookConvTranspose2d(_CodebookConvTranspose):
    """``nn.ConvTranspose2d`` run from a codebook."""

    convolve = staticmethod(F.conv_transpose2d)


class CodebookConvTranspose3d(_CodebookConvTranspose):
    """``nn.ConvTranspose3d`` run from a codebook."""

    convolve = staticmethod(F.conv_transpose3d)


LAYERS: dict[type[nn.Module], type[CodebookLayer]] = {
    nn.Linear: CodebookLinear,
    nn.Embedding: CodebookEmbedding,
    nn.Conv1d: CodebookConv1d,
    nn.Conv2d: CodebookConv2d,
    nn.Conv3d: CodebookConv3d,
    nn.ConvTranspose1d: CodebookConvTranspose1d,
    nn.ConvTranspose2d: CodebookConvTranspose2d,
    nn.ConvTranspose3d: CodebookConvTranspose3d,
}


def codebook_layer(module: nn.Module, tensors: dict[str, CodebookTensor]) -> CodebookLayer | None:
    """The codebook layer that replaces a parametrized module, or ``None`` where only the module itself will do:
    a subclass (it may have a forward of its own), a module with hooks or with modules inside, an embedding that
    renormalizes."""
    layer = LAYERS.get(parametrize.type_before_parametrizations(module))
    hooked = module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
    inside = set(module._modules) - {"parametrizations"}
    if layer is None or hooked or inside or getattr(module, "max_norm", None) is not None:
        return None
    return layer(module, tensors)
