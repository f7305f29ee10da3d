"""Checkpoints on the test images of a data set."""

from __future__ import annotations

from typing import Any

import click

from fusiondistill_runner.command import local_option, overrides_option, plugin_option, told_as_options, verb
from fusiondistill_runner.session import carry_out, say_first
from fusiondistill_runner.verbs.values import (
    degradation_of,
    degradations_option,
    network_options,
    noise_seed_option,
    protocol_option,
)


@verb(
    "evaluate",
    "fusiondistill evaluate runs/quickstart/base-0123456789abcdef --data digits --every 5\n"
    "fusiondistill evaluate model.safetensors --data cifar10 --corruptions CIFAR-10-C\n"
    "fusiondistill evaluate mine.pt --data folder --root photos --model resnet18 --mean 0.485,0.456,0.406"
    " --std 0.229,0.224,0.225",
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--data", "data", required=True, metavar="NAME", help="The data set; see `fusiondistill list sources`.")
@click.option(
    "--root", metavar="PATH", help="The folder or file of the data set. Default: a published set is downloaded."
)
@network_options("common values are compared on training images")
@click.option(
    "--images", type=click.IntRange(min=2), help="Use only so many test images, balanced over classes. Default: all."
)
@degradations_option
@click.option(
    "--unseen",
    multiple=True,
    metavar="NAME",
    help="A degradation like those of --degradation, in its own table; may be repeated.",
)
@click.option(
    "--corruptions",
    metavar="DIR",
    help="The folder of a published corruption set, laid out like CIFAR-10-C: one more table.",
)
@plugin_option
@click.option(
    "--every",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Evaluate every k-th level; those between are interpolated.",
)
@noise_seed_option
@click.option(
    "--batch-size",
    type=click.IntRange(min=2),
    default=500,
    show_default=True,
    help="Images of a forward pass; results do not depend on it.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "bf16", "fp16"]),
    default="fp32",
    show_default=True,
    help="The precision of the forward passes.",
)
@protocol_option
@click.option("--store", metavar="DIR_OR_URI", help="Where results live. Default: runs/evaluate-<data>.")
@local_option
@overrides_option
def evaluate_verb(checkpoints: tuple[str, ...], data: str, store: str | None, local: bool, **options: Any) -> None:
    """Evaluate checkpoints on the test split of a data set, over the cluster's workers.

    CHECKPOINT is a stage directory or a file of weights. The command, started again, does only what is missing.
    """
    import json

    say_first(checkpoints[0] if len(checkpoints) == 1 else f"{len(checkpoints)} checkpoints", local)
    from fusiondistill_runner.driving.prepared import prepare_evaluation

    keys = {
        "root": "data.root",
        "model": "model.name",
        "mean": "data.mean",
        "std": "data.std",
        "images": "data.test_images",
        "degradations": "degradations",
        "unseen": "evaluation.unseen",
        "corruptions": "evaluation.corruptions",
        "plugins": "plugins",
        "every": "evaluation.every",
        "seed": "evaluation.seed",
        "batch_size": "evaluation.batch_size",
        "precision": "evaluation.precision",
        "protocol": "protocol",
    }
    written = {**options, "data": data}
    for name in ("degradations", "unseen"):
        options[name] = [degradation_of(text) for text in options[name]]
    given = [f"{key}={json.dumps(options[name])}" for name, key in keys.items() if options[name] not in (None, (), [])]
    overrides = [*given, *options["overrides"]]
    with told_as_options({**keys, "data": "data.name"}, written):
        prepared = prepare_evaluation(checkpoints, overrides, store, data=data, local=local)
    carry_out(prepared, local=local)
