"""What a network says of files, as ``predict`` shows it: a table, a bar while it works, names of files passed over."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import click

from fusiondistill.counting import counted
from fusiondistill_runner.storage.best import model_place, stood_for
from fusiondistill_runner.storage.store import Store

__all__ = ["predict_files"]

STDIN = "-"
"""The path that stands for a list of paths on standard input."""


def predict_files(
    model: str,
    paths: Sequence[str],
    out: str | None = None,
    *,
    device: str | None = None,
    force: bool = False,
    plugins: Sequence[str] = (),
    told: Mapping[str, Any] | None = None,
    **options: Any,
) -> bool:
    """Classify files, and write the table or print it.

    Args:
        model: a checkpoint, or a store, which stands for its best network.
        paths: files, folders, patterns, or ``-`` for a list on standard input: one path a line, or each ended by NUL.
        out: the table to write; None: it is printed.
        device: None: a GPU if there is one.
        force: replace a table that is there.
        plugins: files that register the model's network.
        told: what a file without a card does not say; see :func:`fusiondistill.load_model`.
        options: further arguments of :class:`fusiondistill.prediction.Predictor`.

    Returns:
        Whether every file could be read. Where none could, nothing is written.

    Raises:
        DataError, CheckpointError, OutError, ValueError: the input is wrong. Nothing is written.
    """
    from fusiondistill import prediction_table
    from fusiondistill.checkpoints import CheckpointError
    from fusiondistill.data.decoding import SUFFIXES
    from fusiondistill.data.finding import find_images
    from fusiondistill.no_models import no_weights

    if Path(model).suffix.lower() in SUFFIXES:  # said before the network behind it is taken for a folder of images
        raise CheckpointError(no_weights(b"", model))
    if out is not None:
        prediction_table.check_out(out, (), force=force)
    listed = _listed(sys.stdin.buffer) if STDIN in paths else []
    found = find_images([path for path in paths if path != STDIN], listed=listed)
    place = model_place(model)
    from fusiondistill.checkpoints import load_model
    from fusiondistill.devices import best_device
    from fusiondistill.plugins import load_plugins, read_plugins
    from fusiondistill.prediction import Failure, Predictor

    load_plugins(read_plugins(plugins))
    if found.note:
        click.echo(f"note: {found.note}", err=True)
    classifier = load_model(place, **(told or {}))
    if place != model:
        click.echo(stood_for(Store(model)), err=True)
    if out is not None:
        prediction_table.check_out(out, classifier.classes, force=force)
    predictor = Predictor(classifier, device=device or best_device(), **options)
    predictions, failed = [], 0
    with _bar(len(found.files)) as (done, say):
        for one in predictor.of(found.files):
            done()
            if isinstance(one, Failure):
                failed += 1
                say(f"passed over: {one.reason}")
            else:
                predictions.append(one)
    for text in filter(None, (predictor.note, predictor.doubt)):
        click.echo(f"note: {text}", err=True)
    if failed:
        nothing = "" if predictions or out is None else f"; {out} is not written"
        click.echo(f"passed over: {failed:,} of {counted(len(found.files), 'file')}{nothing}", err=True)
    if predictions and out is not None:
        prediction_table.write(out, predictions)
        click.echo(f"written: {out} ({counted(len(predictions), 'image')})")
    for line in prediction_table.lines(predictions) if predictions and out is None else ():
        click.echo(line)
    return not failed


def _listed(stream: IO[bytes]) -> list[str]:
    """The paths in a list: lines, or texts that end with NUL, as ``find -print0`` writes them."""
    data = stream.read()
    names = data.split(b"\0") if b"\0" in data else data.splitlines()
    return [os.fsdecode(name) for name in names if name]


@contextlib.contextmanager
def _bar(total: int) -> Iterator[tuple[Callable[[], None], Callable[[str], None]]]:
    """A bar on standard error, if that is a terminal: what to call for each file, and what prints a line above it."""
    if not sys.stderr.isatty():
        yield lambda: None, lambda text: click.echo(text, err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn("images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)
        yield (
            lambda: progress.advance(task),
            lambda text: progress.console.print(text, markup=False, highlight=False, soft_wrap=True),
        )
