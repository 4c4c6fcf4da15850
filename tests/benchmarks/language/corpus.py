"""Text that is at hand wherever the benchmarks run: the documentation inside Python and the packages they need.

The language reference of Python (PSF licence), and the docstrings of the standard library, of torch, numpy,
scikit-learn (BSD) and transformers (Apache 2.0). Which document goes where depends on its text alone.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import json
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import ByteLevelBPETokenizer
from torch import Tensor

PACKAGES = ("torch", "numpy", "sklearn", "transformers")
LENGTH = 128
"""Tokens of a sequence."""
_SHORTEST = 80
"""Characters of a docstring that counts."""
_HELD_OUT = 40
"""One in so many documents is kept from training."""
_SKIPPED = {"site-packages", "test", "tests", "idlelib", "lib2to3"}
END = "<end>"


def documents() -> list[str]:
    """Every document once, in an order that the texts tell."""
    from pydoc_data.topics import topics

    found = set(topics.values()) | set(_docstrings(Path(sysconfig.get_paths()["stdlib"])))
    for package in PACKAGES:
        spec = importlib.util.find_spec(package)
        if spec is None or spec.origin is None:
            raise SystemExit(f"the corpus needs {package}: pip install {package}")
        found |= set(_docstrings(Path(spec.origin).parent))
    return sorted(found, key=_digest)


def _docstrings(root: Path) -> Iterator[str]:
    for path in sorted(root.rglob("*.py")):
        if set(path.relative_to(root).parts) & _SKIPPED:
            continue
        try:
            tree = ast.parse(path.read_text("utf-8"))
        except (SyntaxError, UnicodeDecodeError):
            continue
        for node in ast.walk(tree):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                text = ast.get_docstring(node)
                if text and len(text) >= _SHORTEST:
                    yield text


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "replace")).digest()


def split(texts: list[str]) -> tuple[list[str], list[str]]:
    """Documents to train on, and those held out."""
    kept: tuple[list[str], list[str]] = ([], [])
    for text in texts:
        kept[_digest(text)[-1] % _HELD_OUT == 0].append(text)
    return kept


class Corpus:
    """The text as tokens, made once and kept in a folder.

    Attributes:
        tokenizer: byte-level BPE, trained on the text to train on.
        train, test: int64 ``(N, LENGTH)``.
    """

    def __init__(self, folder: Path, vocabulary: int = 4096) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        vocab, merges, tokens = (folder / f"{vocabulary}{end}" for end in ("-vocab.json", "-merges.txt", ".pt"))
        if not tokens.exists():
            texts = split(documents())
            trained = ByteLevelBPETokenizer()
            trained.train_from_iterator(texts[0], vocabulary, special_tokens=[END], show_progress=False)
            trained.save_model(str(folder), str(vocabulary))
            torch.save([_sequences(trained, part) for part in texts], tokens)
            (folder / "about.json").write_text(json.dumps({"documents": [len(part) for part in texts]}))
        self.tokenizer = ByteLevelBPETokenizer(str(vocab), str(merges))
        self.train, self.test = torch.load(tokens)


def _sequences(tokenizer: ByteLevelBPETokenizer, texts: list[str]) -> Tensor:
    """Texts one behind the other, with the end of each marked."""
    end = tokenizer.token_to_id(END)
    ids = [token for found in tokenizer.encode_batch(texts) for token in (*found.ids, end)]
    return torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).view(-1, LENGTH)
