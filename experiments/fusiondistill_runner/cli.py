"""The command line: thin, each verb calls one function. Heavy imports wait for the verb."""

from __future__ import annotations

import sys
from typing import Any

import click

from fusiondistill_runner.command import (
    FAILED,
    local_option,
    main,
    overrides_option,
    plugin_option,
    store_option,
    told_as_options,
    verb,
    yes_option,
)
from fusiondistill_runner.session import carry_out, execute, headlines, say_first, stage_lines, summary_lines

__all__ = ["main"]


@verb("run", "fusiondistill run quickstart\nfusiondistill run my.yaml --set seeds=[0,1,2] --store /shared/runs/mine")
@click.argument("config")
@store_option
@overrides_option
@local_option
@yes_option
def run_verb(config: str, store: str | None, overrides: tuple[str, ...], local: bool, yes: bool) -> None:
    """Run a whole experiment: plan, train, fuse, search, distill, evaluate, report.

    CONFIG is a YAML file or the name of a shipped one. Started again, it does only what is missing.
    """
    execute(config, overrides, store, verb="run", yes=yes, local=local)


@verb("search", "fusiondistill search quickstart --set search.trials=20")
@click.argument("config")
@store_option
@overrides_option
@local_option
@yes_option
def search_verb(config: str, store: str | None, overrides: tuple[str, ...], local: bool, yes: bool) -> None:
    """Run the search of a config, and what it rests on.

    Prints the ranking of the trials and how much each dimension mattered, and writes the best as a config file.
    """
    execute(config, overrides, store, verb="search", yes=yes, local=local)


@verb("sweep", "fusiondistill sweep quickstart --set 'sweep={model.name: [cifar_resnet8, cifar_resnet14]}'")
@click.argument("config")
@store_option
@overrides_option
@local_option
@yes_option
def sweep_verb(config: str, store: str | None, overrides: tuple[str, ...], local: bool, yes: bool) -> None:
    """Run an experiment for every point of a config's sweep, as one plan over one store.

    What points share (a base and its experts, say) is trained once. Each point has all seeds and methods of the config.
    """
    execute(config, overrides, store, verb="sweep", yes=yes, local=local)


@verb(
    "plan",
    "fusiondistill plan cifar10 --set seeds=[0,1,2]\nfusiondistill plan quickstart --stages\n"
    "fusiondistill plan quickstart --simulate workers=2 --simulate nodes=30,gpus=8 --times train=600 --times evaluate=9"
    " --times fuse=9 --times search=600",
    reads=True,
)
@click.argument("config")
@store_option
@overrides_option
@click.option(
    "--simulate",
    multiple=True,
    metavar="CLUSTER",
    help="Also say how long the rest takes on workers=N, or on nodes=N,gpus=N or nodes=N,cpus=N (of each node); "
    "may be repeated.",
)
@click.option(
    "--times",
    multiple=True,
    metavar="FILE|NAME=SECONDS",
    help="Assumed seconds of a stage by its name or kind, or a YAML file of them; for --simulate, may be repeated.",
)
@click.option("--stages", "listed", is_flag=True, help="Also list every stage, with what it needs.")
def plan_verb(
    config: str,
    store: str | None,
    overrides: tuple[str, ...],
    simulate: tuple[str, ...],
    times: tuple[str, ...],
    listed: bool,
) -> None:
    """Print how many stages there are of each kind, what is stored, and what the rest will cost.

    Trains nothing; a data set that is downloaded by name is fetched, since the plan depends on its content.
    """
    from fusiondistill_runner.driving.changes import changed_plugins
    from fusiondistill_runner.driving.prepared import prepare
    from fusiondistill_runner.forecasting.estimates import cost_lines, measured
    from fusiondistill_runner.forecasting.forecast import forecast
    from fusiondistill_runner.storage.noted_plans import check_format

    prepared = prepare(config, overrides, store)
    check_format(prepared.store)
    prepared = prepared.looked_up()
    estimates = measured(prepared.store)
    simulated = forecast(prepared, simulate, times, estimates)
    costs = cost_lines(prepared.missing, estimates, prepared.config.resources)
    stages = (stage_lines if listed else summary_lines)(prepared)
    notes = (f"note: {text}" for text in prepared.notes)
    for line in (*prepared.data, *notes, *headlines(prepared), *changed_plugins(prepared), *stages, *costs, *simulated):
        click.echo(line)
    if not listed:
        click.echo("--stages lists the stages")


