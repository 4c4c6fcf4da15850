"""Table a: codebooks in the published layer ranges, retraining of the rest (Thonglek et al., IJCNN 2020).

Retraining without labels goes through ``lloydmax.compress``: published layer ranges, biases of one value each (or
left alone), mean squared error between the outputs on pictures of another domain. Retraining with labels trains the
same parameters of the same compressed model from the labels of as many pictures of the teacher's domain, in as many
steps of the same optimizer. The third way is label-free on pictures of the teacher's domain: an upper reference.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import lloydmax
import torch
import torch.nn.functional as F
from lloydmax.checkpoint import accountings
from lloydmax.fitting.fit import fit
from lloydmax.recovery.preparation import prepare
from torch import Tensor, nn

from published.cells import Cell, Claim, Results, above, markdown, told, verdict
from published.lab import BATCH, Lab

LAYERS: dict[str, dict[str, Any]] = {
    "vgg16": {"layers": "14-15"},
    "resnet50": {"layers": "13-49", "except": ["*.downsample.*"]},
}
CENTROIDS = {"vgg16": (32, 8, 16, 64, 128, 256), "resnet50": (256, 16, 32, 64, 128)}
"""The headline first."""
PUBLISHED: dict[str, dict[str, Any]] = {
    "vgg16": {
        "loss": 0.34,
        "gap": 0.11,
        "size": 81.10,
        "original": 75.12,
        "before": {8: 52.1, 16: 61.0, 32: 69.9, 64: 70.5, 128: 71.0, 256: 71.8},
        "after": {8: 52.9, 16: 64.0, 32: 74.8, 64: 74.8, 128: 74.9, 256: 74.9},
    },
    "resnet50": {
        "loss": 0.71,
        "gap": 0.03,
        "size": 52.45,
        "original": 75.8,
        "before": {16: 32.8, 32: 39.8, 64: 44.3, 128: 49.2, 256: 65.2},
        "after": {16: 34.0, 32: 42.0, 64: 48.1, 128: 54.0, 256: 75.0},
    },
}
"""Points of ImageNet top-1; the curves are read off a plot, to 0.15 points; ResNet-50's original, too."""
LR = 4e-4
WAYS = ("silhouettes", "labels", "fashion")
OTHERS = ("photos", "letters", "digits", "icons")
ACCOUNTINGS = ("packed", "entropy_coded", "gzip_float32")
Run = Callable[..., dict[str, Any]]
BIASES = {"one": "one centroid a layer", "kept": "kept"}


def cells(lab: Lab, seeds: int) -> Iterator[Cell]:
    """All experiments."""
    for place, (teacher, centroids) in enumerate(CENTROIDS.items()):

        def made(run: Run, priority: int, *, teacher: str = teacher, **key: Any) -> Cell:
            return Cell("a", {"teacher": teacher, **key}, partial(run, lab, teacher, **key), priority, teacher)

        for rank, k in enumerate(centroids):
            for biases in BIASES:
                for codebooks in ("kmeans", "linear"):
                    priority = place if rank == 0 else (2 if biases == "one" else 4) + place
                    yield made(before, priority, k=k, biases=biases, what=codebooks)
            for seed in range(seeds if rank == 0 else 1):
                for way in WAYS if rank == 0 else WAYS[:1]:
                    yield made(retrained, place if rank == 0 else 2 + 3 * place, k=k, biases="one", what=way, seed=seed)
        yield made(retrained, 1 + 4 * place, k=centroids[0], biases="kept", what=WAYS[0], seed=0)
        for domain in OTHERS if place == 0 else ():
            yield made(retrained, 2, k=centroids[0], biases="one", what=domain, seed=0)


