"""The commands; each reads what the user named, calls the library, and shows what it gave."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from lloydmax import checkpoint, native
from lloydmax.choosing.search import SearchResult
from lloydmax.choosing.search import search as search_centroids
from lloydmax.choosing.sweep import Sweep, check_plot
from lloydmax.choosing.sweeping import sweep
from lloydmax.cli.evaluation import evaluate
from lloydmax.cli.inputs import (
    budget_of,
    build_model,
    check_apart,
    check_outputs,
    data_of,
    first_batch,
    noise,
    options_of,
    recipe_of,
    whole_numbers,
)
from lloydmax.cli.models import source_of, tokenizer_of
from lloydmax.cli.options import (
    AT_LEAST_ONE,
    DATA,
    SEED,
    Main,
    as_json_option,
    data_options,
    limit_option,
    model_options,
    progress,
    progress_options,
    recipe_option,
    show,
)
from lloydmax.cli.written import report_of, written
from lloydmax.compress import compress as compress_model
from lloydmax.defaults import recipe_for
from lloydmax.demo import run as run_demo
from lloydmax.errors import CheckpointError
from lloydmax.exporting.export import asked_for
from lloydmax.exporting.export import export as export_model
from lloydmax.format.parts import check_state
from lloydmax.hooks import registry
from lloydmax.hooks.units import BudgetError
from lloydmax.plan.plan import plan as make_plan
from lloydmax.plan.plan import quiet_plan
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.reference import markdown
from lloydmax.recovery.steps import folder, needs_data
from lloydmax.report.curves import DamageCurves
from lloydmax.runtime.text import printable


@click.group(cls=Main, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="lloydmax", message=f"%(prog)s, version %(version)s, core: {native.path()}")
def main() -> None:
    """Compress a trained PyTorch model with k-means codebooks; win its accuracy back without labels."""


@main.command()
@model_options
@click.option("--recipe", type=click.Path(), help="A YAML recipe, or the name of a ready one; without one, --bits.")
@click.option("--bits", type=float, help="Instead of a recipe: bits of the whole file for each weight, such as 4.")
@click.option("--effort", type=float, default=1.0, show_default=True, help="With --bits: times the usual training.")
@click.option("--data", type=click.Path(), help=f"Unlabelled inputs: {DATA}")
@click.option("--reference-data", type=click.Path(), help="A few unlabelled inputs of the original domain.")
@data_options
@click.option("--out", required=True, type=click.Path(), help="The .safetensors file, or of a folder the folder.")
@click.option("--report", "report_path", type=click.Path(), help="Also write the report as JSON.")
@click.option("--seed", type=SEED, help="Of all randomness; default: the recipe's.")
@click.option("--workdir", type=click.Path(), help="Folder for large temporary files.")
@progress_options
@as_json_option
def compress(
    model: str, weights: str | None, model_args: str | None, device: str, recipe: str | None,
    bits: float | None, effort: float, data: str | None,
    reference_data: str | None, image_size: int, mean: str | None, std: str | None, out: str,
    report_path: str | None, seed: int | None, workdir: str | None, quiet: bool, log_json: bool, as_json: bool,
) -> None:  # fmt: skip
    """Compress a model and write it to one small file, by a recipe or to a number of bits.

    Where --model is a folder of transformers or timm, --out may be a folder: of transformers, one that from_pretrained
    takes after: import lloydmax.integrations.transformers
    """
    read = _recipe_or_bits(recipe, bits)
    given = {"--weights": weights, "--data": data, "--reference-data": reference_data, "--recipe": recipe}
    given |= {"--model": source_of(model), "--workdir": workdir}
    target = written(model, out)
    target.check(report_path, given)
    folder(workdir, keep=False)
    teacher = build_model(model, weights, model_args, device)
    check_state(teacher)
    propose = partial(recipe_for, teacher, bits or 0.0)
    target.check_room(quiet_plan(teacher, read or propose()).predicted_bytes)
    given_none = read is not None and read.synthesize is None and data is None and reference_data is None
    if read is not None and given_none and (needy := needs_data(read)):
        raise click.UsageError(f"{needy[0]} needs unlabelled inputs: give --data")
    inputs, reference = (data_of(path, teacher, image_size, mean, std) for path in (data, reference_data))
    texts = {"tokenizer": tokenizer_of(model)}
    read = read or propose(reference if inputs is None else inputs, effort, **texts)
    with progress(quiet, log_json) as shown:
        result = compress_model(teacher, read, inputs, reference, seed=seed, workdir=workdir, **texts, **shown)
    target.write(result, {} if bits is None else {"bits": bits, "effort": effort})
    if report_path is not None:
        result.report.to_json(report_path)
    show(result.report.to_dict() | {"path": out}, f"{result.report}\n\nWritten: {out}", as_json)
    if any(step.get("stopped") == "interrupted" for step in result.report.recovery):
        sys.exit(1)


def _recipe_or_bits(recipe: str | None, bits: float | None) -> Recipe | None:
    """The recipe, or ``None`` where bits are given instead."""
    if (recipe is None) == (bits is None):
        raise click.UsageError("give --recipe, or --bits for a recipe made for this model, such as: --bits 4")
    return None if recipe is None else recipe_of(recipe)


@main.command()
@model_options
@click.option("--bits", type=float, default=4.0, show_default=True, help="Of the whole file for each weight.")
@click.option("--data", type=click.Path(), help=f"Unlabelled inputs: {DATA}")
@data_options
@click.option("--effort", type=float, default=1.0, show_default=True, help="Times the usual training.")
@click.option("--out", required=True, type=click.Path(), help="The YAML file to write.")
@as_json_option
def recipe(
    model: str, weights: str | None, model_args: str | None, device: str, bits: float, data: str | None,
    image_size: int, mean: str | None, std: str | None, effort: float, out: str, as_json: bool,
) -> None:  # fmt: skip
    """Write the recipe that compress --bits runs, to be edited."""
    check_outputs({"--out": out}, {"--model": source_of(model), "--weights": weights, "--data": data})
    teacher = build_model(model, weights, model_args, device)
    quiet_plan(teacher, recipe_for(teacher, bits))
    inputs = data_of(data, teacher, image_size, mean, std)
    made = recipe_for(teacher, bits, inputs, effort, tokenizer=tokenizer_of(model))
    made.save(out)
    show({"written": out, "recipe": made.data()}, f"Written: {out}", as_json)


@main.command()
@model_options
@click.option("--recipe", type=click.Path(), help="A YAML recipe, or the name of a ready one; without one, --bits.")
@click.option("--bits", type=float, help="Instead of a recipe: bits of the whole file for each weight, such as 4.")
@as_json_option
def plan(
    model: str, weights: str | None, model_args: str | None, device: str, recipe: str | None, bits: float | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Show what a recipe, or a number of bits, means for every parameter, and the predicted size."""
    read = _recipe_or_bits(recipe, bits)
    teacher = build_model(model, weights, model_args, device)
    made = make_plan(teacher, read or recipe_for(teacher, bits or 0.0))
    show(made.to_dict(), str(made), as_json)


