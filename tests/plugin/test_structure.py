"""Structure that compression leaves as it is: zeros of pruned weights, rows for padding, infinities, empty layers."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lloydmax
import pytest
import torch
import torch.nn.functional as F
from lloydmax import RecipeError
from torch import Tensor, nn
from torch.nn.utils import prune

DISTILL = {"step": "distill", "steps": 6, "batch_size": 16, "lr": 0.02, "precision": "float32"}
SHORT = {"steps": 4, "batch_size": 16}
LEARN = {**DISTILL, "codes": "learn", "codes_lr": 0.05}


class Pruned(nn.Module):
    """Whole filters, single weights, and two of four are pruned; 3 x 8 x 8 -> 10."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.depthwise, self.fc = nn.Conv2d(12, 12, 3, groups=12), nn.Linear(12, 10)
        prune.ln_structured(self.conv, "weight", 0.25, 2, 0)
        prune.random_unstructured(self.depthwise, "weight", 0.6)
        prune.remove(self.conv, "weight")
        prune.remove(self.depthwise, "weight")
        with torch.no_grad():
            self.fc.weight.view(10, 3, 4).scatter_(2, self.fc.weight.view(10, 3, 4).abs().argsort(2)[..., :2], 0)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(F.relu(self.depthwise(F.relu(self.norm(self.conv(x))))).mean((2, 3)))


@pytest.fixture(scope="module")
def inputs() -> Tensor:
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def dense(model: nn.Module) -> dict[str, Tensor]:
    plain = {name: p.detach() for name, p in model.named_parameters()}
    return plain | {name: book.dequantize() for name, book in lloydmax.codebooks(model).items()}


def compressed(net: nn.Module, data: Tensor, recipe: dict[str, Any]) -> Any:
    return lloydmax.compress(net, recipe, data, progress=False).model


def rule(**options: Any) -> dict[str, Any]:
    return {"quantize": [{"layers": "all", **options}], "trainable": ["all"]}


@pytest.mark.parametrize(
    "recipe",
    [
        {**rule(centroids=4), "recover": [LEARN]},
        {**rule(centroids=2, granularity="channel"), "recover": [DISTILL]},
        {**rule(centroids=6, granularity="group:5"), "recover": [{**LEARN, "codes": "anneal"}]},
        {**rule(centroids=5, importance="fisher"), "recover": [{"step": "reconstruct", "refit": True}, DISTILL]},
        {**rule(quantizer="uniform", bits=3), "recover": [LEARN]},
        {**rule(centroids=4), "recover": [{"step": "equalize", "fold": True}, LEARN]},
        {**rule(centroids=64), "bits": 31, "storage": {"codes": "entropy", "floats": "float16"}, "recover": [LEARN]},
        {
            **rule(quantizer="uniform", bits=4, scheme="asymmetric"),
            "activations": {"bits": 8},
            "recover": [
                {"step": step, "steps": 4, "batch_size": 16} for step in ("train_thresholds", "train_multipliers")
            ],
        },
    ],
    ids=["learn", "channels", "anneal", "reconstruct", "uniform", "equalize", "bits", "int8"],
)
@pytest.mark.filterwarnings("ignore:.*moved the outputs")
def test_zeros_stay_zeros(recipe: dict[str, Any], inputs: Tensor, tmp_path: Path) -> None:
    net = Pruned().eval()
    zeros = {name: p == 0 for name, p in net.named_parameters() if p.dim() > 1}
    result = lloydmax.compress(net, recipe, inputs, progress=False)
    result.save(tmp_path / "net.safetensors")
    for model in (result.model, lloydmax.load(tmp_path / "net.safetensors", Pruned())):
        values = dense(model)
        assert set(lloydmax.codebooks(model)) == set(zeros)
        assert all((values[name][mask] == 0).all() and (values[name][~mask] != 0).any() for name, mask in zeros.items())


def test_zeros_of_a_layer_in_floats_stay(inputs: Tensor) -> None:
    net = Pruned().eval()
    recipe = {"quantize": [{"layers": "fc", "centroids": 4}], "trainable": ["all"], "recover": [DISTILL]}
    found = compressed(net, inputs, recipe)
    zeros = net.conv.weight == 0
    assert (found.conv.weight[zeros] == 0).all() and not torch.equal(found.conv.weight, net.conv.weight)