def recipe(lab: Lab, teacher: str, k: int, biases: str) -> dict[str, Any]:
    """The published configuration, with this many centroids; ``biases``: ``one`` centroid a layer, or ``kept``."""
    rules: list[dict[str, Any]] = [{**LAYERS[teacher], "centroids": k}]
    if biases == "one":
        rules.append({"layers": "all", "parameter": "bias", "centroids": 1})
    steps = lab.epochs(teacher) * (lab.images(teacher) // BATCH)
    distill = {
        "step": "distill",
        "loss": "mse",
        "steps": steps,
        "batch_size": BATCH,
        "optimizer": "adamw",
        "lr": LR,
        "warmup": 0,
        "held_out": 0,
        "precision": "bfloat16",
    }
    return {"version": 1, "quantize": rules, "trainable": ["unquantized"], "recover": [distill]}


def before(lab: Lab, teacher: str, k: int, biases: str, what: str) -> dict[str, Any]:
    """Accuracy before any retraining, with ``kmeans`` codebooks or ``linear`` (evenly spaced) ones."""
    original = lab.teacher(teacher)
    plan = lloydmax.plan(original, recipe(lab, teacher, k, biases))
    student, codebooks = copy.deepcopy(original), fit(original, plan)
    if what == "linear":
        codebooks = {
            name: linear(original.get_parameter(name).detach(), codebook.k) if codebook.k > 1 else codebook
            for name, codebook in codebooks.items()
        }
    prepare(student, plan, codebooks)
    sizes = accountings(student).to_dict()
    return {"accuracy": lab.accuracy(student), "bytes": sizes, "code_reduction": plan.code_reduction}


def linear(weight: Tensor, k: int) -> lloydmax.Codebook:
    """Levels evenly spaced from the least to the greatest weight."""
    low, high = weight.min(), weight.max()
    codes = ((weight - low) / (high - low) * (k - 1)).round().to(torch.uint8)
    return lloydmax.Codebook(torch.linspace(float(low), float(high), k), codes, "tensor", 0)


class Curve:
    """Listens to ``lloydmax.compress``: accuracy at the end of epochs, CPU seconds of the retraining alone."""

    def __init__(self, measure: Callable[[nn.Module], float], steps: int) -> None:
        self.measure, self.steps, self.accuracy = measure, steps, list[float]()
        self.student: nn.Module | None = None
        self.seconds = self._elsewhere = 0.0

    def evaluate(self, model: nn.Module) -> float:
        """Given to ``compress``, which calls it with the original, then the student, then the finished model."""
        self.student = model
        return math.nan

    @lloydmax.hookimpl
    def lloydmax_stage_started(self, stage: str) -> None:
        """Starts the clock."""
        if stage == "distill":
            self.seconds = -time.process_time()

    @lloydmax.hookimpl
    def lloydmax_stage_finished(self, stage: str) -> None:
        """Stops the clock; measuring accuracy does not count."""
        if stage == "distill":
            self.seconds += time.process_time() - self._elsewhere

    @lloydmax.hookimpl
    def lloydmax_step(self, index: int, total: int) -> None:
        """Measures after every epoch but the last, whose result is the finished model."""
        if index % self.steps == 0 and index < total:
            self.note(self.student)

    def note(self, model: nn.Module | None) -> None:
        """Measure now."""
        assert model is not None
        started = time.process_time()
        self.accuracy.append(self.measure(model))
        self._elsewhere += time.process_time() - started


def retrained(lab: Lab, teacher: str, k: int, biases: str, what: str, seed: int) -> dict[str, Any]:
    """Accuracy by epoch of retraining in one way: ``labels``, or label-free on pictures of the domain ``what``."""
    original, wanted = lab.teacher(teacher), recipe(lab, teacher, k, biases)
    watched = teacher == "vgg16" and seed == 0
    curve = Curve(lab.accuracy if watched else lambda _: math.nan, lab.images(teacher) // BATCH)
    if what == "labels":
        student, _ = lab.student(teacher, wanted)
        train_with_labels(student, *lab.labelled(lab.images(teacher), seed), wanted["recover"][0], seed, curve)
        return _figures(curve, lab.accuracy(student))
    data = lab.unlabelled(what, lab.images(teacher), seed)
    result = lloydmax.compress(
        original, wanted, data=data, evaluate=curve.evaluate, seed=seed, progress=False, listeners=[curve]
    )
    sizes = {"bytes": result.report.bytes.to_dict(), "code_reduction": result.plan.code_reduction}
    agreement = {"agreement": result.report.agreement.after, "pictures": len(data)}
    return {**_figures(curve, lab.accuracy(result.model)), **sizes, **agreement}


def _figures(curve: Curve, final: float) -> dict[str, Any]:
    epochs = [None if math.isnan(value) else value for value in curve.accuracy]
    return {"accuracy": final, "epochs": [*epochs, final], "train_seconds": round(curve.seconds, 2)}


def train_with_labels(
    student: nn.Module, x: Tensor, labels: Tensor, options: dict[str, Any], seed: int, curve: Curve
) -> None:
    """Conventional retraining of what requires a gradient: cross-entropy, else as ``distill`` with these options."""
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=options["lr"], weight_decay=0.0, fused=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, options["steps"])
    generator, bfloat16 = torch.Generator().manual_seed(seed), options["precision"] == "bfloat16"
    curve.lloydmax_stage_started("distill")
    order = torch.empty(0, dtype=torch.int64)
    for step in range(1, options["steps"] + 1):
        if len(order) < BATCH:
            order = torch.randperm(len(x), generator=generator)
        rows, order = order[:BATCH], order[BATCH:]
        with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
            logits = student(x[rows].contiguous(memory_format=torch.channels_last))
        loss = F.cross_entropy(logits.float(), labels[rows])
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
        curve.student = student
        curve.lloydmax_step(step, options["steps"])
    curve.lloydmax_stage_finished("distill")


def table(results: Results, originals: dict[str, float]) -> str:
    """Markdown."""
    parts: list[str] = []
    claims: list[Claim] = []
    for teacher, original in originals.items():
        k = CENTROIDS[teacher][0]
        parts.append(_ways(results, teacher, k, original))
        parts.append(_sweep(results, teacher, original))
        parts.append(_sizes(results, teacher))
        claims += _claims(results, teacher, k, original)
    return "\n".join([*parts, verdict(claims), ""])


def _ways(results: Results, teacher: str, k: int, original: float) -> str:
    names = {
        "silhouettes": "no labels, animal silhouettes",
        "labels": "labels, the teacher's training pictures",
        "fashion": "no labels, the teacher's training pictures",
        **{domain: f"no labels, {domain}" for domain in OTHERS},
    }
    rows = []
    for biases in BIASES:
        start = results.text("accuracy", teacher=teacher, k=k, biases=biases, what="kmeans")
        for way, name in names.items():
            key: dict[str, Any] = {"teacher": teacher, "k": k, "biases": biases, "what": way}
            if not (final := results.values("accuracy", **key)):
                continue
            middle = [f"{100 * x:.2f}" for epochs in results.values("epochs", **key, seed=0) for x in epochs[:-1] if x]
            rows.append(
                [
                    name,
                    BIASES[biases],
                    start,
                    " / ".join(middle) or "-",
                    results.text("accuracy", **key),
                    f"{100 * (original - sum(final) / len(final)):+.2f}",
                    results.text("train_seconds", "{:.0f}", 1.0, **key),
                ]
            )
    published = PUBLISHED[teacher]
    title = (
        f"a. {teacher}, {k} centroids in layers {LAYERS[teacher]['layers']}: original {100 * original:.2f} %; "
        f"published loss {published['loss']} points, gap to labels {published['gap']} points"
    )
    head = ["retrained with", "biases", "before", "after each epoch, first seed", "at the end", "loss", "CPU seconds"]
    return markdown(title, head, rows)


def _sweep(results: Results, teacher: str, original: float) -> str:
    published: dict[str, Any] = PUBLISHED[teacher]
    rows = []
    for k in sorted(CENTROIDS[teacher]):
        key: dict[str, Any] = {"teacher": teacher, "k": k}
        rows.append(
            [
                str(k),
                *(
                    results.text("accuracy", **key, biases=biases, what=what)
                    for biases in ("kept", "one")
                    for what in ("kmeans", "linear")
                ),
                results.text("accuracy", **key, biases="one", what="silhouettes"),
                *(f"{published[when][k] - published['original']:+.1f}" for when in ("before", "after")),
            ]
        )
    head = ["k", "k-means", "linear", "k-means, biases one value", "linear, biases one value", "retrained"]
    title = f"a. {teacher}: accuracy by centroids; original {100 * original:.2f} %"
    return markdown(title, [*head, "published before", "published after"], rows)


def _sizes(results: Results, teacher: str) -> str:
    rows, published = [], f"{PUBLISHED[teacher]['size']:.2f} %"
    for k in sorted(CENTROIDS[teacher]):
        for what in ("kmeans", "linear"):
            key: dict[str, Any] = {"teacher": teacher, "k": k, "biases": "one", "what": what}
            for sizes, codes in zip(
                results.values("bytes", **key), results.values("code_reduction", **key), strict=True
            ):
                saved = [100 * (1 - sizes[name] / sizes["original"]) for name in ACCOUNTINGS]
                row = [f"{what}, k = {k}", f"{100 * codes:.2f} %", *(f"{value:.2f} %" for value in saved)]
                rows.append([*row, published if k == CENTROIDS[teacher][0] else ""])
    head = ["smaller by", "codes and codebooks", "packed file", "entropy-coded file", "gzip of float32", "published"]
    return markdown(f"a. {teacher}: size, biases of one value", head, rows)


def _claims(results: Results, teacher: str, k: int, original: float) -> Iterator[Claim]:
    published = PUBLISHED[teacher]
    key: dict[str, Any] = {"teacher": teacher, "k": k, "biases": "one"}
    ours, labels = (results.values("accuracy", **key, what=way) for way in ("silhouettes", "labels"))
    if not ours or not labels:
        yield Claim(f"{teacher}'s retraining", measured=False)
        return
    loss = [100 * (original - value) for value in ours]
    kept = 100 * (original - results.mean("accuracy", teacher=teacher, k=k, biases="kept", what="kmeans"))
    passes, pictures = len(results.values("epochs", **key, what="silhouettes")[0]), results.mean("pictures", **key)
    yield Claim(
        f"{teacher}'s loss without labels of {told(loss)} (published {published['loss']})",
        _not(above(loss, published["loss"])),
        f"since {passes} passes over {pictures:,.0f} pictures (published: 100 epochs) do not make up for biases of one "
        f"value (with biases kept the codebooks alone lose {kept:.2f})",
    )
    gaps = [100 * (b - a) for a, b in zip(ours, labels, strict=False)]
    text = f"{teacher}'s gap to retraining with labels of {told(gaps)} (published {published['gap']})"
    yield Claim(text, _not(above(gaps, published["gap"])))
    yield from _drop(results, teacher, k, original)
    mine, other = (results.mean("train_seconds", **key, what=way) for way in ("silhouettes", "labels"))
    yield Claim(
        f"{teacher}'s retraining faster than with labels ({mine:.0f} against {other:.0f} CPU seconds)",
        mine < other,
        "since as many steps cost as much and the teacher's outputs come on top",
    )


def _not(holds: bool | None) -> bool | None:
    return None if holds is None else not holds


def _drop(results: Results, teacher: str, k: int, original: float) -> Iterator[Claim]:
    published = PUBLISHED[teacher]["original"] - PUBLISHED[teacher]["before"][k]
    drops = {
        (what, biases): 100 * (original - results.mean("accuracy", teacher=teacher, k=k, biases=biases, what=what))
        for what in ("kmeans", "linear")
        for biases in BIASES
    }
    if any(math.isnan(value) for value in drops.values()):
        yield Claim(f"{teacher}'s drop before retraining", measured=False)
        return
    figures = (
        f"with k-means {drops['kmeans', 'one']:.2f}, with evenly spaced levels {drops['linear', 'one']:.2f}, and with "
        f"biases kept {drops['kmeans', 'kept']:.2f} and {drops['linear', 'kept']:.2f}"
    )
    text = f"{teacher}'s large drop before retraining (published {published:.1f} points; {figures})"
    yield Claim(text, drops["kmeans", "one"] >= published / 2, "since these codebooks cost this network little")
