"""The ``lloydmax`` command: progress on stderr, results on stdout.

Exit status: 0, 1 (a check failed), 2 (bad usage or input).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from lloydmax.errors import CheckpointError, DataError, LloydmaxError

Command = Callable[..., Any]
_SYNTHESIZE = "synthesize:"


class _Main(click.Group):
    """Errors that lloydmax raises on purpose end in one line and status 2, not in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except (LloydmaxError, OSError) as error:
            click.echo(f"lloydmax: {error}", err=True)
            ctx.exit(2)


@click.group(cls=_Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lloydmax")
def main() -> None:
    """Compress a trained PyTorch model with k-means codebooks; win its accuracy back without labels."""


def _model_options(command: Command) -> Command:
    for option in (
        click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, cuda:1 ..."),
        click.option(
            "--model-args", metavar="JSON", help="Keyword arguments of the callable, '{\"num_classes\": 10}'."
        ),
        click.option("--weights", type=click.Path(), help="Its weights: .safetensors, or .pt (weights only)."),
        click.option("--model", required=True, metavar="PACKAGE.MODULE:CALLABLE", help="What builds the model."),
    ):
        command = option(command)
    return command


def _data_options(command: Command) -> Command:
    for option in (
        click.option("--std", help="Comma-separated, for a folder of images; default ImageNet's."),
        click.option("--mean", help="Comma-separated, for a folder of images; default ImageNet's."),
        click.option("--image-size", default=224, show_default=True, help="Pixels, for a folder of images."),
    ):
        command = option(command)
    return command


_DATA = "a folder of images, .npy, .npz, .safetensors, or synthesize:COUNT (images made from the model's batch norms)."
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
_recipe = click.option("--recipe", required=True, type=click.Path(), help="A YAML recipe.")


@main.command()
@_model_options
@_recipe
@click.option("--data", type=click.Path(), help=f"Unlabelled inputs: {_DATA}")
@click.option("--reference-data", type=click.Path(), help="A few unlabelled inputs of the original domain.")
@_data_options
@click.option("--out", required=True, type=click.Path(), help="The .safetensors file to write.")
@click.option("--report", "report_path", type=click.Path(), help="Also write the report as JSON.")
@click.option("--seed", type=int, help="Of all randomness; default: the recipe's.")
@click.option("--workdir", type=click.Path(), help="Folder for large temporary files.")
@click.option("--quiet", is_flag=True, help="No progress.")
@_json
def compress(
    model: str, weights: str | None, model_args: str | None, device: str, recipe: str, data: str | None,
    reference_data: str | None, image_size: int, mean: str | None, std: str | None, out: str,
    report_path: str | None, seed: int | None, workdir: str | None, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compress a model and write it to one small file."""
    from lloydmax import Recipe
    from lloydmax import compress as run

    read = Recipe.load(Path(recipe))
    for path in (out, report_path):
        _check_folder(path)
    teacher = _build(model, weights, model_args, device)
    inputs, reference = (_data(path, teacher, image_size, mean, std) for path in (data, reference_data))
    result = run(teacher, read, inputs, reference, seed=seed, progress=not quiet, workdir=workdir)
    result.save(out)
    if report_path is not None:
        result.report.to_json(report_path)
    _show(result.report.to_dict() | {"path": out}, f"{result.report}\n\nWritten: {out}", as_json)
    if any(step.get("stopped") == "interrupted" for step in result.report.recovery):
        sys.exit(1)


@main.command()
@_model_options
@_recipe
@_json
def plan(model: str, weights: str | None, model_args: str | None, device: str, recipe: str, as_json: bool) -> None:
    """Show what a recipe means for every parameter, and the predicted size."""
    from lloydmax import Recipe
    from lloydmax import plan as make

    made = make(_build(model, weights, model_args, device), Recipe.load(Path(recipe)))
    _show(made.to_dict(), str(made), as_json)


@main.command()
@_model_options
@_recipe
@click.option("--data", required=True, type=click.Path(), help="Unlabelled inputs, as for compress.")
@_data_options
@click.option("--budget", metavar="NAME=VALUE", help="reduction=0.9, bits=3, agreement=0.99 or bytes=1000000.")
@click.option("--method", help="lagrangian, greedy, or one of a plugin; default: the recipe's.")
@click.option("--centroids", metavar="K,K,...", help="Numbers to try; default: the recipe's, or 2,4,8 ... 256.")
@click.option("--samples", type=int, help="Inputs that count; default: the recipe's, or 500.")
@click.option("--by-rule", is_flag=True, help="One number of centroids for all that a rule selects.")
@click.option("--measure", is_flag=True, help="Measure every choice instead of estimating most; much slower.")
@click.option("--sweep", "only_sweep", is_flag=True, help="Only the sweep: what each choice alone does.")
@click.option("--out", type=click.Path(), help="The recipe to write (with --sweep: the table as JSON).")
@click.option("--plot", type=click.Path(), help="Draw the sweep: .svg or .png (needs matplotlib).")
@click.option("--seed", type=int, help="Of all randomness; default: the recipe's.")
@click.option("--workdir", type=click.Path(), help="Keeps every measurement; a run that was killed goes on from there.")
@click.option("--quiet", is_flag=True, help="No progress.")
@_json
def search(
    model: str, weights: str | None, model_args: str | None, device: str, recipe: str, data: str, image_size: int,
    mean: str | None, std: str | None, budget: str | None, method: str | None, centroids: str | None,
    samples: int | None, by_rule: bool, measure: bool, only_sweep: bool, out: str | None, plot: str | None,
    seed: int | None, workdir: str | None, quiet: bool, as_json: bool,
) -> None:  # fmt: skip
    """Choose the centroids of every layer under a budget. Status 1 if none keeps it."""
    import lloydmax

    read = lloydmax.Recipe.load(Path(recipe))
    for path in (out, plot):
        _check_folder(path)
    teacher = _build(model, weights, model_args, device)
    inputs = _data(data, teacher, image_size, mean, std)
    options: dict[str, Any] = {
        "centroids": None if centroids is None else [int(k) for k in _numbers(centroids) or ()],
        "samples": samples,
        "units": "rules" if by_rule else "parameters",
        "estimate": not measure,
        "seed": seed,
        "workdir": workdir,
        "progress": not quiet,
    }
    if only_sweep:
        swept = lloydmax.sweep(teacher, read, inputs, **options)
        if out is not None:
            swept.to_json(out)
        shown, text = swept.to_dict(), str(swept)
    else:
        try:
            found = lloydmax.search(teacher, read, inputs, _budget(budget), method, **options)
        except lloydmax.BudgetError as error:
            _show({"ok": False, "reason": str(error)}, f"NO CHOICE  {error}", as_json)
            sys.exit(1)
        swept, shown, text = found.sweep, found.to_dict(), str(found)
        if out is not None:
            found.recipe.save(out)
    if plot is not None:
        swept.plot(plot)
    written = [str(path) for path in (out, plot) if path is not None]
    _show(shown | {"written": written}, "\n\nWritten: ".join([text, *written]), as_json)


@main.command()
@_model_options
@click.argument("sets", nargs=-1, type=click.Path())
@click.option("--student", type=click.Path(), help="The compressed .safetensors file.")
@click.option("--data", type=click.Path(), help=f"Inputs: {_DATA}")
@_data_options
@click.option("--labels", help="For the accuracy: a .npy of class numbers, or 'folders' (one per class, sorted).")
@click.option("--samples", type=int, help="Use so many inputs, drawn at random; default: all (1000 of each of SETS).")
@click.option("--data-fitness", is_flag=True, help="Instead: rank SETS of inputs by how well they suit the model.")
@_json
def evaluate(
    sets: tuple[str, ...], model: str, weights: str | None, model_args: str | None, device: str, student: str | None,
    data: str | None, image_size: int, mean: str | None, std: str | None, labels: str | None, samples: int | None,
    data_fitness: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compare a compressed model with its original on unlabelled inputs.

    With --data-fitness, rank SETS of unlabelled inputs (such as: photos/ drawings.npy) for the recovery, best first.
    """
    import copy

    from lloydmax import load
    from lloydmax.data import unlabelled
    from lloydmax.outputs import Yardstick, accuracy

    if data_fitness:
        if not sets or student or data or labels:
            raise click.UsageError("--data-fitness takes sets of inputs, as in: --data-fitness photos/ drawings.npy")
        teacher = _build(model, weights, model_args, device)
        _rank({name: _data(name, teacher, image_size, mean, std) for name in sets}, teacher, samples, as_json)
        return
    if sets or student is None or data is None:
        raise click.UsageError("give --student and --data, or --data-fitness and sets of inputs")
    teacher = _build(model, weights, model_args, device)
    small = load(student, copy.deepcopy(teacher))
    source = unlabelled(_data(data, teacher, image_size, mean, std), teacher)
    found = Yardstick(teacher, source, len(source) if samples is None else samples).measure(small)
    result = {"agreement": found.top1, "kl": found.kl, "mse": found.mse, "samples": found.samples}
    if labels is not None:
        classes = _labels(labels, data, source)
        result["accuracy_original"] = accuracy(teacher, source, classes)
        result["accuracy_compressed"] = accuracy(small, source, classes)
    _show(result, "\n".join(f"{key:20} {value}" for key, value in result.items()), as_json)


@main.command()
@click.argument("path", type=click.Path())
@_json
def inspect(path: str, as_json: bool) -> None:
    """Show what a compressed file holds."""
    from lloydmax.checkpoint import inspect as look

    found = look(path)
    _show(found.to_dict(), str(found), as_json)


@main.command()
@click.argument("path", type=click.Path())
@_json
def verify(path: str, as_json: bool) -> None:
    """Check a compressed file: structure, checksums, code range. Status 1 if it is damaged."""
    from lloydmax.checkpoint import verify as check

    try:
        check(path)
    except CheckpointError as error:
        if not Path(path).is_file():
            raise
        _show({"ok": False, "reason": str(error)}, f"DAMAGED  {error}", as_json)
        sys.exit(1)
    _show({"ok": True, "path": path}, f"ok  {path}", as_json)


@main.command()
@_json
def plugins(as_json: bool) -> None:
    """List what is installed, and from where."""
    from lloydmax.plugins import strategies

    rows = [{"kind": s.kind, "name": s.name, "plugin": s.plugin, "distribution": s.distribution} for s in strategies()]
    text = "\n".join(f"{r['kind']:14} {r['name']:16} {r['plugin']:16} {r['distribution']}" for r in rows)
    _show(rows, text, as_json)


@main.command()
@click.option("--markdown", "as_markdown", is_flag=True, help="Print tables for people instead of JSON.")
def schema(as_markdown: bool) -> None:
    """Print what a recipe may hold.

    A JSON schema for editors and checkers, with the options of every installed plugin.
    """
    from lloydmax import Recipe
    from lloydmax.plugins import strategies
    from lloydmax.reference import markdown

    click.echo(
        markdown(strategies()) if as_markdown else json.dumps(Recipe.json_schema(), indent=2), nl=not as_markdown
    )


@main.command()
@click.option("--out", default="lloydmax-demo", show_default=True, type=click.Path(), help="Folder to write into.")
@click.option("--quiet", is_flag=True, help="No progress.")
@_json
def demo(out: str, quiet: bool, as_json: bool) -> None:
    """The main job on an embedded model: 2-bit codebooks, recovered on pictures of another domain."""
    from lloydmax.demo import run

    result = run(Path(out), progress=not quiet)
    _show(result.to_dict(), str(result), as_json)


def _show(data: Any, text: str, as_json: bool) -> None:
    from lloydmax import distributed

    if distributed.writes():
        click.echo(json.dumps(data, indent=2) if as_json else text)


def _check_folder(path: str | None) -> None:
    if path is not None and not Path(path).resolve().parent.is_dir():
        raise click.UsageError(f"the folder of {path} does not exist")


def _budget(text: str | None) -> dict[str, float] | None:
    if text is None:
        return None
    name, _, value = text.partition("=")
    try:
        return {name.strip(): int(value) if name.strip() == "bytes" else float(value)}
    except ValueError:
        raise click.UsageError(f"--budget is NAME=VALUE, such as bits=3, not {text!r}") from None


def _build(spec: str, weights: str | None, arguments: str | None, device: str) -> Any:
    from lloydmax.models import build

    try:
        keywords = json.loads(arguments) if arguments else {}
    except json.JSONDecodeError as error:
        raise click.UsageError(f"--model-args is not JSON: {error}") from None
    return build(spec, weights, keywords, device)


def _rank(sets: dict[str, Any], model: Any, samples: int | None, as_json: bool) -> None:
    from lloydmax import data_fitness
    from lloydmax.tables import fitness_table, render

    found = data_fitness(model, sets, **({} if samples is None else {"samples": samples}))
    _show([fitness.to_dict() for fitness in found], render(fitness_table(found)), as_json)


def _data(path: str | None, model: Any, size: int, mean: str | None, std: str | None) -> Any:
    if path is not None and path.startswith(_SYNTHESIZE):
        return _synthesized(path.removeprefix(_SYNTHESIZE), model, size)
    if path is None or not Path(path).is_dir():
        return None if path is None else Path(path)
    from lloydmax.data import image_channels, images

    return images(path, size, image_channels(model), _numbers(mean), _numbers(std))


def _synthesized(count: str, model: Any, size: int) -> Any:
    from lloydmax import synthesize
    from lloydmax.progress import ProgressBars

    if not count.isdecimal():
        raise click.UsageError(f"{_SYNTHESIZE}COUNT needs a number of images, not {count!r}")
    with ProgressBars() as bars:
        return synthesize(model, int(count), size, listeners=[bars])


def _numbers(text: str | None) -> tuple[float, ...] | None:
    try:
        return None if text is None else tuple(float(part) for part in text.split(","))
    except ValueError:
        raise click.UsageError(f"{text!r} is not a comma-separated list of numbers") from None


def _labels(labels: str, data: str, source: Any) -> Any:
    import numpy as np
    import torch

    if labels == "folders":
        if not Path(data).is_dir():
            raise DataError("--labels folders needs --data to be a folder of images")
        names = [Path(path).relative_to(data).parts[0] for path in source.dataset.files]
        order = sorted(set(names))
        return torch.tensor([order.index(name) for name in names])
    try:
        found = torch.from_numpy(np.load(labels, allow_pickle=False).astype(np.int64).reshape(-1))
    except (OSError, ValueError) as error:
        raise DataError(f"{labels}: not a .npy file of class numbers: {error}") from None
    if len(found) != len(source):
        raise DataError(f"{labels} has {len(found)} labels, the data {len(source)} inputs")
    return found
