"""The commands: what each takes, and its help."""

from __future__ import annotations

import functools
from functools import partial
from typing import Any

import click

from lloydmax_command.options import (
    AT_LEAST_ONE,
    DATA,
    Command,
    as_json_option,
    data_options,
    effort_option,
    limit_option,
    memory_option,
    model_options,
    progress_options,
    recipe_option,
    recipe_or_bits,
    seed_option,
    time_option,
)


def _version(context: click.Context, parameter: click.Parameter, asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        from lloydmax.native.library import path

        click.echo(f"lloydmax, version {version('lloydmax')}, core: {path()}")
        context.exit()


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=_version, help="Show the version.")
def main() -> None:
    """Compress a trained PyTorch model with k-means codebooks; win its accuracy back without labels."""


def command(declared: Command) -> click.Command:
    """A command of ``main``. What it does lies in ``lloydmax.cli``, which is imported, with torch, when it is run."""

    @functools.wraps(declared)
    def run(**given: Any) -> None:
        from lloydmax.cli import answer

        answer(declared.__name__, given)

    return main.command()(run)


@command
@model_options
@recipe_or_bits
@effort_option
@time_option
@memory_option
@click.option("--data", type=click.Path(), help=f"Unlabelled inputs: {DATA}")
@click.option("--reference-data", type=click.Path(), help="A few unlabelled inputs of the original domain.")
@data_options
@click.option("--out", required=True, type=click.Path(), help="The .safetensors file, or of a folder the folder.")
@click.option("--report", "report_path", type=click.Path(), help="Also write the report as JSON.")
@seed_option
@click.option("--workdir", type=click.Path(), help="Folder for large temporary files.")
@progress_options
@as_json_option
def compress() -> None:
    """Compress a model and write it to one small file, by a recipe or to a number of bits.

    Where --model is a folder of transformers or timm, --out may be a folder: of transformers, one that from_pretrained
    takes after: import lloydmax.integrations.transformers
    """


@command
@model_options
@click.option("--bits", type=float, default=4.0, show_default=True, help="Of the whole file for each weight.")
@click.option("--data", type=click.Path(), help=f"Unlabelled inputs: {DATA}")
@data_options
@effort_option
@click.option("--out", required=True, type=click.Path(), help="The YAML file to write.")
@as_json_option
def recipe() -> None:
    """Write the recipe that compress --bits runs, to be edited."""


@command
@model_options
@recipe_or_bits
@as_json_option
def plan() -> None:
    """Show what a recipe, or a number of bits, means for every parameter, and the predicted size."""


@command
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
@click.option("--curve", "only_curve", is_flag=True, help="Instead of a budget: agreement at every size.")
@click.option("--pick", metavar="AGREEMENT", help="With --curve: the smallest size that agrees so much, such as 98%.")
@click.option("--out", type=click.Path(), help="The recipe to write (with --sweep: the table as JSON).")
@click.option("--report", "report_path", type=click.Path(), help="Also write the search (sweep, curve) as JSON.")
@click.option("--plot", type=click.Path(), help="Draw the sweep, or the curve: .svg or .png (needs matplotlib).")
@seed_option
@click.option("--workdir", type=click.Path(), help="Keeps every measurement; a run that was killed goes on from there.")
@progress_options
@as_json_option
def search() -> None:
    """Choose the centroids of every layer under a budget. Status 1 if none keeps it.

    With --curve, show how much the model agrees with its original at every size, and pick a size by its agreement.
    """


@command
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
def export() -> None:
    """Write a compressed model for another runtime, codes and centroids inside, and compare its outputs."""


@command
@click.argument("path", type=click.Path())
@limit_option
@as_json_option
def inspect() -> None:
    """Show what a compressed file holds."""


@command
@click.argument("path", type=click.Path())
@limit_option
@as_json_option
def verify() -> None:
    """Check a compressed file: structure, checksums, code range. Status 1 if it is damaged."""


@command
@click.argument("reports", nargs=-1, required=True, type=click.Path(), metavar="REPORT.json [OTHER.json ...]")
@click.option("--out", required=True, type=click.Path(), help="The .html file to write.")
@click.option(
    "--sweep", "sweep_path", type=click.Path(), help="A sweep or search to show, as search --report wrote it."
)
@as_json_option
def report() -> None:
    """Show one report, or several that are compared, as one self-contained page for a browser."""


@command
@click.argument("files", nargs=-1, required=True, type=click.Path(), metavar="A.safetensors B.safetensors ...")
@partial(model_options, required=False)
@click.option("--data", type=click.Path(), help=f"Unlabelled inputs, for the agreement: {DATA}")
@data_options
@click.option("--samples", type=AT_LEAST_ONE, default=1000, show_default=True, help="Inputs that count.")
@limit_option
@click.option("--out", type=click.Path(), help="Also write the comparison as a page, .html.")
@as_json_option
def compare() -> None:
    """Compare compressed files of one model: sizes, layers, and with --model and --data their agreement with it."""


@command
@as_json_option
def plugins() -> None:
    """List what is installed, and from where."""


@command
@click.option("--markdown", "as_markdown", is_flag=True, help="Print tables for people instead of JSON.")
def schema() -> None:
    """Print what a recipe may hold.

    A JSON schema for editors and checkers, with the options of every installed plugin.
    """


@command
@click.option("--out", default="lloydmax-demo", show_default=True, type=click.Path(), help="Folder to write into.")
@progress_options
@as_json_option
def demo() -> None:
    """The main job on an embedded model: 2-bit codebooks, recovered on pictures of another domain."""


@command
@model_options
@click.argument("sets", nargs=-1, type=click.Path())
@click.option("--student", type=click.Path(), help="The compressed .safetensors file, or its folder.")
@limit_option
@click.option("--data", type=click.Path(), help=f"Inputs: {DATA}")
@data_options
@click.option("--labels", help="For the accuracy: a .npy of class numbers, or 'folders' (one per class, sorted).")
@click.option(
    "--samples", type=AT_LEAST_ONE, help="Use so many inputs, drawn at random; default: all (1000 of each of SETS)."
)
@click.option("--data-fitness", is_flag=True, help="Instead: rank SETS of inputs by how well they suit the model.")
@as_json_option
def evaluate() -> None:
    """Compare a compressed model with its original on unlabelled inputs: of a language model on texts also by their
    perplexity, and token by token.

    With --data-fitness, rank SETS of unlabelled inputs (such as: photos/ drawings.npy) for the recovery, best first.
    """