def test_zeros_are_let_go_where_the_rule_says_so_or_they_are_few(inputs: Tensor) -> None:
    net = Pruned().eval()
    zeros = net.depthwise.weight == 0
    for options, stay in (({"zeros": "free"}, False), ({}, True)):
        found = lloydmax.compress(
            net, {**rule(centroids=3, **options), "recover": [LEARN]}, inputs, progress=False
        ).model
        assert bool((dense(found)["depthwise.weight"][zeros] == 0).all()) is stay
    with torch.no_grad():
        net.depthwise.weight[zeros] = 0.01
        net.depthwise.weight[:1] = 0
    for options, stay in (({"zeros": "keep"}, True), ({}, False)):
        found = lloydmax.compress(
            net, {**rule(centroids=3, **options), "recover": [LEARN]}, inputs, progress=False
        ).model
        assert bool((dense(found)["depthwise.weight"][:1] == 0).all()) is stay


def test_blocks_stay_where_they_are_zero_as_a_whole(inputs: Tensor) -> None:
    net = Pruned().eval()
    recipe = {**rule(centroids=6), "quantize": [{"layers": "conv", "centroids": 6, "block": 9}], "recover": [LEARN]}
    found = lloydmax.compress(net, recipe, inputs, progress=False).model
    assert (dense(found)["conv.weight"][net.conv.weight == 0] == 0).all()
    recipe["quantize"][0]["layers"] = "depthwise"
    with pytest.warns(UserWarning, match=r"zeros of depthwise.weight \(blocks of several weights\) do not stay"):
        lloydmax.plan(net, recipe)


def test_the_plan_says_what_zeros_cost() -> None:
    notes = lloydmax.plan(Pruned(), rule(centroids=16)).notes
    assert any("zeros stay in conv.weight, depthwise.weight, fc.weight" in n and "a mask" in n for n in notes)
    entropy = lloydmax.plan(Pruned(), {**rule(centroids=16), "storage": {"codes": "entropy"}}).notes
    assert any("no mask is needed" in note for note in entropy)


def test_a_weight_without_zeros_keeps_its_bytes(inputs: Tensor, tmp_path: Path) -> None:
    net = Pruned().eval()
    with torch.no_grad():
        for p in net.parameters():
            p[p == 0] = 0.02
    for name, options in (("a", {}), ("b", {"zeros": "keep"}), ("c", {"zeros": "free"})):
        made = lloydmax.compress(net, {**rule(centroids=4, **options), "recover": [LEARN]}, inputs, progress=False)
        lloydmax.save(made.model, tmp_path / name, recipe={})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()


class Words(nn.Module):
    """Two embeddings with rows for padding, one of them tied to the last layer; 40 words."""

    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.bag = (
            nn.Embedding(40, 24, padding_idx=3, sparse=sparse),
            nn.EmbeddingBag(40, 24, padding_idx=1, sparse=sparse),
        )
        self.head = nn.Linear(24, 40, bias=False)
        with torch.no_grad():
            self.bag.weight[1] = 0
        self.head.weight = self.words.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.words(x).mean(1) + self.bag(x))


@pytest.mark.parametrize("quantize", [True, False])
def test_rows_for_padding_stay(quantize: bool, tmp_path: Path) -> None:
    net, x = Words().eval(), torch.randint(0, 40, (64, 5), generator=torch.Generator().manual_seed(0))
    names = ["words", "bag"] if quantize else ["bag"]
    recipe = {"quantize": [{"layers": names, "centroids": 7}], "trainable": ["all"]}
    result = lloydmax.compress(net, {**recipe, "recover": [{**LEARN, "weight_decay": 0.1}]}, x, progress=False)
    result.save(tmp_path / "net.safetensors")
    for model in (result.model, lloydmax.load(tmp_path / "net.safetensors", Words())):
        values = dense(model)
        assert (values["bag.weight"][1] == 0).all() and (values["words.weight"][3] == 0).all()
        assert ("words.weight" in lloydmax.codebooks(model)) is quantize
        assert torch.equal(model.words.weight, model.head.weight)


