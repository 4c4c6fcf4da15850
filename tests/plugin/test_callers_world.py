"""What a call leaves alone: the modes of the caller's thread, and all that other threads see."""

from __future__ import annotations

import copy
import hashlib
import logging
import math
import random
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

CODES = {"quantize": [{"layers": "all", "centroids": 6}], "trainable": ["all"]}
FISHER = {"quantize": [{"layers": "all", "centroids": 6, "importance": "fisher"}]}
INT8: dict[str, Any] = {
    "quantize": [{"layers": "all", "quantizer": "uniform", "bits": 8, "except": ["padded"]}],
    "activations": {"bits": 8},
}


def _steps(*steps: dict[str, Any]) -> dict[str, Any]:
    return {**CODES, "recover": list(steps)}


DISTILL = _steps({"step": "renormalize"}, {"step": "distill", "steps": 4, "batch_size": 16})
RANDOM = _steps({"step": "distill", "steps": 4, "batch_size": 16})
THRESHOLDS = {**INT8, "recover": [{"step": "train_thresholds", "steps": 2}]}


class Noisy(Dataset[Tensor]):
    """Samples with noise from all global generators."""

    def __init__(self, data: Tensor) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Tensor:
        return self.data[index] + 0.01 * torch.randn(3, 12, 12) + 0.01 * np.random.rand() + 0.01 * random.random()


def _bytes(model: nn.Module, recipe: Any, data: Any, folder: Path) -> str:
    path = folder / f"{threading.get_ident()}.safetensors"
    lloydmax.compress(model, recipe, data, progress=False).save(path)
    return hashlib.sha256(path.read_bytes()).hexdigest()


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    torch.set_default_dtype(dtype)
    try:
        yield
        assert torch.get_default_dtype() == dtype
    finally:
        torch.set_default_dtype(torch.float32)


@contextmanager
def _deterministic() -> Iterator[None]:
    torch.use_deterministic_algorithms(True)
    try:
        yield
        assert torch.are_deterministic_algorithms_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


MODES: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "no_grad": torch.no_grad,
    "inference_mode": torch.inference_mode,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "float64": lambda: _default_dtype(torch.float64),
    "bfloat16": lambda: _default_dtype(torch.bfloat16),
    "meta": lambda: torch.device("meta"),
    "deterministic": _deterministic,
}


@pytest.mark.parametrize(
    ("recipe", "noisy"),
    [(DISTILL, False), (FISHER, False), (RANDOM, True), (THRESHOLDS, False)],
    ids=["distill", "fisher", "random data", "int8"],
)
def test_the_callers_modes_do_not_matter(
    small_net: nn.Module, pictures: Tensor, recipe: Any, noisy: bool, tmp_path: Path
) -> None:
    data = Noisy(pictures) if noisy else pictures
    plain = _bytes(small_net, recipe, data, tmp_path)
    for name, around in MODES.items():
        if name == "deterministic" and "activations" in recipe:
            with around(), pytest.raises(lloydmax.IntegrationError, match="deterministic"):
                _bytes(small_net, recipe, data, tmp_path)
        else:
            with around():
                assert _bytes(small_net, recipe, data, tmp_path) == plain, name


def _seen(teacher: nn.Module) -> list[Any]:
    """What any thread sees."""
    modules, tensors = list(teacher.modules()), [*teacher.parameters(), *teacher.buffers()]
    return [
        nn.Module.__call__, nn.Module.__getattr__, math.sqrt, logging.root.manager.disable, warnings.showwarning,
        sys.stdout, sys.stderr, torch.get_default_dtype(), torch.backends.cudnn.enabled, torch.is_grad_enabled(),
        [(type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks)) for m in modules],
        [(t.requires_grad, t.grad is None, t._version) for t in tensors],
        torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state()),
    ]  # fmt: skip


@contextmanager
def _watched(teacher: nn.Module) -> Iterator[None]:
    """Another thread serves the teacher and a model of its own throughout, and looks around."""
    torch.manual_seed(1)
    own, x = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.LazyLinear(4)), None
    x = torch.randn(2, 3, 12, 12)
    own(x)
    own.eval()
    twin = copy.deepcopy(teacher).eval()
    with torch.no_grad():
        expected = [own(x), twin(x)]
    before, stop, wrong = _seen(teacher), threading.Event(), []

    def serve() -> None:
        while not stop.is_set():
            with torch.no_grad():
                found = [own(x), twin(x)]
            wrong.extend(n for n, (one, other) in enumerate(zip(found, expected, strict=True)) if not one.equal(other))
            wrong.extend(f"seen {n}" for n, (a, b) in enumerate(zip(_seen(teacher), before, strict=True)) if a != b)

    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
    assert not wrong
    assert _seen(teacher) == before


STEPS: list[dict[str, Any]] = [
    {"step": "renormalize"},
    {"step": "renormalize", "relative": True},
    {"step": "correct_bias"},
    {"step": "equalize"},
    {"step": "fold_batch_norm"},
    {"step": "reconstruct"},
    {"step": "distill", "steps": 3, "features": 10.0, "codes": "learn", "augment": ["flip"]},
    {"step": "align", "steps": 2},
]


@pytest.mark.parametrize("recipe", [*map(_steps, STEPS), FISHER, INT8, THRESHOLDS], ids=str)
def test_another_thread_notices_nothing(small_net: nn.Module, pictures: Tensor, recipe: Any) -> None:
    teacher = small_net.train()
    with _watched(teacher), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lloydmax.compress(teacher, recipe, pictures, progress=False)


def test_another_thread_notices_nothing_of_all_else(small_net: nn.Module, pictures: Tensor, tmp_path: Path) -> None:
    teacher = small_net.train()
    with _watched(teacher), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lloydmax.plan(teacher, CODES, pictures[:2])
        lloydmax.search(teacher, CODES, pictures, {"bits": 3})
        lloydmax.data_fitness(teacher, {"data": pictures})
        lloydmax.synthesize(teacher, 2, size=12, steps=2)
        lloydmax.distill(copy.deepcopy(teacher), teacher, pictures, steps=2)
        recipe = lloydmax.recipe_for(teacher, 5, pictures, effort=0.01)
        student = lloydmax.compress(teacher, recipe, pictures, progress=False).model
        lloydmax.export(student, tmp_path / "model.pt2", example_inputs=pictures[:2])


def test_the_first_bar_and_table_leave_pythons_random_state_alone(small_net: nn.Module) -> None:
    def taken() -> dict[str, Any]:
        return {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "rich"}

    held, before = taken(), random.getstate()
    try:
        str(lloydmax.compress(small_net, CODES, progress=True).report)
        assert random.getstate() == before and "rich.table" in sys.modules
    finally:
        taken()  # parts of two loadings do not fit each other
        sys.modules.update(held)


class Interrupting:
    """Ctrl-C at the n-th event of any kind."""

    def __init__(self, event: int) -> None:
        self.left = event

    @lloydmax.hookimpl
    def lloydmax_step(self, step: str) -> None:
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("event", [1, 3, 8, 15, 25])
@pytest.mark.parametrize("recipe", [DISTILL, INT8], ids=["distill", "int8"])
def test_an_interruption_leaves_nothing_behind(small_net: nn.Module, pictures: Tensor, event: int, recipe: Any) -> None:
    teacher = small_net.train()
    with torch.no_grad():
        before = _seen(teacher)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with suppress(KeyboardInterrupt):
                lloydmax.compress(teacher, recipe, Noisy(pictures), progress=False, listeners=[Interrupting(event)])
        assert _seen(teacher) == before