@main.command()
@model_options
@recipe_option
@click.option("--data", required=True, type=click.Path(), help="Unlabelled inputs, as for compress.")
@data_options
@click.option("--budget", metavar="NAME=VALUE", help="reduction=0.9, bits=3, agreement=0.99 or bytes=1000000.")
@click.option("--method", help="lagrangian, greedy, or one of a plugin; default: the recipe's.")
@click.option("--centroids", metavar="K,K,...", help="Numbers to try; default: the recipe's, or 2,4,8 ... 256.")
@click.option("--samples", type=AT_LEAST_ONE, help="Inputs that count; default: the recipe's, or 500.")
@click.option("--by-rule", is_flag=True, help="One number of centroids for all that a rule selects.")
@click.option("--measure", is_flag=True, help="Measure every choice instead of estimating most; much slower.")
@click.option("--sweep", "only_sweep", is_flag=True, help="Only the sweep: what each choice alone does.")
@click.option("--out", type=click.Path(), help="The recipe to write (with --sweep: the table as JSON).")
@click.option("--report", "report_path", type=click.Path(), help="Also write the search (or sweep) as JSON.")
@click.option("--plot", type=click.Path(), help="Draw the sweep: .svg or .png (needs matplotlib).")
@click.option("--seed", type=SEED, help="Of all randomness; default: the recipe's.")
@click.option("--workdir", type=click.Path(), help="Keeps every measurement; a run that was killed goes on from there.")
@progress_options
@as_json_option
def search(
    model: str, weights: str | None, model_args: str | None, device: str, recipe: str, data: str, image_size: int,
    mean: str | None, std: str | None, budget: str | None, method: str | None, centroids: str | None,
    samples: int | None, by_rule: bool, measure: bool, only_sweep: bool, out: str | None,
    report_path: str | None, plot: str | None, seed: int | None, workdir: str | None, quiet: bool,
    log_json: bool, as_json: bool,
) -> None:  # fmt: skip
    """Choose the centroids of every layer under a budget. Status 1 if none keeps it."""
    read = recipe_of(recipe)
    outputs = {"--out": out, "--report": report_path, "--plot": plot}
    given = {"--model": source_of(model), "--weights": weights, "--data": data, "--recipe": recipe}
    check_outputs(outputs, given | {"--workdir": workdir})
    folder(workdir, keep=False)
    if plot is not None:
        check_plot(plot)
    teacher = build_model(model, weights, model_args, device)
    inputs = data_of(data, teacher, image_size, mean, std)
    options: dict[str, Any] = {
        "centroids": whole_numbers(centroids),
        "samples": samples,
        "units": "rules" if by_rule else "parameters",
        "estimate": not measure,
        "seed": seed,
        "workdir": workdir,
        "tokenizer": tokenizer_of(model),
    }
    found: Sweep | SearchResult
    if only_sweep:
        with progress(quiet, log_json) as shown:
            found = swept = sweep(teacher, read, inputs, **options, **shown)
        if out is not None:
            swept.to_json(out)
    else:
        try:
            with progress(quiet, log_json) as shown:
                found = search_centroids(teacher, read, inputs, budget_of(budget), method, **options, **shown)
        except BudgetError as error:
            show({"ok": False, "reason": str(error)}, f"NO CHOICE  {error}", as_json)
            sys.exit(1)
        swept = found.sweep
        if out is not None:
            found.recipe.save(out)
    if report_path is not None:
        found.to_json(report_path)
    if plot is not None:
        swept.plot(plot)
    written = [path for path in (out, report_path, plot) if path is not None]
    show(found.to_dict() | {"written": written}, "\n\nWritten: ".join([str(found), *written]), as_json)