def test_a_row_for_padding_that_is_not_zero_is_named() -> None:
    net = Words()
    with torch.no_grad():
        net.bag.weight[1] = 1
    notes = lloydmax.plan(net, {"quantize": [{"layers": ["bag"], "centroids": 7}]}).notes
    assert any("bag.weight: row 1 (padding_idx) is not zero" in note for note in notes)


class Masked(nn.Module):
    """Attention with a mask of minus infinity among its parameters, and a layer that nobody calls; (N, n, 32)."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q, self.unused = nn.Linear(32, 96), nn.Linear(40, 40)
        self.mask = nn.Parameter(torch.full((40, 40), float("-inf")).triu(1))
        self.register_buffer("limit", torch.tensor(float("inf")))
        with torch.no_grad():
            self.unused.weight[2, 3] = float("nan")

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.q(x).chunk(3, -1)
        n = x.shape[1]
        return (q @ k.mT + self.mask[:n, :n]).softmax(-1).minimum(self.limit) @ v


def test_parameters_that_are_not_finite_stay_and_are_named(tmp_path: Path) -> None:
    net, x = Masked().eval(), torch.randn(48, 6, 32)
    wanted = {"quantize": [{"layers": "all", "centroids": 16}], "trainable": ["all"], "recover": [DISTILL]}
    for recipe in (wanted, lloydmax.recipe_for(net, 24, x, effort=0.02)):
        with pytest.warns(UserWarning, match=r"mask.*780 of its 1,600 values are NaN or infinite.*|unused.weight"):
            result = lloydmax.compress(net, recipe, x, progress=False)
        assert set(lloydmax.codebooks(result.model)) == {"q.weight"} and torch.isfinite(result.model(x)).all()
        assert torch.equal(result.model.mask, net.mask) and result.model.unused.weight[2, 3].isnan()
        result.save(tmp_path / "net.safetensors")
        again = lloydmax.load(tmp_path / "net.safetensors", Masked())
        assert torch.equal(again(x), result.model(x)) and torch.equal(again.mask, net.mask)


def test_a_rule_that_names_a_parameter_that_is_not_finite_is_refused() -> None:
    net = Masked()
    with pytest.raises(RecipeError, match=r"unused\.weight: 1 of its 1,600 values are NaN"):
        lloydmax.plan(net, {"quantize": [{"layers": ["unused"], "centroids": 4}]})
    with pytest.raises(RecipeError, match=r"'unused.weight' has NaN"):
        lloydmax.plan(net, {"quantize": [{"layers": "q", "centroids": 4}], "trainable": ["unused.weight"]})
    with pytest.raises(RecipeError, match="nothing to compress"):
        lloydmax.plan(nn.Sequential(net.unused), {"quantize": [{"layers": "all", "centroids": 4}]})


class Partly(nn.Module):
    """Has a layer without outputs, one without inputs, and one in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.last = nn.Linear(32, 64), nn.Linear(64, 32)
        self.none, self.less, self.exact = nn.Linear(64, 0), nn.Linear(0, 32), nn.Linear(32, 4).double()

    def forward(self, x: Tensor) -> Tensor:
        h = self.first(x).relu()
        y = self.last(h) + self.less(self.none(h))
        return torch.cat([y, self.exact(y.double()).float()], -1)


@pytest.mark.parametrize("step", [DISTILL, {"step": "reconstruct"}, None], ids=["distill", "blocks", "own"])
def test_layers_that_cannot_have_codebooks_stay_and_are_named(step: dict[str, Any] | None, tmp_path: Path) -> None:
    net, x = Partly().eval(), torch.randn(64, 32)
    recipe: Any = {"quantize": [{"layers": "all", "centroids": 16}], "trainable": ["all"], "recover": [step]}
    recipe = lloydmax.recipe_for(net, 5, x, effort=0.02) if step is None else recipe
    with pytest.warns(UserWarning, match="exact.weight stays as it is: it is float64, not float32") as warned:
        result = lloydmax.compress(net, recipe, x, progress=False)
    assert not any("empty" in str(one.message) for one in warned)
    assert set(lloydmax.codebooks(result.model)) == {"first.weight", "last.weight"}
    assert torch.equal(result.model.exact.weight, net.exact.weight)
    notes = "\n".join(result.plan.notes)
    assert "none.weight stays as it is: it is empty, of shape (0, 64)" in notes and "less.weight stays" in notes
    result.save(tmp_path / "net.safetensors")
    assert torch.equal(lloydmax.load(tmp_path / "net.safetensors", Partly())(x), result.model(x))


