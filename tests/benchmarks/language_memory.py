"""Memory and time of language models: GPT-2 with and without data, and a Llama of 1.1 B parameters from its shards.

Weights and token ids are random: memory and time do not depend on them. Each line is a stage: seconds, processor
seconds, and the most resident memory so far, libraries and mapped files included.

    python tests/benchmarks/language_memory.py gpt2 [--data 64x256 | --data none | --data bare] [--small | --layers 2]
    python tests/benchmarks/language_memory.py llama --folder /tmp/llama [--small]

``bare`` is the recipe without inputs and steps. ``llama`` makes the folder, 2.2 GB, where it is missing, compresses it
and loads the result, each in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import lloydmax
import torch
from lloydmax import hookimpl
from lloydmax.defaults import plain_recipe
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

_SHARDS = 5


def resident() -> float:
    """MB of memory that the process has now."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS"))) / 1024


class Watch:
    """Prints what every stage took; the memory is looked at 50 times a second."""

    def __init__(self) -> None:
        self.peak, self.started, self._open = resident(), (time.perf_counter(), time.process_time()), 0
        threading.Thread(target=self._look, daemon=True).start()
        print(f"{'start':24s} {'':>8s} {'':>8s} {self.peak:8,.0f} MB", flush=True)

    def _look(self) -> None:
        while True:
            self.peak = max(self.peak, resident())
            time.sleep(0.02)

    def tell(self, what: str, seconds: float) -> None:
        """One line."""
        cpu = time.process_time() - self.started[1]
        print(f"{what:24s} {seconds:7.1f}s {cpu:7.1f}s {self.peak:8,.0f} MB", flush=True)

    @hookimpl
    def lloydmax_stage_finished(self, stage: str, seconds: float, metrics: dict[str, Any]) -> None:
        """A stage."""
        self.tell(stage, seconds)

    def end(self) -> None:
        """The whole."""
        self.tell("all", time.perf_counter() - self.started[0])


def gpt2(data: str, small: bool, layers: int, out: Path) -> None:
    """GPT-2 of 124 M parameters, one of 15 M with the same vocabulary, or one with fewer layers."""
    torch.manual_seed(0)
    config = GPT2Config(n_layer=4, n_embd=256, n_head=4) if small else GPT2Config(n_layer=layers)
    model = GPT2LMHeadModel(config).eval()
    given = None
    if data not in ("none", "bare"):
        count, length = map(int, data.split("x"))
        given = torch.randint(0, config.vocab_size, (count, length))
    print(f"GPT-2, {sum(p.nbytes for p in model.parameters()) / 1e6:,.0f} MB of float32, data {data}")
    watch = Watch()
    recipe = plain_recipe(model) if data == "bare" else lloydmax.recipe_for(model, 4.0, given, effort=0)
    result = lloydmax.compress(model, recipe, given, progress=False, listeners=[watch])
    result.save(out / "gpt2.safetensors")
    watch.end()
    agreement = result.report.stages[-1].agreement
    print(f"{result.report.bytes.file:,} bytes{'' if agreement is None else f', KL {agreement.kl:.5f}'}")


def make_llama(folder: Path, small: bool) -> None:
    """The shards of TinyLlama's architecture, with random weights."""
    sizes = {"hidden_size": 2048, "intermediate_size": 5632, "num_hidden_layers": 22, "num_attention_heads": 32}
    if small:
        sizes = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 4, "num_attention_heads": 8}
    config = LlamaConfig(**sizes, num_key_value_heads=4, vocab_size=32000)
    config.architectures, config.dtype = ["LlamaForCausalLM"], torch.bfloat16
    config.save_pretrained(folder)
    with torch.device("meta"):
        shapes = [(name, parameter.shape) for name, parameter in LlamaForCausalLM(config).named_parameters()]
    generator, index, each = torch.Generator().manual_seed(0), {}, -(-len(shapes) // _SHARDS)
    for shard in range(_SHARDS):
        file, held = f"model-{shard + 1:05d}-of-{_SHARDS:05d}.safetensors", {}
        for name, shape in shapes[shard * each : (shard + 1) * each]:
            spread = 0.5 + torch.rand(shape[0], *[1] * (len(shape) - 1), generator=generator)
            values = torch.empty(shape).normal_(std=0.02, generator=generator).mul_(spread)
            held[name] = (values if len(shape) > 1 else torch.ones(shape)).bfloat16()
            index[name] = file
        save_file(held, folder / file, {"format": "pt"})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))


def compress_llama(folder: Path, out: Path) -> None:
    """From the shards."""
    from lloydmax.integrations.transformers import compress_folder

    watch = Watch()
    made = compress_folder(folder, out, bits=3, progress=False, listeners=[watch])
    watch.end()
    print(f"{made.original:,} -> {made.file:,} bytes, {made.plan.predicted_bytes:,} asked for")


def load_llama(out: Path) -> None:
    """The result."""
    import lloydmax.integrations.transformers  # noqa: F401

    watch = Watch()
    AutoModelForCausalLM.from_pretrained(out)
    watch.tell("from_pretrained", time.perf_counter() - watch.started[0])


def main() -> None:
    """As the module says."""
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=["gpt2", "llama", "compress", "load"])
    parser.add_argument("--data", default="64x256")
    parser.add_argument("--folder", type=Path, default=Path("llama"))
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--out", type=Path, default=Path())
    given = parser.parse_args()
    out = given.folder.with_name(f"{given.folder.name}-3bits")
    if given.what == "gpt2":
        gpt2(given.data, given.small, given.layers, given.out)
    elif given.what == "compress":
        compress_llama(given.folder, out)
    elif given.what == "load":
        load_llama(out)
    else:
        if not given.folder.exists():
            make_llama(given.folder, given.small)
        for what in ("compress", "load"):
            subprocess.run([sys.executable, __file__, what, "--folder", given.folder], check=True)


if __name__ == "__main__":
    main()
