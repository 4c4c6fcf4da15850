"""Odd calls of every verb: one line that says what is wrong, and the caller's things as they were."""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lloydmax
import numpy as np
import pytest
import torch
from lloydmax.errors import DataError, LloydmaxError, ModelError, PluginError, RecipeError, RecoveryError
from odd_models import NO_TREES, NOT_MODULES, UNFIT, net, with_norm, with_statistics, with_weight
from torch import Tensor, nn

RECIPE = {"version": 1, "quantize": [{"layers": "all", "centroids": 4}]}
X = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))
FOLDER = Path("nowhere")
STATISTICS = {"variance", "negative", "mean"}
"""Kinds of which only the outputs are no numbers."""


def small() -> nn.Module:
    return lloydmax.compress(net(), RECIPE, progress=False).model


COMPRESSING: dict[str, Callable[[Any], Any]] = {
    "compress": lambda model: lloydmax.compress(model, RECIPE, progress=False),
    "plan": lambda model: lloydmax.plan(model, RECIPE),
    "search": lambda model: lloydmax.search(model, RECIPE, X, {"bits": 4}),
    "sweep": lambda model: lloydmax.sweep(model, RECIPE, X, [2, 4]),
}
VERBS: dict[str, Callable[[Any], Any]] = COMPRESSING | {
    "recipe_for": lloydmax.recipe_for,
    "save": lambda model: lloydmax.save(model, FOLDER / "a.safetensors"),
    "load": lambda model: lloydmax.load(FOLDER / "a.safetensors", model),
    "codebooks": lloydmax.codebooks,
    "verify_plan": lambda model: lloydmax.verify_plan(lloydmax.plan(net(), RECIPE), model),
    "distill": lambda model: lloydmax.distill(model, net(), X, steps=1),
    "distill from": lambda model: lloydmax.distill(net(), model, X, steps=1),
    "renormalize": lambda model: lloydmax.renormalize(model, X),
    "run_step": lambda model: lloydmax.run_step("align", net(), model, X),
    "data_fitness": lambda model: lloydmax.data_fitness(model, {"a": X}),
    "synthesize": lambda model: lloydmax.synthesize(model, 2, 8),
    "export": lambda model: lloydmax.export(model, "a.pt2", example_inputs=X),
    "set_cache": lambda model: lloydmax.set_cache(model, False),
    "set_kernel": lambda model: lloydmax.set_kernel(model, "int8"),
}


def refused(call: Callable[[], Any], kind: type[LloydmaxError], match: str) -> None:
    with pytest.raises(kind, match=match) as error:
        call()
    assert len(str(error.value).splitlines()) == 1