@pytest.mark.parametrize(("name", "why"), [("none", "is empty, of shape"), ("exact", "is float64, not float32")])
def test_a_rule_that_names_a_layer_that_cannot_have_a_codebook_is_refused(name: str, why: str) -> None:
    with pytest.raises(RecipeError, match=rf"quantize\[1\]: {name}\.weight: it {why}.*leave this parameter out"):
        lloydmax.plan(Partly(), {"quantize": [{"layers": [name], "centroids": 4}]})
    with pytest.raises(RecipeError, match="nothing to compress: weight"):
        lloydmax.plan(getattr(Partly(), name), {"quantize": [{"layers": "all", "centroids": 4}]})


class Holder(nn.Module):
    """Holds a weight of a layer in a second place, where its forward finds it."""

    def __init__(self, place: Callable[[Tensor], dict[str, Any]], leaf: str = "weight") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear, self.gru, self.inner = nn.Linear(8, 8), nn.GRU(8, 4, batch_first=True), nn.Module()
        vars(self.inner).update(place(getattr(self.linear, leaf)))

    def forward(self, x: Tensor) -> Tensor:
        return self.gru(self.linear(x))[0]


PLACES = [
    (lambda w: {"ws": [w]}, "inner.ws[0]"), (lambda w: {"w": w}, "inner.w"),
    (lambda w: {"d": {"k": (1, w)}}, "inner.d['k'][1]"),
    (lambda w: {"f": functools.partial(torch.matmul, w)}, "inner.f[0]"),
    (lambda w: {"o": SimpleNamespace(w=w)}, "inner.o.w"),
]  # fmt: skip


@pytest.mark.parametrize(("place", "attribute"), PLACES, ids=[attribute for _, attribute in PLACES])
def test_a_compressed_parameter_that_is_held_elsewhere_is_refused(place: Any, attribute: str) -> None:
    net, x = Holder(place).eval(), torch.randn(16, 3, 8)
    every = {"layers": "all", "centroids": 4}
    said = re.escape(f"linear.weight is also held by the attribute {attribute!r}")
    with pytest.raises(RecipeError, match=rf"\[1\]: {said}.*use self\.linear\.weight in forward.*out of the rule"):
        lloydmax.compress(net, {"quantize": [every]}, x, progress=False)
    rest = [{"layers": ["linear"], "quantizer": "none"}, every | {"layers": "gru", "parameter": "weight_ih_l0"}]
    recipe = {"quantize": [every, *rest], "trainable": ["all"], "recover": [DISTILL]}
    result = lloydmax.compress(net, recipe, x, progress=False)
    assert set(lloydmax.codebooks(result.model)) == {"gru.weight_ih_l0"}
    assert isinstance(result.model.linear.weight, nn.Parameter)


def test_a_parameter_that_no_rule_compresses_may_be_held_elsewhere() -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 4}], "trainable": ["all"], "recover": [DISTILL]}
    net = Holder(lambda bias: {"bias": bias}, "bias").eval()
    made = lloydmax.compress(net, recipe, torch.randn(16, 3, 8), progress=False).model
    assert made.inner.bias is made.linear.bias and isinstance(made.linear.bias, nn.Parameter)
    assert not torch.equal(made.linear.bias, net.linear.bias)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_embeddings_with_sparse_gradients_are_trained(optimizer: str) -> None:
    x = torch.randint(0, 40, (64, 5), generator=torch.Generator().manual_seed(0))
    step = {**LEARN, "optimizer": optimizer, "clip": 1.0}
    for names in (["words", "bag"], ["bag"]):
        quantize = [{"layers": names, "centroids": 7, "importance": "fisher"}]
        recipe = {"quantize": quantize, "trainable": ["all"], "recover": [step]}
        dense_ones, sparse_ones = (compressed(Words(sparse).eval(), x, recipe) for sparse in (False, True))
        assert torch.equal(sparse_ones(x), dense_ones(x)) and sparse_ones.bag.sparse
