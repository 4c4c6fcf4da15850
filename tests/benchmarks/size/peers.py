"""Peers, post training and without data, each through its own entry points; how their files are counted: ``packing``.

Each function takes the teacher, the bits of a code and one input, and raises what the peer raises where it refuses.
"""

from __future__ import annotations

import copy
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from size.packing import Packed, codebooks, floats, groups, scalars, shared
from size.target import Target

BITS = (4, 8, 3, 2, 6, 5)
"""The most telling first."""
CHANNELS = 8
"""Output channels that share a codebook, between one for each tensor and one for each channel."""
GROUP = 32
"""Weights that share a scale: INC's default for RTN."""
HQQ_GROUP = 64
"""INC's default for HQQ."""


@dataclass(frozen=True)
class Peer:
    """One method.

    Attributes:
        title: for tables.
        distribution: whose version goes into the results.
        module: that is imported before the time is taken.
        run: compresses.
        bits: that it is asked for.
        sized: whether ``run`` takes the bits of the whole file for each parameter, and not those of a code.
    """

    title: str
    distribution: str
    module: str
    run: Callable[..., Packed]
    bits: tuple[int, ...] = BITS
    sized: bool = False


def compress(peer: Peer, model: nn.Module, target: Target, x: Tensor) -> Packed:
    """One cell: at these bits, or at the most bits whose file is small enough; the model stays as it is.

    Raises:
        RuntimeError: no file is small enough.
        Exception: what the peer raises.
    """
    if peer.sized:
        return peer.run(copy.deepcopy(model), target.bits, x)
    if not target.file:
        return peer.run(copy.deepcopy(model), int(target.bits), x)
    refusals = []
    for bits in (bits for bits in range(math.floor(target.bits), 0, -1) if bits in (1, *peer.bits)):
        try:
            packed = peer.run(copy.deepcopy(model), bits, x)
        except Exception as refusal:
            refusals.append(f"{bits} bits: {type(refusal).__name__}: {refusal}")
            continue
        if packed.bytes <= target.limit(scalars(model)):
            return replace(packed, how=f"{packed.how}; codes of {bits} bits")
        refusals.append(f"{bits} bits: {8 * packed.bytes / scalars(model):.3f} bits a weight")
    raise RuntimeError(f"no file is small enough: {'; '.join(refusals) or 'it has no codes of so few bits'}")


def coremltools(model: nn.Module, bits: int, x: Tensor, channels: int | None) -> Packed:
    """Post-training k-means, one codebook for each tensor, or for this number of output channels."""
    from coremltools.optimize.torch.palettization import PostTrainingPalettizer, PostTrainingPalettizerConfig

    options: dict[str, Any] = {"n_bits": bits}
    if channels:
        options |= {"granularity": "per_grouped_channel", "group_size": channels}
    config = PostTrainingPalettizerConfig.from_dict({"global_config": options})
    found = PostTrainingPalettizer(copy.deepcopy(model), config).compress()
    return codebooks(model, _clustered(model, found, bits, channels), bits, channels)


def coreai(model: nn.Module, bits: int, x: Tensor, channels: int | None) -> Packed:
    """Post-training k-means, one codebook for each tensor, or for this number of output channels."""
    from coreai_opt.palettization import KMeansPalettizer, KMeansPalettizerConfig
    from coreai_opt.palettization.config import ModuleKMeansPalettizerConfig, OpKMeansPalettizerConfig
    from coreai_opt.palettization.spec import PalettizationSpec, PerGroupedChannelGranularity, PerTensorGranularity

    shared = PerGroupedChannelGranularity(axis=0, group_size=channels) if channels else PerTensorGranularity()
    spec = PalettizationSpec(n_bits=bits, granularity=shared)  # type: ignore[arg-type]
    states: dict[str, PalettizationSpec | None] = dict.fromkeys(OpKMeansPalettizerConfig.get_default_state_spec(), spec)
    whole = ModuleKMeansPalettizerConfig(op_input_spec=None, op_output_spec=None, op_state_spec=states)
    found = KMeansPalettizer(copy.deepcopy(model), KMeansPalettizerConfig(global_config=whole)).prepare((x,)).eval()
    return codebooks(model, _clustered(model, found, bits, channels), bits, channels)


def inc_rtn(model: nn.Module, bits: int, x: Tensor) -> Packed:
    """Rounding to the nearest level, in the linear layers."""
    from neural_compressor.torch.quantization import RTNConfig, convert, prepare

    config = RTNConfig(bits=bits, group_size=GROUP, use_layer_wise=False)
    found = convert(prepare(copy.deepcopy(model), config))
    weights = {f"{name}.weight": m.recover() for name, m in found.named_modules() if hasattr(m, "recover")}
    return groups(model, _some(weights), bits, GROUP, zeros=False)


def inc_hqq(model: nn.Module, bits: int, x: Tensor) -> Packed:
    """Half-quadratic quantization, in the linear layers."""
    from neural_compressor.torch.quantization import HQQConfig, convert, prepare

    found = convert(prepare(copy.deepcopy(model), HQQConfig(bits=bits, group_size=HQQ_GROUP)))
    layers = {name: m for name, m in found.named_modules() if hasattr(m, "dequantize_weight")}
    weights = {f"{name}.weight": layer.dequantize_weight().float() for name, layer in layers.items()}
    return groups(model, _some(weights), bits, HQQ_GROUP, zeros=True)


