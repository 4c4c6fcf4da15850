"""The folders that INC's ``save`` writes of our models, and how they are read back."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lloydmax import checkpoint
from lloydmax.errors import CheckpointError, IntegrationError
from lloydmax.format.folder import IN_FOLDER
from lloydmax.integrations.folders import open_folder
from lloydmax.integrations.inc import noted
from lloydmax.integrations.inc.host import NAME, config_registry, inc_load, logger, quantize, theirs
from lloydmax.integrations.inc.rebuilding import build, described, dtype_of
from lloydmax.network.given import refuse_lazy
from lloydmax.network.private import refuse_scripts
from lloydmax.runtime.files import made_folder, path_of, shown, write_bytes, write_text
from lloydmax.runtime.text import printable

WEIGHTS = "model.safetensors"
GUIDE = "codebook: load this folder by lloydmax.integrations.inc.load(folder, original_model)"
"""First key of ``qconfig.json``: INC's own ``load`` shows it in its error."""
_REBUILT = ("rtn", "mixed_precision")
"""Algorithms that folders of version 1 hold by their options; version 2 describes layers."""
_CODES = ".codes"
"""How the names of tensors end that hold codes."""


def dressed(model: nn.Module, layers: Mapping[str, str], theirs: Mapping[Any, Any]) -> nn.Module:
    """:func:`~lloydmax.integrations.inc.noted.dressed`, so that :func:`save` writes the model."""
    return noted.dressed(model, layers, theirs, save)


def save(model: nn.Module, output_dir: str = "./saved_results", format: str = "default", **options: Any) -> None:
    """Write a folder with ``model.safetensors`` (bytes: `format/README.md`) and ``qconfig.json``; INC's ``save`` and
    ``model.save`` end here.

    Args:
        model: a quantized model with codebooks.
        output_dir: created if missing.
        format: ``default``, or of a model of transformers ``huggingface``: the folder that ``from_pretrained`` takes
            where :mod:`lloydmax.integrations.transformers` was imported.
        options: for ``save_pretrained``; ``tokenizer`` is saved, too.

    Raises:
        IntegrationError: layers of an INC algorithm that cannot be built again; a layer that lost its codebooks; a
            format that codebooks do not have.
        CheckpointError: the model cannot be stored. OutputError: the folder cannot be written.
    """
    format = str(getattr(format, "value", format))
    noted.refuse_lost(model)
    if format == "huggingface":
        _save_pretrained(model, output_dir, options)
        return
    if format != "default" or options:
        what = next(iter(options), f"format={format!r}")
        raise IntegrationError(
            f"save: {what} is not for models with codebooks: leave it out, or write format='huggingface' of a model of "
            "transformers; lloydmax.export writes other formats"
        )
    layers = {name: described(module, name) for name, module in theirs(model).items()}
    about: dict[str, Any] = {"version": 1, "others": {}, "dtypes": {}}
    if layers:
        about = {"version": 2, "layers": layers, "others": _others(model), "dtypes": _dtypes(model, layers)}
    folder = made_folder(output_dir)
    checkpoint.save(model, folder / WEIGHTS)
    write_text(folder / "qconfig.json", json.dumps({GUIDE: about}, indent=2) + "\n")


