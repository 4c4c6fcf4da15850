"""What the pages call my-model, my-sentences and corpus.txt."""

from __future__ import annotations

from pathlib import Path

TEXT = "a codebook has a few centroids, and each weight has a small code.\nthe student learns from the teacher.\n"


def write_models(folder: Path) -> None:
    """Tiny models of transformers with a tokenizer, and a text."""
    from hf_models import bert_sentences, model_folder

    (folder / "corpus.txt").write_text(TEXT * 20, encoding="utf-8")
    model_folder(folder / "my-model")
    bert_sentences(folder / "my-sentences")
