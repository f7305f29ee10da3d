"""From a folder of photos to a config: init."""

from __future__ import annotations

import click

from fusiondistill_runner.command import tell, told_as_options, verb
from fusiondistill_runner.verbs.values import degradation_of, degradations_option


@verb(
    "init",
    "fusiondistill init photos/\nfusiondistill init photos/ --budget 1h30m --out mine.yaml --degradation jpeg"
    " --degradation blur",
    whole=True,
)
@click.argument("path")
@click.option(
    "--budget", default="1h", show_default=True, metavar="TIME", help="The time that a run may take: 90s, 1h30m, 2d."
)
@click.option("--out", metavar="FILE.yaml", help="The config to write. Default: the folder's name with .yaml.")
@click.option(
    "--model",
    metavar="NAME",
    help="The network; see `fusiondistill list networks`. Default: one that suits the images and the budget.",
)
@degradations_option
@click.option(
    "--local", is_flag=True, help="Reckon with `run --local`: one worker. Default: a worker on Ray for each expert."
)
@click.option("--force", is_flag=True, help="Replace an existing file. Default: that is an error.")
def init_verb(
    path: str,
    budget: str,
    out: str | None,
    model: str | None,
    degradations: tuple[str, ...],
    local: bool,
    force: bool,
) -> None:
    """Write a config for the images at a PATH, whose run takes about a given time on this machine.

    PATH is what `data check` takes: a folder, a table of labels or a Parquet file. The command reads the images,
    measures some seconds of training, and explains each line of the file.
    """
    from fusiondistill_runner.forecasting.wishes import Wish

    written = {"model": model, "degradations": degradations}
    given = tuple(map(degradation_of, degradations))
    with told_as_options({"model": "model.name", "degradations": "degradations"}, written):
        wish = Wish(path, budget, out, model, given, local, force)
        wish.check()
        from fusiondistill_runner.forecasting.first_config import first_config  # and torch, after a mistake is told

        first_config(wish, tell)
