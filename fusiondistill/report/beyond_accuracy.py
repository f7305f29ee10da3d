"""The table beside the accuracies: likelihood, calibration, clean images, errors relative to the base."""

from __future__ import annotations

from collections.abc import Iterable

from fusiondistill.report.answers import marked_name
from fusiondistill.report.grid import Grid
from fusiondistill.report.groups import TRAINED, Cell, Group, Row
from fusiondistill.report.tables import cell_text
from fusiondistill.report.words import MISSING, short_title
from fusiondistill.statistics import average

__all__ = ["beyond_grid", "corruption_error", "mean_corruption_error"]

_BALANCED = "balanced, %"


def corruption_error(group: Group, row: Row, degradation: str) -> Cell:
    """Errors of a row over those of the base, summed over a degradation's levels, times 100, by seed.

    100 is the base, less is better (Hendrycks & Dietterich, 2019, with the base in AlexNet's place). A seed needs both
    rows; where the base makes no error there is no such figure.
    """
    base = group.base
    if base is None:
        return Cell({})
    ours, theirs = row.cells[degradation].by_seed, base.cells[degradation].by_seed
    # The sums over levels have as many terms above as below: their ratio is that of the means.
    return Cell({s: 100 * (100 - ours[s]) / (100 - theirs[s]) for s in ours if s in theirs and theirs[s] < 100})


def mean_corruption_error(group: Group, row: Row) -> Cell:
    """mCE: the mean of :func:`corruption_error` over the group's degradations, for the seeds that have all of them."""
    cells = [corruption_error(group, row, name).by_seed for name in group.degradations]
    means = {seed: average([cell.get(seed) for cell in cells]) for seed in sorted({s for cell in cells for s in cell})}
    return Cell({seed: mean for seed, mean in means.items() if mean is not None})


def beyond_grid(group: Group, *, brief: bool = False) -> Grid | None:
    """A row per method, without empty columns; None if all are empty.

    ``brief`` leaves out the corruption errors of single degradations.
    """
    rows = group.rows
    columns: list[tuple[str, list[Cell], int]] = [
        ("clean, %", [row.clean for row in rows], 1),
        *([(_BALANCED, [row.balanced for row in rows], 1)] if _uneven(group) else []),
        ("NLL, nats", [row.nll for row in rows], 3),
        ("ECE, %", [row.ece for row in rows], 1),
    ]
    if not brief:
        for name in group.degradations:
            columns.append((f"CE {short_title(name)}", [corruption_error(group, row, name) for row in rows], 1))
    columns.append(("mCE", [mean_corruption_error(group, row) for row in rows], 1))
    columns = [column for column in columns if any(cell.by_seed for cell in column[1])]
    if not columns:
        return None
    body = tuple(
        (
            (marked_name(row), ""),
            *(cell_text(cells[i], len(group.seeds), digits) for _, cells, digits in columns),
        )
        for i, row in enumerate(rows)
    )
    titles = [title for title, _, _ in columns]
    return Grid("Beyond accuracy", ("", *titles), body, _note(group, titles))


def _uneven(group: Group) -> bool:
    """Whether the balanced accuracies are others than the accuracies: not where all classes have as many images."""
    pairs = [(of, row.average.by_seed.get(seed)) for row in group.rows for seed, of in row.balanced.by_seed.items()]
    return any(plain is not None and abs(balanced - plain) > 1e-6 for balanced, plain in pairs)


def _note(group: Group, titles: Iterable[str]) -> str:
    shown = set(titles)
    parts = []
    if "clean, %" in shown:
        parts.append("Clean: accuracy at the levels that leave an image as it is.")
    if _BALANCED in shown:
        parts.append("Balanced: the mean over the classes of the accuracy on the images of each.")
    if shown & {"NLL, nats", "ECE, %"}:
        parts.append(
            "NLL (negative log-likelihood) is the mean of -ln p, where p is the probability that a network gives to "
            "the right class; its unit, the nat, is that of natural logarithms. ECE (expected calibration error) is "
            "how far the stated probabilities are from the shares of right answers. Both are means over levels and "
            "degradations; lower is better."
        )
        voting = [row for row in group.rows if row.about.form == "combined" and not row.nll.by_seed]
        parts += [
            f"{row.about.name} has none ({MISSING}): its networks vote, so it gives classes, not probabilities."
            for row in voting if any(cell.by_seed for cell in row.cells.values())
        ]  # fmt: skip
    if "mCE" in shown:
        parts.append(
            "CE (corruption error) is a row's errors as a percentage of the base's, over all levels and for the same "
            "seed: below 100 is better than the base. mCE is its mean over the degradations"
            + ("" if group.kind == TRAINED else " of this table")
            + " (after Hendrycks & Dietterich, 2019, who divide by AlexNet's errors)."
        )
    spread = " Mean over seeds ± half the 95 % interval." if len(group.seeds) > 1 else ""
    return " ".join(parts) + spread
