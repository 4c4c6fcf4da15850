"""Compressed weights in a model: training form, finished form, caches, copies, export."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from conftest import PaddedConv, SmallNet, TextNet
from lloydmax import codebooks, fit_codebook, set_cache
from lloydmax.student.attachment import attach, attached, finish
from lloydmax.student.layers import CodebookLinear, CodesHolder
from torch import Tensor, nn


def compressed(model: nn.Module, *names: str, k: int = 8) -> dict[str, Tensor]:
    """Attach codebooks; returns the decoded weights."""
    dense = {}
    for name in names:
        parameter = model.get_parameter(name)
        codebook = fit_codebook(parameter, min(k, parameter.numel()))
        dense[name] = codebook.dequantize()
        attach(model, name, codebook)
    return dense


def reference(model: nn.Module, dense: dict[str, Tensor]) -> nn.Module:
    """The float model with the decoded weights written in."""
    with torch.no_grad():
        for name, weight in dense.items():
            model.get_parameter(name).copy_(weight)
    return model


MODULES = {
    "linear": (nn.Linear(6, 5), (2, 6)),
    "linear without bias": (nn.Linear(6, 5, bias=False), (2, 6)),
    "conv1d": (nn.Conv1d(4, 6, 3, stride=2, padding=1, groups=2), (2, 4, 9)),
    "conv2d": (nn.Conv2d(4, 6, 3, padding="same", dilation=2), (2, 4, 9, 9)),
    "conv2d reflect": (nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), (2, 4, 9, 9)),
    "conv3d": (nn.Conv3d(2, 3, 2), (1, 2, 4, 4, 4)),
    "convtranspose1d": (nn.ConvTranspose1d(4, 6, 3, stride=2, output_padding=1), (2, 4, 5)),
    "convtranspose2d": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (2, 4, 5, 5)),
    "convtranspose3d": (nn.ConvTranspose3d(2, 3, 2), (1, 2, 3, 3, 3)),
    "subclass": (PaddedConv(4, 6, 3), (2, 4, 9, 9)),
}


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.parametrize("parameters", [("weight",), ("weight", "bias"), ("bias",)])
def test_every_form_computes_with_the_decoded_weight(kind: str, parameters: tuple[str, ...]) -> None:
    original, shape = MODULES[kind]
    parameters = tuple(p for p in parameters if getattr(original, p) is not None)
    if not parameters:
        return
    model, x = nn.Sequential(copy.deepcopy(original)), torch.randn(shape)
    dense = compressed(model, *(f"0.{p}" for p in parameters))
    expected = reference(nn.Sequential(copy.deepcopy(original)), dense)(x)
    assert torch.equal(model(x), expected)
    finish(model)
    assert torch.equal(model(x), expected)
    assert torch.equal(set_cache(model, False)(x), expected)
    assert isinstance(model[0], type(original)) == (kind == "subclass")
    assert not any(p.requires_grad for name, p in model.named_parameters() if "parametrizations" in name)
    assert set(codebooks(model)) == set(dense)


def test_a_transposed_convolution_takes_an_output_size() -> None:
    model = nn.Sequential(nn.ConvTranspose2d(4, 6, 3, stride=2))
    x = torch.randn(1, 4, 5, 5)
    dense = compressed(model, "0.weight")
    expected = reference(nn.Sequential(copy.deepcopy(model[0])), {})  # a parametrized copy
    wanted = expected[0](x, output_size=[12, 12])
    assert torch.equal(finish(model)[0](x, output_size=[12, 12]), wanted) and dense


def test_a_single_layer_is_replaced_by_finish() -> None:
    model = nn.Linear(4, 4)
    expected = compressed(model, "weight")["weight"]
    finished = finish(model)
    assert isinstance(finished, CodebookLinear) and torch.equal(finished.weight, expected)


def test_embedding_with_padding_and_renormalizing_ones() -> None:
    tokens = torch.tensor([[0, 3, 5]])
    for options in ({"padding_idx": 0}, {"max_norm": 0.5}):
        model = nn.Sequential(nn.Embedding(7, 4, **options))
        dense = compressed(model, "0.weight")
        expected = reference(nn.Sequential(nn.Embedding(7, 4, **options)), dense)(tokens)
        assert torch.allclose(finish(model)(tokens), expected)
        assert isinstance(model[0], nn.Embedding) == ("max_norm" in options)


def test_attention_recurrent_and_tied_weights_run_from_codebooks(text_net: TextNet) -> None:
    names = ["embed.weight", "attention.in_proj_weight", "attention.out_proj.weight", "lstm.weight_ih_l0"]
    tokens = torch.randint(0, 50, (3, 6))
    dense = compressed(text_net, *names)
    expected = reference(TextNet().eval(), {})
    state = copy.deepcopy(text_net).state_dict()
    plain = {k: v for k, v in state.items() if k in expected.state_dict()}
    expected.load_state_dict(plain, strict=False)
    reference(expected, dense)
    with torch.no_grad():
        wanted = expected(tokens)
        assert torch.allclose(text_net(tokens), wanted, atol=1e-6)
        finish(text_net)
        assert torch.allclose(text_net(tokens), wanted, atol=1e-6)
    assert torch.equal(text_net.out.weight, text_net.embed.weight)
    assert {"embed.weight", "out.weight"} <= set(codebooks(text_net))
    holders = {m for m in text_net.modules() if isinstance(m, CodesHolder)}
    assert len(holders) == 4, "tied weights share one codebook"


def test_recurrent_layers_follow_their_codebook_while_it_trains() -> None:
    lstm = nn.LSTM(4, 4, batch_first=True)
    compressed(lstm, "weight_ih_l0", "weight_hh_l0", k=4)
    x = torch.randn(2, 5, 4)
    before = lstm(x)[0]
    before.sum().backward()
    ((_, _, _, _, centroids), _) = attached(lstm)
    assert centroids.grad is not None and bool(centroids.grad.abs().sum() > 0)
    with torch.no_grad():
        centroids.add_(1.0)
    assert not torch.allclose(lstm(x)[0], before)


def test_the_gradient_of_a_centroid_is_the_mean_over_its_members() -> None:
    model = nn.Linear(50, 20, bias=False)
    attach(model, "weight", fit_codebook(model.weight, 4))
    x = torch.randn(8, 50)
    model(x).square().sum().backward()
    ((_, _, _, weight, centroids),) = attached(model)
    dense = model.weight.detach().requires_grad_()
    (x @ dense.T).square().sum().backward()
    for code in range(4):
        members = dense.grad[weight.codes == code]
        assert torch.allclose(centroids.grad[code], members.mean(), rtol=1e-4, atol=1e-4)


def test_finished_models_copy_pickle_and_change_dtype(small_net: SmallNet, pictures: Tensor) -> None:
    compressed(small_net, "stem.weight", "head.0.weight", "head.2.weight")
    finish(small_net)
    with torch.no_grad():
        expected = small_net(pictures)
        assert torch.equal(copy.deepcopy(small_net)(pictures), expected)
        assert torch.equal(pickle.loads(pickle.dumps(small_net))(pictures), expected)
        assert not any(key.endswith("dense") for key in small_net.state_dict())
        half = copy.deepcopy(small_net).to(torch.bfloat16)
        assert half(pictures.bfloat16()).dtype == torch.bfloat16
        assert half.stem.codebooks["weight"].codes.dtype == torch.uint8
        small_net.head[0].codebooks["weight"].load_state_dict(
            {k: v * 2 if k == "centroids" else v for k, v in small_net.head[0].codebooks["weight"].state_dict().items()}
        )
        assert not torch.equal(small_net(pictures), expected), "a loaded state must replace the cached weight"


def test_the_cache_is_neither_pickled_nor_an_inference_tensor(small_net: SmallNet, pictures: Tensor) -> None:
    compressed(small_net, "head.0.weight")
    finish(small_net)
    size = len(pickle.dumps(small_net))
    with torch.inference_mode():
        small_net(pictures)
    assert len(pickle.dumps(small_net)) == size
    small_net(pictures.requires_grad_()).sum().backward()
    set_cache(small_net, False)
    small_net(pictures)
    assert small_net.head[0].codebooks["weight"].dense is None


def test_hooked_modules_keep_their_class_and_hooks(small_net: SmallNet, pictures: Tensor) -> None:
    seen = []
    small_net.head[0].register_forward_hook(lambda *_: seen.append(1))
    compressed(small_net, "head.0.weight")
    finish(small_net)
    small_net(pictures)
    assert seen == [1] and isinstance(small_net.head[0], nn.Linear)


def test_export_keeps_the_codes(small_net: SmallNet, pictures: Tensor) -> None:
    compressed(small_net, "stem.weight", "head.0.weight")
    finish(small_net)
    small_net(pictures)
    program = torch.export.export(small_net, (pictures[:2],))
    assert torch.allclose(program.module()(pictures[:2]), small_net(pictures[:2]), atol=1e-6)
    held = {name: tensor for name, tensor in program.state_dict.items() if name.startswith("head.0")}
    assert {t.dtype for n, t in held.items() if n.endswith("codes")} == {torch.uint8}
    assert not any(c.shape == (32, 16) for c in program.constants.values() if isinstance(c, Tensor))


def test_a_weight_is_decoded_once_while_its_centroids_stay_the_same() -> None:
    model = nn.Linear(6, 5)
    attach(model, "weight", fit_codebook(model.weight, 4))
    ((_, _, _, weight, centroids),) = attached(model)
    assert model.weight is not model.weight and weight.dense is None, "centroids that learn are decoded every time"
    centroids.requires_grad_(False)
    before = model.weight
    assert model.weight is before
    centroids.add_(1)
    assert torch.allclose(model.weight, before + 1)


def test_what_learns_is_decoded_once_as_long_as_nothing_learns() -> None:
    model, x = nn.Sequential(nn.Linear(6, 5)), torch.randn(2, 6)
    compressed(model, "0.weight")
    (held,) = attached(model)
    optimizer = torch.optim.Adam([held.centroids], 0.1)
    for _ in range(2):
        with torch.no_grad():
            before, kept = model(x), held.weight.dense
            model(x)
        assert kept is not None and held.weight.dense is kept
        optimizer.zero_grad()
        model(x).sum().backward()
        assert held.weight.dense is None, "its memory serves the training"
        optimizer.step()
        with torch.no_grad():
            after = model(x)
        assert not torch.equal(after, before) and torch.equal(after, model(x))
