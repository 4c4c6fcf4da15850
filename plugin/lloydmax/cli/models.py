"""Building the model that a command line names."""

from __future__ import annotations

import importlib
import sys
from contextlib import suppress
from functools import partial
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import nn

from lloydmax.cli.weights import ModelError, load_weights
from lloydmax.hooks.registry import spelling_hint
from lloydmax.integrations.folders import ModelFolder, model_folder
from lloydmax.network.given import network
from lloydmax.runtime.dense import not_dense
from lloydmax.runtime.seeding import undisturbed
from lloydmax.runtime.text import printable

__all__ = ["ModelError", "build", "folder_of", "source_of", "tokenizer_of"]


_LIBRARIES = ("torchvision.models", "timm")
"""Whose networks may be meant by their names alone."""


def build(spec: str, weights: str | Path | None, arguments: dict[str, Any], device: str = "cpu") -> nn.Module:
    """Build a model, load its weights, put it in evaluation mode.

    Args:
        spec: ``package.module:callable`` or ``file.py:callable``; the current folder is on the import path. The
            callable may also be a module object, and of timm the name of a network: ``timm:resnet18``. Or the folder
            of a model, see
            :mod:`lloydmax.integrations.folders`. What it draws at random is the same each time.
        weights: a file for :func:`lloydmax.cli.weights.load_weights`; ``None``: as built.
        arguments: keyword arguments of the callable.
        device: a torch device.

    Raises:
        ModelError: no such module or callable, or weights that do not fit; says what differs.
    """
    if (folder := folder_of(spec)) is not None:
        if weights is not None:
            raise ModelError(f"--weights {weights}: the folder {spec} has the weights of its model: leave it out")
        return _on(folder.model(arguments), device)
    name, attribute = _parts(spec)
    if not attribute:
        raise ModelError(f"--model {spec!r}: {_meant(spec)}")
    try:
        module = _module(name)
    except ImportError as error:
        raise ModelError(f"--model {spec!r}: {error}") from None
    except Exception as error:
        raise ModelError(
            f"--model {spec!r}: importing {name} failed: {printable(f'{type(error).__name__}: {error}', 500)}"
        ) from error
    found = _found(module, attribute)
    if found is None:
        hint = _near(module, attribute)
        raise ModelError(f"--model {spec!r}: {name} has no {attribute!r}{hint}")
    try:
        with undisturbed(0):
            model = found if isinstance(found, nn.Module) else found(**arguments)
    except Exception as error:
        raise ModelError(
            f"--model {spec!r}: calling it failed: {printable(f'{type(error).__name__}: {error}', 500)}"
        ) from error
    if not isinstance(model, nn.Module):
        raise ModelError(f"--model {spec!r} gives what is of type {type(model).__name__}, not a torch.nn.Module")
    for name, parameter in network(model).named_parameters():
        if kind := not_dense(parameter):
            raise ModelError(f"--model {spec!r}: {name} is {kind}")
    if weights is not None:
        load_weights(model, Path(weights))
    return _on(model.eval(), device)


def _parts(spec: str) -> tuple[str, str]:
    """The module, by name or file, and what of it builds the model; a colon in a path belongs to the path."""
    name, colon, attribute = spec.rpartition(":")
    return (name, attribute) if colon and not Path(spec).exists() and "/" not in attribute else (spec, "")


def _meant(spec: str) -> str:
    """What a person may have meant by what is neither a folder nor a callable, in words."""
    if (path := Path(spec)).is_file() and path.suffix == ".py":
        return f"this is a file of code: say what in it builds the model: {spec}:NAME"
    if path.is_file():
        return (
            f"this is a file, and weights alone are not a model: name what builds it, as package.module:callable or "
            f"file.py:callable, and give --weights {spec}"
        )
    package, _, last = spec.rpartition(".")
    name = spec.rpartition("/")[2]
    if known := [f"{library}:{name}" for library in _LIBRARIES if _makes(library, name)]:
        example = f"here {' or '.join(known)}"
    else:
        example = f"here {package}:{last}" if package and "/" not in spec else "for example torchvision.models:resnet50"
    return (
        "no folder has this name, and no callable: write the folder of a model (those of a hub have to be downloaded "
        f"first), or package.module:callable, {example}, or file.py:callable"
    )


