"""Structure that compression leaves as it is: zeros of pruned weights, rows for padding, infinities."""

from __future__ import annotations

from pathlib import Path
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


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd"])
def test_embeddings_with_sparse_gradients_are_trained(optimizer: str) -> None:
    x = torch.randint(0, 40, (64, 5), generator=torch.Generator().manual_seed(0))
    step = {**LEARN, "optimizer": optimizer, "clip": 1.0}
    for names in (["words", "bag"], ["bag"]):
        quantize = [{"layers": names, "centroids": 7, "importance": "fisher"}]
        recipe = {"quantize": quantize, "trainable": ["all"], "recover": [step]}
        dense_ones, sparse_ones = (compressed(Words(sparse).eval(), x, recipe) for sparse in (False, True))
        assert torch.equal(sparse_ones(x), dense_ones(x)) and sparse_ones.bag.sparse