@contextmanager
def recursion_of(limit: int) -> Iterator[None]:
    """Python's limit, which ``torch.compile`` raises for good."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(limit)
    try:
        yield
    finally:
        sys.setrecursionlimit(before)


@pytest.mark.parametrize("verb", VERBS)
def test_no_verb_takes_what_is_not_a_network(verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with recursion_of(1000):
        for make, match in (*NOT_MODULES.values(), *NO_TREES.values()):
            made = make()
            refused(lambda made=made: VERBS[verb](made), ModelError, match)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("verb", COMPRESSING)
def test_a_model_as_deep_as_the_limit_allows(verb: str) -> None:
    with recursion_of(2000):
        assert COMPRESSING[verb](NO_TREES["deep"][0]())


@pytest.mark.parametrize("kind", UNFIT)
@pytest.mark.parametrize("verb", COMPRESSING)
def test_a_model_that_cannot_be_compressed(verb: str, kind: str) -> None:
    make, match = UNFIT[kind]
    if verb == "plan" and kind in STATISTICS:
        assert COMPRESSING[verb](make()).parameters, "a plan runs nothing"
        return
    refused(lambda: COMPRESSING[verb](make()), LloydmaxError, match)


@pytest.mark.parametrize("verb", ["recipe_for", "distill", "distill from", "renormalize", "run_step", "data_fitness"])
def test_a_model_that_was_never_run(verb: str) -> None:
    lazy = nn.Sequential(nn.LazyLinear(4))
    call = VERBS[verb] if verb != "recipe_for" else lambda model: lloydmax.recipe_for(model, data=X)
    refused(lambda: call(lazy), ModelError, "0.weight is lazy, it has no values yet: run the model once")


@pytest.mark.parametrize("verb", COMPRESSING)
def test_a_compressed_model_is_not_compressed_again(verb: str) -> None:
    for student in (small(), nn.Sequential(small(), nn.Linear(4, 4))):
        before = copy.deepcopy(student.state_dict())
        refused(
            lambda model=student: COMPRESSING[verb](model), RecipeError, "already holds codebooks .*pass the origin"
        )
        assert all(torch.equal(value, before[name]) for name, value in student.state_dict().items())


def test_statistics_that_are_nan_are_repaired_as_the_message_says() -> None:
    model = with_statistics("running_var", torch.nan)
    lloydmax.renormalize(model, X)
    assert all(bool(buffer.isfinite().all()) for buffer in model.buffers())
    lloydmax.plan(model, RECIPE)


def test_scripts_and_exported_programs() -> None:
    exported = torch.export.export(net(), (X,)).module()
    refused(lambda: lloydmax.load(FOLDER, torch.jit.trace(net(), X)), ModelError, "ScriptModule")
    refused(lambda: lloydmax.distill(exported, net(), X, steps=1), ModelError, "cannot be put into evaluation mode")
    refused(lambda: lloydmax.search(exported, RECIPE, X, {"bits": 4}), DataError, "cannot take the data")


STUDENTS: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "inputs": (lambda: nn.Linear(3, 4), r"the student has to take the same inputs as the teacher.*\(N, 8\)"),
    "dtype": (lambda: net().double(), "the student has to take the same inputs as the teacher, in shape and dtype"),
    "container": (lambda: nn.ModuleList([nn.Linear(8, 4)]), "the student has to take the same inputs"),
    "outputs": (lambda: nn.Linear(8, 3), "student"),
    "csr": (
        lambda: with_weight(Tensor.to_sparse_csr, gradients=True),
        "0.weight of the student is a sparse_csr tensor",
    ),
    "int8": (
        lambda: lloydmax.compress(net(), RECIPE | {"activations": {"bits": 8}}, X, progress=False).model,
        "runs on int8 kernels, which cannot be trained",
    ),
}


@pytest.mark.parametrize("kind", STUDENTS)
def test_a_student_that_cannot_learn_from_the_teacher(kind: str) -> None:
    make, match = STUDENTS[kind]
    refused(lambda: lloydmax.distill(make(), net(), X, steps=1), LloydmaxError, match)


def test_a_student_that_holds_what_was_computed_once() -> None:
    student = net()
    del student[0]._parameters["weight"]
    student[0].weight = torch.randn(16, 8, requires_grad=True) * 2  # type: ignore[assignment]
    refused(lambda: lloydmax.distill(student, net(), X, steps=3), RecoveryError, "gradients can go only once")


SEEDS = [-1, 2**63, 2**64, 1.0, True, "0", torch.nan, [1], torch.tensor([1, 2]), torch.tensor(1.5)]


@pytest.mark.parametrize("seed", SEEDS, ids=str)
def test_seeds(seed: Any) -> None:
    for call in (
        lambda: lloydmax.compress(net(), RECIPE, progress=False, seed=seed),
        lambda: lloydmax.search(net(), RECIPE, X, {"bits": 4}, seed=seed),
        lambda: lloydmax.sweep(net(), RECIPE, X, [2], seed=seed),
        lambda: lloydmax.distill(net(), net(1), X, steps=1, seed=seed),
        lambda: lloydmax.data_fitness(net(), {"a": X}, seed=seed),
        lambda: lloydmax.synthesize(with_norm(), 2, 8, seed=seed),
    ):
        refused(call, RecipeError, r"give a whole number from 0 to 2\*\*63 - 1")


def test_a_seed_may_be_numpys() -> None:
    made = [lloydmax.compress(net(), RECIPE, progress=False, seed=seed) for seed in (3, np.int64(3))]
    assert made[1].report.seed == 3 and type(made[1].report.seed) is int


def searched(**given: Any) -> Callable[[], Any]:
    return lambda: lloydmax.search(net(), RECIPE, X, **({"budget": {"bits": 4}} | given))


def compressed(**given: Any) -> Callable[[], Any]:
    return lambda: lloydmax.compress(net(), RECIPE, X, progress=False, **given)


def proposed(**given: Any) -> Callable[[], Any]:
    return lambda: lloydmax.recipe_for(net(), **given)


class Odd:
    """No hooks, no length."""


ONE = Odd()
ARGUMENTS: list[tuple[Callable[[], Any], type[LloydmaxError], str]] = [
    *((searched(budget={"bits": bad}), RecipeError, "budget: ") for bad in (torch.inf, torch.nan, 0, -1, None, [3])),
    *((searched(budget=bad), RecipeError, "budget: ") for bad in ({}, 3.0, "bits=3", {"bytes": 10**400})),
    *((searched(centroids=bad), RecipeError, "centroids") for bad in (2, "2,4", [], [0], ["2"], [True], [2.5], {2: 4})),
    *((searched(samples=bad), DataError, "samples (must be|is)") for bad in (0, -1, 1.5, "5", torch.nan, True)),
    *((searched(corrections=bad), RecipeError, "corrections must be") for bad in (-1, 1.5, "x")),
    *((searched(method=bad), RecipeError, "search method") for bad in (1, "nope")),
    *((compressed(cache=bad), RecipeError, "cache is a lloydmax.Cache or None") for bad in (1, {}, "x")),
    *((searched(cache=bad), RecipeError, "cache is a lloydmax.Cache or None") for bad in (1, {})),
    *((compressed(listeners=bad), PluginError, "listeners") for bad in (None, 0, ONE, "x", [None], [Odd], [ONE, ONE])),
    *((searched(listeners=bad), PluginError, "listeners") for bad in (None, [Odd])),
    *((compressed(evaluate=bad), RecipeError, "evaluate is a function") for bad in (1, "f")),
    *(
        (compressed(evaluate=lambda _, bad=bad: bad), RecoveryError, "one number")
        for bad in (None, "x", {}, X, 1j, 10**400)
    ),
    *((proposed(bits=bad), RecipeError, "bits must be") for bad in (0, -1, torch.nan, torch.inf, "3", None, True, 1j)),
    *((proposed(bits=4, effort=bad), RecipeError, "effort must be") for bad in (-1, torch.nan, torch.inf, "1", 1e300)),
    *((proposed(data=X, classes=bad), RecoveryError, "classes is") for bad in ("x", 1.5, [], True)),
    *((proposed(data=X, mask=bad), RecoveryError, "mask is") for bad in (0, [], 1.5)),
    *((lambda bad=bad: lloydmax.run_step(bad, net(), net(1), X), RecoveryError, "step") for bad in (None, 1, [], "x")),
    *((lambda bad=bad: lloydmax.data_fitness(net(), bad), DataError, "sets? of inputs") for bad in (X, [X], "x", {})),
    *(
        (lambda bad=bad: lloydmax.data_fitness(net(), {"a": X}, samples=bad), DataError, "samples (must be|is)")
        for bad in (0, 1.5, "5", torch.inf)
    ),
    *(
        (lambda bad=bad: lloydmax.export(small(), "a.pt2", bad, example_inputs=X), lloydmax.ExportError, "format")
        for bad in (1, [], "TORCH")
    ),
]


@pytest.mark.parametrize("number", range(len(ARGUMENTS)))
def test_arguments(number: int) -> None:
    refused(*ARGUMENTS[number])


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"count": 1.5}, "count must be a whole number"),
        ({"count": "2"}, "count must be a whole number"),
        ({"count": 10**13}, "no memory for"),
        ({"size": 1.5}, "size must be a whole number"),
        ({"size": 1}, "cannot take the data"),
        ({"shape": (1, 12, 12)}, "cannot take the data"),
        ({"shape": 3}, "shape must be"),
        ({"shape": "abc"}, "shape must be"),
        ({"shape": (3, 0, 2)}, "shape must be a whole number"),
        ({"steps": torch.nan}, "steps must be a whole number"),
        ({"batch_size": 1}, "batch_size 2: not 2, 1, 1"),
        ({"lr": torch.nan}, "lr must be a number above 0"),
        ({"lr": 0}, "lr must be a number above 0"),
        ({"classes": "x"}, "classes must be 0 or more"),
        ({"total_variation": -1}, "total_variation must be 0 or more"),
    ],
)
def test_images_out_of_nothing(given: dict[str, Any], match: str) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten()).eval()
    usual: dict[str, Any] = {"count": 2, "steps": 1} | ({} if "shape" in given else {"size": 8})
    refused(lambda: lloydmax.synthesize(model, **(usual | given)), DataError, match)


def weight(make: Callable[[Tensor], Any]) -> Any:
    return make(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize(
    "make",
    [
        Tensor.to_sparse,
        Tensor.to_sparse_csr,
        Tensor.to_mkldnn,
        Tensor.double,
        Tensor.int,
        Tensor.numpy,
        Tensor.tolist,
        lambda w: torch.quantize_per_tensor(w, 0.1, 0, torch.qint8),
        lambda w: torch.nested.nested_tensor([w, w[:2]], layout=torch.jagged),
        lambda w: torch.nested.nested_tensor([w, w[:2]], layout=torch.strided),
        lambda w: w.to("meta"),
        lambda w: w.to(torch.complex64),
        lambda w: w.to(torch.float8_e4m3fn),
        lambda w: w[:0],
        lambda w: w * torch.nan,
    ],
)
def test_weights_and_importances_of_one_codebook(make: Callable[[Tensor], Any]) -> None:
    refused(lambda: lloydmax.fit_codebook(weight(make)), lloydmax.FitError, ".")
    if make not in (Tensor.double, Tensor.int) and not (
        isinstance(weight(make), Tensor) and "float8" in str(weight(make).dtype)
    ):
        refused(
            lambda: lloydmax.fit_codebook(weight(Tensor.abs), importance=weight(make)), lloydmax.FitError, "importance"
        )


@pytest.mark.parametrize("given", [{"axis": None}, {"axis": "0"}, {"axis": 1.5}, {"axis": True}, {"quantizer": 1}])
def test_options_of_one_codebook(given: dict[str, Any]) -> None:
    refused(
        lambda: lloydmax.fit_codebook(weight(Tensor.abs), 4, "channel", **given), lloydmax.FitError, "axis|quantizer"
    )