def _makes(library: str, name: str) -> bool:
    """Whether a library that is installed makes a network of this name."""
    with suppress(Exception):
        return _found(importlib.import_module(library), name) is not None
    return False


def _module(name: str) -> ModuleType:
    """A module by its name, or by its file, which then finds what lies beside it."""
    _search_here()
    path = Path(name)
    if path.suffix != ".py" or not path.is_file():
        return importlib.import_module(name)
    folder = str(path.parent.absolute())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    spec = spec_from_file_location(path.stem, path.absolute())
    assert spec is not None and spec.loader is not None, "of every .py"
    module = sys.modules[path.stem] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _found(module: ModuleType, attribute: str) -> Any:
    """What a name of a module means; timm makes its networks by their names."""
    found = getattr(module, attribute, None)
    if found is None and module.__name__ == "timm" and module.is_model(attribute):
        return partial(module.create_model, attribute)
    return found


def _near(module: ModuleType, attribute: str) -> str:
    """Names of a module that are like one that it lacks, in words."""
    known = [name for name in dir(module) if not name.startswith("_")]
    inside = [one.__name__ for one in vars(module).values() if isinstance(one, ModuleType) and hasattr(one, attribute)]
    if below := [name for name in inside if name.startswith(f"{module.__name__}.")]:
        return f"; did you mean {below[0]}:{attribute}?"
    if module.__name__ == "timm":
        known += (networks := module.list_models())
        if longer := [name for name in networks if name.startswith(attribute)]:
            return f"; did you mean {', '.join(map(repr, longer[:5]))}{' ...' if len(longer) > 5 else ''}?"
    return spelling_hint(attribute, known)[:120]


def _on(model: nn.Module, device: str) -> nn.Module:
    try:
        return model.to(device)
    except (RuntimeError, AssertionError) as error:
        names = "torch calls GPUs cuda, cuda:1 ..., of Apple mps, of Intel xpu"
        reason = names if "gpu" in device.lower() else printable(str(error).splitlines()[0])
        raise ModelError(f"--device {device!r}: {reason}") from None


def folder_of(spec: str) -> ModelFolder | None:
    """What is in the folder that is named instead of a callable; ``None``: no folder is.

    Raises:
        IntegrationError: the folder holds no model.
    """
    return model_folder(Path(spec)) if Path(spec).is_dir() else None


def tokenizer_of(spec: str, named: str | None = None) -> Any:
    """The tokenizer that is named, or the one in the folder of a model; ``None`` where there is none.

    Args:
        spec: the model.
        named: a folder with a tokenizer of transformers, a ``tokenizer.json``, or ``package.module:function`` from a
            text to token numbers.

    Raises:
        ModelError: there is none of this name.
    """
    if named is not None:
        return _named_tokenizer(named)
    folder = folder_of(spec)
    return None if folder is None else folder.tokenizer()


def _named_tokenizer(named: str) -> Any:
    name, attribute = _parts(named)
    try:
        if Path(named).is_dir():
            found = importlib.import_module("lloydmax.integrations.transformers.tokens").tokenizer_in(named)
        elif Path(named).is_file():
            found = importlib.import_module("tokenizers").Tokenizer.from_file(named)
        else:
            found = getattr(_module(name), attribute) if attribute else None
    except Exception as error:
        raise ModelError(f"--tokenizer {named!r}: {printable(f'{type(error).__name__}: {error}', 500)}") from error
    if found is None:
        raise ModelError(
            f"--tokenizer {named!r}: not a folder with a tokenizer of transformers, nor a tokenizer.json, nor "
            "package.module:function"
        )
    return found


def source_of(spec: str) -> str | None:
    """The file of the module in ``package.module:callable``, or the folder; ``None`` where there is none."""
    if Path(spec).is_dir():
        return spec
    _search_here()
    with suppress(Exception):  # what cannot be found is told by build
        name, _ = _parts(spec)
        if Path(name).is_file():
            return name
        found = find_spec(name)
        return found.origin if found is not None and found.has_location else None
    return None


def _search_here() -> None:
    if "" not in sys.path:
        sys.path.insert(0, "")
