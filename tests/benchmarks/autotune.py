"""What ten trials of INC's ``autotune`` cost, in processor time, against one; about 2 minutes on one core.

    python tests/benchmarks/autotune.py [NETWORK:WAY ...]

The ``eval_fn`` does nothing, so that only the trials count. The networks have random weights, but for the demo's.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import lloydmax.demo
import torch
import torchvision
import transformers
from lloydmax.integrations.inc import CodebookConfig
from neural_compressor.torch.quantization import TuningConfig, autotune
from torch import nn

CENTROIDS = [2, 3, 4, 6, 8, 12, 16, 32, 64, 128]
ALONE = 8
WAYS: dict[str, dict[str, Any]] = {
    "plain": {},
    "fisher": {"importance": "fisher"},
    "distill": {"trainable": "all", "recover": {"step": "distill", "epochs": 1, "lr": 1e-4}},
}
USUAL = ("mlp", "demo", "bert", "resnet18")


def mlp() -> tuple[nn.Module, Any]:
    layers = nn.Linear(32, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 5)
    return nn.Sequential(*layers), torch.randn(4096, 32)


def demo() -> tuple[nn.Module, Any]:
    return lloydmax.demo.network(), lloydmax.demo.silhouettes()[:256]


def bert() -> tuple[nn.Module, Any]:
    sizes = {"vocab_size": 2000, "hidden_size": 128, "num_hidden_layers": 4, "intermediate_size": 512}
    config = transformers.BertConfig(**sizes, num_attention_heads=4, max_position_embeddings=64)
    data = [{"input_ids": torch.randint(0, 2000, (16, 32))} for _ in range(8)]
    return transformers.BertForSequenceClassification(config), data


def resnet18() -> tuple[nn.Module, Any]:
    return torchvision.models.resnet18(num_classes=10), torch.randn(64, 3, 64, 64)


NETWORKS: dict[str, Callable[[], tuple[nn.Module, Any]]] = {"mlp": mlp, "demo": demo, "bert": bert}
NETWORKS["resnet18"] = resnet18


def seconds(network: str, way: str, centroids: list[int]) -> float:
    torch.manual_seed(0)
    model, data = NETWORKS[network]()
    tuning = TuningConfig(config_set=[CodebookConfig(centroids, **WAYS[way])], tolerable_loss=-1, max_trials=20)
    given = {"run_args": (data,)} if way != "plain" else {}
    started = time.process_time()
    autotune(model.eval(), tuning, eval_fn=lambda model: 1.0, **given)
    return time.process_time() - started


def main() -> None:
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}; centroids {CENTROIDS}, one trial with {ALONE}; processor time, s")
    print(f"{'network':10} {'way':10} {'one':>8} {'ten':>8} {'times':>7}")
    for pair in sys.argv[1:] or [f"{network}:{way}" for way in WAYS for network in USUAL]:
        network, way = pair.split(":")
        one = min(seconds(network, way, [ALONE]) for _ in range(2))
        ten = seconds(network, way, CENTROIDS)
        print(f"{network:10} {way:10} {one:8.3f} {ten:8.3f} {ten / one:7.2f}", flush=True)


if __name__ == "__main__":
    main()
