"""Sizes of exported files and their largest output differences, formats x networks.

python tests/benchmarks/exports.py [--networks resnet18 ...] [--formats onnx ...]

ResNet-18 and MobileNet-v2 are torchvision's, with random weights (batch norms fitted to noise, so that outputs do not
vanish); EfficientNet-Lite0 and MiniLM have the trained ones of their packages. Every network is compressed to 16
centroids a tensor, embeddings included.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import lloydmax
import torch
from lloydmax.exporting.formats import FORMATS
from torch import Tensor, nn

PACKAGES = ("torch", "onnx", "onnxscript", "onnxruntime", "openvino", "coremltools", "executorch")


@dataclass(frozen=True)
class Network:
    """One network: the model, and example inputs for it."""

    model: Callable[[], nn.Module]
    inputs: Callable[[], Tensor]
    rules: tuple[dict[str, object], ...] = ()

    def compressed(self) -> nn.Module:
        """With 16 centroids for every convolution, linear layer and embedding."""
        rules = [{"layers": "all", "centroids": 16}, *self.rules]
        recipe = lloydmax.Recipe.load({"version": 1, "quantize": rules})
        return lloydmax.compress(self.model(), recipe, progress=False).model


def _torchvision(name: str) -> Callable[[], nn.Module]:
    def model() -> nn.Module:
        import torchvision

        torch.manual_seed(0)
        made: nn.Module = getattr(torchvision.models, name)()
        for module in made.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0
        with torch.no_grad():
            made.train()(torch.randn(8, 3, 96, 96))
        return made.eval()

    return model


def _pictures(side: int) -> Callable[[], Tensor]:
    return lambda: torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def _lite() -> nn.Module:
    from published import lite

    return lite.network()


def _minilm() -> nn.Module:
    from size import minilm

    return minilm.network()


def _sentences() -> Tensor:
    from size import minilm

    return minilm.tokens(["A codebook of a few centroids stands for every weight.", "The cat sat on the mat."])


NETWORKS = {
    "resnet18": Network(_torchvision("resnet18"), _pictures(96)),
    "mobilenet_v2": Network(_torchvision("mobilenet_v2"), _pictures(96)),
    "efficientnet_lite0": Network(_lite, _pictures(128)),
    "minilm": Network(_minilm, _sentences, ({"layers": ["words", "positions", "kinds"], "centroids": 16},)),
}


@dataclass(frozen=True)
class Row:
    """What one network gives.

    Attributes:
        float32: bytes of its tensors before compression.
        ours: bytes of the compressed ``.safetensors`` file.
        graph: bytes of the ONNX graph of the original, without any weights.
        exports: by format; an error in words where the format refuses the network.
        seconds: by format.
    """

    float32: int
    ours: int
    graph: int
    exports: dict[str, lloydmax.Export | str]
    seconds: dict[str, float]


def measure(network: Network, formats: list[str], folder: Path) -> Row:
    """Compress, save, and write every format."""
    original, inputs = network.model(), network.inputs()
    compressed = network.compressed()
    ours = folder / "ours.safetensors"
    lloydmax.save(compressed, ours)
    exports: dict[str, lloydmax.Export | str] = {}
    seconds: dict[str, float] = {}
    for name in formats:
        start = time.perf_counter()
        try:
            exports[name] = lloydmax.export(compressed, folder / f"model{FORMATS[name]}", name, example_inputs=inputs)
        except lloydmax.ExportError as error:
            exports[name] = str(error)
        seconds[name] = time.perf_counter() - start
    size = sum(tensor.nbytes for tensor in original.state_dict().values())
    graph = graph_bytes(original, inputs) if "onnx" in formats else 0
    return Row(size, ours.stat().st_size, graph, exports, seconds)


def graph_bytes(model: nn.Module, inputs: Tensor) -> int:
    """Bytes of the ONNX graph of a float model, as torch exports it, weights removed."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exported = torch.onnx.export(model, (inputs,), dynamo=True, verbose=False)
    assert exported is not None
    proto = exported.model_proto
    del proto.graph.initializer[:]
    del proto.graph.value_info[:]
    for node in proto.graph.node:
        del node.metadata_props[:]
    return proto.ByteSize()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--formats", nargs="+", default=list(FORMATS), choices=list(FORMATS))
    options = parser.parse_args()
    used = ", ".join(f"{package} {version(package)}" for package in PACKAGES)
    print(f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} thread; {used}\n")
    print("| network | float32 | lloydmax | format | bytes | of float32 | largest difference | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for name in options.networks:
        with tempfile.TemporaryDirectory() as folder:
            row = measure(NETWORKS[name], options.formats, Path(folder))
        for kind, made in row.exports.items():
            start = f"| {name} | {row.float32:,} | {row.ours:,} | {kind} |"
            if isinstance(made, str):
                print(f"{start} {made} | | | {row.seconds[kind]:.0f} |", flush=True)
                continue
            gap = "not run here" if made.difference is None else f"{made.difference:.1e}"
            share = f"{made.bytes / row.float32:.1%}"
            print(f"{start} {made.bytes:,} | {share} | {gap} | {row.seconds[kind]:.0f} |", flush=True)
        if row.graph:
            print(f"| {name} | | | ONNX graph alone | {row.graph:,} | | | |", flush=True)


if __name__ == "__main__":
    main()
