"""The folders that INC's ``save`` writes of our models, and how they are read back."""

from __future__ import annotations

import functools
import io
import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lloydmax import checkpoint
from lloydmax.codebook.layout import code_bits
from lloydmax.errors import CheckpointError, IntegrationError
from lloydmax.integrations.inc.host import NAME, config_registry, inc_load, logger, quantize
from lloydmax.integrations.inc.layer import LayerConfig
from lloydmax.network.given import refuse_lazy
from lloydmax.network.private import refuse_scripts
from lloydmax.runtime.files import made_folder, path_of, shown, write_bytes, write_text
from lloydmax.runtime.text import printable
from lloydmax.student.attachment import codebooks

WEIGHTS = "model.safetensors"
GUIDE = "codebook: load this folder by lloydmax.integrations.inc.load(folder, original_model)"
"""First key of ``qconfig.json``: INC's own ``load`` shows it in its error."""
_REBUILT = ("rtn", "mixed_precision")
"""Algorithms of INC whose layers can be built again without data, to be filled from the file."""


def dressed(model: nn.Module, mapping: dict[Any, Any]) -> nn.Module:
    """The model with what INC's ``save`` looks for: ``qconfig``, whose first entry decides, and ``save``.

    A ``functools.partial`` survives pickling and deep copies, and then belongs to the copy; a bound method does not.
    """
    vars(model)["qconfig"] = mapping
    vars(model)["save"] = functools.partial(save, model)
    return model


def save(model: nn.Module, output_dir: str = "./saved_results", format: str = "default") -> None:
    """Write a folder with ``model.safetensors`` (bytes: `format/README.md`) and ``qconfig.json``; for INC's ``save``.

    Args:
        model: a quantized model with codebooks.
        output_dir: created if missing.
        format: only ``default``.

    Raises:
        IntegrationError: layers of an INC algorithm that cannot be built again without data.
        CheckpointError: the model cannot be stored. OutputError: the folder cannot be written.
    """
    others = _others(model)
    folder = made_folder(output_dir)
    checkpoint.save(model, folder / WEIGHTS)
    document = {GUIDE: {"version": 1, "others": others, "dtypes": _dtypes(model, others)}}
    write_text(folder / "qconfig.json", json.dumps(document, indent=2) + "\n")


def load(
    folder: str, original_model: nn.Module | None = None, format: str = "default", device: str = "cpu", **kwargs: Any
) -> nn.Module:
    """Read a folder that INC's ``save`` wrote; those without codebooks go to INC's own ``load``.

    Args:
        folder: of ``save(model, folder)``.
        original_model: the uncompressed architecture, with any values; changed in place.
        format: as in INC's ``load``.
        device: where the model goes.
        kwargs: for INC's ``load``.

    Returns:
        The model, its outputs the same bit for bit.

    Raises:
        CheckpointError: no such folder, a damaged file, or one of another model.
    """
    path = path_of(folder, CheckpointError) / "qconfig.json"
    if format != "default":
        return inc_load(folder, original_model=original_model, format=format, device=device, **kwargs)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{shown(folder)} is not a folder that save wrote: {printable(str(error), 300)}"
        ) from error
    if GUIDE not in document:
        return inc_load(folder, original_model=original_model, format=format, device=device, **kwargs)
    if original_model is None:
        raise CheckpointError("give the original architecture: load(folder, original_model=MyNet())")
    about = document[GUIDE]
    if about.get("version") != 1:
        raise CheckpointError(f"{path} is of version {about.get('version')}; this lloydmax reads version 1")
    model = original_model.eval()
    noted: dict[Any, Any] = {}
    for name, layers in about["others"].items():
        config = _rebuilding(name, layers)
        noted |= config.to_config_mapping(model_info=config.get_model_info(model))
        model = quantize(model, config)
    _cast(model, about.get("dtypes", {}))
    types = {name: type(module).__name__ for name, module in model.named_modules()}
    model = checkpoint.load(Path(folder) / WEIGHTS, model).eval()
    ours = _layers(model, types)
    return dressed(model, {**ours, **noted}).to(device)


