"""What is not there yet: stages that failed, with the reason, and those that are under way or still to come."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fusiondistill.report.markup import Markup, Section, element, joined, plain_table
from fusiondistill.report.words import MISSING, method_title

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["unfinished_line", "unfinished_section", "without_curves"]

_ANCHOR = "unfinished"


def unfinished_line(table: pa.Table | None) -> Markup:
    """How many stages failed and how many are still to come, in a line that leads to them; empty where all is done."""
    if table is None or not table.num_rows:
        return Markup("")
    failed = _failed(table)
    counts = ((failed, "failed"), (table.num_rows - failed, "not finished"))
    said = " and ".join(f"{_stages(count)} {what}" for count, what in counts if count)
    return element("p", element("a", said, href=f"#{_ANCHOR}"), ".", class_="note")


def unfinished_section(table: pa.Table | None) -> Section | None:
    """A row for each stage, those that failed first; None where all is done."""
    if table is None or not table.num_rows:
        return None
    rows = sorted(table.to_pylist(), key=lambda row: row["error"] is None)
    several = len({row["experiment"] for row in rows}) > 1
    body = [
        [
            method_title(row["name"]),
            "not finished" if row["error"] is None else f"failed: {row['error']}",
            *([row["experiment"]] if several else []),
            row["seed"],
            row["epochs"] or MISSING,
        ]
        for row in rows
    ]
    titles = ["stage", "state", *(["experiment"] if several else []), "seed", "epochs stored"]
    text = (
        "Trainings, fusions and searches that are under way or still to come, and whatever failed, with the last line "
        "of the stage's error.txt. Their curves, trials and distances are on this page once they are stored."
    )
    shown = plain_table(titles, body, "Not finished", texts=2)
    return Section(_ANCHOR, "Not finished", joined(element("p", text, class_="note"), shown))


def without_curves(table: pa.Table | None) -> str:
    """How many trainings have no curves yet, in a sentence; empty where all have."""
    count = table["kind"].to_pylist().count("train") if table is not None else 0
    return f" {count} more {'is' if count == 1 else 'are'} not finished." if count else ""


def _failed(table: pa.Table) -> int:
    return int(table.num_rows - table["error"].null_count)


def _stages(count: int) -> str:
    return "1 stage" if count == 1 else f"{count} stages"
