"""What a config can name, what degradations look like, how images are: list, degrade, data check."""

from __future__ import annotations

import sys

import click

from fusiondistill_runner.command import FAILED, main, overrides_option, plugin_option, tell, verb
from fusiondistill_runner.verbs.values import noise_seed_option, protocol_option


@verb(
    "list",
    "fusiondistill list\nfusiondistill list networks --plugin mine.py\nfusiondistill list merging ties\n"
    "fusiondistill list config base.optimizer\n"
    "fusiondistill list config --schema",
    reads=True,
)
@click.argument("kind", required=False)
@click.argument("key", required=False)
@click.option("--schema", is_flag=True, help="With config: print the JSON Schema of a config, for editors.")
@plugin_option
def list_verb(kind: str | None, key: str | None, schema: bool, plugins: tuple[str, ...]) -> None:
    """Show what a config can name: of each its name, a line, its parameters with defaults and ranges, its source.

    KIND: degradations, sources, networks, losses, merging or inference. Default: all. A KEY is the name of one of them.
    Or config: every key of a config, with type, default, range and meaning; a KEY, like base.optimizer, or a word shows
    a part.
    """
    import shutil

    from fusiondistill.catalogue import catalogue
    from fusiondistill.plugins import all_registries, load_plugins, read_plugins

    if kind != "config" and schema:
        raise ValueError("--schema goes with config: fusiondistill list config --schema")
    load_plugins(read_plugins(plugins))
    width = max(60, min(118, shutil.get_terminal_size().columns))
    if schema:
        from fusiondistill.config_schema import schema_text

        click.echo(schema_text(), nl=False)
    elif kind == "config":
        from fusiondistill.config_keys import config_lines

        for line in config_lines(key or "", width=width):
            click.echo(line)
    else:
        for line in catalogue(all_registries(), kind, key, width=width):
            click.echo(line)


@verb("degrade", "fusiondistill degrade photo.jpg --out grid.png", whole=True)
@click.argument("image")
@click.option("--out", required=True, metavar="GRID.png", help="The picture to write; its ending says the format.")
@click.option(
    "--degradation",
    "degradations",
    multiple=True,
    metavar="NAME",
    help="A degradation to show; may be repeated. Default: all.",
)
@plugin_option
@noise_seed_option
@protocol_option
def degrade_verb(
    image: str, out: str, degradations: tuple[str, ...], plugins: tuple[str, ...], seed: int, protocol: str
) -> None:
    """Write a picture of IMAGE, an image file, under every degradation at five levels."""
    from fusiondistill.degradations import degrade_grid
    from fusiondistill.plugins import load_plugins, read_plugins

    load_plugins(read_plugins(plugins))
    degrade_grid(image, out, degradations=degradations or None, seed=seed, protocol=protocol)
    tell(f"written: {out}")


@main.group("data")
def data_group() -> None:
    """Look at images before they are used."""


@verb(
    "check",
    "fusiondistill data check photos/\nfusiondistill data check labels.csv --set data.images=photos\n"
    "fusiondistill data check my.yaml --json",
    group=data_group,
    reads=True,
)
@click.argument("path")
@overrides_option
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object, for scripts.")
def data_check_verb(path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Look at every image of a data set, and say what to write into a config for it.

    PATH is a folder (train/test or not), a table of labels (.csv, .tsv), a Parquet file, a config, or a set by its name
    (digits), which is fetched as a run would. Says how many images of each class and split there are, their sizes and
    modes, which are broken, there twice or in two splits, and how uneven the classes are. Exit code: 1 where something
    is wrong that no key of the config mends (also broken files, images in two splits or with two labels), else 0.
    """
    import json

    from fusiondistill_runner.views.data_report import check_data, content, lines

    facts = check_data(path, overrides)
    for line in [json.dumps(content(facts), indent=1)] if as_json else lines(facts):
        click.echo(line)
    if facts.wrong:
        sys.exit(FAILED)
