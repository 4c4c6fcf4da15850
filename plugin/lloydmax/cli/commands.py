"""What each command does: it reads what the user named, calls the library, and shows what it gave."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import click

from lloydmax import checkpoint
from lloydmax.choosing.curve import SearchCurve, search_curve
from lloydmax.choosing.search import SearchResult
from lloydmax.choosing.search import search as search_centroids
from lloydmax.choosing.sweep import Sweep, check_plot
from lloydmax.choosing.sweeping import sweep
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
    share_of,
    whole_numbers,
)
from lloydmax.cli.models import source_of, tokenizer_of
from lloydmax.cli.pictures import Pictures
from lloydmax.cli.shown import progress, show
from lloydmax.cli.written import report_of, written
from lloydmax.compare import compare as compare_files
from lloydmax.compress import compress as compress_model
from lloydmax.defaults import recipe_for
from lloydmax.demo import run as run_demo
from lloydmax.errors import CheckpointError, RecipeError
from lloydmax.exporting.export import asked_for
from lloydmax.exporting.export import export as export_model
from lloydmax.format.parts import check_state
from lloydmax.hooks import registry
from lloydmax.hooks.time_limit import TimeLimit
from lloydmax.hooks.units import BudgetError
from lloydmax.plan.plan import plan as make_plan
from lloydmax.plan.plan import quiet_plan
from lloydmax.recipe.recipe import Recipe
from lloydmax.recipe.reference import markdown
from lloydmax.recovery.steps import folder, needs_data
from lloydmax.report.curves import DamageCurves
from lloydmax.runtime.amounts import size
from lloydmax.runtime.text import printable


def compress(
    model: str, weights: str | None, model_args: str | None, device: str, recipe: str | None,
    bits: float | None, effort: float, max_time: str | None, max_memory: str | None, data: str | None,
    reference_data: str | None, pictures: Pictures, out: str,
    report_path: str | None, seed: int | None, workdir: str | None, quiet: bool, log_json: bool, as_json: bool,
) -> None:  # fmt: skip
    """Do what ``lloydmax compress`` is asked."""
    limit = TimeLimit.of(max_time)
    most = None if max_memory is None else size("max_memory", max_memory, RecipeError)
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
    inputs, reference = (data_of(path, teacher, pictures) for path in (data, reference_data))
    texts = {"tokenizer": tokenizer_of(model, pictures.tokenizer)}
    read = read or propose(reference if inputs is None else inputs, effort, **texts)
    more: dict[str, Any] = {"seed": seed, "workdir": workdir, "max_time": limit, "max_memory": most}
    with progress(quiet, log_json) as shown:
        result = compress_model(teacher, read, inputs, reference, **more, **texts, **shown)
    target.write(result, {} if bits is None else {"bits": bits, "effort": effort})
    try:
        if report_path is not None:
            result.report.to_json(report_path)
    finally:  # the model is there, and what took so long to measure is told
        show(result.report.to_dict() | {"path": out}, f"{result.report}\n\nWritten: {out}", as_json)
    if any(step.get("stopped") == "interrupted" for step in result.report.recovery):
        sys.exit(1)


def _recipe_or_bits(recipe: str | None, bits: float | None) -> Recipe | None:
    """The recipe, or ``None`` where bits are given instead."""
    if recipe is not None and bits is not None:
        raise click.UsageError("--recipe and --bits each say how to compress: leave one out; a recipe may hold bits")
    if recipe is None and bits is None:
        raise click.UsageError("give --recipe, or --bits for a recipe made for this model, such as: --bits 4")
    return None if recipe is None else recipe_of(recipe)


def recipe(
    model: str, weights: str | None, model_args: str | None, device: str, bits: float, data: str | None,
    pictures: Pictures, effort: float, out: str, as_json: bool,
) -> None:  # fmt: skip
    """Do what ``lloydmax recipe`` is asked."""
    check_outputs({"--out": out}, {"--model": source_of(model), "--weights": weights, "--data": data})
    teacher = build_model(model, weights, model_args, device)
    quiet_plan(teacher, recipe_for(teacher, bits))
    inputs = data_of(data, teacher, pictures)
    made = recipe_for(teacher, bits, inputs, effort, tokenizer=tokenizer_of(model, pictures.tokenizer))
    made.save(out)
    show({"written": out, "recipe": made.data()}, f"Written: {out}", as_json)


def plan(
    model: str, weights: str | None, model_args: str | None, device: str, recipe: str | None, bits: float | None,
    as_json: bool,
) -> None:  # fmt: skip
    """Do what ``lloydmax plan`` is asked."""
    read = _recipe_or_bits(recipe, bits)
    teacher = build_model(model, weights, model_args, device)
    made = make_plan(teacher, read or recipe_for(teacher, bits or 0.0))
    show(made.to_dict(), str(made), as_json)


def search(
    model: str, weights: str | None, model_args: str | None, device: str, recipe: str, data: str, pictures: Pictures,
    budget: str | None, method: str | None, centroids: str | None,
    samples: int | None, by_rule: bool, measure: bool, only_sweep: bool, only_curve: bool, pick: str | None,
    out: str | None, report_path: str | None, plot: str | None, seed: int | None, workdir: str | None, quiet: bool,
    log_json: bool, as_json: bool,
) -> None:  # fmt: skip
    """Do what ``lloydmax search`` is asked."""
    read, agreement = recipe_of(recipe), share_of(pick)
    _one_kind_of_search(only_sweep, only_curve, budget, pick, out)
    outputs = {"--out": out, "--report": report_path, "--plot": plot}
    given = {"--model": source_of(model), "--weights": weights, "--data": data, "--recipe": recipe}
    check_outputs(outputs, given | {"--workdir": workdir})
    folder(workdir, keep=False)
    if plot is not None:
        check_plot(plot)
    teacher = build_model(model, weights, model_args, device)
    inputs = data_of(data, teacher, pictures)
    options: dict[str, Any] = {
        "centroids": whole_numbers(centroids),
        "samples": samples,
        "units": "rules" if by_rule else "parameters",
        "estimate": not measure,
        "seed": seed,
        "workdir": workdir,
        "tokenizer": tokenizer_of(model, pictures.tokenizer),
    }
    found: Sweep | SearchResult | SearchCurve
    try:
        with progress(quiet, log_json) as shown:
            if only_sweep:
                found = sweep(teacher, read, inputs, **options, **shown)
            elif only_curve:
                found = search_curve(teacher, read, inputs, agreement, method=method, **options, **shown)
            else:
                found = search_centroids(teacher, read, inputs, budget_of(budget), method, **options, **shown)
    except BudgetError as error:
        show({"ok": False, "reason": str(error)}, f"NO CHOICE  {error}", as_json)
        sys.exit(1)
    if out is not None:
        _write_choice(found, out)
    if report_path is not None:
        found.to_json(report_path)
    if plot is not None:
        (found.sweep if isinstance(found, SearchResult) else found).plot(plot)
    written = [path for path in (out, report_path, plot) if path is not None]
    show(found.to_dict() | {"written": written}, "\n\nWritten: ".join([str(found), *written]), as_json)


def _one_kind_of_search(
    only_sweep: bool, only_curve: bool, budget: str | None, pick: str | None, out: str | None
) -> None:
    """Refuse options of which one says something else than another."""
    if only_curve and (only_sweep or budget is not None):
        raise click.UsageError("--curve shows every size: leave out --sweep and --budget; --pick 98% picks a size")
    if pick is not None and not only_curve:
        raise click.UsageError("--pick picks a point of a curve: give --curve, too")
    if only_curve and out is not None and pick is None:
        raise click.UsageError("--out writes the recipe of one point of the curve: say which, such as --pick 98%")


def _write_choice(found: Sweep | SearchResult | SearchCurve, out: str) -> None:
    """Write the recipe that was found, or the table of a sweep."""
    if isinstance(found, Sweep):
        found.to_json(out)
        return
    point = found.picked if isinstance(found, SearchCurve) else found
    assert point is not None
    point.recipe.save(out)


def export(
    model: str, weights: str | None, model_args: str | None, device: str, student: str, limit: int | None,
    kind: str | None, shape: str | None, data: str | None, pictures: Pictures,
    fixed_batch: bool, options: tuple[str, ...], out: str, as_json: bool,
) -> None:  # fmt: skip
    """Do what ``lloydmax export`` is asked."""
    if (shape is None) == (data is None):
        raise click.UsageError("give example inputs: either --shape or --data")
    chosen = options_of(options)
    asked_for(out, kind, chosen)
    beside = str(Path(out).with_suffix(".bin")) if out.endswith(".xml") else None
    given = {"--model": source_of(model), "--weights": weights, "--data": data, "--student": student}
    check_apart({"--out": out, "what --out puts beside": beside}, given)
    small = checkpoint.load(student, build_model(model, weights, model_args, device), limit)
    inputs = noise(shape) if shape is not None else _first(data, model, small, pictures)
    made = export_model(small, out, kind, example_inputs=inputs, dynamic_batch=not fixed_batch, **chosen)
    show(made.to_dict(), f"Written: {made}", as_json)


def inspect(path: str, limit: int | None, as_json: bool) -> None:
    """Do what ``lloydmax inspect`` is asked."""
    found = checkpoint.inspect(path, limit)
    show(found.to_dict(), str(found), as_json)


def verify(path: str, limit: int | None, as_json: bool) -> None:
    """Do what ``lloydmax verify`` is asked."""
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


def report(reports: tuple[str, ...], out: str, sweep_path: str | None, as_json: bool) -> None:
    """Do what ``lloydmax report`` is asked."""
    check_outputs({"--out": out}, {"--sweep": sweep_path, **{f"the report {path}": path for path in reports}})
    first, *others = (report_of(path) for path in reports)
    swept = None if sweep_path is None else DamageCurves.from_json(sweep_path)
    first.to_html(out, others, swept)
    show({"written": out, "bytes": Path(out).stat().st_size}, f"Written: {out}", as_json)


def compare(
    files: tuple[str, ...], model: str | None, weights: str | None, model_args: str | None, device: str,
    data: str | None, pictures: Pictures, samples: int, limit: int | None, out: str | None, as_json: bool,
) -> None:  # fmt: skip
    """Do what ``lloydmax compare`` is asked."""
    if model is None and (weights or data):
        raise click.UsageError("--weights and --data belong to a model: give --model, too")
    given = {"--model": None if model is None else source_of(model), "--weights": weights, "--data": data}
    check_outputs({"--out": out}, given | {f"the file {path}": path for path in files})
    original = None if model is None else build_model(model, weights, model_args, device)
    inputs = data_of(data, original, pictures)
    tokenizer = None if model is None else tokenizer_of(model, pictures.tokenizer)
    found = compare_files(files, original, inputs, samples=samples, limit=limit, tokenizer=tokenizer)
    if out is not None:
        found.to_html(out)
    written = [] if out is None else [out]
    show(found.to_dict() | {"written": written}, "\n\nWritten: ".join([str(found), *written]), as_json)


def plugins(as_json: bool) -> None:
    """Do what ``lloydmax plugins`` is asked."""
    rows = [
        {"kind": s.kind, "name": s.name, "plugin": s.plugin, "distribution": s.distribution}
        for s in registry.strategies()
    ]
    text = "\n".join(f"{r['kind']:14} {r['name']:16} {r['plugin']:16} {r['distribution']}" for r in rows)
    show(rows, text, as_json)


def schema(as_markdown: bool) -> None:
    """Do what ``lloydmax schema`` is asked."""
    click.echo(
        markdown(registry.strategies()) if as_markdown else json.dumps(Recipe.json_schema(), indent=2),
        nl=not as_markdown,
    )


def demo(out: str, quiet: bool, log_json: bool, as_json: bool) -> None:
    """Do what ``lloydmax demo`` is asked."""
    if not (quiet or log_json):
        click.echo("About a minute on two cores of a processor; no GPU is needed.", err=True)
    with progress(quiet, log_json) as shown:
        result = run_demo(Path(out), **shown)
    show(result.to_dict(), str(result), as_json)


def _first(data: str | None, spec: str, model: Any, how: Pictures) -> Any:
    """The first two inputs of what a path names."""
    return first_batch(data_of(data, model, how), model, tokenizer_of(spec, how.tokenizer))
