"""Tiny models of transformers of every kind, with what they take, and a tokenizer of words."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import torch
import transformers as hf
from torch import Tensor

IDS = torch.arange(3, 27).view(2, 12)
_SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4}
_WORDS = {"vocab_size": 100, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
_BART = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
_BART |= {"d_model": 32, "encoder_ffn_dim": 64, "decoder_ffn_dim": 64}
_VIT = {**_SIZES, "image_size": 16, "patch_size": 4}
ALL_LAYERS = {"quantize": [{"layers": "all", "centroids": 8}]}


def llama(tied: bool = False) -> Any:
    return hf.LlamaForCausalLM(hf.LlamaConfig(**_SIZES, **_WORDS, tie_word_embeddings=tied))


def gpt2() -> Any:
    return hf.GPT2LMHeadModel(hf.GPT2Config(n_embd=32, n_layer=1, n_head=4, n_positions=64, **_WORDS))


def mixtral() -> Any:
    return hf.MixtralForCausalLM(hf.MixtralConfig(**_SIZES, **_WORDS, num_key_value_heads=2, num_local_experts=4))


def t5() -> Any:
    return hf.T5ForConditionalGeneration(hf.T5Config(d_model=32, d_kv=8, d_ff=64, num_layers=1, num_heads=4, **_WORDS))


def bart() -> Any:
    return hf.BartForConditionalGeneration(hf.BartConfig(**_BART, **_WORDS, max_position_embeddings=64))


def bert(kind: Any = hf.BertForMaskedLM) -> Any:
    return kind(hf.BertConfig(**_SIZES, vocab_size=100, max_position_embeddings=64))


def vit() -> Any:
    return hf.ViTForImageClassification(hf.ViTConfig(**_VIT))


def whisper() -> Any:
    config = hf.WhisperConfig(
        **_BART, **_WORDS, num_mel_bins=8, max_source_positions=20, max_target_positions=30, decoder_start_token_id=1
    )
    return hf.WhisperForConditionalGeneration(config)


def wav2vec2() -> Any:
    config = hf.Wav2Vec2Config(
        **_SIZES, vocab_size=32, conv_dim=(16, 16), conv_stride=(5, 2), conv_kernel=(10, 3), num_feat_extract_layers=2,
        num_conv_pos_embeddings=16, num_conv_pos_embedding_groups=4,
    )  # fmt: skip
    return hf.Wav2Vec2ForCTC(config)


def clip() -> Any:
    words = {**_SIZES, "vocab_size": 100, "max_position_embeddings": 64, "eos_token_id": 2, "bos_token_id": 1}
    return hf.CLIPModel(hf.CLIPConfig(text_config=words, vision_config=_VIT, projection_dim=16))


_PICTURES = torch.linspace(-1, 1, 2 * 3 * 16 * 16).view(2, 3, 16, 16)
_TOKENS = {"input_ids": IDS}
_BOTH = {"input_ids": IDS, "decoder_input_ids": IDS}
KINDS: dict[str, tuple[Callable[[], Any], dict[str, Tensor]]] = {
    "llama": (llama, _TOKENS),
    "llama, tied": (lambda: llama(tied=True), _TOKENS),
    "gpt2": (gpt2, _TOKENS),
    "mixtral": (mixtral, _TOKENS),
    "t5": (t5, _BOTH),
    "bart": (bart, _BOTH),
    "bert": (bert, _TOKENS),
    "vit": (vit, {"pixel_values": _PICTURES}),
    "whisper": (whisper, {"input_features": torch.ones(2, 8, 40), "decoder_input_ids": IDS}),
    "wav2vec2": (wav2vec2, {"input_values": torch.linspace(-1, 1, 800).view(2, 400)}),
    "clip": (clip, {**_TOKENS, "pixel_values": _PICTURES}),
}


def seeded(make: Callable[[], Any]) -> Any:
    """A model in evaluation mode, always the same."""
    torch.manual_seed(0)
    return make().eval()


def student(make: Callable[[], Any] = llama, recipe: Any = ALL_LAYERS) -> Any:
    return lloydmax.compress(seeded(make), recipe, progress=False).model


def answers(model: Any, inputs: dict[str, Tensor]) -> list[Tensor]:
    """The tensors that a model gives."""
    with torch.no_grad():
        return [value for value in model(**inputs).to_tuple() if isinstance(value, Tensor)]


def same(model: Any, other: Any, inputs: dict[str, Tensor] = _TOKENS) -> bool:
    """Whether two models give the same, bit for bit."""
    return all(map(torch.equal, answers(model, inputs), answers(other, inputs)))


def word_tokenizer(folder: Path) -> Any:
    """A tokenizer that knows letters, saved into a folder."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    letters = ["<pad>", "<s>", "</s>", "<unk>", *"abcdefghijklmnopqrstuvwxyz.,"]
    made = Tokenizer(models.WordLevel({letter: number for number, letter in enumerate(letters)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = hf.PreTrainedTokenizerFast(tokenizer_object=made, **special)
    tokenizer.save_pretrained(str(folder))
    return tokenizer


def model_folder(folder: Path, make: Callable[[], Any] = llama) -> Path:
    """A folder with a tiny model and its tokenizer, as ``save_pretrained`` writes them."""
    seeded(make).save_pretrained(str(folder))
    word_tokenizer(folder)
    return folder


def bert_sentences(folder: Path) -> Path:
    """A tiny model of sentence-transformers: a BERT, its tokenizer, and what pools."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import Pooling, Transformer

    seeded(lambda: bert(hf.BertModel)).save_pretrained(str(folder / "bert"))
    word_tokenizer(folder / "bert")
    parts = Transformer(str(folder / "bert"), max_seq_length=32)
    SentenceTransformer(modules=[parts, Pooling(32)], device="cpu").save_pretrained(str(folder))
    shutil.rmtree(folder / "bert")
    return folder
