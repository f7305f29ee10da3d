"""Whole experiments: run, search, sweep; and before them: plan, validate."""

from __future__ import annotations

from functools import partial

import click

from fusiondistill_runner.command import local_option, overrides_option, store_option, tell, verb, yes_option
from fusiondistill_runner.session import execute, headlines, said_before, stage_lines, summary_lines


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
    """Run the search of CONFIG, and the stages that it needs.

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
    """Run an experiment for every point of the sweep in CONFIG, as one plan over one store.

    Stages that points share (a base and its experts, say) run once. Each point has all seeds and methods of the config.
    """
    execute(config, overrides, store, verb="sweep", yes=yes, local=local)


@verb(
    "plan",
    "fusiondistill plan cifar10 --set seeds=[0,1,2]\nfusiondistill plan quickstart --stages\n"
    "fusiondistill plan quickstart --json > plan.json\n"
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
    help="Also say how long the rest takes on a cluster: workers=N, or nodes=N,gpus=N or nodes=N,cpus=N (of each "
    "node); may be repeated.",
)
@click.option(
    "--times",
    multiple=True,
    metavar="FILE|NAME=SECONDS",
    help="For --simulate: the seconds that a stage takes, by its name or kind, or a YAML file of them; may be "
    "repeated. Default: what was measured.",
)
@click.option("--stages", "listed", is_flag=True, help="Also list every stage, with what it needs.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON object, for scripts: every stage, and all numbers."
)
@click.option(
    "--measure/--no-measure",
    default=None,
    help="Whether to measure a few steps of the stages whose time is not known, and note it for later. "
    "Default: yes, unless --times is given or workers need a GPU that this machine lacks.",
)
def plan_verb(
    config: str,
    store: str | None,
    overrides: tuple[str, ...],
    simulate: tuple[str, ...],
    times: tuple[str, ...],
    listed: bool,
    as_json: bool,
    measure: bool | None,
) -> None:
    """Print how many stages CONFIG has of each kind, which are stored, and what the rest will cost.

    The command trains nothing but a few steps that tell the cost, once a machine; their weights are thrown away. It
    downloads a data set that is named without a root, since the plan depends on its content.
    """
    from fusiondistill_runner.driving.changes import changed_plugins
    from fusiondistill_runner.driving.prepared import prepare
    from fusiondistill_runner.forecasting.forecast import forecast, wished
    from fusiondistill_runner.storage.noted_plans import check_format

    prepared = prepare(config, overrides, store)
    # And torch, after a mistake is told.
    from fusiondistill_runner.forecasting.costs import LACKS, can_measure, cost_lines, estimated

    check_format(prepared.store)
    prepared = prepared.looked_up()
    wishes = wished(prepared, simulate, times)  # mistakes in these are told before anything is measured
    if measure and not can_measure(prepared.config):
        raise ValueError(f"--measure: {LACKS}")
    measures = not times if measure is None else measure
    estimates = estimated(prepared, partial(tell, err=True) if measures else None)
    simulated = forecast(prepared, wishes, estimates)
    changed = list(changed_plugins(prepared))
    if as_json:
        from fusiondistill.plain_json import text_of
        from fusiondistill_runner.forecasting.plan_content import plan_content

        click.echo(text_of(plan_content(prepared, changed, estimates, simulated)))
        return
    costs = cost_lines(prepared.missing, estimates, prepared.config.resources)
    stages = (stage_lines if listed else summary_lines)(prepared)
    before = (*said_before(prepared), *headlines(prepared), *map(str, changed))
    for line in (*before, *stages, *costs, *simulated.lines()):
        tell(line)
    if not listed:
        click.echo("--stages lists the stages")


@verb("validate", "fusiondistill validate my.yaml\nfusiondistill validate quickstart --show > all.yaml", reads=True)
@click.argument("config")
@overrides_option
@click.option("--show", is_flag=True, help="Print the config as YAML with every default filled in.")
def validate_verb(config: str, overrides: tuple[str, ...], show: bool) -> None:
    """Check CONFIG: every mistake at once, with its line; then its images and checkpoints, as ``plan`` does.

    Published images, which are downloaded by their name, are left to ``plan``: only a data set with a root, or of a
    plugin, is read. What --show prints is a config that makes the same stages; for a sweep, one for each point.
    """
    from fusiondistill import config_file
    from fusiondistill.sources import SOURCES
    from fusiondistill_runner.driving.prepared import look_for_data, prepare, told_with_line

    checked, points = config_file.load_points(config, overrides)
    named = {point.data.name for point in points if not (point.data.place or SOURCES[point.data.name].plugin)}
    if named:
        with told_with_line(config, overrides, points):
            notes = look_for_data(points)
    else:
        notes = prepare(config, overrides).notes
    if named:
        fetched = ", ".join(sorted(named))
        notes = (*notes, f"the images of {fetched}, which are found by their name, are not looked at: plan does that")
    if show:
        from fusiondistill.resolved import resolved_text

        click.echo(resolved_text(config, points, notes), nl=False)
        return
    for text in notes:
        tell(f"note: {text}")
    tell(f"{config} is valid: {checked.experiment}, protocol {checked.protocol}, seeds {list(checked.seeds)}")
