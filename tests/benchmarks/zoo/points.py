"""Where the points are that a network of the zoo has lost: which layers, and which lever would win how many of them.

    LLOYDMAX_ZOO=CHECKPOINTS python tests/benchmarks/zoo/points.py --networks a,b [--bits 3,2] [--rows layers,levers]

The base is what ``recipe_for`` makes with data at effort 0. *Layers*: the score with the original's weights back in one
layer, the others as they are. *Levers*: the score of the same recipe with one thing changed, at the same bytes but for
the last lever, which shows what one bit more buys. *Damage*: the distance of the outputs from the original's on test
inputs, as a share of that of one answer to all of them; finer than the score. Cells are kept in ``--folder`` as
``run.py`` keeps its own.
"""

from __future__ import annotations

import argparse
import copy
import logging
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import lloydmax
import torch
from lloydmax.data import unlabelled
from lloydmax.teacher.agreement import Comparison
from lloydmax.teacher.judge import Judge
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

from published.cells import Cell, Store, markdown

from zoo.network import Loaded, Missing
from zoo.registry import NETWORKS
from zoo.rows import SMALLEST, weights

LAYERS = 5
"""Layers that are told: those that win most."""
Recipe = dict[str, Any]


def _rules(**change: Any) -> Callable[[Recipe], Recipe]:
    """The recipe with something else in every rule for weights; None takes a word out."""

    def changed(recipe: Recipe) -> Recipe:
        rules = [{key: value for key, value in (rule | change).items() if value is not None} for rule in _rule(recipe)]
        return recipe | {"quantize": rules}

    return changed


def _rule(recipe: Recipe) -> list[Recipe]:
    rules: list[Recipe] = recipe["quantize"]
    return rules


def _without(*steps: str) -> Callable[[Recipe], Recipe]:
    return lambda recipe: recipe | {"recover": [step for step in recipe["recover"] if step["step"] not in steps]}


def _first(**step: Any) -> Callable[[Recipe], Recipe]:
    """The recipe with another step before the others."""
    return lambda recipe: recipe | {"recover": [step, *_without(step["step"])(recipe)["recover"]]}


def _distill(**change: Any) -> Callable[[Recipe], Recipe]:
    return lambda recipe: (
        recipe | {"recover": [step | change if step["step"] == "distill" else step for step in recipe["recover"]]}
    )


LEVERS: dict[str, tuple[float, float, Callable[[Recipe], Recipe]]] = {
    "k-means alone": (0, 0.0, lambda recipe: recipe | {"recover": []}),
    "all weights count alike": (0, 0.0, _rules(importance=None)),
    "narrow tables (16)": (0, 0.0, _rules(centroids=16)),
    "better codes (reconstruct)": (0, 0.0, _first(step="reconstruct", samples=256)),
    "outputs' moments not matched": (0, 0.0, _without("match_moments", "renormalize")),
    "300 steps of distill": (0, 1.0, lambda recipe: recipe),
    "300 steps, codes fixed": (0, 1.0, _distill(codes="fixed")),
    "300 steps, no features": (0, 1.0, _distill(features=0.0)),
    "300 steps, no views": (0, 1.0, _distill(augment=[], mixup=0.0, cutmix=0.0)),
    "900 steps": (0, 3.0, lambda recipe: recipe),
    "3,000 steps": (0, 10.0, lambda recipe: recipe),
    "one bit more": (1, 0.0, lambda recipe: recipe),
}
"""Title -> bits more, effort, and what is changed in the recipe that ``recipe_for`` makes for them."""


def made(loaded: Loaded, bits: float, effort: float, change: Callable[[Recipe], Recipe]) -> lloydmax.Result:
    """The student of a changed recipe."""
    recipe = change(lloydmax.recipe_for(loaded.model, bits, loaded.inputs, effort).data())
    return lloydmax.compress(loaded.model, recipe, loaded.inputs, progress=False)


def damage(loaded: Loaded, student: nn.Module) -> float:
    """The distance from the original's outputs on test inputs, as a share of that of one answer to all of them."""
    judge = Judge(Comparison(loaded.model, unlabelled(loaded.test, loaded.model), len(loaded.test)))
    return judge.damage(student).mean


def restored(student: nn.Module, original: nn.Module) -> Iterator[tuple[str, int, nn.Module]]:
    """Each layer's name, its weights that were compressed, and the student with the original layer in its place; its
    bias, which recovery may have moved, stays the student's."""
    sizes: dict[str, int] = {}
    for name, codebook in lloydmax.codebooks(student).items():
        layer = name.rpartition(".")[0]
        sizes[layer] = sizes.get(layer, 0) + codebook.codes.numel() * codebook.block
    for layer, size in sizes.items():
        if not layer or size < SMALLEST:
            continue
        whole, back = copy.deepcopy(student), copy.deepcopy(original.get_submodule(layer))
        moved = getattr(student.get_submodule(layer), "bias", None)
        if isinstance(moved, torch.Tensor) and isinstance(getattr(back, "bias", None), torch.Tensor):
            with torch.no_grad():
                back.bias.copy_(moved)  # type: ignore[operator, union-attr]
        whole.set_submodule(layer, back)
        yield layer, size, whole.eval()


