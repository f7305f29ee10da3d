"""One call of ``run``, ``sweep``, ``search`` or ``evaluate``: prepare, ask, run missing stages, print the results."""

from __future__ import annotations

import sys
from itertools import accumulate
from typing import Any

import click

from fusiondistill import NAME
from fusiondistill.counting import counted
from fusiondistill_runner.command import FAILED, tell

__all__ = ["carry_out", "execute", "headlines", "said_before", "say_first", "stage_lines", "summary_lines"]

MANY_TRIALS = 1000


def execute(
    config: str,
    overrides: tuple[str, ...],
    store: str | None,
    *,
    verb: str,
    yes: bool = False,
    local: bool = False,
) -> None:
    """Do what ``run``, ``sweep`` or ``search`` asks of a config.

    Args:
        yes: start a very large search without asking.
        local: in this process, without Ray.

    Raises:
        ValueError: the verb does not fit the config.
    """
    say_first(config, local)
    from fusiondistill_runner.driving.prepared import prepare

    prepared = prepare(config, overrides, store, local=local)
    if prepared.config.sweep and verb == "run":
        raise ValueError(f"{config} is a sweep of {len(prepared.points)} experiments: use fusiondistill sweep")
    searches = [stage for stage in prepared.plan.stages if stage.kind == "search"]
    if verb == "search" and not searches:
        why = "its methods do not need it" if prepared.config.search else "give it a search.space"
        raise ValueError(f"{config} has no search: {why}")
    _ask_about_size(searches, yes)
    carry_out(prepared, only=searches if verb == "search" else None, local=local)


def say_first(what: str, local: bool) -> None:
    """Say what comes, before torch is imported and the data are read, which takes seconds."""
    tell(f"{what}: reading it and its data" + ("" if local else ", then starting Ray if a stage is missing"))


def _ask_about_size(searches: list[Any], yes: bool) -> None:
    """Ask the user before a search of more than a thousand trainings: a slip in a grid can mean a million."""
    if not searches:
        return
    count = sum(stage.spec.trainings for stage in searches)
    if count <= MANY_TRIALS or yes:
        return
    grids = [name for name, dimension in searches[0].spec.space.items() if dimension.grid is not None]
    text = f"the search has {count:,} trainings" + (f" (grids: {', '.join(grids)})" if grids else "")
    if not sys.stdin.isatty():
        raise ValueError(f"{text}: if that is meant, say --yes")
    if not click.confirm(f"{text}. Start?"):
        raise ValueError("not started")


def carry_out(prepared: Any, only: list[Any] | None = None, *, local: bool = False) -> None:
    """Run the missing stages and print the results.

    Args:
        only: run these stages and what they need, and no others.
        local: in this process, without Ray.
    """
    import shlex

    from fusiondistill_runner import runner
    from fusiondistill_runner.driving.changes import changed_plugins
    from fusiondistill_runner.storage.noted_plans import check_format
    from fusiondistill_runner.watching.display import Display
    from fusiondistill_runner.watching.status_file import StatusFile
    from fusiondistill_runner.watching.tracking import Tracking

    for path in prepared.config.plugins:
        tell(f"plugin loaded: {path}")
    for text in said_before(prepared):
        tell(text)
    check_format(prepared.store)
    if not local:
        runner.check_room(prepared)
    with prepared.store.held():
        prepared = prepared.looked_up()
        for text in prepared.damage:
            tell(f"damaged, will be made again: {text}", err=True)
        for text in map(str, changed_plugins(prepared)):
            tell(text)
        runner.note_plan(prepared, shlex.join([NAME, *sys.argv[1:]]), whole=only is None)
        wanted = prepared if only is None else prepared.narrowed(only)
        with (
            Display(wanted.plan, wanted.stored) as display,
            StatusFile(wanted.store, display.snapshot),
            Tracking(wanted.config, display),
        ):
            for text in headlines(wanted):
                display.say(text)
            outcome = runner.run(wanted, display, local=local)
        if outcome.done:
            fits = f" in {counted(outcome.fits, 'Ray Train fit')}" if outcome.fits else ""
            tell(f"{counted(len(outcome.done), 'stage')} done{fits}")
        if only is None:
            _print_end(prepared)
        else:
            _print_rankings(prepared)
    _report_failures(outcome)