@main.command()
@model_options
@click.option("--student", required=True, type=click.Path(), help="The compressed .safetensors file.")
@limit_option
@click.option("--format", "kind", help="torch, onnx, openvino, coreml or executorch; default: by the ending of --out.")
@click.option("--shape", help="Of one batch of random example inputs, such as 1,3,224,224.")
@click.option("--data", type=click.Path(), help=f"Or example inputs of your own: {DATA}")
@data_options
@click.option("--fixed-batch", is_flag=True, help="Only as many samples as in the example inputs.")
@click.option("--option", "options", multiple=True, metavar="NAME=VALUE", help="Of the format, such as opset=23.")
@click.option("--out", required=True, type=click.Path(), help="The .pt2, .onnx, .xml, .mlpackage or .pte to write.")
@as_json_option
def export(
    model: str, weights: str | None, model_args: str | None, device: str, student: str, limit: int | None,
    kind: str | None, shape: str | None, data: str | None, image_size: int, mean: str | None, std: str | None,
    fixed_batch: bool, options: tuple[str, ...], out: str, as_json: bool,
) -> None:  # fmt: skip
    """Write a compressed model for another runtime, codes and centroids inside, and compare its outputs."""
    if (shape is None) == (data is None):
        raise click.UsageError("give example inputs: either --shape or --data")
    chosen = options_of(options)
    asked_for(out, kind, chosen)
    beside = str(Path(out).with_suffix(".bin")) if out.endswith(".xml") else None
    given = {"--model": source_of(model), "--weights": weights, "--data": data, "--student": student}
    check_apart({"--out": out, "what --out puts beside": beside}, given)
    small = checkpoint.load(student, build_model(model, weights, model_args, device), limit)
    inputs = noise(shape) if shape is not None else _first(data, model, small, image_size, mean, std)
    made = export_model(small, out, kind, example_inputs=inputs, dynamic_batch=not fixed_batch, **chosen)
    show(made.to_dict(), f"Written: {made}", as_json)


