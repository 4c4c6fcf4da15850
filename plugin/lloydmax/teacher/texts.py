"""Texts that a language model writes itself, where none are given.

Liu et al. (2023), "LLM-QAT: Data-Free Quantization Aware Training for Large Language Models", section 3.1: the next
token is drawn from what the model says, after a few random ones.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Generator, Tensor, nn

from lloydmax.data.inputs import Inputs
from lloydmax.data.natural import Form, values_of
from lloydmax.network.trees import child, output_tensors
from lloydmax.runtime.modes import at_home, device_of, evaluating
from lloydmax.teacher.asking import Asked

_PROMPT = 2
"""Random tokens before the first that is drawn."""
_TOGETHER = 32
"""Texts of one forward pass."""
_SAME = 1e-3
"""Of the scores' deviation: by which they differ at most where nothing that counts has changed."""
_STATES = ("cache", "past_key_values")
"""What a model that goes on from where it was calls what it remembers, among its arguments and in its output."""


def writes(model: nn.Module, found: Asked) -> bool:
    """Whether a model writes texts: for tokens ``(N, T)``, its only input, it gives scores ``(N, T, C)`` of all of
    them, those of a place only by what stands there and before it, and not the same whatever that is."""
    form = _tokens(found)
    if form is None:
        return False
    assert form.below is not None
    ids = values_of(form, 2, Generator().manual_seed(0), structured=False)
    ids[1, :-1] = ids[0, :-1]
    ids[1, -1] = (ids[0, -1] + 1) % form.below
    with evaluating(model), torch.no_grad():
        scores = _scores(_called(model, found, ids), form)
        if scores is None or not bool(torch.isfinite(scores).all()):
            return False
        apart = (scores[0] - scores[1]).abs().amax(1)
        return bool(apart[:-1].max() <= _SAME * scores.std()) and bool(apart[-1] > _SAME * scores.std())


def texts(model: nn.Module, found: Asked, samples: int, generator: Generator) -> Tensor:
    """What such a model writes: tokens ``(samples, T)`` of the form's dtype, none of those that the form leaves out.

    Args:
        model: :func:`writes`; runs in evaluation mode, once for each place of a text: with what it remembers of those
            before, where it can.
        found: what it takes.
        samples: how many.
        generator: on the CPU.
    """
    form = _tokens(found)
    assert form is not None
    begun = values_of(form, samples, generator, structured=False)
    with evaluating(model), torch.no_grad():
        state = _state(model, found, form, begun[:2])
        parts = begun.split(_TOGETHER)
        return torch.cat([_written(model, found, form, ids, generator, state) for ids in parts])


def _written(
    model: nn.Module, found: Asked, form: Form, ids: Tensor, generator: Generator, state: str | None
) -> Tensor:
    """The rest of texts, after the first tokens of ``ids``."""
    past, read, places = None, 0, ids.shape[1]
    for place in range(min(_PROMPT, places - 1), places):
        more = {} if state is None else {state: past, "use_cache": True}
        output = _called(model, found, ids if state is None else ids[:, read:place], **more)
        scores = _scores(output, form)
        assert scores is not None and form.below is not None
        last = scores[:, place - 1 - read, : int(form.below)].float().cpu()
        last[:, list(form.without)] = -torch.inf
        ids[:, place] = torch.multinomial(last.softmax(1), 1, generator=generator)[:, 0].to(ids)
        past, read = (None, 0) if state is None else (child(output, state), place)
    return ids


def _state(model: nn.Module, found: Asked, form: Form, ids: Tensor) -> str | None:
    """By which name a model takes and gives what it remembers; ``None``: it does not, or answers otherwise then."""
    names = Inputs(model).names
    state = next((name for name in _STATES if {name, "use_cache"} <= names), None)
    if state is None:
        return None
    try:
        past = child(_called(model, found, ids[:, :-1], use_cache=True), state)
        rest = _called(model, found, ids[:, -1:], **{state: past, "use_cache": True})
        scores, whole = (_scores(output, form) for output in (rest, _called(model, found, ids)))
    except Exception:
        return None
    if past is None or scores is None or whole is None:
        return None
    return state if bool((scores[:, -1] - whole[:, -1]).abs().max() <= _SAME * whole.std()) else None


def _tokens(found: Asked) -> Form | None:
    """The only input, where that is a line of tokens of one table."""
    forms = {id(form): form for form in found.forms}.values()
    only = next(iter(forms)) if len(forms) == 1 else None
    fits = only is not None and only.below is not None and not only.below.dim() and len(only.shape) == 1
    return only if fits and only is not None and only.shape[0] > 1 else None


def _called(model: nn.Module, found: Asked, ids: Tensor, **more: Any) -> Any:
    batch = found.filled(lambda form: ids, len(ids)).to(device_of(model))
    with at_home(model):
        return model(*batch.args, **batch.kwargs, **more)


def _scores(output: Any, form: Form) -> Tensor | None:
    """``(N, T, C)`` of an output, classes no fewer than tokens."""
    assert form.below is not None
    first = next(iter(output_tensors(output, None)), None)
    return None if first is None or first.dim() != 3 or first.shape[2] < int(form.below) else first
