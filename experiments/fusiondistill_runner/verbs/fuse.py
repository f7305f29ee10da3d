"""Checkpoints merged into one: fuse."""

from __future__ import annotations

from typing import Any

import click

from fusiondistill_runner.command import plugin_option, tell, verb
from fusiondistill_runner.verbs.values import classes_option, degradation_of, network_options


@verb(
    "fuse",
    "fusiondistill fuse a.safetensors b.safetensors --method average --out fused.safetensors\n"
    "fusiondistill fuse jpeg=a.pt blur=b.pt --base base.pt --method task_arithmetic --set 'scale=[0.1, 0.3, 0.5]'"
    " --data cifar10 --model cifar_resnet8 --out fused.safetensors\n"
    "fusiondistill fuse jpeg=runs/demo/expert-jpeg-0123456789abcdef blur=runs/demo/expert-blur-0123456789abcdef"
    " --method regmean --data digits --out fused.safetensors\n"
    "fusiondistill fuse jpeg=a.safetensors blur=b.safetensors --method average --photos photos --out fused.safetensors",
    whole=True,
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="[TASK=]CHECKPOINT...")
@click.option("--method", required=True, metavar="NAME", help="The merging method; see `fusiondistill list merging`.")
@click.option(
    "--out",
    required=True,
    metavar="FILE",
    help="The file to write: .safetensors (with what the network is), .pt or .pth.",
)
@click.option(
    "--base", metavar="CHECKPOINT", help="The network that all were fine-tuned from, for methods that need it."
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="A parameter of the method, like density=0.3, or of the data set, like data.test=0.2; may be repeated.",
)
@click.option(
    "--data",
    metavar="NAME",
    help="A data set whose training images recompute BatchNorm and judge networks; see `fusiondistill list "
    "sources`. Default: none.",
)
@click.option(
    "--root", metavar="PATH", help="The folder or file of the data set. Default: a published set is downloaded."
)
@click.option(
    "--photos",
    multiple=True,
    metavar="FILE|FOLDER|PATTERN",
    help="Images without labels, in place of --data: they recompute BatchNorm, and serve methods that need no label; "
    "nothing is judged. May be repeated.",
)
@click.option("--images", type=click.IntRange(min=2), default=1000, show_default=True, help="The most images of "
              "the data set to take for BatchNorm, and the most to judge by.")  # fmt: skip
@click.option(
    "--degradation",
    "degradations",
    multiple=True,
    metavar="NAME",
    help="Also judge on this degradation; may be repeated. '{name: blur, as: light, levels: 0..20}' makes a TASK "
    "named light. Default: those of the TASKs.",
)
@click.option(
    "--recalibrate",
    type=click.Choice(["best", "mixed", "average"]),
    help="BatchNorm's statistics: mixed recomputes them on all tasks, average averages them, best takes those that are "
    "right more often on held-out images. Default: best with --data, mixed with --photos, else average.",
)
@click.option(
    "--crop-padding",
    type=click.IntRange(0, 64),
    help="The padding of random crops in the networks' training, in pixels: BatchNorm is recomputed on images cut so. "
    "Default: as stage directories say, else none.",
)
@click.option(
    "--cutout",
    type=click.IntRange(min=0),
    help="The side of the square hole in their training, in pixels. Default: as stage directories say, else none.",
)
@network_options("the data set's")
@classes_option
@click.option(
    "--size", type=click.IntRange(min=2), help="Height and width of its images in pixels. Default: the data set's."
)
@click.option(
    "--seed", type=int, default=0, show_default=True, help="The seed of the held-out part, of levels and of noise."
)
@click.option(
    "--device", metavar="NAME", help="Where networks are judged: cpu, cuda, cuda:1, ... Default: a GPU if there is one."
)
@click.option("--no-measure", is_flag=True, help="Merge and write, and judge nothing.")
@click.option("--force", is_flag=True, help="Replace an existing file. Default: that is an error.")
@plugin_option
def fuse_verb(
    checkpoints: tuple[str, ...],
    method: str,
    out: str,
    degradations: tuple[str, ...],
    data: str | None,
    photos: tuple[str, ...],
    seed: int,
    **options: Any,
) -> None:
    """Merge checkpoints of one architecture into one network, and say how good it is.

    CHECKPOINT is a file of weights of any program, or a stage directory. TASK is the degradation that it is for, or
    clean. Without images weights are merged as they are. With --data BatchNorm's statistics are recomputed or averaged,
    whichever is better, and networks are judged on images held out of training: the loss barrier between each pair,
    what each ingredient brings, and what is kept of each expert's accuracy on its own task. Test images are never read.
    With --photos, which need no labels, statistics are recomputed and nothing is judged. Statistics belong to images as
    training showed them: of stage directories that is known, of other files --crop-padding and --cutout say it.
    """
    from fusiondistill_runner.views.fusing import fuse_files
    from fusiondistill_runner.views.fusing_input import Data

    told = {key: options.pop(key) for key in ("model", "mean", "std", "classes", "size")}
    of_data = {key: options.pop(key) for key in ("root", "images", "crop_padding", "cutout", "recalibrate", "device")}
    given = {**told, **of_data, "degradation": degradations}
    said = [key for key, one in given.items() if one not in (None, (), "average") and key != "images"]
    idle = [f"--{key.replace('_', '-')}" for key in said]
    if data is None and not photos and idle:
        raise click.UsageError(f"{idle[0]} is about images: give --data NAME, or --photos FOLDER, too")
    if photos and (data is not None or of_data["root"] is not None):
        raise click.UsageError("--photos stands in place of --data: give one of them, and no --root with --photos")
    if photos and of_data["recalibrate"] == "best":
        raise click.UsageError("--recalibrate best needs labels, and --photos have none: say mixed or average")
    measure = not options.pop("no_measure")
    if of_data["recalibrate"] == "best" and not measure:
        raise click.UsageError("--recalibrate best judges, and --no-measure does not: say mixed or average")
    of_data["recalibrate"] = of_data["recalibrate"] or ("mixed" if photos or not measure else "best")
    fuse_files(
        checkpoints,
        method,
        out,
        tell,
        degradations=[degradation_of(text) for text in degradations],
        data=None if data is None and not photos else Data(data, photos=photos, told=told, **of_data),
        seed=seed,
        measure=measure,
        **options,
    )
