"""Small models of tokens from configurations of transformers, texts, and tokenizers trained on them."""

from __future__ import annotations

from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn

transformers.logging.set_verbosity_error()
WORDS = ["the", "cat", "sat", "on", "a", "mat", "while", "some", "dogs", "ran", "far", "away", "from", "home", "again"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = len(WORDS) + len(SPECIAL)


def sentences(count: int, shortest: int = 2, longest: int = 10) -> list[str]:
    """Texts of several lengths, always the same."""
    draw = torch.Generator().manual_seed(0)
    lengths = torch.randint(shortest, longest + 1, (count,), generator=draw).tolist()
    return [" ".join(WORDS[i] for i in torch.randint(len(WORDS), (n,), generator=draw)) for n in lengths]


def bare_tokenizer() -> Tokenizer:
    """Of the package tokenizers: a token for each word, ``[CLS]`` and ``[SEP]`` around."""
    made = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator([" ".join(WORDS)], trainers.WordLevelTrainer(special_tokens=SPECIAL))
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def tokenizer(**options: Any) -> Any:
    """The same as one of transformers."""
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    names |= {"mask_token": "[MASK]", "eos_token": "[SEP]"}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=bare_tokenizer(), **names, **options)


def gpt2() -> Any:
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3
    )
    return _made(transformers.GPT2LMHeadModel(config))


def llama() -> Any:
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2,
        max_position_embeddings=64, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    return _made(transformers.LlamaForCausalLM(config))


def bert() -> Any:
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64,
    )  # fmt: skip
    return _made(transformers.BertForMaskedLM(config))


def roberta() -> Any:
    config = transformers.RobertaConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    return _made(transformers.RobertaForMaskedLM(config))


def t5() -> Any:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0,
        eos_token_id=3,
    )  # fmt: skip
    return _made(transformers.T5ForConditionalGeneration(config))


def bart() -> Any:
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=16, encoder_layers=2, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=64,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3, forced_eos_token_id=3,
    )  # fmt: skip
    return _made(transformers.BartForConditionalGeneration(config))


def _made(model: nn.Module) -> nn.Module:
    """With weights that are always the same, and large enough that answers differ."""
    draw = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.3)
    return model.eval()


def tokens(count: int = 40, **lengths: int) -> list[list[int]]:
    """The token numbers of :func:`sentences`."""
    made = bare_tokenizer()
    return [made.encode(text).ids for text in sentences(count, **lengths)]


def padded(ids: list[list[int]], side: str = "right", content: int = 0) -> dict[str, Tensor]:
    """Lists of tokens as one batch."""
    width = max(map(len, ids))
    given = torch.full((len(ids), width), content)
    mask = torch.zeros(len(ids), width, dtype=torch.int64)
    for row, each in enumerate(ids):
        where = slice(0, len(each)) if side == "right" else slice(width - len(each), width)
        given[row, where], mask[row, where] = torch.tensor(each), 1
    return {"input_ids": given, "attention_mask": mask}


class Words(nn.Module):
    """A language model of its own: token numbers in, no mask; only what was before counts."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.cell = nn.Embedding(VOCABULARY, 16), nn.GRU(16, 16, batch_first=True)
        self.head = nn.Linear(16, VOCABULARY)

    def forward(self, ids: Tensor) -> Tensor:
        return 4 * self.head(self.cell(self.embed(ids))[0])


class Encoder(nn.Module):
    """With the mask of torch: true where there is padding."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(VOCABULARY, 16)
        self.layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
        self.head = nn.Linear(16, 6)

    def forward(self, ids: Tensor, src_key_padding_mask: Tensor | None = None) -> Tensor:
        return 4 * self.head(self.layer(self.embed(ids), src_key_padding_mask=src_key_padding_mask))
