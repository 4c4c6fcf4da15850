"""Table b: batch-norm statistics re-estimated on the compressed model (He & Cheng, ECCV 2018)."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import lloydmax
import torch
from lloydmax.fitting.codebook import fit_codebook
from lloydmax.student.attachment import attach
from torch import nn

from published.cells import ONE_RUN, Cell, Claim, Results, markdown, told, verdict
from published.lab import DEMO, Lab

TEACHERS = ("mobilenet_v2", "vgg16_bn", DEMO, "resnet50")
BITS = (3, 2, 4, 5)
"""The headline, where the codebooks cost much and not everything, first."""
SAMPLES = (1000, 64, 256, 4000)
"""The published number first."""
CALIBRATION = 400
"""Pictures for the ranges of activations, as published."""
MEMORY = 8.0
"""GiB that the one exact pass may take."""
WAYS: dict[str, tuple[str, dict[str, Any]]] = {
    "fashion": ("fashion", {}),
    "relative": ("silhouettes", {"relative": True}),
    "foreign": ("silhouettes", {}),
}
"""Way -> domain of the unlabelled pictures, options of ``renormalize``."""
PUBLISHED = {"resnet50": (75.30, 73.82), "vgg16_bn": (70.44, 69.15)}
"""ImageNet top-1 of the original and with 4-bit weights (first and last layer 8 bits) and 8-bit activations."""
MINUTES = 5.0


def cells(lab: Lab, seeds: int) -> Iterator[Cell]:
    """All experiments."""
    for teacher in TEACHERS:
        later = 2 * (teacher == "resnet50")

        def made(priority: int, *, teacher: str = teacher, **key: Any) -> Cell:
            return Cell("b", {"teacher": teacher, **key}, partial(one, lab, teacher, **key), priority, teacher)

        def integer(priority: int, *, teacher: str = teacher, **key: Any) -> Cell:
            run = partial(with_activations, lab, teacher, **key)
            return Cell("b", {"teacher": teacher, "codebooks": "W4A8", **key}, run, priority, teacher)

        for bits in BITS:
            for way in ("none", *WAYS):
                samples = 0 if way == "none" else SAMPLES[0]
                rare = bits == 5 or (way == "foreign" and bits != BITS[0])
                repeated = bits == BITS[0] and way in ("fashion", "relative") and not later
                for seed in range(seeds if repeated else 1):
                    priority = (3 if rare else int(seed > 0)) + later
                    yield made(priority, codebooks="tensor", bits=bits, way=way, samples=samples, seed=seed)
        for samples in SAMPLES[1:]:
            for way in ("fashion", "relative"):
                yield made(2 + 2 * later, codebooks="tensor", bits=BITS[0], way=way, samples=samples, seed=0)
        for way in ("none", "fashion"):
            samples = 0 if way == "none" else SAMPLES[0]
            yield made(2 + later // 2, codebooks="channel", bits=4, way=way, samples=samples, seed=0)
            yield integer(2 + later // 2, way=way, samples=samples, seed=0)
    for mode in ("fast", "exact"):
        yield Cell("b", {"teacher": "torchvision resnet50 at 224", "way": mode}, partial(seconds_at_224, mode), 8)


def one(lab: Lab, teacher: str, codebooks: str, bits: int, way: str, samples: int, seed: int) -> dict[str, Any]:
    """Accuracy with codebooks, re-normalized in one way or not at all."""
    student = compressed(lab.teacher(teacher), codebooks, bits)
    seconds = 0.0
    if way != "none":
        domain, options = WAYS[way]
        data, started = lab.unlabelled(domain, samples, seed), time.process_time()
        lloydmax.renormalize(student, data, lab.teacher(teacher), samples=samples, memory=MEMORY, seed=seed, **options)
        seconds = time.process_time() - started
    return {"accuracy": lab.accuracy(student), "renormalize_seconds": round(seconds, 2)}


def compressed(teacher: nn.Module, codebooks: str, bits: int) -> nn.Module:
    """A copy with codebooks in all layers: one a ``tensor``, or one a ``channel`` as published, and then 8 bits in
    the first and the last layer."""
    student, layers = copy.deepcopy(teacher), layer_names(teacher)
    for name in layers:
        outer = codebooks == "channel" and name in (layers[0], layers[-1])
        weight = teacher.get_parameter(f"{name}.weight").detach()
        attach(student, f"{name}.weight", fit_codebook(weight, 256 if outer else 2**bits, codebooks))
    return student.requires_grad_(False)


def layer_names(model: nn.Module) -> list[str]:
    """Convolutions and linear layers, in order."""
    return [name for name, module in model.named_modules() if isinstance(module, (nn.Conv2d, nn.Linear))]


def with_activations(lab: Lab, teacher: str, way: str, samples: int, seed: int) -> dict[str, Any]:
    """As published: 4 bits a channel, re-normalized, then 8-bit activations from 400 pictures, on int8 kernels.

    The batch norms are folded for the int8 graph. That scales each channel's 16 values, which are still 16, so that
    fitting 16 centroids a channel again keeps them exactly.
    """
    student = compressed(lab.teacher(teacher), "channel", 4)
    if way != "none":
        data = lab.unlabelled("fashion", samples, seed)
        lloydmax.renormalize(student, data, samples=samples, memory=MEMORY, seed=seed)
    dense, layers = copy.deepcopy(lab.teacher(teacher)), layer_names(lab.teacher(teacher))
    with torch.no_grad():
        for name in layers:
            dense.get_parameter(f"{name}.weight").copy_(student.get_submodule(name).weight)  # type: ignore[arg-type]
        for name, buffer in dense.named_buffers():
            buffer.copy_(student.get_buffer(name))
    rules = [{"layers": "all", "centroids": 16}, {"layers": [layers[0], layers[-1]], "centroids": 256}]
    recipe = {
        "version": 1,
        "quantize": [{**rule, "granularity": "channel"} for rule in rules],
        "activations": {"bits": 8, "samples": CALIBRATION},
        "trainable": ["none"],
    }
    data = lab.unlabelled("fashion", CALIBRATION, seed)
    result = lloydmax.compress(dense, recipe, data=data, seed=seed, progress=False)
    return {"accuracy": lab.accuracy(result.model)}


def seconds_at_224(mode: str, pictures: int = 1000) -> dict[str, Any]:
    """Time of re-normalizing torchvision's ResNet-50 with 1,000 pictures of 224 x 224; noise serves for that."""
    from torchvision.models import resnet50

    torch.manual_seed(0)
    teacher = resnet50(weights=None).eval().to(memory_format=torch.channels_last)
    student, data = compressed(teacher, "tensor", 4), torch.randn(pictures, 3, 224, 224)
    started, wall = time.process_time(), time.perf_counter()
    measured = lloydmax.renormalize(student, data, samples=pictures, mode=mode)
    seconds = {"renormalize_seconds": time.process_time() - started, "wall": time.perf_counter() - wall}
    return {**seconds, "threads": torch.get_num_threads(), "how": measured["how"]}


