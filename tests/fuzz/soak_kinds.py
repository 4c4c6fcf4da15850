"""The kinds of trials of the soak test: a recipe, a host or a file each, on a small network; where they fail."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import torch
from torch import Tensor, nn

Trial = Callable[[nn.Module, Tensor, Path, list[object]], Any]
KINDS: dict[str, Trial] = {}


# What fails


class Fault(RuntimeError):
    """What a failing trial fails with."""


class _Fuse:
    """Raises at one of the places that a trial passes: calls of a network, and steps of progress."""

    def __init__(self) -> None:
        self.passed, self.at, self.error = 0, -1, Fault

    def set(self, at: int = -1, error: type[BaseException] = Fault) -> None:
        """Count anew; raise at that place, or nowhere."""
        self.passed, self.at, self.error = 0, at, error

    def burn(self) -> None:
        """One place."""
        self.passed += 1
        if self.passed == self.at:
            raise self.error("asked for by the soak test")


FUSE = _Fuse()


class Burning(nn.Module):
    """Passes its input on, or raises."""

    def forward(self, x: Tensor) -> Tensor:
        FUSE.burn()
        return x


class Hearing:
    """Raises where progress is told."""

    @lloydmax.hookimpl
    def lloydmax_step(self) -> None:
        FUSE.burn()


# What is compressed


def network(seed: int) -> nn.Module:
    """A small classifier of pictures ``(N, 3, 8, 8)`` with convolutions, batch norms and 0.3 MiB of weights."""
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.Linear(16, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), Burning(), nn.Linear(256, 5),
    )  # fmt: skip
    with torch.no_grad():
        net(torch.randn(32, 3, 8, 8))
    return net.eval()


def pictures(seed: int) -> Tensor:
    """64 inputs."""
    return torch.randn(64, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


# The kinds


def kind(trial: Trial) -> Trial:
    """Register a kind under the name of its function."""
    KINDS[trial.__name__] = trial
    return trial


def _recipe(*steps: dict[str, Any], **more: Any) -> dict[str, Any]:
    rules = [{"layers": "all", "centroids": 8}]
    return {"quantize": rules, "trainable": ["all"], "recover": [*steps], **more}


CHOICE = {"quantize": [{"layers": "all", "centroids": [4, 16]}]}
INT8 = {"quantize": [{"layers": "all", "quantizer": "uniform"}], "activations": {"bits": 8}}
RECIPES: dict[str, dict[str, Any]] = {
    "kmeans": _recipe(),
    "importance": {"quantize": [{"layers": "all", "centroids": 8, "importance": "fisher"}]},
    "bits": _recipe(bits=3, storage={"codes": "entropy"}),
    "vectors": {"quantize": [{"layers": ["8", "10"], "centroids": 8, "block": 2}]},
    "uniform": {"quantize": [{"layers": "all", "quantizer": "uniform", "bits": 4}]},
    "distill": _recipe({"step": "distill", "steps": 4, "batch_size": 16}),
    "codes": _recipe({"step": "distill", "steps": 4, "batch_size": 16, "codes": "learn"}),
    "align": _recipe({"step": "align", "steps": 4, "batch_size": 16}),
    "renormalize": _recipe({"step": "renormalize", "samples": 32, "relative": True}),
    "correct_bias": _recipe({"step": "correct_bias", "samples": 32}),
    "reconstruct": _recipe({"step": "reconstruct", "samples": 32}),
    "equalize": _recipe({"step": "equalize"}),
    "int8": INT8,
    "train_thresholds": {**INT8, "recover": [{"step": "train_thresholds", "steps": 4, "calibration": 32}]},
    "train_multipliers": {**INT8, "recover": [{"step": "train_multipliers", "steps": 4}]},
}


def _compressing(name: str) -> Trial:
    def trial(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
        return lloydmax.compress(net, RECIPES[name], x, x[:32], progress=False, listeners=hear)

    trial.__name__ = name
    return trial


for _name in RECIPES:
    kind(_compressing(_name))


@kind
def loader(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """Batches of an iterator, which are kept, in a folder for state."""
    recipe = RECIPES["distill"]
    result = lloydmax.compress(net, recipe, iter(x.split(16)), workdir=place, progress=False, listeners=hear)
    for left in [*place.rglob("*")][::-1]:
        left.rmdir() if left.is_dir() else left.unlink()
    return result


CACHE = lloydmax.Cache(limit=4 << 20)


@kind
def cache(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """Trials that share a cache of 4 MiB."""
    return lloydmax.compress(net, RECIPES["distill"], x, progress=False, listeners=hear, cache=CACHE)


@kind
def threads(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """Two runs at once over one network."""
    found: list[Any] = []

    def work() -> None:
        try:
            found.append(lloydmax.compress(net, RECIPES["renormalize"], x, progress=False, listeners=hear))
        except BaseException as error:
            found.append(error)

    both = [threading.Thread(target=work) for _ in range(2)]
    for one in both:
        one.start()
    for one in both:
        one.join()
    for one in found:
        if isinstance(one, BaseException):
            raise one
    return found


@kind
def lagrangian(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    return lloydmax.search(net, CHOICE, x, {"bytes": 40000}, samples=32, listeners=hear)


@kind
def greedy(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    return lloydmax.search(net, CHOICE, x, {"bytes": 40000}, "greedy", samples=32, listeners=hear)


@kind
def sweep(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    return lloydmax.sweep(net, CHOICE, x, samples=32, listeners=hear)


@kind
def files(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """Saved, verified, inspected, read back, and a damaged one refused."""
    target = place / "model.safetensors"
    result = lloydmax.compress(net, _recipe(storage={"codes": "entropy"}), progress=False, listeners=hear)
    result.save(target)
    lloydmax.verify(target)
    lloydmax.inspect(target)
    found = lloydmax.load(target, copy.deepcopy(net))
    found(x)
    target.write_bytes(target.read_bytes()[:-9])
    try:
        lloydmax.load(target, copy.deepcopy(net))
    except lloydmax.CheckpointError:
        target.unlink()
    return found


@kind
def int8_files(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    target = place / "model.safetensors"
    lloydmax.compress(net, INT8, x, progress=False, listeners=hear).save(target)
    found = lloydmax.load(target, copy.deepcopy(net))
    found(x)
    target.unlink()
    return found


@kind
def report(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    result = lloydmax.compress(net, _recipe(), x, progress=False, listeners=hear)
    result.report.to_json(place / "report.json")
    result.report.to_html(place / "report.html")
    for left in place.iterdir():
        left.unlink()
    return result


@kind
def kernels(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """A layer that is wide enough for the int8 kernel."""
    wide, x = nn.Sequential(nn.Linear(192, 4096), Burning()).eval(), x.flatten(1)
    found = lloydmax.compress(wide, _recipe(), progress=False, listeners=hear).model
    lloydmax.set_kernel(found, "int8")
    found(x)
    lloydmax.set_cache(lloydmax.set_kernel(found, None), False)
    found(x)
    return found


@kind
def compiled(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """A model of ``torch.compile``; its caches are emptied as a service would."""
    try:
        seen = torch.compile(net[8:12], backend="eager")
        net[8:12](x.mean((2, 3)).repeat(1, 6)[:, :16])
        seen(x.mean((2, 3)).repeat(1, 6)[:, :16])
        return lloydmax.compress(seen, _recipe(), x.flatten(1)[:, :16], progress=False, listeners=hear)
    finally:
        torch._dynamo.reset()


def _exporting(ending: str) -> Trial:
    def trial(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
        found = lloydmax.compress(net, _recipe(), progress=False, listeners=hear).model
        lloydmax.export(found, place / f"model.{ending}", example_inputs=x[:2])
        for left in place.iterdir():
            left.unlink()
        return found

    return trial


KINDS |= {"export_torch": _exporting("pt2"), "export_onnx": _exporting("onnx"), "export_openvino": _exporting("xml")}


@kind
def inc(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    """Prepared, fed, converted, saved and read back."""
    from lloydmax.integrations.inc import CodebookConfig, load
    from neural_compressor.torch.quantization import convert, prepare, save

    config = CodebookConfig(centroids=8, trainable="all", recover={"step": "distill", "steps": 2})
    prepared = prepare(copy.deepcopy(net), config)
    prepared(x)
    found = convert(prepared)
    save(found, str(place))
    load(str(place), original_model=net)
    for left in place.iterdir():
        left.unlink()
    return found


@kind
def inc_autotune(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    from lloydmax.integrations.inc import CodebookConfig
    from neural_compressor.torch.quantization import TuningConfig, autotune

    def score(model: nn.Module) -> float:
        return float((model(x).argmax(1) == net(x).argmax(1)).float().mean())

    config = CodebookConfig(centroids=[4, 16], recover={"step": "correct_bias", "samples": 32})
    return autotune(net, TuningConfig(config_set=[config], tolerable_loss=0.5), score, run_args=(x,))


@kind
def torch_ao(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    import torch.ao.quantization as tq
    from lloydmax.integrations.torch_ao import apply_recipe, backend_config
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx

    recipe = {"quantize": [{"layers": "0", "quantizer": "none"}, {"layers": ["8", "10"], "centroids": 8}]}
    mapping = tq.get_default_qat_qconfig_mapping("x86")
    apply_recipe(mapping, recipe, net)
    prepared = prepare_qat_fx(copy.deepcopy(net).train(), mapping, (x,), backend_config=backend_config())
    lloydmax.distill(prepared, net, x, steps=2, listeners=hear)
    return convert_fx(prepared.eval(), backend_config=backend_config())


@kind
def torch_ao_thresholds(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    from lloydmax.integrations.torch_ao import threshold_qconfig_mapping, train_thresholds
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx

    mapping = threshold_qconfig_mapping()
    prepared = prepare_qat_fx(copy.deepcopy(net).train(), mapping, (x,))
    train_thresholds(prepared, net, x, steps=2, listeners=hear)
    return convert_fx(prepared.eval())


@kind
def torch_ao_eager(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    import torch.ao.quantization as tq
    from lloydmax.integrations.torch_ao import apply_recipe, eager_mapping

    wrapped = tq.QuantWrapper(copy.deepcopy(net))
    wrapped.qconfig = tq.get_default_qconfig("x86")
    apply_recipe(None, {"quantize": [{"layers": ["module.8", "module.10"], "centroids": 8}]}, wrapped)
    prepared = tq.prepare(wrapped)
    prepared(x)
    return tq.convert(prepared, mapping=eager_mapping())


@kind
def torchao(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    from lloydmax.integrations.torchao import CodebookWeightConfig
    from torchao.quantization import quantize_

    def wanted(module: nn.Module, name: str) -> bool:
        return isinstance(module, nn.Linear)

    student = copy.deepcopy(net)
    quantize_(student, CodebookWeightConfig(4, step="prepare"), wanted)
    lloydmax.distill(student, net, x, steps=2, listeners=hear)
    quantize_(student, CodebookWeightConfig(4, step="convert"), wanted)
    return student


@kind
def torchao_pt2e(net: nn.Module, x: Tensor, place: Path, hear: list[object]) -> Any:
    from lloydmax.integrations.torchao import CodebookQuantizer
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e

    program = torch.export.export(net, (x,)).module()
    prepared = prepare_pt2e(program, CodebookQuantizer({"quantize": [{"layers": ["8", "10"], "centroids": 8}]}, net))
    prepared(x)
    return convert_pt2e(prepared)
