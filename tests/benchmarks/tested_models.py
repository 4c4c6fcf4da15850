"""Small networks of torchvision, timm and transformers at 4 bits a weight: do they go through, how small, how alike.

    python tests/benchmarks/tested_models.py [--only NAME,NAME] [--folder DIR] [--bits 4] [--done]

Each is built from its class or configuration with **random weights** (nothing is downloaded), its batch norms set to
the statistics of made inputs, and compressed by what ``lloydmax compress --bits 4 --effort 0`` runs, with 24 made
inputs. Then the file is loaded into a network built anew, whose outputs must be the same, bit for bit. Agreement and
error are on 32 other made inputs. Random weights are harder than trained ones: their answers are close calls. What
trained networks give is in the zoo. Every network leaves one small file in the folder, so that a run goes on where it
ended. Networks whose package is not installed are left out.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import lloydmax
import torch
from lloydmax.report import environment
from published.cells import Cell, Store, markdown
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

FEW, TESTED, SIDE, CLASSES, WORDS = 24, 32, 64, 10, 512
"""Inputs that are given, and others; pixels of a picture; classes of pictures; words of a vocabulary."""
VISION = {
    "torchvision": (
        *("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x0_5", "squeezenet1_1", "mnasnet0_5"),
        *("regnet_y_400mf", "segmentation.lraspp_mobilenet_v3_large"),
    ),
    "timm": (
        *("resnet10t", "lcnet_050", "tinynet_e", "ghostnet_050", "repghostnet_050", "semnasnet_050", "starnet_s050"),
        *("mobilenetv4_conv_small_050", "mobilevit_xxs", "edgenext_xx_small", "convnextv2_atto", "fastvit_t8"),
        *("efficientvit_b0", "pvt_v2_b0", "test_vit", "test_nfnet", "test_byobnet"),
    ),
}
SIZE = {"hidden_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 512}
BASE = {"vocab_size": WORDS, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, **SIZE}
GROUPED = {**BASE, "num_key_value_heads": 2, "head_dim": 32}
ENCODER = {**BASE, "max_position_embeddings": 64, "type_vocab_size": 2}
PICTURES = {**SIZE, "image_size": SIDE, "patch_size": 16}
SIDES = {f"{side}_{what}": n for side in ("encoder", "decoder") for what, n in (("layers", 2), ("attention_heads", 4))}
FEED = {"encoder_ffn_dim": 512, "decoder_ffn_dim": 512}
PAIR = {"vocab_size": WORDS, "d_model": 128, "decoder_start_token_id": 1, "pad_token_id": 0, "bos_token_id": 1,
        "eos_token_id": 2, **SIDES, **FEED}  # fmt: skip
LANGUAGE: dict[str, tuple[str, str, dict[str, Any]]] = {
    "BERT": ("BertForSequenceClassification", "words", ENCODER),
    "RoBERTa": ("RobertaForMaskedLM", "words", ENCODER),
    "DistilBERT": ("DistilBertForSequenceClassification", "words", {"vocab_size": WORDS, "dim": 128, "hidden_dim": 512,
                                                                    "n_layers": 2, "n_heads": 4}),
    "ALBERT": ("AlbertForSequenceClassification", "words", {**ENCODER, "embedding_size": 128}),
    "ELECTRA": ("ElectraForPreTraining", "words", {**ENCODER, "embedding_size": 128}),
    "GPT-2": ("GPT2LMHeadModel", "words", {"vocab_size": WORDS, "n_embd": 128, "n_layer": 2, "n_head": 4}),
    "Llama": ("LlamaForCausalLM", "words", GROUPED),
    "Mistral": ("MistralForCausalLM", "words", GROUPED),
    "Qwen3": ("Qwen3ForCausalLM", "words", GROUPED),
    "Gemma 2": ("Gemma2ForCausalLM", "words", GROUPED),
    "Mixtral": ("MixtralForCausalLM", "words", {**GROUPED, "num_local_experts": 4}),
    "OPT": ("OPTForCausalLM", "words", {"vocab_size": WORDS, "hidden_size": 128, "num_hidden_layers": 2,
                                        "ffn_dim": 512, "num_attention_heads": 4, "word_embed_proj_dim": 128}),
    "Mamba": ("MambaForCausalLM", "words", {"vocab_size": WORDS, "hidden_size": 128, "num_hidden_layers": 2}),
    "T5": ("T5ForConditionalGeneration", "pairs", {"vocab_size": WORDS, "d_model": 128, "d_ff": 512, "num_layers": 2,
                                                   "num_heads": 4, "decoder_start_token_id": 0}),
    "BART": ("BartForConditionalGeneration", "pairs", PAIR),
    "Whisper": ("WhisperForConditionalGeneration", "speech", {**PAIR, "num_mel_bins": 40, "max_source_positions": 50,
                                                              "max_target_positions": 32}),
    "Wav2Vec2": ("Wav2Vec2ForCTC", "waves", {**SIZE, "vocab_size": 32, "conv_dim": (64,) * 7}),
    "HuBERT": ("HubertForCTC", "waves", {**SIZE, "vocab_size": 32, "conv_dim": (64,) * 7}),
    "ViT": ("ViTForImageClassification", "pixels", PICTURES),
    "DINOv2": ("Dinov2Model", "pixels", PICTURES),
    "SegFormer": ("SegformerForSemanticSegmentation", "pixels", {"depths": [1, 1, 1, 1]}),
    "CLIP (pictures)": ("CLIPVisionModelWithProjection", "pixels", PICTURES),
}  # fmt: skip


def pictures(side: int, count: int, seed: int) -> Tensor:
    """Blots of several sizes, each with colours of its own, normalized: ``(count, 3, side, side)``."""
    random, found = torch.Generator().manual_seed(seed), torch.zeros(count, 3, side, side)
    for size in (2, 5, 13, 40):
        noise = torch.randn(count, 3, size, size, generator=random)
        found += nn.functional.interpolate(noise, size=(side, side), mode="bilinear")
    return found / 1.5


def words(count: int, seed: int, length: int = 24) -> Tensor:
    """Token numbers: ``(count, length)``."""
    return torch.randint(3, WORDS, (count, length), generator=torch.Generator().manual_seed(seed))


def inputs(kind: str, count: int, seed: int) -> Any:
    """Made inputs of a kind."""
    random = torch.Generator().manual_seed(seed)
    if kind == "pixels":
        return {"pixel_values": pictures(SIDE, count, seed)}
    if kind == "waves":
        return {"input_values": torch.randn(count, 4000, generator=random).cumsum(1) / 30}
    if kind == "speech":
        spoken = torch.randn(count, 40, 100, generator=random)
        return {"input_features": spoken, "decoder_input_ids": words(count, seed, 8)}
    if kind == "pairs":
        return {"input_ids": words(count, seed), "decoder_input_ids": words(count, seed + 1, 12)}
    return {"input_ids": words(count, seed)}


def seen(model: nn.Module, given: Any) -> nn.Module:
    """The network, its batch norms set to what inputs make of them."""
    norms = [module for module in model.modules() if isinstance(module, _BatchNorm)]
    if norms:
        for norm in norms:
            norm.momentum = None
        with torch.no_grad():
            model.train()(**given) if isinstance(given, dict) else model.train()(given)
    return model.eval()


def vision(package: str, name: str) -> nn.Module:
    """A network of torchvision or timm with random weights, always the same."""
    torch.manual_seed(0)
    if package == "timm":
        made: nn.Module = importlib.import_module("timm").create_model(name, num_classes=CLASSES)
        return made
    folder, _, last = f"models.{name}".rpartition(".")
    more = {"weights_backbone": None} if "segmentation" in name else {}
    found: nn.Module = getattr(importlib.import_module(f"torchvision.{folder}"), last)(
        weights=None, num_classes=CLASSES, **more
    )
    return found


def language(name: str) -> nn.Module:
    """A network of transformers with random weights, always the same."""
    transformers = importlib.import_module("transformers")
    cls, _, values = LANGUAGE[name]
    torch.manual_seed(0)
    network = getattr(transformers, cls)
    made: nn.Module = network(network.config_class(**values))
    return made


def tried(make: Callable[[], nn.Module], few: Any, tested: Any, bits: float) -> dict[str, Any]:
    """Compress, save, load, compare."""
    model, started = seen(make(), few), time.process_time()
    state = model.state_dict()
    recipe = lloydmax.recipe_for(model, bits=bits, data=few, effort=0)
    result = lloydmax.compress(model, recipe, few, progress=False)
    seconds = time.process_time() - started
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "model.safetensors"
        result.save(file)
        again = lloydmax.load(file, make())
        (found,) = lloydmax.compare([file], model, tested).files

    def run(network: nn.Module) -> list[Tensor]:
        with torch.no_grad():
            given = network(**tested) if isinstance(tested, dict) else network(tested)
        return [
            leaf for leaf in tree_leaves(dict(given) if hasattr(given, "keys") else given) if isinstance(leaf, Tensor)
        ]

    same = all(map(torch.equal, run(result.model), run(again)))
    assert found.agreement is not None
    theirs, ours = run(model)[0], run(result.model)[0]
    spread = (theirs - theirs.mean(0)).norm()
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in state.items())
    weights = sum(p.numel() for p in model.parameters())
    return {"weights": weights, "bytes": found.bytes, "original": found.original, "agreed": found.agreement.agreed,
            "error": float((ours - theirs).norm() / spread), "seconds": seconds, "same": same}  # fmt: skip


def cells(bits: float) -> list[Cell]:
    """An experiment for each network whose package is installed."""
    made = []
    for package, names in VISION.items():
        for name in names if importlib.util.find_spec(package) else ():
            side = 160 if name.startswith("test_") else SIDE
            sets = (pictures(side, FEW, 1), pictures(side, TESTED, 2))
            make = partial(vision, package, name)
            made.append(Cell("tested", {"network": name, "from": package}, partial(tried, make, *sets, bits)))
    if importlib.util.find_spec("transformers"):
        for name, (_, kind, _) in LANGUAGE.items():
            run = partial(tried, partial(language, name), inputs(kind, FEW, 1), inputs(kind, TESTED, 2), bits)
            made.append(Cell("tested", {"network": name, "from": "transformers"}, run))
    return made


def _row(key: dict[str, Any], found: dict[str, Any]) -> list[str]:
    return [
        key["network"],
        key["from"],
        f"{found['weights'] / 1e6:.2f} M",
        f"{found['bytes'] / 1e3:,.0f}",
        f"{8 * found['bytes'] / found['weights']:.2f}",
        f"{found['original'] / found['bytes']:.1f}",
        f"{100 * found['agreed']:.1f}",
        f"{100 * found['error']:.1f}",
        "yes" if found["same"] else "NO",
        f"{found['seconds']:.0f}",
    ]


def main() -> None:
    """Run what is missing, then print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path("tested-models"))
    parser.add_argument("--bits", type=float, default=4.0)
    parser.add_argument("--only", help="comma-separated names")
    parser.add_argument("--done", action="store_true", help="print what the folder has, run nothing")
    asked = parser.parse_args()
    store = Store(asked.folder)
    rows = []
    for cell in cells(asked.bits):
        left_out = asked.only and cell.key["network"] not in asked.only.split(",")
        if left_out or (asked.done and not store.done(cell)):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = store.load([cell]).found[0]["figures"] if store.done(cell) else store.run(cell)["figures"]
        rows.append(_row(cell.key, found))
    heads = ["network", "from", "weights", "file (kB)", "bits a weight", "times smaller", "agreement (%)", "error (%)"]
    print(markdown(f"{len(rows)} networks", [*heads, "same after loading", "CPU s"], rows))
    print(", ".join(f"{name} {value}" for name, value in environment().items()))


if __name__ == "__main__":
    main()
