"""What lies in a store: status, prune, report."""

from __future__ import annotations

import sys

import click

from fusiondistill_runner.command import FAILED, tell, verb


@verb(
    "status",
    "fusiondistill status runs/quickstart\nfusiondistill status runs/quickstart --watch\n"
    "fusiondistill status runs/quickstart --json",
    reads=True,
)
@click.argument("store")
@click.option(
    "--watch",
    "every",
    is_flag=False,
    flag_value=0.0,
    type=click.FloatRange(min=0.0),
    metavar="[SECONDS]",
    help="Look again every so many seconds until the run is complete; Ctrl-C leaves. Without a number: 1, "
    "for a bucket 10.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print one JSON object, for scripts: every stage with its state, and all numbers.",
)
def status_verb(store: str, every: float | None, as_json: bool) -> None:
    """Say what of each experiment in STORE is done, under way, failed or missing.

    With --watch the exit code is 0 when all is done, 1 when its run ended with failures.
    """
    from fusiondistill_runner.storage.store import Store
    from fusiondistill_runner.watching import status

    if as_json:
        from fusiondistill.plain_json import text_of
        from fusiondistill_runner.watching.status_content import status_content

        if every is not None:
            raise ValueError("--json is one look: call it again and again, without --watch")
        click.echo(text_of(status_content(Store(store))))
        return
    if every is None:
        for line in status.status_lines(Store(store)):
            tell(line)
        return
    try:
        done = status.watch(Store(store), every, tell)
    except KeyboardInterrupt:
        return
    if not done:
        sys.exit(FAILED)


@verb("prune", "fusiondistill prune runs/quickstart")
@click.argument("store")
@click.option("--yes", is_flag=True, help="Delete without asking. Default: ask.")
def prune_verb(store: str, yes: bool) -> None:
    """Delete the stages in STORE that none of its plans needs any more; lists them and asks first."""
    from fusiondistill_runner.storage.noted_plans import plans
    from fusiondistill_runner.storage.pruning import unneeded
    from fusiondistill_runner.storage.store import Store

    place = Store(store)
    plans(place)  # raises where there is no store
    with place.held():
        found = unneeded(place)
        for one in found:
            tell(f"  {one.bytes / 1e6:8.1f} MB  {one.directory}")
        if not found:
            tell(f"nothing to delete: every stage in {place.location} belongs to a plan")
        elif yes or (sys.stdin.isatty() and click.confirm(f"Delete these {len(found)} directories?")):
            for one in found:
                place.delete(one.directory)
            click.echo(f"deleted: {len(found)} directories, {sum(one.bytes for one in found) / 1e6:.1f} MB")
        else:
            click.echo("nothing deleted; with --yes these directories go")


@verb("report", "fusiondistill report runs/quickstart\nfusiondistill report runs/a s3://bucket/b --out side_by_side")
@click.argument("stores", nargs=-1, required=True, metavar="STORE...")
@click.option("--out", metavar="DIR", help="The folder to write. Default: STORE/report; for several stores ./report.")
def report_verb(stores: tuple[str, ...], out: str | None) -> None:
    """Rebuild results.parquet and the report of STORE; works while a run is still going.

    Several stores make one report over all of them. With several, or with --out, nothing is written into them.
    """
    from fusiondistill import report
    from fusiondistill_runner.storage.noted_plans import plans
    from fusiondistill_runner.views import results, side_by_side

    places = side_by_side.open_stores(stores)
    if len(places) == 1 and out is None:
        (place,) = places
        known = plans(place)
        table = results.write_results(place, known)
        lines = [*results.table_lines(place, table, known=known), *results.choice_lines(place, table, known=known)]
        page = results.write_report(place, table, known)
    else:
        tables = side_by_side.side_by_side(places)
        planned, comparisons = tables.get("planned"), tables.get("comparisons")
        lines = report.table_lines(tables["results"], planned=planned, comparisons=comparisons)
        page = side_by_side.write_report_to(out or "report", tables)
    for line in lines:
        click.echo(line)
    tell(f"\nreport: {page}")
