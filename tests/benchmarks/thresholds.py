"""Int8 kernels against float32, and how thresholds are trained best; about 5 minutes on one core.

    python tests/benchmarks/thresholds.py [latency] [training]

ResNet-18 and MobileNet-v2 have random weights here: only their latency means something. The demo's network is
trained; its thresholds learn on silhouettes of another domain, and its accuracy is that on labelled test pictures.
"""

from __future__ import annotations

import copy
import statistics
import sys
import time
import warnings
from typing import Any

import lloydmax.demo
import torch
import torchvision
from lloydmax.data import unlabelled
from lloydmax.integrations.torch_ao import threshold_qconfig_mapping, train_thresholds
from lloydmax.report import environment
from lloydmax.teacher.agreement import accuracy
from torch import Tensor, nn
from torch.ao.quantization import disable_observer
from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx

warnings.simplefilter("ignore")


PAIRS = {1: 15, 32: 3}
STEPS, BATCH, SAMPLES, PICTURES = 60, 50, 2000, 500
PRESETS: dict[str, dict[str, Any]] = {
    "default": {},
    "default, lr 0.03": {"lr": 3e-2},
    "published": {"preset": "published"},
    "published, lr 0.01": {"preset": "published", "lr": 1e-2},
    "sgd, gradients scaled as in LSQ": {"optimizer": "sgd", "lr": 10.0},
}


def seconds(model: nn.Module, x: Tensor) -> float:
    started = time.perf_counter()
    model(x)
    return time.perf_counter() - started


@torch.inference_mode()
def latency() -> None:
    """The median ratio of pairs that run in turn, so that both see the same neighbours on the machine.

    Both run channels-last, the order that int8 kernels use anyway and float32 ones are faster in.
    """
    print(f"\n{'int8 against float32, 224 x 224':<34} {'batch':>6} {'float32':>12} {'int8':>12} {'ratio':>8}")
    for name in ("resnet18", "mobilenet_v2"):
        torch.manual_seed(0)
        model = getattr(torchvision.models, name)().eval().to(memory_format=torch.channels_last)
        x = torch.randn(32, 3, 224, 224).contiguous(memory_format=torch.channels_last)
        prepared = prepare_qat_fx(copy.deepcopy(model), threshold_qconfig_mapping(8, "symmetric", "channel"), (x[:1],))
        prepared.eval()(x[:2])
        converted = convert_fx(prepared)
        for batch, pairs in PAIRS.items():
            seconds(model, x[:batch]), seconds(converted, x[:batch])
            times = [(seconds(model, x[:batch]), seconds(converted, x[:batch])) for _ in range(pairs)]
            slow, fast = (1000 * statistics.median(column) for column in zip(*times, strict=True))
            ratio = statistics.median(a / b for a, b in times)
            print(f"{name:<34} {batch:>6} {slow:>9.1f} ms {fast:>9.1f} ms {ratio:>7.2f}x", flush=True)


def training() -> None:
    """Thresholds of the demo's network on silhouettes; the accuracy is that of the fake-quantized network."""
    teacher, data = lloydmax.demo.network(), lloydmax.demo.silhouettes()
    pictures, labels = lloydmax.demo.test_set()
    chosen = torch.arange(0, len(labels), len(labels) // PICTURES)
    source, labels = unlabelled(pictures[chosen], teacher), labels[chosen]
    print(f"\nthresholds of the demo's network, {STEPS} steps of {BATCH}; accuracy on {len(labels)} labelled pictures")
    print(f"float32: {100 * accuracy(teacher, source, labels):.1f} %")
    print(f"{'weights / activations':<34} {'how':<34} {'accuracy':>16} {'agreement':>16} {'mse':>18} {'seconds':>8}")
    for kind, mapping in (
        ("4 bits a channel / 8 bits", {"bits": 4, "granularity": "channel"}),
        ("4 bits a tensor / 8 bits", {"bits": 4}),
        ("4 bits a channel / 4 bits", {"bits": 4, "granularity": "channel", "activation_bits": 4}),
    ):
        settings: dict[str, Any] = mapping
        for name, options in PRESETS.items():
            prepared = prepare_qat_fx(copy.deepcopy(teacher), threshold_qconfig_mapping(**settings), (data[:1],)).eval()
            with torch.no_grad():
                for part in data[:100].split(50):
                    prepared(part)
            prepared.apply(disable_observer)
            before = accuracy(prepared, source, labels)
            started = time.perf_counter()
            found = train_thresholds(
                prepared, teacher, data, steps=STEPS, samples=SAMPLES, batch_size=BATCH, held_out=0.1, **options
            )
            took = time.perf_counter() - started
            after = accuracy(prepared, source, labels)
            print(
                f"{kind:<34} {name:<34} {100 * before:>5.1f} -> {100 * after:>5.1f} % "
                f"{100 * found['agreement_before']:>5.1f} -> {100 * found['agreement']:>5.1f} % "
                f"{found['mse_before']:>7.3f} -> {found['mse']:>7.3f} {took:>8.1f}",
                flush=True,
            )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    for part in sys.argv[1:] or ["latency", "training"]:
        {"latency": latency, "training": training}[part]()