def layers(loaded: Loaded, bits: int) -> dict[str, Any]:
    """The base's score, and what each layer wins."""
    student = made(loaded, bits, 0.0, lambda recipe: recipe).model
    before = loaded.measure(student)
    wins = [(loaded.measure(whole) - before, layer, size) for layer, size, whole in restored(student, loaded.model)]
    wins.sort(reverse=True)
    every = sum(size for _, _, size in wins)
    return {
        "original": loaded.measure(loaded.model),
        "score": before,
        "damage": damage(loaded, student),
        "layers": [[layer, size / every, win] for win, layer, size in wins],
    }


def pulled(loaded: Loaded, bits: int, title: str) -> dict[str, Any]:
    """The score of one lever, or the reason that it was refused for."""
    more, effort, change = LEVERS[title]
    start = time.process_time()
    try:
        result = made(loaded, bits + more, effort, change)
    except lloydmax.LloydmaxError as refusal:
        return {"refused": str(refusal)[:300]}
    seconds = round(time.process_time() - start, 1)
    share = 8 * result.report.bytes.file / weights(loaded.model)
    told = {"score": loaded.measure(result.model), "damage": damage(loaded, result.model)}
    return told | {"bits": round(share, 3), "compression": seconds}


def cells(network: str, bits: int, loaded: Loaded | None, parts: Sequence[str]) -> dict[str, Cell]:
    """Of a network at one size; they run only where it is loaded."""
    found = {}
    if "layers" in parts:
        key = {"network": network, "row": "layers", "bits": bits}
        found["layers"] = Cell("points", key, lambda: layers(loaded, bits))  # type: ignore[arg-type]
    for title in LEVERS if "levers" in parts else ():
        key = {"network": network, "row": title, "bits": bits}
        found[title] = Cell("points", key, lambda title=title: pulled(loaded, bits, title))  # type: ignore[misc, arg-type]
    return found


def table(store: Store, network: str, bits: int) -> str:
    """What is there, as Markdown: layers and levers, those that win most first."""
    done = {title: store.load([cell]).found for title, cell in cells(network, bits, None, PARTS).items()}
    there = {title: found[0]["figures"] for title, found in done.items() if found}
    base = there.pop("layers", None)
    if base is None:
        return f"{network} at {bits} bits: not measured"
    percent = NETWORKS[network].percent

    def told(score: float) -> str:
        return f"{100 * score:.1f} %" if percent else f"{score:.3f}"

    def gain(score: float) -> str:
        return f"{100 * score:+.1f}" if percent else f"{score:+.3f}"

    def left(figures: dict[str, Any]) -> str:
        return f"{figures['damage']:.4f}" if "damage" in figures else ""

    title = f"{network} at {bits} bits: {told(base['score'])} of {told(base['original'])}, damage {left(base)}"
    rows = [
        [f"`{layer}` as it was ({100 * share:.0f} % of the weights)", gain(win), "", "", ""]
        for layer, share, win in base["layers"][:LAYERS]
    ]
    found = {title: figures for title, figures in there.items() if "score" in figures}
    for lever, figures in sorted(found.items(), key=lambda item: -item[1]["score"]):
        rows.append(
            [
                lever,
                gain(figures["score"] - base["score"]),
                left(figures),
                f"{figures['bits']:.2f}",
                f"{figures['compression']:.0f}",
            ]
        )
    refused = [f"Refused: {lever} ({figures['refused']})." for lever, figures in there.items() if "refused" in figures]
    return "\n\n".join([markdown(title, ["changed", "wins", "damage", "bits", "CPU seconds"], rows), *refused])


PARTS = ("layers", "levers")


def main(words: Sequence[str] | None = None) -> None:
    """Run what is missing, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=lambda text: text.split(","), default=["keywords", "pitch", "sounds"])
    parser.add_argument("--bits", type=lambda text: [int(part) for part in text.split(",")], default=[3, 2])
    parser.add_argument("--rows", type=lambda text: text.split(","), default=list(PARTS), help="layers, levers")
    parser.add_argument("--folder", type=Path, default=Path("build/zoo"), help="of the cells")
    given = parser.parse_args(words)
    torch.set_num_threads(1)
    logging.disable(logging.INFO)
    store = Store(given.folder)
    for name in given.networks:
        try:
            loaded = NETWORKS[name].load()
        except Missing as missing:
            print(f"{name} is passed over: {missing}", file=sys.stderr, flush=True)
            continue
        for bits in given.bits:
            for title, cell in cells(name, bits, loaded, given.rows).items():
                if not store.done(cell):
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore")
                        figures = store.run(cell)["figures"]
                    told = figures.get("score", figures.get("refused"))
                    print(f"{time.strftime('%H:%M:%S')} {name} {bits} {title}: {told}", file=sys.stderr, flush=True)
            print(table(store, name, bits), flush=True)


if __name__ == "__main__":
    main()