def torchao(model: nn.Module, bits: int, x: Tensor) -> Packed:
    """int8 or int4 weights of the linear layers, by the configuration that torchao documents for that."""
    from torchao.quantization import Int4WeightOnlyConfig, Int8WeightOnlyConfig

    config = Int8WeightOnlyConfig() if bits == 8 else Int4WeightOnlyConfig(group_size=GROUP)
    return _torchao(model, bits, config, None if bits == 8 else GROUP, (nn.Linear,))


def torchao_intx(model: nn.Module, bits: int, x: Tensor) -> Packed:
    """Integers of any width, a scale for 32 weights, in linear layers and embeddings."""
    from torchao.quantization import IntxWeightOnlyConfig
    from torchao.quantization.granularity import PerGroup

    config = IntxWeightOnlyConfig(weight_dtype=getattr(torch, f"int{bits}"), granularity=PerGroup(GROUP))
    return _torchao(model, bits, config, GROUP, (nn.Linear, nn.Embedding))


def _torchao(model: nn.Module, bits: int, config: Any, group: int | None, kinds: tuple[type, ...]) -> Packed:
    from torchao.quantization import quantize_

    found = copy.deepcopy(model)
    quantize_(found, config, filter_fn=lambda module, name: isinstance(module, kinds))
    weights = {
        name: parameter.dequantize().float()
        for name, parameter in found.named_parameters()
        if hasattr(parameter, "dequantize") and type(parameter.data) is not Tensor
    }
    return groups(model, _some(weights), bits, group, zeros=False)


def nncodec(model: nn.Module, bits: float, x: Tensor) -> Packed:
    """NNC (ISO/IEC 15938-17): dependent quantization and DeepCABAC, the finest step whose bitstream is small enough."""
    from nncodec import nnc

    values = {name: tensor.numpy().astype(np.float32) for name, tensor in floats(model).items()}
    limit, coarse, fine = bits * scalars(model) / 8, 0, -60
    streams: dict[int, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        while coarse - fine > 1:
            qp = (coarse + fine) // 2
            streams[qp] = nnc.compress(
                values, bitstream_path=f"{folder}/stream.nnc", qp=qp, return_bitstream=True, verbose=False
            )
            coarse, fine = (qp, fine) if len(streams[qp]) <= limit else (coarse, qp)
        stream = streams[coarse]
        decoded = nnc.decompress(stream)
    weights = {name: torch.from_numpy(np.array(value)) for name, value in decoded.items()}
    return Packed(weights, len(stream), f"a bitstream (qp {coarse})")


def _clustered(model: nn.Module, found: nn.Module, bits: int, channels: int | None) -> dict[str, Tensor]:
    """Weights that changed and have at most ``2 ** bits`` values for each codebook, whatever holds them."""
    weights = {}
    for name, tensor in floats(model).items():
        module, _, leaf = name.rpartition(".")
        try:
            now = getattr(found.get_submodule(module), leaf).detach()
        except AttributeError:
            continue
        if now.dim() < 2:
            continue
        most = max(len(torch.unique(codebook)) for codebook in shared(now, channels))
        if most <= 2**bits and (channels or not torch.equal(now, tensor)):
            weights[name] = now
    return _some(weights)


def _some(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    if not weights:
        raise RuntimeError("it compressed no weight of this network, and said nothing")
    return {name: weight.detach() for name, weight in weights.items()}


_CML, _COREAI = ("coremltools", "coremltools.optimize.torch.palettization"), ("coreai-opt", "coreai_opt.palettization")
_INC, _AO = ("neural-compressor", "neural_compressor.torch.quantization"), ("torchao", "torchao.quantization")

PEERS = {
    "coremltools-tensor": Peer("coremltools, a codebook a tensor", *_CML, partial(coremltools, channels=None)),
    "coremltools-group": Peer("coremltools, a codebook for 8 channels", *_CML, partial(coremltools, channels=CHANNELS)),
    "coremltools-channel": Peer("coremltools, a codebook a channel", *_CML, partial(coremltools, channels=1)),
    "coreai-tensor": Peer("coreai-opt, a codebook a tensor", *_COREAI, partial(coreai, channels=None)),
    "coreai-channel": Peer("coreai-opt, a codebook a channel", *_COREAI, partial(coreai, channels=1)),
    "inc-rtn": Peer("INC RTN, linear layers", *_INC, inc_rtn),
    "inc-hqq": Peer("INC HQQ, linear layers", *_INC, inc_hqq),
    "torchao": Peer("torchao int8, int4, linear layers", *_AO, torchao, (4, 8)),
    "torchao-intx": Peer("torchao IntX, linear layers, embeddings", *_AO, torchao_intx),
    "nncodec": Peer("nncodec, at that file size", "nncodec", "nncodec.nnc", nncodec, sized=True),
}