@main.command()
@click.argument("path", type=click.Path())
@limit_option
@as_json_option
def inspect(path: str, limit: int | None, as_json: bool) -> None:
    """Show what a compressed file holds."""
    found = checkpoint.inspect(path, limit)
    show(found.to_dict(), str(found), as_json)


@main.command()
@click.argument("path", type=click.Path())
@limit_option
@as_json_option
def verify(path: str, limit: int | None, as_json: bool) -> None:
    """Check a compressed file: structure, checksums, code range. Status 1 if it is damaged."""
    try:
        found = checkpoint.verify(path, limit)
    except CheckpointError as error:
        if not Path(path).is_file():
            raise
        show({"ok": False, "reason": str(error)}, f"DAMAGED  {error}", as_json)
        sys.exit(1)
    odd = found.not_finite or ()
    said = {"ok": True, "path": path, "decoded": found.decoded, "not_finite": odd}
    show(said, printable(f"ok  {path}{'; NaN or infinite values in ' if odd else ''}{', '.join(odd)}"), as_json)


@main.command()
@click.argument("reports", nargs=-1, required=True, type=click.Path(), metavar="REPORT.json [OTHER.json]")
@click.option("--out", required=True, type=click.Path(), help="The .html file to write.")
@click.option(
    "--sweep", "sweep_path", type=click.Path(), help="A sweep or search to show, as search --report wrote it."
)
@as_json_option
def report(reports: tuple[str, ...], out: str, sweep_path: str | None, as_json: bool) -> None:
    """Show one report, or two side by side, as one self-contained page for a browser."""
    if len(reports) > 2:
        raise click.UsageError(f"one or two reports can be shown, not {len(reports)}")
    check_outputs({"--out": out}, {"--sweep": sweep_path, **{f"the report {path}": path for path in reports}})
    first, *others = (report_of(path) for path in reports)
    swept = None if sweep_path is None else DamageCurves.from_json(sweep_path)
    first.to_html(out, others[0] if others else None, swept)
    show({"written": out, "bytes": Path(out).stat().st_size}, f"Written: {out}", as_json)


@main.command()
@as_json_option
def plugins(as_json: bool) -> None:
    """List what is installed, and from where."""
    rows = [
        {"kind": s.kind, "name": s.name, "plugin": s.plugin, "distribution": s.distribution}
        for s in registry.strategies()
    ]
    text = "\n".join(f"{r['kind']:14} {r['name']:16} {r['plugin']:16} {r['distribution']}" for r in rows)
    show(rows, text, as_json)


@main.command()
@click.option("--markdown", "as_markdown", is_flag=True, help="Print tables for people instead of JSON.")
def schema(as_markdown: bool) -> None:
    """Print what a recipe may hold.

    A JSON schema for editors and checkers, with the options of every installed plugin.
    """
    click.echo(
        markdown(registry.strategies()) if as_markdown else json.dumps(Recipe.json_schema(), indent=2),
        nl=not as_markdown,
    )


@main.command()
@click.option("--out", default="lloydmax-demo", show_default=True, type=click.Path(), help="Folder to write into.")
@progress_options
@as_json_option
def demo(out: str, quiet: bool, log_json: bool, as_json: bool) -> None:
    """The main job on an embedded model: 2-bit codebooks, recovered on pictures of another domain."""
    with progress(quiet, log_json) as shown:
        result = run_demo(Path(out), **shown)
    show(result.to_dict(), str(result), as_json)


def _first(data: str | None, spec: str, model: Any, *how: Any) -> Any:
    """The first two inputs of what a path names."""
    return first_batch(data_of(data, model, *how), model, tokenizer_of(spec))


main.add_command(evaluate)
