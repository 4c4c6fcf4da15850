"""Layers where an import has bare operations: what ``torch.export`` makes of ``nn.Conv2d`` is a module without a class
that owns a weight, and an operation of the graph that reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

_MADE_ANEW = ("__dict__", "__weakref__", "__call__", "_wrapped_call")
"""What a class of a graph module has for itself alone."""
_BIAS, _RUNNING = ("weight", "bias"), ("weight", "bias", "running_mean", "running_var")


def rebuild(model: nn.Module) -> None:
    """Make layers of the modules that graph modules only read, in place: their class is that of the layer, and the
    graph calls them. Names, tensors and outputs stay the same, bit for bit. Exported programs get modes again.

    Args:
        model: any; the classes of graph modules in it are changed, too, so that copies keep theirs.
    """
    for graph_module in [module for module in model.modules() if isinstance(module, fx.GraphModule)]:
        for refusal in ("train", "eval"):
            graph_module.__dict__.pop(refusal, None)
        calls = _calls(graph_module)
        if calls:
            kind: Any = type(graph_module)
            own = {name: value for name, value in vars(kind).items() if name not in _MADE_ANEW}
            own["__qualname__"] = kind.__qualname__  # by which copies know it
            graph_module.__class__ = type(kind)(kind.__name__, kind.__bases__, own)
            graph_module.graph = _calling(graph_module.graph, calls)
            for name, (layer, settings, _) in calls.items():
                _become(graph_module.get_submodule(name), layer, settings)


_Call = tuple[type[nn.Module], dict[str, Any], list[str]]
"""Class of a layer, its attributes, names of the nodes that are calls of it."""


def _calls(graph_module: fx.GraphModule) -> dict[str, _Call]:
    """The modules that can be layers, by name."""
    reads: dict[str, set[fx.Node]] = {}
    for node in graph_module.graph.nodes:
        if node.op == "get_attr":
            reads.setdefault(str(node.target).rpartition(".")[0], set()).update(node.users)
    found: dict[str, _Call] = {}
    for name, users in reads.items():
        owner = dict(graph_module.named_modules()).get(name)
        if not name or type(owner) is not nn.Module or owner._modules:
            continue
        made = [_layer(node, name, owner) for node in users]
        first = made[0] if made else None
        if first is not None and all(one == first for one in made):
            found[name] = (*first, [node.name for node in users])
    return found


def _layer(node: fx.Node, name: str, owner: nn.Module) -> tuple[type[nn.Module], dict[str, Any]] | None:
    """The layer that an operation is, if all that its owner has stands where that of the layer does."""
    operation = getattr(node.target, "_schema", None)
    kind = _KINDS.get(operation.name) if node.op == "call_function" and operation is not None else None
    if kind is None or operation is None:
        return None
    layer, leaves, settings = kind
    given = {argument.name: argument.default_value for argument in operation.arguments}
    given |= dict(zip(given, node.args, strict=False)) | dict(node.kwargs)
    held = {leaf: tensor for leaf, tensor in {**owner._parameters, **owner._buffers}.items() if tensor is not None}
    if set(held) - set(leaves) - {"num_batches_tracked"} or not isinstance(held.get("weight"), Tensor):
        return None
    for leaf in leaves:
        read = given[leaf]
        if (read is not None) != (leaf in held) or (read is not None and not _reads(read, f"{name}.{leaf}")):
            return None
    made = settings(given, held["weight"])
    return None if made is None else (made.pop("kind", layer), made)


def _reads(node: Any, target: str) -> bool:
    return isinstance(node, fx.Node) and node.op == "get_attr" and node.target == target


def _calling(graph: fx.Graph, calls: Mapping[str, _Call]) -> fx.Graph:
    """A copy of the graph that calls the layers."""
    made = fx.Graph(tracer_cls=graph._tracer_cls)
    by_node = {node: name for name, (_, _, nodes) in calls.items() for node in nodes}
    values: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        if node.op == "get_attr" and str(node.target).rpartition(".")[0] in calls:
            continue
        if (name := by_node.get(node.name)) is None:
            values[node] = made.node_copy(node, lambda given: values[given])
            continue
        given = node.args[1 if calls[name][0] is nn.Embedding else 0]
        values[node] = made.call_module(name, (values[given],))
        values[node].name, values[node].meta = node.name, dict(node.meta)
    made._codegen = graph._codegen
    return made


def _become(module: nn.Module, layer: type[nn.Module], settings: Mapping[str, Any]) -> None:
    """Give a module, in place, the class and the attributes of a layer that was made without values."""
    with torch.device("meta"):
        like = layer(**settings)
    for name, value in vars(like).items():
        if name not in ("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set", "training"):
            module.__dict__[name] = value
    for held, other in ((module._parameters, like._parameters), (module._buffers, like._buffers)):
        for leaf in other:
            if leaf not in module._parameters and leaf not in module._buffers:
                held[leaf] = None
    module.__class__, module.training = layer, False


def _linear(given: Mapping[str, Any], weight: Tensor) -> dict[str, Any] | None:
    if weight.dim() != 2:
        return None
    return {"in_features": weight.shape[1], "out_features": weight.shape[0], "bias": given["bias"] is not None}


def _convolution(given: Mapping[str, Any], weight: Tensor) -> dict[str, Any]:
    groups, sizes = int(given["groups"]), weight.dim() - 2
    transposed = "output_padding" in given
    inputs, outputs = (weight.shape[0], weight.shape[1] * groups) if transposed else (
        weight.shape[1] * groups, weight.shape[0])  # fmt: skip
    made = {"in_channels": inputs, "out_channels": outputs, "kernel_size": tuple(weight.shape[2:]), "groups": groups}
    for name in ("stride", "padding", "dilation", *(["output_padding"] if transposed else [])):
        value = given[name]
        made[name] = value if isinstance(value, str) else tuple(_spread(value, sizes))
    return made | {"bias": given["bias"] is not None}


def _spread(value: Any, sizes: int) -> list[int]:
    given = list(value) if isinstance(value, (list, tuple)) else [value]
    return given * sizes if len(given) == 1 else given


def _embedding(given: Mapping[str, Any], weight: Tensor) -> dict[str, Any] | None:
    if given["scale_grad_by_freq"] or given["sparse"] or weight.dim() != 2:
        return None
    padding = int(given["padding_idx"])
    rows, width = weight.shape
    return {"num_embeddings": rows, "embedding_dim": width, "padding_idx": None if padding < 0 else padding}


def _batch_norm(given: Mapping[str, Any], weight: Tensor) -> dict[str, Any] | None:
    seen = getattr(given["input"], "meta", {}).get("val")
    if given["training"] or given["running_mean"] is None or not isinstance(seen, Tensor):
        return None
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}.get(seen.dim())
    return None if kind is None else {
        "kind": kind, "num_features": len(weight), "eps": given["eps"], "momentum": given["momentum"]
    }  # fmt: skip


def _layer_norm(given: Mapping[str, Any], weight: Tensor) -> dict[str, Any]:
    shape = tuple(given["normalized_shape"])
    return {"normalized_shape": shape, "eps": given["eps"], "bias": given["bias"] is not None}


def _group_norm(given: Mapping[str, Any], weight: Tensor) -> dict[str, Any] | None:
    if given["bias"] is None:
        return None
    return {"num_groups": given["num_groups"], "num_channels": len(weight), "eps": given["eps"]}


_Settings = Callable[[Mapping[str, Any], Tensor], dict[str, Any] | None]
_KINDS: dict[str, tuple[type[nn.Module], tuple[str, ...], _Settings]] = {
    "aten::linear": (nn.Linear, _BIAS, _linear),
    "aten::conv1d": (nn.Conv1d, _BIAS, _convolution),
    "aten::conv2d": (nn.Conv2d, _BIAS, _convolution),
    "aten::conv3d": (nn.Conv3d, _BIAS, _convolution),
    "aten::conv_transpose1d": (nn.ConvTranspose1d, _BIAS, _convolution),
    "aten::conv_transpose2d": (nn.ConvTranspose2d, _BIAS, _convolution),
    "aten::conv_transpose3d": (nn.ConvTranspose3d, _BIAS, _convolution),
    "aten::embedding": (nn.Embedding, ("weight",), _embedding),
    "aten::batch_norm": (nn.BatchNorm2d, _RUNNING, _batch_norm),
    "aten::layer_norm": (nn.LayerNorm, _BIAS, _layer_norm),
    "aten::group_norm": (nn.GroupNorm, _BIAS, _group_norm),
}
"""What an operation is, by the name of its schema: the layer, the tensors that it owns, and its attributes."""