def save_portable(model: nn.Module, folder: str, example_inputs: tuple[Any, ...], dynamic_shapes: Any = None) -> None:
    """Write a folder that INC's own ``load(folder)`` reads without lloydmax installed: an exported program.

    The codes stay codes in it. Nothing can be retrained or changed afterwards.

    Args:
        model: a quantized model with codebooks.
        folder: created if missing.
        example_inputs: positional arguments of ``model.forward``; shapes are fixed to theirs.
        dynamic_shapes: as in ``torch.export.export``, for axes that may vary.

    Raises:
        OutputError: the folder or a file in it cannot be written. IntegrationError: the model cannot be exported.
        ModelError: it is no network.
    """
    refuse_scripts(model)
    refuse_lazy(model)
    place = made_folder(folder)
    try:
        with torch.no_grad():
            program = torch.export.export(model.eval(), example_inputs, dynamic_shapes=dynamic_shapes)
    except Exception as error:  # whatever torch.export makes of a model that it cannot trace
        said = printable(f"{type(error).__name__}: {error}", 300)
        raise IntegrationError(f"torch.export cannot trace {type(model).__name__}: {said}") from error
    packed = io.BytesIO()  # torch's own writer ends the process on a full disk
    torch.export.save(program, packed)
    write_bytes(place / "quantized_weight.pt", packed.getbuffer())
    note = {"static_quant": {"written_by": "lloydmax", "algorithm": NAME}}
    write_text(place / "qconfig.json", json.dumps(note, indent=2) + "\n")
    logger.info("codebook: exported to %s", place)


def _others(model: nn.Module) -> dict[str, dict[str, Any]]:
    """The layers of INC's own algorithms: ``{algorithm: {layer: options}}``."""
    found: dict[str, dict[str, Any]] = {}
    for (layer, _), config in getattr(model, "qconfig", {}).items():
        if config.name == NAME or getattr(config, "dtype", None) == "fp32":
            continue
        if config.name not in _REBUILT:
            raise IntegrationError(
                f"a model with layers of INC's {config.name!r} cannot be saved together with codebooks, because those "
                "layers cannot be built again without calibration: use save_portable(model, folder, example_inputs)"
            )
        found.setdefault(config.name, {})[layer] = config.to_dict()
    return found


def _dtypes(model: nn.Module, others: dict[str, dict[str, Any]]) -> dict[str, str]:
    """The dtypes of all tensors in the layers of other algorithms; some layers change theirs in the first pass."""
    layers = tuple(f"{layer}." for options in others.values() for layer in options)
    state = model.state_dict() if layers else {}
    return {name: str(tensor.dtype) for name, tensor in state.items() if name.startswith(layers)}


def _cast(model: nn.Module, dtypes: dict[str, str]) -> None:
    state = model.state_dict(keep_vars=True)
    for name, dtype in dtypes.items():
        if name in state and str(state[name].dtype) != dtype:
            wanted = getattr(torch, dtype.removeprefix("torch."), None)
            if not isinstance(wanted, torch.dtype):
                raise CheckpointError(f"qconfig.json gives {name!r} the unknown dtype {dtype!r}")
            state[name].data = state[name].data.to(wanted)


def _rebuilding(name: str, layers: dict[str, Any]) -> Any:
    if name not in _REBUILT:
        raise CheckpointError(f"qconfig.json names the algorithm {name!r}, which cannot be built again without data")
    cls = config_registry.get_cls_configs()["torch"][name]
    config = None
    for layer, options in layers.items():
        given = {key: value for key, value in options.items() if key != "white_list"}
        one = cls(**given, white_list=[re.escape(layer) + r"\Z"])
        config = one if config is None else config + one
    return config


def _layers(model: nn.Module, types: dict[str, str]) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for name, held in codebooks(model).items():
        layer = name.rpartition(".")[0]
        found[(layer, types[layer])] = LayerConfig(code_bits(held.k))
    return found
