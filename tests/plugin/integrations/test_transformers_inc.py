"""Models of transformers that INC's ``quantize`` gave codebooks.

INC's weight-only algorithms fail where transformers is imported after them, so that this stands apart from INC's tests.
"""

from __future__ import annotations

import copy
from pathlib import Path

import lloydmax
import pytest
import torch

pytest.importorskip("neural_compressor")
pytest.importorskip("transformers")

from lloydmax.integrations.inc import CodebookConfig, load, save
from neural_compressor.torch.quantization import MXQuantConfig, quantize
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM


def test_the_huggingface_format_is_transformers_own(tmp_path: Path) -> None:
    sizes = {"vocab_size": 32, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(**sizes, **heads)).eval()
    found = quantize(model, CodebookConfig(bits=3, white_list=["lm_head"]))
    tokens = torch.arange(8)[None]
    wanted = found(tokens).logits
    save(copy.deepcopy(found), str(tmp_path), format="huggingface")
    assert torch.equal(load(str(tmp_path), format="huggingface")(tokens).logits, wanted)
    assert torch.equal(AutoModelForCausalLM.from_pretrained(tmp_path)(tokens).logits, wanted)
    with pytest.raises(lloydmax.IntegrationError, match="cannot hold model.layers.0"):
        save(quantize(found, MXQuantConfig()), str(tmp_path / "rtn"), format="huggingface")
