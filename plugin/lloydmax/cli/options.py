"""What several commands share: options, progress, how results and errors are shown."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

from lloydmax.errors import LloydmaxError
from lloydmax.progress.bars import ProgressBars
from lloydmax.progress.jsonlog import JsonLog
from lloydmax.runtime import processes

Command = Callable[..., Any]
_LOG_JSON, _QUIET = "lloydmax.log_json", "lloydmax.quiet"


class Main(click.Group):
    """Errors that lloydmax raises on purpose end in one line and status 2, not in a traceback."""

    def invoke(self, ctx: click.Context) -> Any:  # noqa: D102
        try:
            return super().invoke(ctx)
        except (LloydmaxError, OSError) as error:
            if ctx.meta.get(_LOG_JSON):
                JsonLog().write("error", str(error))
            else:
                click.echo(f"lloydmax: {error}", err=True)
            ctx.exit(2)


def model_options(command: Command) -> Command:
    """Options that say how to build the model."""
    for option in (
        click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, cuda:1 ..."),
        click.option(
            "--model-args", metavar="JSON", help="Keyword arguments of the callable, '{\"num_classes\": 10}'."
        ),
        click.option("--weights", type=click.Path(), help="Its weights: .safetensors, or .pt (weights only)."),
        click.option(
            "--model", required=True, metavar="MODULE:CALLABLE|FOLDER", help="What builds the model, or its folder."
        ),
    ):
        command = option(command)
    return command


def data_options(command: Command) -> Command:
    """Options that say how to read a folder of images."""
    for option in (
        click.option("--std", help="Comma-separated, for a folder of images; default ImageNet's."),
        click.option("--mean", help="Comma-separated, for a folder of images; default ImageNet's."),
        click.option("--image-size", default=224, show_default=True, help="Pixels, for a folder of images."),
    ):
        command = option(command)
    return command


AT_LEAST_ONE, SEED = click.IntRange(1), click.IntRange(0, 2**63 - 1)
DATA = (
    "a folder of images; .npy, .npz, .safetensors; texts, .txt, .jsonl or a folder of them, for a model in a folder "
    "with its tokenizer; or synthesize:COUNT (images made from the model's batch norms)."
)


def _noted(ctx: click.Context, parameter: click.Parameter, given: bool) -> bool:
    ctx.meta[f"lloydmax.{parameter.name}"] = given
    return given


def progress_options(command: Command) -> Command:
    """Options that say how progress is shown."""
    for option in (
        click.option(
            "--log-json",
            is_flag=True,
            callback=_noted,
            help="Progress, warnings and errors as JSON lines on stderr.",
        ),
        click.option("--quiet", is_flag=True, callback=_noted, help="No progress."),
    ):
        command = option(command)
    return command


@contextmanager
def progress(quiet: bool, log_json: bool) -> Iterator[dict[str, Any]]:
    """The arguments of a run that say how its progress is shown."""
    if not log_json:
        yield {"progress": not quiet}
        return
    with JsonLog() as log:
        yield {"progress": False, "listeners": [log]}


@contextmanager
def listeners() -> Iterator[list[object]]:
    """What hears a stage before the run itself, as the options of the command say."""
    told = click.get_current_context().meta
    if told.get(_LOG_JSON):
        yield [JsonLog()]
    elif told.get(_QUIET):
        yield []
    else:
        with ProgressBars() as bars:
            yield [bars]


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
limit_option = click.option(
    "--limit", type=click.IntRange(0), metavar="BYTES", help="Refuse a file that decodes to more; see inspect."
)
recipe_option = click.option(
    "--recipe", required=True, type=click.Path(), help="A YAML recipe, or the name of a ready one."
)


def show(data: Any, text: str, as_json: bool) -> None:
    """Print the result, once per run."""
    if processes.writes():
        click.echo(json.dumps(data, indent=2) if as_json else text)
