"""INC's own option words, names of layers and ready configurations with CodebookConfig."""

from __future__ import annotations

import inspect
from typing import Any

import lloydmax
import neural_compressor.torch.quantization as inc
import pytest
from lloydmax.integrations.inc import CodebookConfig, get_default_codebook_config, get_woq_tuning_config
from neural_compressor.torch.quantization import quantize
from torch import Tensor, nn


class Block(nn.Module):
    """Layers with the names that language models have."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
        self.mlp, self.lm_head, self.conv = nn.Linear(8, 8), nn.Linear(8, 8), nn.Conv1d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.lm_head(self.mlp(self.layers(x)))


def counts(config: Any) -> dict[str, int]:
    found = lloydmax.codebooks(quantize(Block(), config))
    return {name.removesuffix(".weight"): book.k for name, book in found.items()}


@pytest.mark.parametrize(
    ("given", "means"),
    [
        ({"bits": 3}, {"centroids": 8}),
        ({"dtype": "int4"}, {"centroids": 16}),
        ({"dtype": "int", "bits": 2, "group_size": -1}, {"centroids": 4, "granularity": "channel"}),
        ({"dtype": "fp32"}, {"quantizer": "none"}),
        ({"bits": [2, 4]}, {"centroids": [4, 16]}),
        ({"dtype": ["int2", "int8"]}, {"centroids": [4, 256]}),
        ({"scheme": "W3A16"}, {"centroids": 8}),
        ({"w_granularity": "per_channel"}, {"granularity": "channel"}),
        ({"use_sym": False, "use_double_quant": False, "act_order": False, "model_path": ""}, {}),
        ({"use_double_quant": False, "double_quant_bits": 8, "double_quant_dtype": "int"}, {}),
        ({"use_mse_search": True, "use_layer_wise": False, "tokenizer": None, "group_dim": 1}, {}),
    ],
)
def test_words_with_a_meaning(given: dict[str, Any], means: dict[str, Any]) -> None:
    config = CodebookConfig(**given)
    assert config == CodebookConfig(**means)
    assert CodebookConfig.from_dict(config.to_dict()) == config


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"group_size": 128}, "group_size=128.* leave it out .*granularity='group:8'"),
        ({"use_sym": True}, "use_sym=True is about a grid of integers"),
        ({"dtype": "nf4"}, "write bits=4"),
        ({"dtype": "fp8_e4m3fn"}, "write bits=8"),
        ({"dtype": "bf16"}, "MixedPrecisionConfig"),
        ({"bits": 2.5}, r"bits=2\.5: .* add effort=1"),
        ({"bits": 0}, "from 1 to 16"),
        ({"bits": True}, "from 1 to 16"),
        ({"bits": 4, "centroids": 8}, "bits=4 means centroids=16, but centroids=8"),
        ({"bits": 4, "dtype": "int8"}, "centroids=256"),
        ({"effort": 1, "recover": "distill"}, "leave recover out"),
        ({"bits": 4, "effort": -1}, "effort must be"),
        ({"act_bits": 8}, "activations, which stay floats"),
        ({"target_bits": 2.5}, r"write bits=2\.5, effort=1"),
        ({"use_double_quant": True, "double_quant_bits": 8}, "use_double_quant=True is about scales"),
        ({"percdamp": 0.1}, "recover='reconstruct'"),
        ({"layer_config": {"a": {}}}, "set_local"),
    ],
)
def test_words_without_one_say_what_to_write(given: dict[str, Any], says: str) -> None:
    with pytest.raises(lloydmax.RecipeError, match=says):
        CodebookConfig(**given)


KINDS = ("RTN", "GPTQ", "AWQ", "TEQ", "AutoRound", "HQQ", "MXQuant", "SmoothQuant", "INT8StaticQuant", "MixedPrecision")


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_of_inc_is_taken_for_a_misspelling(kind: str) -> None:
    signature = inspect.signature(getattr(inc, f"{kind}Config").__init__)
    for name, parameter in signature.parameters.items():
        if name in ("self", "kwargs", "white_list", "model_info"):
            continue
        for value in (parameter.default, True, "x", 1.5):
            try:
                CodebookConfig(**{name: value})
            except lloydmax.RecipeError as error:
                assert "did you mean" not in str(error) and "unknown key" not in str(error)
                assert name in str(error)


def leave() -> CodebookConfig:
    return CodebookConfig(dtype="fp32")


@pytest.mark.parametrize(
    ("config", "found"),
    [
        (
            CodebookConfig().set_local("lm_head", leave()),
            {"layers.0": 16, "layers.1": 16, "mlp": 16, "conv": 16},
        ),
        (
            CodebookConfig().set_local(".*mlp.*", CodebookConfig(bits=8)).set_local("Conv1d", leave()),
            {"layers.0": 16, "layers.1": 16, "mlp": 64, "lm_head": 16},
        ),
        (CodebookConfig(dtype="fp32").set_local("layers", CodebookConfig(bits=2)), {"layers.0": 4, "layers.1": 4}),
        (
            CodebookConfig(quant_lm_head=False, white_list="*"),
            {"layers.0": 16, "layers.1": 16, "mlp": 16, "conv": 16},
        ),
        (CodebookConfig(white_list=["Conv1d"]).set_local("mlp", CodebookConfig(bits=1)), {"conv": 16, "mlp": 2}),
        (
            {"codebook": {"global": {"bits": 2, "group_size": -1}, "local": {"l": {"dtype": "fp32"}}}},
            {"mlp": 4, "conv": 4},
        ),
    ],
)
def test_names_beginnings_and_types_as_inc_s_documentation_has_them(config: Any, found: dict[str, int]) -> None:
    assert counts(config) == found


def test_ready_configurations() -> None:
    assert get_default_codebook_config("client") == CodebookConfig() == get_default_codebook_config()
    assert len(CodebookConfig.get_predefined_configs()) == 2
    *theirs, ours = get_woq_tuning_config()
    assert [type(one).__name__ for one in theirs] == [type(one).__name__ for one in inc.get_woq_tuning_config()]
    assert ours == CodebookConfig(bits=4)
