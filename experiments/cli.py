"""The command line: thin, each verb calls one function. Heavy imports wait for the verb.

Exit codes: 0 done, 1 the work failed, 2 the input is wrong, 75 interrupted (start the same command again).
"""

from __future__ import annotations

import functools
import signal
import sys
from collections.abc import Callable
from typing import Any, NoReturn

import click

__all__ = ["main"]

FAILED, WRONG_INPUT, INTERRUPTED = 1, 2, 75
MANY_TRIALS = 1000


class _Command(click.Command):
    """A verb whose examples keep their line breaks, without escapes in the docstrings."""

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        if self.epilog:
            formatter.write_paragraph()
            formatter.write_text("Example:")
            with formatter.indentation():
                for line in self.epilog.splitlines():
                    formatter.write_text(line)


def _verb(name: str, example: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command of :data:`main` with an example in its help and errors as exit codes."""

    def decorate(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            return _guard(functools.partial(function, *args, **kwargs))

        return main.command(name, cls=_Command, epilog=example)(guarded)

    return decorate


def _guard(call: Callable[[], Any]) -> Any:
    """Turn the errors that a user can cause into one clear message and exit code 2."""
    try:
        return call()
    except (KeyboardInterrupt, SystemExit) as stop:
        # While it starts, Ray answers SIGTERM itself: by SystemExit with the signal's number.
        if isinstance(stop, SystemExit) and stop.code != signal.SIGTERM:
            raise
        click.echo("\ninterrupted: what is stored stays; start the same command again to go on", err=True)
        sys.exit(INTERRUPTED)
    except (ValueError, KeyError, FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError) as error:
        if not _is_ours(error):
            raise
        _stop(str(error), WRONG_INPUT)
    except OSError as error:  # no cluster, no answer from a bucket, a full disk
        _stop(str(error), FAILED)
    except RuntimeError as error:
        from experiments.store import StoreBusy

        if isinstance(error, StoreBusy):
            _stop(f"{error}: wait for it, stop it, or give another --store", FAILED)
        raise


def _is_ours(error: Exception) -> bool:
    """Errors with a message made for a user: ours, and the operating system's about a file."""
    return (
        isinstance(error, OSError)
        or (type(error) is ValueError)
        or type(error).__module__.startswith(("fusiondistill.", "experiments."))
    )


def _stop(message: str, code: int) -> NoReturn:
    click.echo(f"error: {message}", err=True)
    sys.exit(code)


_store = click.option("--store", metavar="DIR_OR_URI", help="Where results live. Default: runs/<experiment>.")
_set = click.option(
    "--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Lay a value over the config; may be repeated."
)


_plugin = click.option(
    "--plugin", "plugins", multiple=True, metavar="FILE", help="A Python file that registers degradations of your own."
)


_yes = click.option("--yes", is_flag=True, help="Start a very large search without asking.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="fusiondistill")
def main() -> None:
    """Turn several expert classifiers into one: train, fuse, distill, search, evaluate on Ray."""
    signal.signal(signal.SIGTERM, _terminate)


def _terminate(*_: Any) -> NoReturn:
    raise KeyboardInterrupt


@_verb("run", "fusiondistill run quickstart\nfusiondistill run my.yaml --set seeds=[0,1,2] --store /shared/runs/mine")
@click.argument("config")
@_store
@_set
@_yes
def run_verb(config: str, store: str | None, overrides: tuple[str, ...], yes: bool) -> None:
    """Run a whole experiment: plan, train, fuse, search, distill, evaluate, report.

    CONFIG is a YAML file or the name of a shipped one. Started again, it does only what is missing.
    """
    _execute(config, overrides, store, verb="run", yes=yes)


@_verb("search", "fusiondistill search quickstart --set search.trials=20")
@click.argument("config")
@_store
@_set
@_yes
def search_verb(config: str, store: str | None, overrides: tuple[str, ...], yes: bool) -> None:
    """Run the search of a config, and what it rests on.

    Prints the ranking of the trials and how much each dimension mattered, and writes the best as a config file.
    """
    _execute(config, overrides, store, verb="search", yes=yes)


def _execute(config: str, overrides: tuple[str, ...], store: str | None, *, verb: str, yes: bool = False) -> None:
    from experiments.prepared import prepare

    prepared = prepare(config, overrides, store)
    if prepared.config.sweep and verb == "run":
        raise ValueError(f"{config} is a sweep of {len(prepared.points)} experiments: use fusiondistill sweep")
    searches = [stage for stage in prepared.plan.stages if stage.kind == "search"]
    if verb == "search" and not searches:
        why = "its methods do not need it" if prepared.config.search else "give it a search.space"
        raise ValueError(f"{config} has no search: {why}")
    _ask_about_size(searches, yes)
    _carry_out(prepared, only=searches if verb == "search" else None)


def _ask_about_size(searches: list[Any], yes: bool) -> None:
    """A slip in a grid can mean a million trainings: beyond a thousand candidates somebody has to say yes."""
    if not searches:
        return
    from experiments.search_space import candidate_count

    count = sum(candidate_count(stage.spec) * stage.spec.seeds for stage in searches)
    if count <= MANY_TRIALS or yes:
        return
    text = f"the search has {count:,} trainings"
    if not sys.stdin.isatty():
        raise ValueError(f"{text}: if that is meant, say --yes")
    if not click.confirm(f"{text}. Start?"):
        raise ValueError("not started")


def _carry_out(prepared: Any, only: list[Any] | None = None) -> None:
    """Do what is missing (of some stages only, if given) and say what came of it."""
    import shlex

    from experiments import runner
    from experiments.display import Display
    from experiments.prepared import check_data

    for path in prepared.config.plugins:
        click.echo(f"plugin loaded: {path}")
    check_data(prepared)
    with prepared.store.held():
        prepared = prepared.looked_up()
        for text in prepared.damage:
            click.echo(f"damaged, will be made again: {text}", err=True)
        runner.note_plan(prepared, shlex.join(["fusiondistill", *sys.argv[1:]]))
        wanted = prepared if only is None else prepared.narrowed(only)
        with Display(wanted.plan, wanted.stored) as display:
            display.say(_headline(wanted))
            outcome = runner.run(wanted, display)
        if outcome.done:
            fits = f" in {outcome.fits} Ray Train fits" if outcome.fits else ""
            click.echo(f"{len(outcome.done)} stages done{fits}")
        if only is None:
            _print_end(prepared)
        else:
            _print_rankings(prepared)
    _report_failures(outcome)


@_verb("sweep", "fusiondistill sweep quickstart --set 'sweep={model.name: [cifar_resnet8, cifar_resnet14]}'")
@click.argument("config")
@_store
@_set
@_yes
def sweep_verb(config: str, store: str | None, overrides: tuple[str, ...], yes: bool) -> None:
    """Run an experiment for every point of a config's sweep, as one plan over one store.

    What points share (a base and its experts, say) is trained once. Each point has all seeds and methods of the config.
    """
    _execute(config, overrides, store, verb="sweep", yes=yes)


def _headline(prepared: Any) -> str:
    total, missing = len(prepared.plan.stages), len(prepared.missing)
    rest = f"{missing} to do" if missing else "nothing to do"
    stored = f"{total} stages, {total - missing} stored, {rest}"
    if len(prepared.points) > 1:
        stored = f"{len(prepared.points)} experiments, {stored}"
    return f"{prepared.config.experiment}: {stored}; store {prepared.store.location}"


def _print_end(prepared: Any) -> None:
    from experiments import results

    table = results.write_results(prepared.store)
    click.echo("")
    for line in results.table_lines(prepared.store, table):
        click.echo(line)
    for line in results.search_costs(prepared.store, prepared.plan):
        click.echo(line)
    click.echo(f"\nreport: {results.write_report(prepared.store, table)}")


def _print_rankings(prepared: Any) -> None:
    from experiments import results

    for stage in prepared.plan.stages:
        if stage.kind == "search" and prepared.store.manifest(stage):
            click.echo(f"\nsearch, seed {stage.seed}: validation accuracy of the best epoch, best first")
            for line in results.ranking(prepared.store, stage.directory):
                click.echo(line)


def _report_failures(outcome: Any) -> None:
    if not (outcome.failed or outcome.blocked):
        return
    for name, error in outcome.failed.items():
        click.echo(f"\nfailed: {name}\n  {error}", err=True)
    if outcome.blocked:
        names = ", ".join(f"{stage.name} (seed {stage.seed})" for stage in outcome.blocked)
        click.echo(f"\nnot done, since they need what failed: {names}", err=True)
    click.echo("\nMend the cause and start the same command again: what is stored stays.", err=True)
    sys.exit(FAILED)


@_verb("plan", "fusiondistill plan cifar10 --set seeds=[0,1,2]")
@click.argument("config")
@_store
@_set
def plan_verb(config: str, store: str | None, overrides: tuple[str, ...]) -> None:
    """Print the graph of stages, what is stored, and what the rest will cost.

    Trains nothing; a data set that is downloaded by name is fetched, since the plan depends on its content.
    """
    from experiments.estimates import cost_lines, measured
    from experiments.prepared import prepare

    prepared = prepare(config, overrides, store).looked_up()
    click.echo(_headline(prepared))
    for stage in prepared.plan.stages:
        state = "stored " if stage.digest in prepared.stored else "missing"
        needs = ", ".join(dict.fromkeys(needed.directory for needed in stage.inputs.values()))
        click.echo(f"  {state}  {stage.kind:8}  {stage.directory}" + (f"  <- {needs}" if needs else ""))
    for line in cost_lines(prepared.missing, measured(prepared.store), prepared.config.resources):
        click.echo(line)


@_verb("validate", "fusiondistill validate my.yaml")
@click.argument("config")
@_set
def validate_verb(config: str, overrides: tuple[str, ...]) -> None:
    """Check a config: every mistake at once, with its line."""
    from fusiondistill import config_file

    checked = config_file.load(config, overrides)
    click.echo(f"{config} is valid: {checked.experiment}, protocol {checked.protocol}, seeds {list(checked.seeds)}")


@_verb("status", "fusiondistill status runs/quickstart")
@click.argument("store")
def status_verb(store: str) -> None:
    """Say what of each experiment in a store is done, under way or missing."""
    from experiments import results
    from experiments.store import Store

    for line in results.status_lines(Store(store)):
        click.echo(line)


@_verb("prune", "fusiondistill prune runs/quickstart")
@click.argument("store")
@click.option("--yes", is_flag=True, help="Delete without asking.")
def prune_verb(store: str, yes: bool) -> None:
    """Delete the stages in a store that none of its plans needs any more; says which, and asks."""
    from experiments.pruning import unneeded
    from experiments.results import plans
    from experiments.store import Store

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


@_verb("report", "fusiondistill report runs/quickstart")
@click.argument("store")
def report_verb(store: str) -> None:
    """Rebuild results.parquet and the report from a store; works while a run is still going."""
    from experiments import results
    from experiments.store import Store

    place = Store(store)
    table = results.write_results(place)
    for line in results.table_lines(place, table):
        click.echo(line)
    click.echo(f"\nreport: {results.write_report(place, table)}")


@_verb(
    "evaluate",
    "fusiondistill evaluate runs/quickstart/base-0123456789abcdef --data digits --every 5\n"
    "fusiondistill evaluate model.safetensors --data cifar10 --corruptions CIFAR-10-C",
)
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--data", "data", required=True, help="Name of the data set.")
@click.option("--root", help="Where its files are.")
@click.option("--images", type=click.IntRange(min=2), help="Use only so many test images, balanced over classes.")
@click.option("--degradation", "degradations", multiple=True, help="May be repeated. Default: the paper's four.")
@click.option("--unseen", multiple=True, help="A degradation to show apart from these; may be repeated.")
@click.option("--corruptions", metavar="DIR", help="A published set in the layout of CIFAR-10-C.")
@_plugin
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Evaluate every k-th level.")
@click.option("--seed", type=int, default=123, show_default=True, help="Of the noise.")
@click.option("--batch-size", type=click.IntRange(min=2), default=500, show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16", "fp16"]), default="fp32", show_default=True)
@click.option("--protocol", type=click.Choice(["standard", "paper"]), default="standard", show_default=True)
@click.option("--store", metavar="DIR_OR_URI", help="Where results live. Default: runs/evaluate-<data>.")
@_set
def evaluate_verb(checkpoints: tuple[str, ...], data: str, store: str | None, **options: Any) -> None:
    """Evaluate checkpoints (stage directories or files) on the test split of a data set, over the cluster's workers.

    Started again, it does only what is missing.
    """
    import json

    from experiments.prepared import prepare_evaluation

    keys = {
        "root": "data.root",
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
    given = [f"{key}={json.dumps(options[name])}" for name, key in keys.items() if options[name] not in (None, ())]
    _carry_out(prepare_evaluation(checkpoints, [*given, *options["overrides"]], store, data=data))


@_verb("degrade", "fusiondistill degrade photo.jpg --out grid.png")
@click.argument("image")
@click.option("--out", required=True, metavar="GRID.png", help="The picture to write.")
@click.option("--degradation", "degradations", multiple=True, help="May be repeated. Default: all.")
@_plugin
@click.option("--seed", type=int, default=123, show_default=True, help="Of the noise.")
@click.option("--protocol", type=click.Choice(["standard", "paper"]), default="standard", show_default=True)
def degrade_verb(
    image: str, out: str, degradations: tuple[str, ...], plugins: tuple[str, ...], seed: int, protocol: str
) -> None:
    """Show an image under every degradation at five levels."""
    from experiments.prepared import read_plugins
    from fusiondistill.degradations import degrade_grid

    read_plugins(plugins)
    degrade_grid(image, out, degradations=degradations or None, seed=seed, protocol=protocol)
    click.echo(f"written: {out}")


@_verb("bench", "fusiondistill bench degradations --json degradations.json")
@click.argument("what", type=click.Choice(["degradations"]))
@click.option("--device", default="cpu", show_default=True, help="Where ours runs: cpu, cuda, cuda:1, ...")
@click.option("--degradation", "degradations", multiple=True, help="May be repeated. Default: all.")
@click.option("--json", "json_file", metavar="FILE", help="Also write the rows to a file.")
def bench_verb(what: str, device: str, degradations: tuple[str, ...], json_file: str | None) -> None:
    """Measure ours beside a reference in one run: images per second, ratio, and the limit that we come up against."""
    from experiments import runner

    runner.bench_degradations(device, degradations, json_file, click.echo)
