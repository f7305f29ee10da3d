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
    except ConnectionError as error:
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
def run_verb(config: str, store: str | None, overrides: tuple[str, ...]) -> None:
    """Run a whole experiment: plan, train, fuse, search, distill, evaluate, report.

    CONFIG is a YAML file or the name of a shipped one. Started again, it does only what is missing.
    """
    _execute(config, overrides, store, only_search=False)


@_verb("search", "fusiondistill search quickstart --set search.trials=20")
@click.argument("config")
@_store
@_set
def search_verb(config: str, store: str | None, overrides: tuple[str, ...]) -> None:
    """Run the search of a config, and what it rests on; prints the ranking of the trials."""
    _execute(config, overrides, store, only_search=True)


def _execute(config: str, overrides: tuple[str, ...], store: str | None, *, only_search: bool) -> None:
    import shlex

    from experiments import runner
    from experiments.display import Display

    prepared = runner.prepare(config, overrides, store)
    for path in prepared.config.plugins:
        click.echo(f"plugin loaded: {path}")
    searches = [stage for stage in prepared.plan.stages if stage.kind == "search"]
    if only_search and not searches:
        why = "its methods do not need it" if prepared.config.search else "give it a search.space"
        raise ValueError(f"{config} has no search: {why}")
    runner.check_data(prepared)
    with prepared.store.held():
        prepared = prepared.looked_up()
        for text in prepared.damage:
            click.echo(f"damaged, will be made again: {text}", err=True)
        runner.note_plan(prepared, shlex.join(["fusiondistill", *sys.argv[1:]]))
        wanted = prepared.narrowed(searches) if only_search else prepared
        with Display(wanted.plan, wanted.stored) as display:
            display.say(_headline(wanted))
            outcome = runner.run(wanted, display)
        if only_search:
            _print_rankings(prepared)
        else:
            _print_end(prepared)
    _report_failures(outcome)


def _headline(prepared: Any) -> str:
    total, missing = len(prepared.plan.stages), len(prepared.missing)
    rest = f"{missing} to do" if missing else "nothing to do"
    stored = f"{total} stages, {total - missing} stored, {rest}"
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
    from experiments import runner

    prepared = runner.prepare(config, overrides, store).looked_up()
    click.echo(_headline(prepared))
    for stage in prepared.plan.stages:
        state = "stored " if stage.digest in prepared.stored else "missing"
        needs = ", ".join(dict.fromkeys(needed.directory for needed in stage.inputs.values()))
        click.echo(f"  {state}  {stage.kind:8}  {stage.directory}" + (f"  <- {needs}" if needs else ""))
    click.echo(runner.cost(prepared))


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


@_verb("evaluate", "fusiondistill evaluate runs/quickstart/base-0123456789abcdef --data digits --every 5")
@click.argument("checkpoints", nargs=-1, required=True, metavar="CHECKPOINT...")
@click.option("--data", "data", required=True, help="Name of the data set.")
@click.option("--root", help="Where its files are.")
@click.option("--images", type=click.IntRange(min=2), help="Use only so many test images, balanced over classes.")
@click.option("--degradation", "degradations", multiple=True, help="May be repeated. Default: the paper's four.")
@_plugin
@click.option("--every", type=click.IntRange(min=1), default=1, show_default=True, help="Evaluate every k-th level.")
@click.option("--seed", type=int, default=123, show_default=True, help="Of the noise.")
@click.option("--batch-size", type=click.IntRange(min=2), default=500, show_default=True)
@click.option("--protocol", type=click.Choice(["standard", "paper"]), default="standard", show_default=True)
def evaluate_verb(checkpoints: tuple[str, ...], plugins: tuple[str, ...], **options: Any) -> None:
    """Evaluate checkpoints (stage directories or files) on the test split of a data set, in this process."""
    from experiments import runner

    runner.read_plugins(plugins)
    for line in runner.evaluate_checkpoints(checkpoints, **options):
        click.echo(line)


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
    from experiments import runner
    from fusiondistill.degradations import degrade_grid

    runner.read_plugins(plugins)
    degrade_grid(image, out, degradations=degradations or None, seed=seed, protocol=protocol)
    click.echo(f"written: {out}")


@_verb("bench", "fusiondistill bench degradations --json degradations.json\nfusiondistill bench evaluation")
@click.argument("what", type=click.Choice(["degradations", "evaluation"]))
@click.option("--device", default="cpu", show_default=True, help="Where ours runs: cpu, cuda, cuda:1, ...")
@click.option("--degradation", "degradations", multiple=True, help="May be repeated. Default: all.")
@click.option("--json", "json_file", metavar="FILE", help="Also write the rows to a file.")
def bench_verb(what: str, device: str, degradations: tuple[str, ...], json_file: str | None) -> None:
    """Measure ours beside a reference in one run: images per second, ratio, and the limit that we come up against.

    degradations: beside imagedegrade. evaluation: a ResNet-56 at 32x32, beside a plain loop and the bare forward pass.
    """
    from experiments import runner

    runner.bench(what, device, degradations, json_file, click.echo)