@verb("validate", "fusiondistill validate my.yaml", reads=True)
@click.argument("config")
@overrides_option
def validate_verb(config: str, overrides: tuple[str, ...]) -> None:
    """Check a config: every mistake at once, with its line; then its images and checkpoints, as ``plan`` does.

    Images that are fetched by their name are left to ``plan``: only a data set with a root is read.
    """
    from fusiondistill import config_file
    from fusiondistill_runner.driving.prepared import look_for_data, prepare

    checked, points = config_file.load_points(config, overrides)
    at_roots = all(point.data.place for point in points)
    notes = prepare(config, overrides).notes if at_roots else look_for_data(points)
    for text in notes:
        click.echo(f"note: {text}")
    click.echo(f"{config} is valid: {checked.experiment}, protocol {checked.protocol}, seeds {list(checked.seeds)}")


@verb("status", "fusiondistill status runs/quickstart\nfusiondistill status runs/quickstart --watch", reads=True)
@click.argument("store")
@click.option(
    "--watch",
    "every",
    is_flag=False,
    flag_value=0.0,
    type=click.FloatRange(min=0.0),
    metavar="[SECONDS]",
    help="Look again every so many seconds (1, of a bucket 10) until its run is complete; Ctrl-C leaves.",
)
def status_verb(store: str, every: float | None) -> None:
    """Say what of each experiment in a store is done, under way, failed or missing.

    With --watch the exit code is 0 when all is done, 1 when its run ended with failures.
    """
    from fusiondistill_runner.storage.store import Store
    from fusiondistill_runner.watching import status

    if every is None:
        for line in status.status_lines(Store(store)):
            click.echo(line)
        return
    try:
        done = status.watch(Store(store), every, click.echo)
    except KeyboardInterrupt:
        return
    if not done:
        sys.exit(FAILED)


@verb("prune", "fusiondistill prune runs/quickstart")
@click.argument("store")
@click.option("--yes", is_flag=True, help="Delete without asking.")
def prune_verb(store: str, yes: bool) -> None:
    """Delete the stages in a store that none of its plans needs any more; says which, and asks."""
    from fusiondistill_runner.storage.noted_plans import plans
    from fusiondistill_runner.storage.pruning import unneeded
    from fusiondistill_runner.storage.store import Store

    place = Store(store)
    plans(place)  # raises where there is no store
    with place.held():
        found = unneeded(place)
        for one in found:
            click.echo(f"  {one.bytes / 1e6:8.1f} MB  {one.directory}")
        if not found:
            click.echo(f"nothing to delete: every stage in {place.location} belongs to a plan")
        elif yes or (sys.stdin.isatty() and click.confirm(f"Delete these {len(found)} directories?")):
            for one in found:
                place.delete(one.directory)
            click.echo(f"deleted: {len(found)} directories, {sum(one.bytes for one in found) / 1e6:.1f} MB")
        else:
            click.echo("nothing deleted; with --yes these directories go")


@verb("report", "fusiondistill report runs/quickstart\nfusiondistill report runs/a s3://bucket/b --out side_by_side")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option("--out", metavar="DIR", help="Where the report goes. Default: STORE/report, of several stores ./report.")
def report_verb(stores: tuple[str, ...], out: str | None) -> None:
    """Rebuild results.parquet and the report from a store; works while a run is still going.

    Several stores make one report over all of them. With several, or with --out, nothing is written into them.
    """
    from fusiondistill import report
    from fusiondistill_runner.views import results, side_by_side

    places = side_by_side.open_stores(stores)
    if len(places) == 1 and out is None:
        table = results.write_results(places[0])
        lines, page = results.table_lines(places[0], table), results.write_report(places[0], table)
    else:
        tables = side_by_side.side_by_side(places)
        planned, comparisons = tables.get("planned"), tables.get("comparisons")
        lines = report.table_lines(tables["results"], planned=planned, comparisons=comparisons)
        page = side_by_side.write_report_to(out or "report", tables)
    for line in lines:
        click.echo(line)
    click.echo(f"\nreport: {page}")


