"""Table d: mimicking on foreign data with adversarial alignment of low-level features (Tang et al. 2019).

All weights and centroids of a few-bit VGG-16-BN learn from the teacher's outputs on animal silhouettes, in as many
steps in every row; reference samples are unlabelled pictures of the teacher's training set. The published method is
compared with its ablation, the same steps on both domains with the weight of the alignment at 0.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import lloydmax

from published.cells import Cell, Claim, Results, above, markdown, told, verdict
from published.lab import BATCH, Lab

TEACHER = "vgg16_bn"
CENTROIDS = 4
LR = 1e-3
REFERENCES = (64, 16, 256, 1000)
"""The number that is repeated first."""
WEIGHT = 0.1
WAYS = {
    "foreign": "mimicking on foreign data alone",
    "both": "mimicking on both, not aligned",
    "aligned": "mimicking on both, aligned",
    "statistics": "foreign data, batch-norm statistics matched",
    "in-domain": "mimicking on 5,000 in-domain pictures",
}


def cells(lab: Lab, seeds: int) -> Iterator[Cell]:
    """All experiments."""

    def made(priority: int, way: str, references: int = 0, seed: int = 0, domain: str = "silhouettes") -> Cell:
        key: dict[str, Any] = {"way": way, "references": references, "domain": domain, "seed": seed}
        return Cell("d", {"teacher": TEACHER, **key}, partial(one, lab, **key), priority, TEACHER)

    yield made(0, "before")
    for seed in range(seeds):
        later = seed > 0
        yield made(later, "foreign", seed=seed)
        for way in ("both", "aligned"):
            yield made(later, way, REFERENCES[0], seed)
        yield made(1 + later, "statistics", seed=seed)
    yield made(1, "in-domain", domain="fashion")
    for references in REFERENCES[1:]:
        for way in ("aligned", "both"):
            yield made(2, way, references)
    for way, references in (("foreign", 0), ("both", REFERENCES[0]), ("aligned", REFERENCES[0])):
        yield made(4, way, references, domain="photos")


def recipe(lab: Lab, way: str) -> dict[str, Any]:
    """Few-bit codebooks in all layers, everything trained."""
    options: dict[str, Any] = {
        "loss": "mse",
        "steps": lab.epochs(TEACHER) * (lab.images(TEACHER) // BATCH),
        "batch_size": BATCH,
        "lr": LR,
        "precision": "bfloat16",
    }
    step: dict[str, Any] = {"step": "distill"}
    if way in ("both", "aligned", "statistics"):
        step = {"step": "align", "weight": 0.0 if way == "both" else WEIGHT}
    return {
        "version": 1,
        "quantize": [{"layers": "all", "centroids": CENTROIDS}],
        "trainable": ["all"],
        "recover": [] if way == "before" else [step | options],
    }


def one(lab: Lab, way: str, references: int, domain: str, seed: int) -> dict[str, Any]:
    """Accuracy of the student trained in one way."""
    data = None if way == "before" else lab.unlabelled(domain, lab.images(TEACHER), seed)
    reference = lab.unlabelled("fashion", references, 1000 + seed) if references else None
    started = time.process_time()
    result = lloydmax.compress(
        lab.teacher(TEACHER), recipe(lab, way), data=data, reference_data=reference, seed=seed, progress=False
    )
    seconds = time.process_time() - started
    said = result.report.recovery[0] if result.report.recovery else {}
    figures = {name: value for name, value in said.items() if isinstance(value, float) or name == "layer"}
    return {**figures, "accuracy": lab.accuracy(result.model), "compress_seconds": round(seconds, 2)}


def table(results: Results, originals: dict[str, float]) -> str:
    """Markdown."""
    original = originals.get(TEACHER, math.nan)
    rows = []
    for domain in ("silhouettes", "photos", "fashion"):
        for way, name in WAYS.items():
            for references in (0, *sorted(REFERENCES)):
                key: dict[str, Any] = {"way": way, "references": references, "domain": domain}
                if results.values("accuracy", **key):
                    rows.append(
                        [
                            name,
                            domain,
                            str(references or ""),
                            results.text("accuracy", **key),
                            results.text("discriminator_accuracy_before", "{:.2f}", 1.0, **key),
                            results.text("discriminator_accuracy", "{:.2f}", 1.0, **key),
                            results.text("compress_seconds", "{:.0f}", 1.0, **key),
                        ]
                    )
    title = (
        f"d. {TEACHER}, {CENTROIDS} centroids a layer: original {100 * original:.2f} %, before recovery "
        f"{results.text('accuracy', way='before')} %; published figures not found"
    )
    head = ["", "data", "reference samples", "accuracy", "discriminator before", "after", "CPU seconds"]
    return "\n".join([markdown(title, head, rows), verdict(_claims(results)), ""])


def _claims(results: Results) -> Iterator[Claim]:
    for references in REFERENCES:
        key: dict[str, Any] = {"references": references, "domain": "silhouettes"}
        gains = _gains(results, {"way": "aligned", **key}, {"way": "both", **key})
        text = f"a gain from alignment with {references} reference samples"
        if not gains:
            yield Claim(text, measured=False)
            continue
        before, after = (
            results.mean(f"discriminator_accuracy{when}", way="aligned", **key) for when in ("_before", "")
        )
        why = f"though the discriminator goes from {before:.2f} to {after:.2f}"
        yield Claim(f"{text} ({told(gains, '{:+.2f}')})", above(gains), "" if math.isnan(after) else why)
    foreign: dict[str, Any] = {"way": "foreign", "domain": "silhouettes"}
    others = {
        f"a gain from mimicking on {REFERENCES[0]} reference samples, too": ("both", REFERENCES[0]),
        "a gain from matching batch-norm statistics without any": ("statistics", 0),
    }
    for text, (way, references) in others.items():
        gains = _gains(results, {"way": way, "references": references, "domain": "silhouettes"}, foreign)
        yield Claim(
            f"{text} ({told(gains, '{:+.2f}')})" if gains else text, above(gains) if gains else None, "", bool(gains)
        )


def _gains(results: Results, one: dict[str, Any], other: dict[str, Any]) -> list[float]:
    """Differences in points of the runs that have a seed in common."""
    pairs = zip(results.values("accuracy", **one), results.values("accuracy", **other), strict=False)
    return [100 * (a - b) for a, b in pairs]
