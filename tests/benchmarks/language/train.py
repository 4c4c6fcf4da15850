"""Small language models that the benchmark trains itself, on text that is at hand everywhere.

    python tests/benchmarks/language/train.py llama|gpt2 [--folder build/language] [--seconds 240]

Resumable: what has been trained is kept in FOLDER every 25 steps, so that it can run in pieces. Prints losses.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from language.corpus import LENGTH, Corpus

STEPS, BATCH = {"llama": 650, "gpt2": 400}, 16
RATE, WARM, DECAY = 3e-3, 100, 0.1
VOCABULARY = 4096
_KEPT = 25


def network(name: str) -> nn.Module:
    """An untrained model: ``llama``, of 3.7 M weights, or ``gpt2``, of 3.4 M. Rows are multiples of 256, as GGUF's
    k-quants need them."""
    torch.manual_seed(0)
    if name == "gpt2":
        shape: dict[str, Any] = {"n_embd": 256, "n_layer": 3, "n_head": 4, "n_positions": LENGTH}
        drops = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
        return GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, bos_token_id=0, eos_token_id=0, **shape, **drops))
    shape = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    more = {"tie_word_embeddings": True, "max_position_embeddings": 512, "bos_token_id": 0, "eos_token_id": 0}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, **shape, **more))


def trained(name: str, folder: Path, seconds: float = math.inf) -> nn.Module | None:
    """The model, trained if need be; ``None``: time was up."""
    path, model = folder / f"{name}.pt", network(name)
    optimizer = torch.optim.AdamW(model.parameters(), RATE, (0.9, 0.95), weight_decay=DECAY)
    begin, steps, stop = 0, STEPS[name], time.monotonic() + seconds
    if path.exists():
        state = torch.load(path)
        begin = state["step"]
        model.load_state_dict(state["model"])
        if begin < steps:
            optimizer.load_state_dict(state["optimizer"])
    if begin < steps:
        tokens = Corpus(folder, VOCABULARY).train
        order = torch.randperm(len(tokens), generator=torch.Generator().manual_seed(1)).repeat(8)
    for step in range(begin, steps):
        warm, along = min(1.0, (step + 1) / WARM), step / steps
        for group in optimizer.param_groups:
            group["lr"] = RATE * warm * (0.05 + 0.95 * (1 + math.cos(math.pi * along)) / 2)
        ids = tokens[order[step * BATCH : (step + 1) * BATCH]]
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=ids, labels=ids).loss
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if (step + 1) % _KEPT == 0 or step + 1 == steps:
            print(f"{name} {step + 1}/{steps} loss {float(loss):.3f}", flush=True)
            last = step + 1 == steps
            kept = {"step": step + 1, "model": model.state_dict()} | (
                {} if last else {"optimizer": optimizer.state_dict()}
            )
            torch.save(kept, path)
            if not last and time.monotonic() > stop:
                return None
    return model.eval()


def main() -> None:
    """Train until done, or until the time is up."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=("llama", "gpt2"))
    parser.add_argument("--folder", type=Path, default=Path("build/language"))
    parser.add_argument("--seconds", type=float, default=math.inf)
    given = parser.parse_args()
    torch.set_num_threads(1)
    trained(given.name, given.folder, given.seconds)


if __name__ == "__main__":
    main()
