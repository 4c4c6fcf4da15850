"""Even grids in onnxruntime and OpenVINO: size, time and error, against float32 in the same runtime and free centroids.

python tests/benchmarks/even_exports.py [--width 2048]

Two square linear layers with a ReLU between them, random weights; processor time of one thread, least of several runs,
as a share of float32's.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lloydmax
import torch
from torch import Tensor, nn

BATCHES = (1, 32)
RULES: dict[str, dict[str, Any]] = {
    "16 free centroids": {"centroids": 16},
    "4 bits, `weights:32`": {"quantizer": "uniform", "bits": 4, "granularity": "weights:32"},
    "4 bits, `channel`": {"quantizer": "uniform", "bits": 4, "granularity": "channel"},
    "8 bits, `channel`": {"quantizer": "uniform", "bits": 8, "granularity": "channel"},
}
Run = Callable[[Tensor], Tensor]


def in_onnxruntime(path: Path) -> Run:
    """One thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: torch.from_numpy(session.run(None, {name: x.numpy()})[0])


def in_openvino(path: Path) -> Run:
    """One thread, in float32."""
    import openvino

    settings = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    request = openvino.Core().compile_model(path, "CPU", settings).create_infer_request()
    return lambda x: torch.from_numpy(request.infer([x.numpy()])[0].copy())


def seconds(run: Run, inputs: Tensor, times: int) -> float:
    """Processor time of one run, the least."""
    found = []
    for _ in range(times):
        start = time.process_time()
        run(inputs)
        found.append(time.process_time() - start)
    return min(found)


def float_files(model: nn.Module, inputs: Tensor, folder: Path) -> dict[str, Path]:
    """The original in both runtimes."""
    import openvino

    made = {"onnxruntime": folder / "float.onnx", "OpenVINO": folder / "float.xml"}
    batch = ({0: torch.export.Dim("batch")},)
    path = str(made["onnxruntime"])
    torch.onnx.export(model, (inputs,), path, dynamo=True, verbose=False, external_data=False, dynamic_shapes=batch)
    openvino.save_model(openvino.convert_model(path), made["OpenVINO"], compress_to_fp16=False)
    return made


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=2048)
    parser.add_argument("--times", type=int, default=10)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.manual_seed(0)
    width = options.width
    model = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)).eval()
    inputs = {batch: torch.randn(batch, width) for batch in BATCHES}
    used = ", ".join(f"{package} {version(package)}" for package in ("torch", "onnxruntime", "openvino"))
    print(f"{platform.processor() or platform.machine()}, one thread, width {width}; {used}\n")
    print("| weights | lloydmax | runtime | activations | bytes | batch 1 | batch 32 | relative error |")
    print("|---|---|---|---|---|---|---|---|")
    runtimes = {"onnxruntime": (in_onnxruntime, ".onnx"), "OpenVINO": (in_openvino, ".xml")}
    with tempfile.TemporaryDirectory() as name:
        folder, base = Path(name), {}
        for runtime, path in float_files(model, inputs[32], folder).items():
            run = runtimes[runtime][0](path)
            base[runtime] = {batch: seconds(run, x, options.times) for batch, x in inputs.items()}
            print(f"| float32 | | {runtime} | | | 1 | 1 | |", flush=True)
        for what, rule in RULES.items():
            compressed = lloydmax.compress(model, {"quantize": [{"layers": "all", **rule}]}, progress=False).model
            ours = lloydmax.save(compressed, folder / "ours.safetensors")
            with torch.no_grad():
                wanted = compressed(inputs[32])
            for runtime, (opened, ending) in runtimes.items():
                for kind in ("float32", "int8") if "quantizer" in rule else ("float32",):
                    path = folder / f"model{ending}"
                    made = lloydmax.export(compressed, path, example_inputs=inputs[32], activations=kind)
                    run = opened(path)
                    ratios = [seconds(run, x, options.times) / base[runtime][batch] for batch, x in inputs.items()]
                    gap = float((run(inputs[32]) - wanted).norm() / wanted.norm())
                    shown = " | ".join(f"{ratio:.2f}" for ratio in ratios)
                    print(
                        f"| {what} | {ours:,} | {runtime} | {kind} | {made.bytes:,} | {shown} | {gap:.1e} |", flush=True
                    )


if __name__ == "__main__":
    main()