def said_before(prepared: Any) -> list[str]:
    """What the images are, and what the user should know of how the config was read."""
    about = [line for one in prepared.data for line in one.lines()]
    return [*about, *(f"note: {text}" for text in prepared.notes)]


def headlines(prepared: Any) -> list[str]:
    """The number of stages, and how many of them are missing; then where the store is."""
    total, missing = len(prepared.plan.stages), len(prepared.missing)
    rest = f"{missing} to do" if missing else "nothing to do"
    stored = f"{counted(total, 'stage')}, {total - missing} stored, {rest}"
    if len(prepared.points) > 1:
        stored = f"{len(prepared.points)} experiments, {stored}"
    return [f"{prepared.config.experiment}: {stored}", f"store: {prepared.store.location}"]


def summary_lines(prepared: Any) -> list[str]:
    """A line for each kind of stage: how many there are, how many are stored, and their names as far as they fit."""
    lines = [f"  {'kind':8}  stages  stored"]
    for kind in dict.fromkeys(stage.kind for stage in prepared.plan.stages):
        own = [stage for stage in prepared.plan.stages if stage.kind == kind]
        stored = sum(stage.digest in prepared.stored for stage in own)
        names = list(dict.fromkeys(stage.name.removeprefix(f"{kind}-") for stage in own))
        lines.append(f"  {kind:8}  {len(own):6,}  {stored:6,}  {_fitting(names, 52)}")
    return lines


def _fitting(names: list[str], width: int) -> str:
    """Whole names, as many as a width takes; at least one."""
    ends = accumulate(len(name) + len(", ") for name in names)
    fit = sum(end + len(" ...") <= width for end in ends) if len(", ".join(names)) > width else len(names)
    return ", ".join(names[: max(1, fit)]) + (", ..." if max(1, fit) < len(names) else "")


def stage_lines(prepared: Any) -> list[str]:
    """Every stage with its state and its directory; what it needs stands below it."""
    lines = []
    for stage in prepared.plan.stages:
        state = "stored " if stage.digest in prepared.stored else "missing"
        lines.append(f"  {state}  {stage.kind:8}  {stage.directory}")
        lines += [f"{'':21}<- {one}" for one in dict.fromkeys(needed.directory for needed in stage.inputs.values())]
    return lines


def _print_end(prepared: Any) -> None:
    from fusiondistill_runner.storage.noted_plans import plans
    from fusiondistill_runner.views import results, searches

    store, experiments = prepared.store, {plan.config.experiment for plan in prepared.points}
    known = plans(store)
    table = results.write_results(store, known)
    tell("")
    for line in results.table_lines(store, table, experiments, known):
        click.echo(line)
    for plan in prepared.points:
        for line in searches.search_end(store, plan, ranked=False):
            tell(line)
    for line in results.choice_lines(store, table, experiments, known):
        click.echo(line)
    tell(f"\nreport: {results.write_report(store, table, known)}")


def _print_rankings(prepared: Any) -> None:
    from fusiondistill_runner.views import searches

    for plan in prepared.points:
        for line in searches.search_end(prepared.store, plan, ranked=True):
            tell(line)


def _some(stages: list[Any]) -> str:
    """The directories of stages, at most twelve of them."""
    names = ", ".join(stage.directory for stage in stages[:12])
    return names if len(stages) <= 12 else f"{names} and {len(stages) - 12} more"


def _report_failures(outcome: Any) -> None:
    if not (outcome.failed or outcome.blocked):
        return
    for name, error in outcome.failed.items():
        tell(f"\nfailed: {name}\n  {error}", err=True)
    if outcome.blocked:
        tell(f"\nnot done, since they need what failed: {_some(outcome.blocked)}", err=True)
    tell("\nMend the cause and start the same command again: what is stored stays.", err=True)
    sys.exit(FAILED)