def table(results: Results, originals: dict[str, float]) -> str:
    """Markdown."""
    parts = [_by_bits(results, originals), _by_samples(results, originals), _as_published(results, originals)]
    parts.append(_time(results))
    return "\n".join([*parts, verdict(_claims(results, originals)), ""])


def _by_bits(results: Results, originals: dict[str, float]) -> str:
    rows = []
    for teacher, original in originals.items():
        for bits in sorted(BITS):
            key: dict[str, Any] = {"teacher": teacher, "codebooks": "tensor", "bits": bits}
            ways = [results.text("accuracy", **key, way="none")]
            ways += [results.text("accuracy", **key, way=way, samples=SAMPLES[0]) for way in WAYS]
            if any(text != "-" for text in ways):
                seconds = results.text("renormalize_seconds", "{:.1f}", 1.0, **key, way="fashion", samples=SAMPLES[0])
                rows.append([f"{teacher} ({100 * original:.2f} %)", str(bits), *ways, seconds])
    head = ["", "bits", "before", "1,000 in-domain", "1,000 silhouettes, relative", "1,000 silhouettes, exact"]
    return markdown("b. One codebook a layer, all layers, re-normalized", [*head, "CPU seconds"], rows)


def _by_samples(results: Results, originals: dict[str, float]) -> str:
    rows = []
    for teacher in originals:
        for way, (domain, _) in list(WAYS.items())[:2]:
            key: dict[str, Any] = {"teacher": teacher, "codebooks": "tensor", "bits": BITS[0], "way": way}
            found = [results.text("accuracy", **key, samples=samples) for samples in sorted(SAMPLES)]
            if any(text != "-" for text in found):
                rows.append([teacher, domain + (", relative" if way == "relative" else ""), *found])
    head = ["", "pictures", *(f"{samples:,}" for samples in sorted(SAMPLES))]
    return markdown(f"b. {BITS[0]}-bit codebooks by the number of pictures", head, rows)