def _three(context: click.Context, option: click.Parameter, text: str | None) -> list[float] | None:
    """Three numbers of the command line, parted by commas or spaces; ``255`` alone stands for all three."""
    if text is None:
        return None
    try:
        found = [float(part) for part in text.strip("[]() ").replace(",", " ").split()]
    except ValueError:
        found = []
    if len(found) not in (1, 3):
        raise click.BadParameter(f"{text!r} is not three numbers, like 0.485,0.456,0.406 or '0.485 0.456 0.406'")
    return found * 3 if len(found) == 1 else found


@verb(
    "evaluate",
    "fusiondistill evaluate runs/quickstart/base-0123456789abcdef --data digits --every 5\n"
    "fusiondistill evaluate model.safetensors --data cifar10 --corruptions CIFAR-10-C\n"
    "fusiondistill evaluate mine.pt --data folder --root photos --model resnet18 --mean 0.485,0.456,0.406"
    " --std 0.229,0.224,0.225",
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--data", "data", required=True, help="Name of the data set.")
@click.option("--root", help="Where its files are.")
@click.option("--model", metavar="NAME", help="The network of files that do not say which one they belong to.")
@click.option(
    "--mean",
    metavar="R,G,B",
    callback=_three,
    help="What such a network's images are normalised by: 0.485,0.456,0.406 or 123.7,116.3,103.5. Left out, common "
    "values are compared on training images.",
)
@click.option("--std", metavar="R,G,B", callback=_three, help="The same for their deviation.")
@click.option("--images", type=click.IntRange(min=2), help="Use only so many test images, balanced over classes.")
@click.option(
    "--degradation",
    "degradations",
    multiple=True,
    metavar="NAME",
    help="Or '{name: blur, as: light, levels: 0..20}'; may be repeated. Default: the paper's four.",
)
@click.option("--unseen", multiple=True, metavar="NAME", help="The same, shown apart from these; may be repeated.")
@click.option("--corruptions", metavar="DIR", help="A published set in the layout of CIFAR-10-C.")
@plugin_option
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Evaluate every k-th level.")
@click.option("--seed", type=int, default=123, show_default=True, help="Of the noise.")
@click.option("--batch-size", type=click.IntRange(min=2), default=500, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--protocol", type=click.Choice(["standard", "paper"]), default="standard", show_default=True)
@click.option("--store", metavar="DIR_OR_URI", help="Where results live. Default: runs/evaluate-<data>.")
@local_option
@overrides_option
def evaluate_verb(checkpoints: tuple[str, ...], data: str, store: str | None, local: bool, **options: Any) -> None:
    """Evaluate checkpoints (stage directories or files) on the test split of a data set, over the cluster's workers.

    Started again, it does only what is missing.
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
        options[name] = [_degradation(text) for text in options[name]]
    given = [f"{key}={json.dumps(options[name])}" for name, key in keys.items() if options[name] not in (None, (), [])]
    overrides = [*given, *options["overrides"]]
    with told_as_options({**keys, "data": "data.name"}, written):
        prepared = prepare_evaluation(checkpoints, overrides, store, data=data, local=local)
    carry_out(prepared, local=local)


def _degradation(text: str) -> Any:
    """A degradation of the command line: a name, or a mapping as in a config, like ``{name: blur, levels: 0..20}``.

    Raises:
        ValueError: a mapping that is none.
    """
    from fusiondistill import safe_yaml

    if not text.lstrip().startswith("{"):
        return text
    try:
        return safe_yaml.read(text)[0]
    except safe_yaml.YAMLProblem as error:
        raise ValueError(f"{text!r}: {error}; write it like '{{name: blur, as: light, levels: 0..20}}'") from error


@verb("list", "fusiondistill list\nfusiondistill list networks --plugin mine.py", reads=True)
@click.argument("kind", required=False)
@plugin_option
def list_verb(kind: str | None, plugins: tuple[str, ...]) -> None:
    """Show what a config can name: of each its name, a line, its parameters with defaults and ranges, its source.

    KIND: degradations, sources, networks, losses, merging or inference. Default: all.
    """
    import shutil

    from fusiondistill.catalogue import catalogue
    from fusiondistill.plugins import all_registries, load_plugins, read_plugins

    load_plugins(read_plugins(plugins))
    width = min(118, shutil.get_terminal_size().columns)
    for line in catalogue(all_registries(), kind, width=max(60, width)):
        click.echo(line)


@verb("degrade", "fusiondistill degrade photo.jpg --out grid.png")
@click.argument("image")
@click.option("--out", required=True, metavar="GRID.png", help="The picture to write.")
@click.option("--degradation", "degradations", multiple=True, help="May be repeated. Default: all.")
@plugin_option
@click.option("--seed", type=int, default=123, show_default=True, help="Of the noise.")
@click.option("--protocol", type=click.Choice(["standard", "paper"]), default="standard", show_default=True)
def degrade_verb(
    image: str, out: str, degradations: tuple[str, ...], plugins: tuple[str, ...], seed: int, protocol: str
) -> None:
    """Show an image under every degradation at five levels."""
    from fusiondistill.degradations import degrade_grid
    from fusiondistill.plugins import load_plugins, read_plugins

    load_plugins(read_plugins(plugins))
    degrade_grid(image, out, degradations=degradations or None, seed=seed, protocol=protocol)
    click.echo(f"written: {out}")


@verb(
    "bench",
    "fusiondistill bench degradations --json degradations.json\nfusiondistill bench evaluation\n"
    "fusiondistill bench schedule --speed 32=12000 --speed 64=5000",
)
@click.argument("what", type=click.Choice(["degradations", "evaluation", "reading", "schedule"]))
@click.option("--device", default="cpu", show_default=True, help="Where ours runs: cpu, cuda, cuda:1, ...")
@click.option("--degradation", "degradations", multiple=True, help="May be repeated. Default: all.")
@click.option(
    "--speed",
    "speeds",
    multiple=True,
    metavar="SIDE=IMAGES",
    help="schedule only: training images a second of a device at 32 or 64 pixels. Default: 32=8500 (measured on an "
    "H200), 64=4000 (assumed).",
)
@click.option("--json", "json_file", metavar="FILE", help="Also write the rows to a file.")
def bench_verb(
    what: str, device: str, degradations: tuple[str, ...], speeds: tuple[str, ...], json_file: str | None
) -> None:
    """Measure ours beside a reference in one run: images per second, ratio, and the limit that we come up against.

    degradations: beside imagedegrade. evaluation: a ResNet-56 at 32x32, beside a plain loop and the bare forward pass.
    reading: images of a large file, read ahead of need beside straight out of the file's map, in memory and on disk.
    schedule: all published tables (paper_sweep) simulated on 1 to 256 devices of an assumed speed, the driver's order
    beside others.
    """
    from fusiondistill_runner import runner

    if what == "schedule":
        runner.bench_schedule(speeds, json_file, click.echo)
    else:
        runner.bench(what, device, degradations, json_file, click.echo)


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
@click.option("--json", "as_json", is_flag=True, help="For scripts.")
def data_check_verb(path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Look at every image of a data set, and say what to write into a config for it.

    PATH is a folder (train/test or not), a table of labels (.csv, .tsv), a Parquet file, or a config. Says how many
    images of each class and split there are, their sizes and modes, which are broken, there twice or in two splits, and
    how uneven the classes are. Exit code: 1 where something is wrong that no key of the config mends (also broken
    files, images in two splits or with two labels), else 0.
    """
    import json

    from fusiondistill_runner.views.data_report import check_data, content, lines

    facts = check_data(path, overrides)
    for line in [json.dumps(content(facts), indent=1)] if as_json else lines(facts):
        click.echo(line)
    if facts.wrong:
        sys.exit(FAILED)


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

    found = runner.check_cluster(config, overrides, store, click.echo)
    for text in found:
        click.echo(f"does not fit: {text}", err=True)
    if found:
        sys.exit(FAILED)
    click.echo("fits")
