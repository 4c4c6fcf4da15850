"""Networks of transformers beside those of :mod:`tiny_transformers`: other attention, states, gates and tables."""

from __future__ import annotations

import torch
from tiny_transformers import (
    BASE,
    BOTH,
    D_MODEL,
    ENCODER,
    EXPERTS,
    FEED,
    GROUPED,
    IMAGES,
    MAMBA,
    PAIRS,
    SIZE,
    SPECIAL,
    WAVES,
    WORDS,
    causal,
    other,
)

TWO = {"num_hidden_layers": 2}
LATENT = {"q_lora_rank": None, "kv_lora_rank": 16, "qk_nope_head_dim": 16, "qk_rope_head_dim": 8, "v_head_dim": 16}
ROUTED = {"n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "first_k_dense_replace": 1}
DEEP = {**BASE, **TWO, **LATENT, **ROUTED, "n_shared_experts": 1, "n_group": 1, "topk_group": 1}
HYBRID = {
    "layers_block_type": ["mamba", "attention"], "mamba_n_heads": 8, "mamba_d_head": 16, "mamba_d_state": 16,
    "mamba_n_groups": 1, "mamba_chunk_size": 8, "shared_intermediate_size": 64,
}  # fmt: skip
JAMBA = {
    "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
    "num_experts": 4, "use_mamba_kernels": False, "mamba_d_state": 16,
}  # fmt: skip
NEXT = {
    "layer_types": ["linear_attention", "full_attention"], "num_experts": 4, "num_experts_per_tok": 2,
    "moe_intermediate_size": 32, "shared_expert_intermediate_size": 32, "linear_key_head_dim": 16,
    "linear_value_head_dim": 16, "linear_num_key_heads": 2, "linear_num_value_heads": 4,
}  # fmt: skip
GEMMA3N = {
    "num_hidden_layers": 5, "vocab_size_per_layer_input": 256, "hidden_size_per_layer_input": 16, "laurel_rank": 8,
    "num_kv_shared_layers": 0, "layer_types": ["sliding_attention"] * 4 + ["full_attention"],
    "activation_sparsity_pattern": [0.0] * 5, "intermediate_size": [128] * 5,
}  # fmt: skip
GPTJ = {"vocab_size": 256, "n_embd": 64, "n_layer": 1, "n_head": 4, "n_positions": 64, "rotary_dim": 8, **SPECIAL}
RELATIVE = {"relative_attention": True, "position_buckets": 16, "pos_att_type": ["p2c", "c2p"]}
SIGLIP = {
    "text_config": {**SIZE, "vocab_size": 256, "max_position_embeddings": 32, "projection_size": 64},
    "vision_config": {**SIZE, "image_size": 32, "patch_size": 8},
}
RECURRENT = {"vocab_size": 1024, "num_hidden_layers": 3, "lru_width": 64}
XLNET = {"vocab_size": 256, "d_model": 64, "n_layer": 1, "n_head": 4, "d_inner": 128}
NETWORKS = {
    "recurrent-gemma": causal("RecurrentGemma", **{**GROUPED, **RECURRENT}),
    "deepseek-v2": causal("DeepseekV2", **DEEP),
    "deepseek-v3": causal("DeepseekV3", **DEEP),
    "granite-moe-hybrid": causal("GraniteMoeHybrid", **{**GROUPED, **EXPERTS, **TWO, **HYBRID}),
    "olmo2": causal("Olmo2", **GROUPED),
    "bloom": causal("Bloom", **BASE, n_layer=1, n_head=4),
    "gptj": causal("GPTJ", **GPTJ),
    "starcoder2": causal("Starcoder2", **GROUPED),
    "falcon-mamba": causal("FalconMamba", **MAMBA),
    "jamba": causal("Jamba", **{**GROUPED, **TWO, **JAMBA}),
    "qwen3-next": causal("Qwen3Next", **{**GROUPED, **TWO, **NEXT}),
    "gemma3n": causal("Gemma3n", "Gemma3nTextConfig", **{**GROUPED, **GEMMA3N}),
    "lfm2": causal("Lfm2", **{**GROUPED, **TWO, "layer_types": ["conv", "full_attention"]}),
    "m2m100": other("M2M100ForConditionalGeneration", "M2M100Config", PAIRS, True, **D_MODEL, **BOTH, **FEED),
    "modernbert": other("ModernBertForMaskedLM", "ModernBertConfig", WORDS, **{**ENCODER, **TWO}),
    "deberta-v2": other("DebertaV2ForMaskedLM", "DebertaV2Config", WORDS, **ENCODER, **RELATIVE),
    "xlnet": other("XLNetLMHeadModel", "XLNetConfig", WORDS, **XLNET),
    "siglip": other("SiglipModel", "SiglipConfig", {**WORDS, **IMAGES}, **SIGLIP),
    "hubert": other("HubertForCTC", "HubertConfig", {"input_values": torch.randn(2, 2000)}, **WAVES),
}