def _as_published(results: Results, originals: dict[str, float]) -> str:
    rows = []
    for teacher, original in originals.items():
        key: dict[str, Any] = {"teacher": teacher, "codebooks": "channel", "bits": 4}
        published = PUBLISHED.get(teacher)
        rows.append(
            [
                f"{teacher} ({100 * original:.2f} %)",
                *(results.text("accuracy", **key, way=way) for way in ("none", "fashion")),
                *(results.text("accuracy", teacher=teacher, codebooks="W4A8", way=way) for way in ("none", "fashion")),
                "-" if published is None else f"{published[0]} to {published[1]}",
            ]
        )
    rows = [row for row in rows if any(cell != "-" for cell in row[1:-1])]
    head = ["", "4 bits a channel, outer layers 8", "re-normalized", "8-bit activations", "both", "published, both"]
    return markdown("b. As published", head, rows)


def _time(results: Results) -> str:
    rows = []
    for mode in ("fast", "exact"):
        key: dict[str, Any] = {"teacher": "torchvision resnet50 at 224", "way": mode}
        figures = [results.text(name, "{:.0f}", 1.0, **key) for name in ("renormalize_seconds", "wall", "threads")]
        rows.append([f"mode {mode}", *figures, f"under {MINUTES:.0f} minutes"])
    rows = [row for row in rows if row[1] != "-"]
    head = [
        "torchvision's ResNet-50, 1,000 pictures of 224 x 224",
        "CPU seconds",
        "wall seconds",
        "threads",
        "published",
    ]
    return markdown("b. Time", head, rows)


def _claims(results: Results, originals: dict[str, float]) -> Iterator[Claim]:
    for teacher, original in originals.items():
        gains = {way: _gains(results, teacher, way) for way in WAYS}
        if not gains["fashion"]:
            yield Claim(f"{teacher}", measured=False)
            continue
        names = {
            "fashion": "in-domain",
            "relative": "on silhouettes, relative to the teacher",
            "foreign": "on silhouettes",
        }
        for way, found in gains.items():
            if found:
                text = f"{teacher}'s gain {names[way]} ({_listed(found)})"
                worst, best = min(found.values()), max(found.values())
                yield Claim(
                    text, worst > -0.5 and best > 1, "a loss at some" if worst <= -0.5 else "little to win back"
                )
        after = results.mean("accuracy", teacher=teacher, codebooks="W4A8", way="fashion")
        if teacher in PUBLISHED and not math.isnan(after):
            before, published = PUBLISHED[teacher]
            loss = [100 * (original - after)]
            text = f"{teacher}'s loss with 4-bit weights and 8-bit activations of {told(loss)} "
            yield Claim(text + f"(published {before - published:.2f})", loss[0] <= before - published)
        key: dict[str, Any] = {"teacher": teacher, "codebooks": "tensor", "bits": BITS[0], "way": "fashion"}
        few, many = (100 * results.mean("accuracy", **key, samples=samples) for samples in (1000, 4000))
        if not math.isnan(few - many):
            text = f"1,000 pictures enough for {teacher} (4,000 change {many - few:+.2f} points)"
            yield Claim(text, abs(few - many) <= ONE_RUN)
    for mode in ("fast", "exact"):
        seconds = results.mean("wall", teacher="torchvision resnet50 at 224", way=mode)
        text = f"the time at 224 x 224, mode {mode}"
        if math.isnan(seconds):
            yield Claim(text, measured=False)
        else:
            yield Claim(f"{text} ({seconds / 60:.1f} minutes; published under {MINUTES:.0f})", seconds < 60 * MINUTES)


def _gains(results: Results, teacher: str, way: str) -> dict[int, float]:
    """Points won at each number of bits."""
    found = {}
    for bits in sorted(BITS):
        key: dict[str, Any] = {"teacher": teacher, "codebooks": "tensor", "bits": bits}
        gain = results.mean("accuracy", **key, way=way, samples=SAMPLES[0]) - results.mean(
            "accuracy", **key, way="none"
        )
        if not math.isnan(gain):
            found[bits] = 100 * gain
    return found


def _listed(gains: dict[int, float]) -> str:
    return ", ".join(f"{gain:+.2f} points at {bits} bits" for bits, gain in gains.items())
