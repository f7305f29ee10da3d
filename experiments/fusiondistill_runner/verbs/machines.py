"""What the machines can do: bench, cluster check."""

from __future__ import annotations

import sys

import click

from fusiondistill_runner.command import FAILED, main, overrides_option, store_option, tell, verb


@verb(
    "bench",
    "fusiondistill bench degradations --json degradations.json\nfusiondistill bench training --device cuda\n"
    "fusiondistill bench evaluation\n"
    "fusiondistill bench schedule --speed 32=12000 --speed 64=5000",
)
@click.argument("what", type=click.Choice(["degradations", "training", "evaluation", "reading", "schedule"]))
@click.option(
    "--device",
    default="cpu",
    show_default=True,
    metavar="NAME",
    help="Where this project's code runs: cpu, cuda, cuda:1, ...",
)
@click.option(
    "--degradation",
    "degradations",
    multiple=True,
    metavar="NAME",
    help="degradations only: one to measure; may be repeated. Default: all.",
)
@click.option(
    "--speed",
    "speeds",
    multiple=True,
    metavar="SIDE=IMAGES",
    help="schedule only: training images a second of a device at 32 or 64 pixels. Default: 32=8500 (measured on an "
    "H200), 64=4000 (assumed).",
)
@click.option(
    "--model",
    metavar="NAME",
    help="training and evaluation only: the network; see `fusiondistill list networks`. Default: as below.",
)
@click.option(
    "--json", "json_file", metavar="FILE", help="Also write the rows to this file, as a list of JSON objects."
)
def bench_verb(
    what: str,
    device: str,
    degradations: tuple[str, ...],
    speeds: tuple[str, ...],
    model: str | None,
    json_file: str | None,
) -> None:
    """Measure this project's code beside a reference: images per second, ratio, and the limit that the machine sets.

    WHAT is one of these. degradations: beside imagedegrade. training: a whole step of a ResNet-8 (on a GPU:
    ResNet-56) at 32x32, beside the bare network and the usual way. evaluation: a ResNet-56 at 32x32, beside a plain
    loop and the bare forward pass. reading: images of a large file, read ahead of need beside straight out of the
    file's map, in memory and on disk. schedule: all published tables (paper_sweep) simulated on 1 to 256 devices of
    an assumed speed, the driver's order beside others.
    """
    from fusiondistill_runner import runner

    if what == "schedule":
        runner.bench_schedule(speeds, json_file, click.echo)
    elif model and what not in ("training", "evaluation"):
        raise click.UsageError(f"--model is for bench training and bench evaluation, not for bench {what}")
    else:
        runner.bench(what, device, degradations, json_file, click.echo, model)


@main.group("cluster")
def cluster_group() -> None:
    """Look at the cluster that runs would use."""


@verb("check", "fusiondistill cluster check my.yaml --store /shared/runs/mine", group=cluster_group)
@click.argument("config", required=False)
@store_option
@overrides_option
def cluster_check_verb(config: str | None, store: str | None, overrides: tuple[str, ...]) -> None:
    """Ask every node of the cluster what a run needs of it, and name what does not fit.

    Versions, devices, store, bandwidth; with a CONFIG its data set (fetched on each node, if it is downloaded by name)
    and resources. The cluster is RAY_ADDRESS's (which may have to grow first) or local. Exit code 1: it does not fit.
    """
    from fusiondistill_runner import runner

    found = runner.check_cluster(config, overrides, store, tell)
    for text in found:
        tell(f"does not fit: {text}", err=True)
    if found:
        sys.exit(FAILED)
    click.echo("fits")
