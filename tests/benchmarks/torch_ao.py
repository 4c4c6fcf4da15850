"""File size, agreement with the float model and latency: float32, int8, codebooks, and codebooks beside int8.

Run ``python tests/benchmarks/torch_ao.py``; about three minutes on one core. The float weights of the digit network,
EfficientNet-Lite0 and MiniLM are trained ones.
"""

from __future__ import annotations

import copy
import io
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import torch
import torch.ao.quantization as tq
from ao_models import agreement, digit_cnn, digits, efficientnet, minilm, photos, sentences
from lloydmax.integrations.torch_ao import apply_recipe, backend_config
from lloydmax.integrations.torch_ao import verify as verify_fx
from lloydmax.integrations.torchao import CodebookQuantizer, CodebookWeightConfig, recipe_to_config, verify
from torch import Tensor, nn
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx
from torchao.quantization import Int8WeightOnlyConfig, quantize_
from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
from torchao.quantization.pt2e.quantizer import ComposableQuantizer
from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
    X86InductorQuantizer,
    get_default_x86_inductor_quantization_config,
)

sys.path.insert(0, str(Path(__file__).parents[1] / "plugin" / "integrations"))
warnings.simplefilter("ignore")


def state_bytes(model: nn.Module) -> int:
    """What ``torch.save(model.state_dict())`` writes."""
    file = io.BytesIO()
    torch.save(model.state_dict(), file)
    return file.tell()


def milliseconds(model: Callable[[Tensor], Tensor], x: Tensor) -> float:
    """Of one input, the median of 15 runs."""
    times = []
    with torch.no_grad():
        for _ in range(18):
            started = time.perf_counter()
            model(x[:1])
            times.append(1000 * (time.perf_counter() - started))
    return sorted(times[3:])[7]


def row(path: str, kind: str, size: int, alike: float, latency: float) -> None:
    print(f"{path:<28} {kind:<34} {size / 1e6:>8.3f} MB {100 * alike:>8.1f} % {latency:>8.2f} ms", flush=True)


def packed_bytes(model: nn.Module, folder: Path = Path("/tmp")) -> int:
    path = folder / "lloydmax-benchmark.safetensors"
    size = lloydmax.save(model, path)
    path.unlink()
    return size


def fx() -> None:
    """The digit network through prepare_fx and prepare_qat_fx."""
    model, (x, _) = digit_cnn(), digits(1000)
    path = "FX, digit network"
    row(path, "float32", state_bytes(model), 1.0, milliseconds(model, x))

    def converted(recipe: Any, mapping: Any, recover: bool = False) -> nn.Module:
        if recipe is not None:
            apply_recipe(mapping, recipe, model)
        prepare = prepare_qat_fx if recover else prepare_fx
        prepared = prepare(copy.deepcopy(model), mapping, (x[:1],), backend_config=backend_config())
        if recover:
            lloydmax.distill(prepared, model, x, epochs=3, lr=1e-3, batch_size=50, held_out=0.0)
        prepared.eval()
        with torch.no_grad():
            prepared(x[:200])
        found = convert_fx(prepared, backend_config=backend_config())
        if recipe is not None:
            verify_fx(found, recipe, original=model)
        return found

    def recipe(layers: str, k: int) -> dict[str, Any]:
        return {"quantize": [{"layers": layers, "centroids": k}], "trainable": ["codebooks", "unquantized"]}

    int8 = converted(None, tq.get_default_qconfig_mapping("x86"))
    row(path, "int8", state_bytes(int8), agreement(int8, model, x), milliseconds(int8, x))
    for k in (16, 4):
        found = converted(recipe("all", k), tq.QConfigMapping())
        row(path, f"codebooks of {k}", packed_bytes(found), agreement(found, model, x), milliseconds(found, x))
    found = converted(recipe("fc_layers.0", 2), tq.get_default_qconfig_mapping("x86"))
    row(path, "int8, 2 centroids in fc1", state_bytes(found), agreement(found, model, x), milliseconds(found, x))
    found = converted(recipe("fc_layers.0", 2), tq.get_default_qat_qconfig_mapping("x86"), recover=True)
    row(path, "same, distilled without labels", state_bytes(found), agreement(found, model, x), milliseconds(found, x))


def pt2e() -> None:
    """EfficientNet-Lite0 as an exported program."""
    model, x = efficientnet(), photos(48)
    path = "PT2E, EfficientNet-Lite0"
    row(path, "float32", state_bytes(model), 1.0, milliseconds(model, x))

    def x86() -> Any:
        quantizer = X86InductorQuantizer()
        quantizer.set_global(get_default_x86_inductor_quantization_config())
        return quantizer

    recipe = {"quantize": [{"layers": "all", "centroids": 256}]}
    classifier = {"quantize": [{"layers": "_fc", "centroids": 16}]}
    for kind, given, quantizer in (
        ("int8", None, x86()),
        ("codebooks of 256", recipe, CodebookQuantizer(recipe, model)),
        (
            "int8, 16 centroids in the classifier",
            classifier,
            ComposableQuantizer([CodebookQuantizer(classifier, model), x86()]),
        ),
    ):
        shapes = ({0: torch.export.Dim("batch")},)
        program: Any = torch.export.export(model, (x[:2],), dynamic_shapes=shapes, strict=True).module()
        prepared = prepare_pt2e(program, quantizer)
        with torch.no_grad():
            prepared(x[:16])
        converted = convert_pt2e(prepared)
        if given is not None:
            verify(converted, given, model)
        size = state_bytes(converted)
        row(path, kind, size, agreement(converted, model, x), milliseconds(converted, x))


def modules() -> None:
    """MiniLM through quantize_."""
    teacher, x = minilm(), sentences()
    path = "quantize_, MiniLM (cosine)"
    row(path, "float32", state_bytes(teacher), 1.0, milliseconds(teacher, x))
    wanted = teacher(x).detach()
    recipe = {"quantize": [{"layers": "blocks.*", "types": ["Linear"], "centroids": 16, "granularity": "channel"}]}
    half = {"quantize": [{"layers": "blocks.*.up", "centroids": 16, "granularity": "channel"}]}
    for kind, config in (
        ("int8 weights", Int8WeightOnlyConfig()),
        ("16 centroids a channel", CodebookWeightConfig(16, "channel")),
        ("int8, 16 centroids a channel in up", recipe_to_config(half, teacher, Int8WeightOnlyConfig())),
    ):
        model = copy.deepcopy(teacher)
        mixed = not isinstance(config, (Int8WeightOnlyConfig, CodebookWeightConfig))
        quantize_(model, config, **({"filter_fn": None} if mixed else {}))
        if isinstance(config, CodebookWeightConfig):
            lloydmax.verify_plan(lloydmax.plan(teacher, recipe), model)
        pure = isinstance(config, CodebookWeightConfig)
        size = packed_bytes(model) if pure else state_bytes(model)
        with torch.no_grad():
            alike = float((model(x) * wanted).sum(1).mean())
        row(path, kind, size, alike, milliseconds(model, x))


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(f"{'path':<28} {'weights':<34} {'file':>11} {'agreement':>10} {'latency':>11}")
    fx()
    modules()
    pt2e()
