"""What INC finds on a model with codebooks: ``qconfig``, whose first entry decides who saves it, and ``save``.

INC's own algorithms set both when they have run, as if they had been the only ones, and their writer then loses the
codebooks without a word. On a model with codebooks the two are descriptors of its class, which keep what is set and add
what is ours.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from lloydmax.codebook.layout import code_bits
from lloydmax.errors import IntegrationError
from lloydmax.integrations.inc.host import NAME, writing
from lloydmax.integrations.inc.layer import LayerConfig
from lloydmax.integrations.made import OnTop, made
from lloydmax.student.attachment import codebooks

_NOTES = "_codebook_notes"


class _Qconfig:
    """``{(layer name, type name): configuration}``: layers with codebooks first, then what other algorithms set."""

    def __get__(self, model: Any, kind: Any = None) -> Any:
        if model is None:
            return self
        notes = notes_of(model)
        return {**{key: LayerConfig(bits) for key, bits in notes["ours"].items()}, **notes["theirs"]}

    def __set__(self, model: Any, mapping: Any) -> None:
        found = mapping if isinstance(mapping, Mapping) else {}
        theirs = {key: one for key, one in found.items() if getattr(one, "name", NAME) != NAME}
        notes_of(model)["theirs"].update(theirs)

    def __delete__(self, model: Any) -> None:
        notes_of(model)["theirs"].clear()


class _Save:
    """The writer that keeps codebooks; a writer of INC's algorithms that is set is not taken."""

    def __get__(self, model: Any, kind: Any = None) -> Any:
        if model is None:
            return self
        notes = notes_of(model)
        return notes["save"] or functools.partial(notes["writer"], model)

    def __set__(self, model: Any, writer: Any) -> None:
        plain = getattr(writer, "__func__", writer)
        if not str(getattr(plain, "__module__", "")).startswith("neural_compressor"):
            notes_of(model)["save"] = writer


class _Quantizer:
    """What INC keeps between ``prepare`` and ``convert``; it looks for it before it runs an algorithm."""

    def __get__(self, model: Any, kind: Any = None) -> Any:
        if model is None:
            return self
        if getattr(sys._getframe(1).f_locals.get("quantizer_cls"), "__name__", "") == "AutoRoundQuantizer":
            raise IntegrationError(
                "AutoRound writes the whole model to disk and reads it back without its codebooks: compress with "
                "AutoRoundConfig or with CodebookConfig, not with both"
            )
        if "quantizer" not in vars(model):
            raise AttributeError("quantizer")
        return vars(model)["quantizer"]

    def __set__(self, model: Any, value: Any) -> None:
        vars(model)["quantizer"] = value

    def __delete__(self, model: Any) -> None:
        del vars(model)["quantizer"]


class Noted(OnTop):
    """On top of the class of a model that has codebooks by INC."""

    qconfig = _Qconfig()
    save = _Save()
    quantizer = _Quantizer()

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """As of any module; also where the model is a part of another.

        Raises:
            IntegrationError: for INC's weight-only writer, whose folders cannot give codebooks back.
        """
        if writing():
            raise IntegrationError(
                "INC's writer of weight-only models loses codebooks: save the whole model by "
                "lloydmax.integrations.inc.save(model, folder)"
            )
        found: Any = super()
        return found.state_dict(*args, **kwargs)


def dressed(model: nn.Module, layers: Mapping[str, str], theirs: Mapping[Any, Any], writer: Any) -> nn.Module:
    """A model with codebooks, in place, with what INC's ``save`` looks for.

    Args:
        model: finished.
        layers: class names of its layers before they got codebooks, by name.
        theirs: what INC's other algorithms noted of their layers.
        writer: of ``writer(model, folder, format)``.
    """
    ours: dict[tuple[str, str], int] = {}
    for name, held in codebooks(model).items():
        layer = name.rpartition(".")[0]
        key = (layer, layers[layer])
        ours[key] = max(ours.get(key, 0), code_bits(held.k))
    notes = {"ours": ours, "theirs": dict(theirs), "writer": writer, "save": None}
    if isinstance(model, torch.fx.GraphModule):  # each has a class of its own already, which its copies do not keep
        qconfig = {**{key: LayerConfig(bits) for key, bits in ours.items()}, **theirs}
        vars(model).update(qconfig=qconfig, save=functools.partial(writer, model))
        return model
    for name in ("qconfig", "save"):
        vars(model).pop(name, None)
    vars(model)[_NOTES] = notes
    model.__class__ = made(type(model), Noted)
    return model


def notes_of(model: nn.Module) -> dict[str, Any]:
    """What is noted on a model: layers of codebooks, configurations of others, and who writes it."""
    found: dict[str, Any] = vars(model)[_NOTES]
    return found


def noted_by_others(model: nn.Module) -> dict[Any, Any]:
    """What INC's other algorithms have noted on any model."""
    held = getattr(model, "qconfig", None)
    return {key: c for key, c in held.items() if getattr(c, "name", NAME) != NAME} if isinstance(held, dict) else {}


def refuse_lost(model: nn.Module) -> None:
    """Refuse a model in which a layer lost its codebooks to another algorithm.

    Raises:
        IntegrationError: names it.
    """
    held = {name.rpartition(".")[0] for name in codebooks(model)}
    lost = [layer for layer, _ in vars(model).get(_NOTES, {"ours": {}})["ours"] if layer not in held]
    if lost:
        names = dict(model.named_modules())
        now = f"is a {type(names[lost[0]]).__name__}" if lost[0] in names else "is gone"
        raise IntegrationError(
            f"{lost[0]} had codebooks, and {now}: another algorithm replaced it; leave it out there by a white "
            "list, or leave it out of CodebookConfig"
        )
