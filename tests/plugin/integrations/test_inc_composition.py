"""Codebooks together with Intel Neural Compressor's own algorithms."""

from __future__ import annotations

import copy
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.integrations.inc import CodebookConfig, compose, except_codebooks, fold_batch_norms, run
from neural_compressor.torch.export import export
from neural_compressor.torch.quantization import (
    MixedPrecisionConfig,
    RTNConfig,
    StaticQuantConfig,
    convert,
    prepare,
    quantize,
)
from torch import Tensor, nn

pytest.importorskip("neural_compressor")


CONVS = ["stem", "padded"]


def rtn(**options: Any) -> RTNConfig:
    return RTNConfig(bits=8, use_layer_wise=False, **options)


def kinds(model: nn.Module) -> dict[str, str]:
    return {
        name: type(model.get_submodule(name)).__name__ for name in ("stem", "depthwise", "padded", "head.0", "head.2")
    }


BOTH = {
    "stem": "CodebookConv2d",
    "depthwise": "Conv2d",
    "padded": "ParametrizedPaddedConv",
    "head.0": "INCWeightOnlyLinear",
    "head.2": "INCWeightOnlyLinear",
}
FORMS = {
    "ours + rtn": lambda: CodebookConfig(white_list=CONVS) + rtn(),
    "rtn + ours": lambda: rtn(white_list=[r"head\.0", r"head\.2"]) + CodebookConfig(white_list=CONVS),
    "compose dict": lambda: compose(
        {"codebook": {"white_list": CONVS}, "rtn": {"bits": 8, "use_layer_wise": False}},
    ),
    "compose objects": lambda: compose(rtn(), CodebookConfig(white_list=CONVS)),
    "others": lambda: {"codebook": {"white_list": CONVS, "others": {"rtn": {"bits": 8, "use_layer_wise": False}}}},
    "others object": lambda: CodebookConfig(white_list=CONVS, others=rtn()),
    "types": lambda: CodebookConfig(centroids=8).set_local(nn.Linear, CodebookConfig(quantizer="none")).set_local(
        "depthwise", CodebookConfig(quantizer="none")) + rtn(),
    "globals": lambda: CodebookConfig().set_local("depthwise", CodebookConfig(quantizer="none")) + rtn(),
}  # fmt: skip


@pytest.mark.parametrize(
    ("form", "two_step"),
    [*((form, False) for form in FORMS), ("ours + rtn", True), ("rtn + ours", True), ("others object", True)],
)
def test_with_rtn(form: str, two_step: bool, small_net: nn.Module, pictures: Tensor) -> None:
    wanted = small_net(pictures)
    config = FORMS[form]()
    found = convert(prepare(small_net, config)) if two_step else quantize(small_net, config)
    assert kinds(found) == BOTH
    assert set(lloydmax.codebooks(found)) == {"stem.weight", "padded.weight"}
    assert nn.functional.cosine_similarity(found(pictures), wanted).mean() > 0.9