def _save_pretrained(model: Any, output_dir: str, options: dict[str, Any]) -> None:
    if not hasattr(model, "save_pretrained") or not hasattr(model, "config"):
        raise IntegrationError(
            f"save: format='huggingface' is for models of transformers, not for a {type(model).__name__}: leave it out"
        )
    if others := theirs(model):
        raise IntegrationError(
            f"save: format='huggingface' cannot hold {next(iter(others))}, a layer of INC's algorithms: leave it out"
        )
    tokenizer = options.pop("tokenizer", None)
    model.save_pretrained(output_dir, **options)
    if tokenizer is not None:
        tokenizer.save_pretrained(output_dir)


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
        if (Path(folder) / IN_FOLDER).is_file():
            return open_folder(folder).to(device)
        return inc_load(folder, original_model=original_model, format=format, device=device, **kwargs)
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{shown(folder)} is not a folder that save wrote: {printable(str(error), 300)}"
        ) from error
    if GUIDE not in document:
        _refuse_codes(path.with_name("quantized_weight.pt"))
        return inc_load(folder, original_model=original_model, format=format, device=device, **kwargs)
    if original_model is None:
        raise CheckpointError("give the original architecture: load(folder, original_model=MyNet())")
    about = document[GUIDE]
    if about.get("version") not in (1, 2):
        raise CheckpointError(f"{path} is of version {about.get('version')}; this lloydmax reads versions 1 and 2")
    model = original_model.eval()
    noted_before = _rebuilt(model, about) if about["version"] == 1 else _built(model, about)
    _cast(model, about.get("dtypes", {}))
    types = {name: type(module).__name__ for name, module in model.named_modules()}
    model = checkpoint.load(Path(folder) / WEIGHTS, model).eval()
    return dressed(model, types, noted_before).to(device)


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


def _refuse_codes(file: Path) -> None:
    """Refuse what INC's own writer made of a model with codebooks in it: nothing can put them into a model again.

    Raises:
        CheckpointError: the file holds codes.
    """
    try:
        names = list(torch.load(file, map_location="meta", weights_only=True))
    except Exception:  # whatever is wrong with it, INC's load says
        return
    if lost := [name for name in names if name.endswith(_CODES)]:
        raise CheckpointError(
            f"{shown(file)} was written by INC's save of a model that holds codebooks ({lost[0]}), which INC cannot "
            "read back: save the model by lloydmax.integrations.inc.save(model, folder)"
        )


def _others(model: nn.Module) -> dict[str, dict[str, Any]]:
    """What INC's own algorithms noted of their layers, as far as JSON can say it: ``{algorithm: {layer: [type,
    options]}}``."""
    found: dict[str, dict[str, Any]] = {}
    for (layer, kind), config in noted.noted_by_others(model).items():
        if getattr(config, "dtype", None) != "fp32":
            plain = {key: value for key, value in config.to_dict().items() if key != "white_list"}
            found.setdefault(config.name, {})[layer] = [kind, json.loads(json.dumps(plain, default=str))]
    return found


def _dtypes(model: nn.Module, layers: Iterable[str]) -> dict[str, str]:
    """The dtypes of all tensors in the layers of other algorithms; some layers change theirs in the first pass."""
    within = tuple(f"{layer}." for layer in layers)
    return {name: str(tensor.dtype) for name, tensor in model.state_dict().items() if name.startswith(within)}


def _cast(model: nn.Module, dtypes: dict[str, str]) -> None:
    state = model.state_dict(keep_vars=True)
    for name, dtype in dtypes.items():
        if name in state and str(state[name].dtype) != dtype:
            try:
                state[name].data = state[name].data.to(dtype_of(dtype))
            except ValueError as error:
                raise CheckpointError(f"qconfig.json: {name!r}: {error}") from None


def _built(model: nn.Module, about: dict[str, Any]) -> dict[Any, Any]:
    """The layers of INC's algorithms put in place, and what these noted of them."""
    for name, layer in about["layers"].items():
        build(model, name, layer)
    known = config_registry.get_cls_configs()["torch"]
    found = {}
    for algorithm, layers in about["others"].items():
        for layer, (kind, options) in layers.items() if algorithm in known else ():
            found[layer, kind] = known[algorithm](**options, white_list=None)
    return found


def _rebuilt(model: nn.Module, about: dict[str, Any]) -> dict[Any, Any]:
    """The same of version 1: the algorithms are run again."""
    found: dict[Any, Any] = {}
    for name, layers in about["others"].items():
        config = _rebuilding(name, layers)
        found |= config.to_config_mapping(model_info=config.get_model_info(model))
        quantize(model, config)
    return found


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
