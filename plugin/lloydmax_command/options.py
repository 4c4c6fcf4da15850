"""The options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]
AT_LEAST_ONE = click.IntRange(1)


def model_options(command: Command, required: bool = True) -> Command:
    """Options that say how to build the model."""
    for option in (
        click.option("--device", default="cpu", show_default=True, help="Where to run: cpu, cuda, cuda:1 ..."),
        click.option(
            "--model-args",
            metavar="JSON",
            help="Keyword arguments of the callable, '{\"num_classes\": 10}'; weights of "
            'the package itself: \'{"pretrained": true}\' of timm, \'{"weights": "DEFAULT"}\' of torchvision.',
        ),
        click.option(
            "--weights", type=click.Path(), help="Its weights: .safetensors, .index.json, .pt (weights only)."
        ),
        click.option(
            "--model",
            required=required,
            metavar="MODULE:CALLABLE|FOLDER",
            help="What builds the model: torchvision.models:resnet18, timm:resnet18, mine.py:net; or its folder.",
        ),
    ):
        command = option(command)
    return command


def data_options(command: Command) -> Command:
    """Options that say how to read images, sounds and texts."""
    for option in (
        click.option(
            "--tokenizer", metavar="FOLDER|FILE|MODULE:FUNCTION", help="Of texts; default: that in the model's folder."
        ),
        click.option("--seconds", type=float, help="Of each sound; default: 3."),
        click.option("--rate", type=AT_LEAST_ONE, metavar="HZ", help="Of sounds, resampled; default: the model's."),
        click.option("--skip-bad", metavar="SHARE", help="Of the files that may be unreadable; default 1%."),
        click.option("--std", help="What each channel is divided by then, comma-separated."),
        click.option("--mean", help="What each channel, 0 to 1, is reduced by, comma-separated."),
        click.option("--interpolation", metavar="NAME", help="nearest, bilinear, bicubic, lanczos, box or hamming."),
        click.option("--crop", type=click.Choice(["center", "none"]), help="none: the whole image is squeezed."),
        click.option("--resize", type=AT_LEAST_ONE, help="Pixels of the shorter side before the crop."),
        click.option(
            "--size", "--image-size", metavar="PIXELS", help="Of an image, 224 or 224x320. This and what follows "
            "to --std: for folders of images, and .npy of uint8; default: what the model's own configuration or "
            "weights say, or what is usual for ImageNet.",
        ),
    ):  # fmt: skip
        command = option(command)
    return command


DATA = (
    "a folder of images or sounds; .npy, .npz, .safetensors; tables, .csv, .tsv, .parquet; texts, "
    ".txt, .jsonl or a folder of them; datasets:NAME[:SPLIT], of "
    "Hugging Face; or synthesize:COUNT (images made from the model's batch norms)."
)


def recipe_or_bits(command: Command) -> Command:
    """Two options, of which one says how to compress."""
    for option in (
        click.option(
            "--bits",
            type=float,
            help="Instead of a recipe: bits of the whole file for each weight; 4 is an eighth of float32, 3.2 a tenth.",
        ),
        click.option(
            "--recipe", type=click.Path(), help="A YAML recipe, or the name of a ready one; without one, --bits."
        ),
    ):
        command = option(command)
    return command


def progress_options(command: Command) -> Command:
    """Options that say how progress is shown."""
    for option in (
        click.option(
            "--log-json",
            is_flag=True,
            help="Progress, warnings and errors as JSON lines on stderr.",
        ),
        click.option("--quiet", is_flag=True, help="No progress."),
    ):
        command = option(command)
    return command


as_json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
limit_option = click.option(
    "--limit", type=click.IntRange(0), metavar="BYTES", help="Refuse a file that decodes to more; see inspect."
)
recipe_option = click.option(
    "--recipe", required=True, type=click.Path(), help="A YAML recipe, or the name of a ready one."
)
effort_option = click.option(
    "--effort", type=float, default=1.0, show_default=True, help="With --bits: times the usual training."
)
time_option = click.option(
    "--max-time", metavar="TIME", help="Finish within this time, as good as it gets: 90s, 10m, 1h30m."
)
memory_option = click.option(
    "--max-memory", metavar="SIZE", help="Memory that the process may take, about: 2GB, 800MB."
)
seed_option = click.option(
    "--seed", type=click.IntRange(0, 2**63 - 1), help="Of all randomness; default: the recipe's."
)
