"""The table for a paper: LaTeX with booktabs, to be read in by \\input."""

from __future__ import annotations

from collections.abc import Sequence

from fusiondistill.report.comparing import BEST
from fusiondistill.report.grid import Entry
from fusiondistill.report.groups import Group
from fusiondistill.report.tables import answer_grid
from fusiondistill.report.words import MISSING, kind_title, printable

__all__ = ["escaped", "latex"]

_SPECIAL = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "$": r"\$", "&": r"\&", "#": r"\#", "_": r"\_", "%": r"\%",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", '"': r"\textquotedbl{}", "'": r"\textquotesingle{}", "`": r"\textasciigrave{}",
    "±": r"$\pm$", MISSING: "--", "·": r"$\cdot$", BEST: r"$\star$", "→": r"$\rightarrow$",
    "\N{REPLACEMENT CHARACTER}": "?",
}  # fmt: skip


def latex(groups: Sequence[Group]) -> str:
    """A ``tabular`` for each table, with comments that say what it needs and what its numbers are."""
    lines = [
        r"% Made by fusiondistill report. Needs \usepackage{booktabs}, and T1 fonts (\usepackage[T1]{fontenc}) for",
        r"% quotation marks in names. Read it in with \input; several tables follow each other.",
    ]
    if not groups:
        return "\n".join([*lines, "% Nothing is evaluated yet.", ""])
    for group in groups:
        lines += _tabular(group)
        for other in group.others:
            lines += _comment(kind_title(other.kind)) + _tabular(other)
    return "\n".join([*lines, ""])


def _tabular(group: Group) -> list[str]:
    grid = answer_grid(group)
    head = " & ".join(escaped(title) for title in grid.heading)
    lines = ["%", *_comment(grid.title), *_comment(grid.note)]
    lines += [rf"\begin{{tabular}}{{l{'r' * (len(grid.heading) - 1)}}}", r"\toprule", rf"{head} \\", r"\midrule"]
    lines += [" & ".join(map(_cell, row)) + r" \\" for row in grid.rows]
    return [*lines, r"\bottomrule", r"\end{tabular}"]


def _cell(entry: Entry) -> str:
    number, beside = entry
    # A cell that begins with "[" would be read as an option of the line break before it.
    return f"{{{escaped(number.strip())}}}" + (f" {{\\footnotesize {escaped(beside)}}}" if beside else "")


def _comment(text: str) -> list[str]:
    """The text as one comment: it cannot end before the line does."""
    return [f"% {line}" for line in printable(text, lines=True).splitlines()]


def escaped(text: str) -> str:
    r"""Outside text as LaTeX prints it, on one line.

    >>> escaped("a_b & 50 %")
    'a\\_b \\& 50 \\%'
    """
    return "".join(_SPECIAL.get(c, c) for c in " ".join(printable(text).split()))
