"""A network on image files: predict."""

from __future__ import annotations

import sys
from typing import Any

import click

from fusiondistill_runner.command import FAILED, plugin_option, verb
from fusiondistill_runner.verbs.values import classes_option, network_options


@verb(
    "predict",
    "fusiondistill predict runs/quickstart photos/ --out labels.csv\n"
    "fusiondistill predict model.safetensors a.jpg 'more/**/*.png' --top 3\n"
    "find photos -name '*.jpg' -print0 | fusiondistill predict model.safetensors - --out labels.parquet",
    reads=True,
)
@click.argument("model")
@click.argument("paths", nargs=-1, required=True, metavar="PATH...")
@click.option("--out", metavar="FILE", help="The table to write: .csv, .json or .parquet. Default: print it.")
@click.option(
    "--top",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="How many classes to name for each image, the most probable first.",
)
@click.option(
    "--fit",
    type=click.Choice(["crop", "pad", "stretch"]),
    help="How images of another size are fitted to the network's: crop cuts, pad adds a border, stretch distorts. "
    "Default: as in its training.",
)
@click.option(
    "--bits",
    type=click.IntRange(9, 16),
    help="The bits that the values of 16-bit images fill. Default: as in its training.",
)
@network_options("what the checkpoint says", "name")
@classes_option
@click.option("--size", type=click.IntRange(min=2), help="Height and width of its images in pixels.")
@click.option("--device", metavar="NAME", help="Where it runs: cpu, cuda, cuda:1, ... Default: a GPU if there is one.")
@click.option(
    "--batch-size", type=click.IntRange(min=1), default=128, show_default=True, help="Images of a forward pass."
)
@click.option("--force", is_flag=True, help="Replace an existing table. Default: that is an error.")
@plugin_option
def predict_verb(
    model: str,
    paths: tuple[str, ...],
    name: str | None,
    mean: list[float] | None,
    std: list[float] | None,
    classes: list[str] | None,
    size: int | None,
    **options: Any,
) -> None:
    """Classify image files: label, probability, the next best classes.

    MODEL is a stage directory, a file of weights, or a store, which stands for its best network. PATH is a file, a
    folder with all below it, a quoted pattern, or - for a list on standard input. Files are turned upright and resized
    as in the training. Exit code 1: at least one file could not be read; each is named, and the others are classified.
    """
    from fusiondistill_runner.views.predictions import predict_files

    told = {"model": name, "mean": mean, "std": std, "classes": classes, "size": size}
    if not predict_files(model, paths, told=told, **options):
        sys.exit(FAILED)
