"""Table c: int8 weights and activations with trained thresholds, and rescaling (Goncharenko et al., ICANN 2019).

MobileNet-v2 goes through the whole path: batch norm folded, thresholds initialized from 100 unlabelled pictures and
trained, or channels rescaled first, and converted to int8 kernels. EfficientNet-Lite0 with its real ImageNet weights
is the network whose ranges are heavy tailed; without labels its figure is the agreement with the float original on
crops of photographs.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Iterator
from functools import partial
from typing import Any

import lloydmax

from published import lite
from published.cells import ONE_RUN, Cell, Claim, Results, above, markdown, told, verdict
from published.lab import Lab

TEACHER = "mobilenet_v2"
LITE = "efficientnet_lite0"
TRAINING_SET = 60_000
SHARE = 0.1
"""Of the training pictures, unlabelled: as published."""
BATCH = 100
MODES = [(g, s) for g in ("tensor", "channel") for s in ("symmetric", "asymmetric")]
NAMES = {"tensor": "scalar", "channel": "vector"}
WAYS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "none": ("without training", []),
    "thresholds": ("trained thresholds", [{"step": "train_thresholds"}]),
    "rescale": ("depthwise rescaling", [{"step": "equalize", "method": "rescale"}]),
    "equalize": ("cross-layer equalization", [{"step": "equalize"}]),
    "equalize thresholds": ("equalization, trained thresholds", [{"step": "equalize"}, {"step": "train_thresholds"}]),
    "equalize multipliers": ("equalization, multipliers", [{"step": "equalize"}, {"step": "train_multipliers"}]),
}
PUBLISHED = {
    "tensor symmetric": 8.1,
    "tensor asymmetric": 19.86,
    "channel symmetric": 71.11,
    "channel asymmetric": 71.39,
}
PUBLISHED_ORIGINAL = 71.55
PUBLISHED_SCALAR = {"none": 1.6, "rescale": 67.0, "equalize multipliers": 71.0}


def cells(lab: Lab, seeds: int) -> Iterator[Cell]:
    """All experiments."""
    for way, (_, steps) in WAYS.items():
        trains = any("train" in step["step"] for step in steps)
        for granularity, scheme in MODES:
            headline = way in ("none", "thresholds", "equalize")
            scalar = granularity == "tensor"
            for seed in range(seeds if headline else 1):
                key = _key(granularity, scheme, way) | {"seed": seed}
                priority = (0 if headline else 1 + (not scalar)) + 3 * (seed > 0) + trains
                yield Cell("c", {"teacher": TEACHER, **key}, partial(one, lab, **key), priority, TEACHER)
    for way in ("none", "equalize"):
        for granularity, scheme in MODES if way == "none" else MODES[:2]:
            key = _key(granularity, scheme, way) | {"seed": 0}
            yield Cell("c", {"teacher": LITE, **key}, partial(heavy_tails, **key), 2)


def _key(granularity: str, scheme: str, way: str) -> dict[str, Any]:
    return {"granularity": granularity, "scheme": scheme, "way": way}


def recipe(granularity: str, scheme: str, way: str, pictures: int, epochs: int, seed: int = 0) -> dict[str, Any]:
    """All layers int8, in and out."""
    training = {"epochs": epochs, "batch_size": min(BATCH, pictures)}
    steps = [{**step, **(training if "train" in step["step"] else {})} for step in WAYS[way][1]]
    rule = {"layers": "all", "quantizer": "uniform", "bits": 8, "scheme": scheme, "granularity": granularity}
    return {
        "version": 1,
        "quantize": [rule],
        "activations": {"bits": 8, "scheme": scheme, "samples": min(100, pictures)},
        "trainable": ["none"],
        "recover": steps,
    }


def one(lab: Lab, granularity: str, scheme: str, way: str, seed: int) -> dict[str, Any]:
    """Accuracy of the converted MobileNet-v2."""
    trains = any("train" in step["step"] for step in WAYS[way][1])
    pictures = min(int(SHARE * TRAINING_SET), lab.images(TEACHER)) if trains else 100
    data = lab.unlabelled("fashion", pictures, seed)
    wanted = recipe(granularity, scheme, way, pictures, max(1, lab.epochs(TEACHER) // 2))
    started = time.process_time()
    result = lloydmax.compress(lab.teacher(TEACHER), wanted, data=data, seed=seed, progress=False)
    seconds, started = time.process_time() - started, time.process_time()
    accuracy = lab.accuracy(result.model)
    return {
        "accuracy": accuracy,
        "share": pictures / TRAINING_SET,
        "compress_seconds": round(seconds, 2),
        "test_seconds": round(time.process_time() - started, 2),
        "reduction": result.report.reduction,
    }


def heavy_tails(granularity: str, scheme: str, way: str, seed: int) -> dict[str, Any]:
    """Agreement of the converted EfficientNet-Lite0 with the original."""
    data, test = lite.crops(100, seed=seed), lite.crops(300, seed=1000)
    wanted = recipe(granularity, scheme, way, len(data), 2)
    result = lloydmax.compress(lite.network(), wanted, data=data, seed=seed, progress=False)
    return {"agreement": lite.agreement(lite.network(), result.model, test)}


def table(results: Results, originals: dict[str, float]) -> str:
    """Markdown."""
    original = originals.get(TEACHER, math.nan)
    parts = [_accuracies(results, original), _heavy(results)]
    return "\n".join([*parts, verdict(_claims(results, original)), ""])


def _accuracies(results: Results, original: float) -> str:
    rows = []
    for way, (name, _) in WAYS.items():
        keys = [{"teacher": TEACHER, **_key(g, s, way)} for g, s in MODES]
        share = results.text("share", "{:.1f} %", **keys[0], seed=0)
        rows.append([name, *(results.text("accuracy", **key) for key in keys), share])
    rows = [row for row in rows if any(text != "-" for text in row[1:-1])]
    if rows:
        rows.append([f"published, trained thresholds ({PUBLISHED_ORIGINAL})", *map(str, PUBLISHED.values()), "10 %"])
    head = ["", *(f"{NAMES[g]} {s}" for g, s in MODES), "share of the training pictures"]
    title = f"c. {TEACHER}, 8-bit weights and activations on int8 kernels; original {100 * original:.2f} %"
    return markdown(title, head, rows)


def _heavy(results: Results) -> str:
    rows = []
    for way in ("none", "equalize"):
        keys = [{"teacher": LITE, **_key(g, s, way)} for g, s in MODES]
        rows.append([WAYS[way][0], *(results.text("agreement", **key) for key in keys)])
    if any(text != "-" for row in rows for text in row[1:]):
        values = [f"{PUBLISHED_SCALAR['none']} to {PUBLISHED_SCALAR['rescale']} of {PUBLISHED_ORIGINAL}", "-", "-", "-"]
        rows.append(["published, MobileNet-v2, rescaled", *values])
    head = ["", *(f"{NAMES[g]} {s}" for g, s in MODES)]
    return markdown(f"c. {LITE}, agreement with the float original on crops of photographs, %", head, rows)


def _claims(results: Results, original: float) -> Iterator[Claim]:
    def losses(granularity: str, scheme: str, way: str) -> list[float]:
        found = results.values("accuracy", teacher=TEACHER, **_key(granularity, scheme, way))
        return [100 * (original - value) for value in found]

    best = losses("channel", "asymmetric", "thresholds")
    text = "vector asymmetric trained thresholds within 0.2 points"
    holds = None if not best or (over := above(best, 0.2)) is None else not over
    yield Claim(f"{text} (loss {told(best)})" if best else text, holds, measured=bool(best))
    trained = [losses(g, s, "thresholds") for g, s in MODES]
    if all(trained):
        means = [statistics.fmean(found) for found in trained]
        text = "the order scalar symmetric, scalar asymmetric, vector symmetric, vector asymmetric, worst first"
        yield Claim(
            f"{text} ({', '.join(f'{mean:.2f}' for mean in means)} points lost)",
            means == sorted(means, reverse=True) if means[0] - means[-1] > ONE_RUN else None,
            f"as they differ by {max(means) - min(means):.2f} points",
        )
    if plain := losses("tensor", "symmetric", "none"):
        text = f"scalar mode failing without training (loss {told(plain)}; published {_points_lost():.0f})"
        yield Claim(text, statistics.fmean(plain) > 20, "as the ranges of this network do not break int8")
        for way in ("thresholds", "rescale", "equalize", "equalize multipliers"):
            if found := losses("tensor", "symmetric", way):
                won = [statistics.fmean(plain) - loss for loss in found]
                yield Claim(f"a gain from {WAYS[way][0]} in scalar symmetric mode ({told(won, '{:+.2f}')})", above(won))
    key: dict[str, Any] = {"teacher": LITE, "granularity": "tensor"}
    bad, good = (100 * results.mean("agreement", **key, way=way) for way in ("none", "equalize"))
    if math.isnan(bad) or math.isnan(good):
        yield Claim(f"{LITE}'s heavy tails", measured=False)
    else:
        text = f"heavy tails repaired by equalization ({LITE}'s scalar agreement {bad:.1f} to {good:.1f} %)"
        yield Claim(text, good > bad + 1)


def _points_lost() -> float:
    return PUBLISHED_ORIGINAL - PUBLISHED_SCALAR["none"]