@pytest.mark.parametrize("form", ["ours", "rtn first"])
def test_recovery_in_a_composition_learns_from_the_pristine_original(
    form: str, small_net: nn.Module, pictures: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, teachers = copy.deepcopy(small_net.state_dict()), []
    recovered = run.recover

    def spied(recovery: Any, steps: Any) -> Any:
        teachers.append(recovery.teacher)
        return recovered(recovery, steps)

    monkeypatch.setattr(run, "recover", spied)
    ours = CodebookConfig(centroids=2, white_list=CONVS, trainable="codebooks", recover=[{"step": "distill"}])
    config = ours + rtn() if form == "ours" else rtn(white_list=["head.0", "head.2"]) + ours
    found = quantize(small_net, config, run_args=(pictures,))
    assert kinds(found) == BOTH
    assert {name: type(m).__name__ for name, m in teachers[0].named_modules()}["head.0"] == "Linear"
    assert all(torch.equal(teachers[0].state_dict()[name], value) for name, value in original.items())


def test_two_calls_in_either_order(small_net: nn.Module) -> None:
    for configs in ((CodebookConfig(white_list=CONVS), rtn()), (rtn(), CodebookConfig(white_list=CONVS))):
        model = copy.deepcopy(small_net)
        for config in configs:
            model = quantize(model, config)
        assert kinds(model) == BOTH


def test_the_later_one_wins_where_both_match(small_net: nn.Module) -> None:
    found = quantize(copy.deepcopy(small_net), CodebookConfig() + rtn())
    assert kinds(found) == {**BOTH, "depthwise": "CodebookConv2d"}
    found = quantize(small_net, compose(rtn(), CodebookConfig(white_list=["stem", "padded", "head.2"])))
    assert kinds(found) == {**BOTH, "head.2": "CodebookLinear"}


@pytest.mark.parametrize("nested", [False, True])
def test_with_mixed_precision(nested: bool, small_net: nn.Module, pictures: Tensor) -> None:
    half = MixedPrecisionConfig(dtype="bf16", white_list=["head.0"])
    config = CodebookConfig(white_list=CONVS, others=half) if nested else CodebookConfig(white_list=CONVS) + half
    found = quantize(small_net, config)
    assert kinds(found) == {**BOTH, "head.0": "HalfPrecisionModuleWrapper", "head.2": "Linear"}
    assert found(pictures).shape == (96, 5)


def test_inc_s_silent_failures_are_errors(small_net: nn.Module) -> None:
    with pytest.raises(lloydmax.IntegrationError, match=r"compose\(\{...\}\)"):
        quantize(small_net, {"codebook": {"centroids": 4}, "rtn": {}})
    with pytest.raises(lloydmax.IntegrationError, match="export the result"):
        quantize(small_net, CodebookConfig() + StaticQuantConfig())
    with pytest.raises(lloydmax.IntegrationError, match="matches no layer"):
        quantize(small_net, CodebookConfig() + rtn(white_list=["fc"]))
    with pytest.raises(lloydmax.IntegrationError, match="matches no layer"):
        quantize(copy.deepcopy(small_net), CodebookConfig(others=rtn(white_list=["fc"])))
    with pytest.raises(lloydmax.IntegrationError, match="take every layer"):
        quantize(small_net, CodebookConfig(white_list=["head.0"]) + rtn())
    with pytest.raises(lloydmax.IntegrationError, match="no algorithm 'rnt'; did you mean 'rtn'"):
        compose({"rnt": {}})
    with pytest.raises(lloydmax.IntegrationError, match="2 CodebookConfigs"):
        quantize(small_net, compose(CodebookConfig(white_list=["stem"]), CodebookConfig(white_list=["padded"])))


def test_a_global_rtn_before_ours_takes_the_rest(small_net: nn.Module) -> None:
    assert kinds(quantize(small_net, rtn() + CodebookConfig(white_list=CONVS))) == BOTH


def test_white_lists_of_others_are_kept(small_net: nn.Module) -> None:
    config = CodebookConfig(white_list=CONVS, others=rtn(white_list=["head.2"]))
    assert kinds(quantize(small_net, CodebookConfig.from_dict(config.to_dict()))) == {**BOTH, "head.0": "Linear"}
    with pytest.raises(lloydmax.IntegrationError, match="list the names"):
        CodebookConfig(others=rtn(white_list=[nn.Linear]))


def test_folding_batch_norms(small_net: nn.Module, pictures: Tensor) -> None:
    folded = fold_batch_norms(small_net)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert [name for name, _ in folded.named_modules()] == [name for name, _ in small_net.named_modules()]
    torch.testing.assert_close(folded(pictures), small_net(pictures))
    with pytest.raises(lloydmax.IntegrationError, match="before quantize"):
        fold_batch_norms(quantize(small_net, CodebookConfig()))


def test_a_static_int8_rest(small_net: nn.Module, pictures: Tensor) -> None:
    wanted = small_net(pictures).argmax(1)
    found = quantize(fold_batch_norms(small_net), CodebookConfig(centroids=64, white_list=["stem", "head.0"]))
    prepared = prepare(export(found, (pictures,)), except_codebooks(StaticQuantConfig(), found))
    prepared(pictures)
    int8 = convert(prepared)
    quantized = [
        node.args[0]
        for node in int8.graph.nodes
        if str(node.target).endswith("decomposed.quantize_per_channel.default")
    ]
    assert sorted(str(node.target) for node in quantized) == ["depthwise.weight", "head.2.weight", "padded.weight"]
    assert (int8(pictures).argmax(1) == wanted).float().mean() > 0.9


def test_static_int8_misuse_is_named(small_net: nn.Module) -> None:
    with pytest.raises(lloydmax.IntegrationError, match="holds no codebooks"):
        except_codebooks(StaticQuantConfig(), small_net)
    traced = quantize(torch.fx.symbolic_trace(small_net), CodebookConfig())
    with pytest.raises(lloydmax.IntegrationError, match="fold_batch_norms"):
        except_codebooks(StaticQuantConfig(), traced)
