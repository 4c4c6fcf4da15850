"""Networks of transformers, built from configurations, small: random weights, nothing is downloaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest
import torch

transformers = pytest.importorskip("transformers")
T: Any = transformers


class Network(NamedTuple):
    """A class of networks.

    Attributes:
        make: one with new weights.
        inputs: two samples.
        generates: whether it makes sequences.
    """

    make: Callable[[], torch.nn.Module]
    inputs: dict[str, torch.Tensor]
    generates: bool = False


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(5, 250, shape or (2, 12), generator=torch.Generator().manual_seed(0))


WORDS, IMAGES = {"input_ids": ids()}, {"pixel_values": torch.randn(2, 3, 32, 32)}
SPEECH = {"input_features": torch.randn(2, 16, 64), "decoder_input_ids": ids(2, 6)}
PAIRS = {"input_ids": ids(), "decoder_input_ids": ids(2, 6)}
SPECIAL = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SIZE = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
BASE = {"vocab_size": 256, **SIZE, **SPECIAL}
GROUPED = {**BASE, "num_key_value_heads": 2, "head_dim": 16}
ENCODER = {**BASE, "vocab_size": 512, "intermediate_size": 256, "max_position_embeddings": 64}
D_MODEL = {"vocab_size": 256, "d_model": 64, "decoder_start_token_id": 1, **SPECIAL}
BOTH = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 1), ("attention_heads", 4))}
FEED = {"encoder_ffn_dim": 256, "decoder_ffn_dim": 256}
MAMBA = {**BASE, "state_size": 16}
EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2}


def causal(name: str, config: str | None = None, model: str | None = None, **values: Any) -> Network:
    def make() -> torch.nn.Module:
        settings = getattr(T, config or f"{name}Config")(**values)
        made: torch.nn.Module = getattr(T, model or f"{name}ForCausalLM")(settings)
        return made.eval()

    return Network(make, WORDS, generates=True)


def other(model: str, config: str, inputs: dict[str, torch.Tensor], generates: bool = False, **values: Any) -> Network:
    return causal(model, config, model, **values)._replace(inputs=inputs, generates=generates)


GPT2 = {"vocab_size": 256, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64, **SPECIAL}
DBRX = {
    "vocab_size": 256, "d_model": 64, "n_heads": 4, "n_layers": 1, "max_seq_len": 64, **SPECIAL,
    "ffn_config": {"ffn_hidden_size": 96, "moe_num_experts": 4, "moe_top_k": 2},
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 10000.0},
}  # fmt: skip
WAVES = {
    "vocab_size": 32, **SIZE, "conv_dim": (32, 32), "conv_stride": (5, 4), "conv_kernel": (10, 8),
    "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 2,
}  # fmt: skip
SHORT = {"vocab_size": 512, "max_position_embeddings": 64}
DISTILLED = {**SHORT, "dim": 64, "n_layers": 1, "n_heads": 4, "hidden_dim": 128}
VISION = {**SIZE, "intermediate_size": 256, "image_size": 32, "patch_size": 4}
NETWORKS = {
    "gpt2": causal("GPT2", model="GPT2LMHeadModel", **GPT2),
    "opt": causal("OPT", **BASE, ffn_dim=256, max_position_embeddings=64, word_embed_proj_dim=64),
    "gpt-neox": causal("GPTNeoX", **BASE),
    "llama": causal("Llama", **GROUPED, tie_word_embeddings=False),
    "mixtral": causal("Mixtral", **GROUPED, **EXPERTS),
    "qwen2": causal("Qwen2", **GROUPED, tie_word_embeddings=True),
    "qwen3": causal("Qwen3", **GROUPED, tie_word_embeddings=True),
    "qwen3-moe": causal("Qwen3Moe", **GROUPED, moe_intermediate_size=64, num_experts=4, num_experts_per_tok=2),
    "gpt-oss": causal("GptOss", **GROUPED, **EXPERTS),
    "llama4": causal("Llama4", "Llama4TextConfig", **GROUPED, intermediate_size_mlp=128, num_local_experts=4),
    "gemma2": causal("Gemma2", **GROUPED),
    "gemma3": causal("Gemma3", "Gemma3TextConfig", **GROUPED),
    "phi3": causal("Phi3", **GROUPED),
    "falcon": causal("Falcon", **BASE),
    "mamba": causal("Mamba", **MAMBA),
    "t5": other("T5ForConditionalGeneration", "T5Config", PAIRS, True, **D_MODEL, d_kv=16, d_ff=128, num_layers=1),
    "bart": other("BartForConditionalGeneration", "BartConfig", PAIRS, True, **D_MODEL, **BOTH, **FEED),
    "bert": other("BertForMaskedLM", "BertConfig", WORDS, **ENCODER),
    "distilbert": other("DistilBertModel", "DistilBertConfig", WORDS, **DISTILLED),
    "clip": other(
        "CLIPModel",
        "CLIPConfig",
        {**WORDS, **IMAGES},
        text_config={**BASE, "max_position_embeddings": 32},
        vision_config={**SIZE, "image_size": 32, "patch_size": 8},
        projection_dim=32,
    ),
    "vit": other("ViTForImageClassification", "ViTConfig", IMAGES, **VISION),
    "whisper": other(
        "WhisperForConditionalGeneration", "WhisperConfig", SPEECH, **D_MODEL, **BOTH, **FEED, num_mel_bins=16,
        max_source_positions=32, max_target_positions=32,
    ),
    "wav2vec2": other("Wav2Vec2ForCTC", "Wav2Vec2Config", {"input_values": torch.randn(2, 2000)}, **WAVES),
}  # fmt: skip
