"""HTML that cannot be forgotten to be escaped: text is escaped on its way into an element, only Markup is not."""

from __future__ import annotations

import html
from collections.abc import Sequence

from fusiondistill.report.words import printable

__all__ = ["Markup", "element", "folded", "heading", "joined", "plain_table", "scroll"]

_FEW = 12  # rows of a table that is shown without being asked for


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(name: str, *children: object, **attributes: object) -> Markup:
    """One HTML element: ``element("td", "a < b", class_="n")`` -> ``<td class="n">a &lt; b</td>``.

    A child that is not :class:`Markup` is text. An attribute given as None is left out; a trailing underscore of its
    name is dropped and the others become hyphens.
    """
    given = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(printable(value))}"'
        for key, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{given}>{joined(*children)}</{name}>")


def joined(*children: object) -> Markup:
    """The children one after the other, text escaped."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(printable(c, lines=True)) for c in children))


def plain_table(titles: Sequence[object], body: Sequence[Sequence[object]], label: str, *, texts: int = 1) -> Markup:
    """A table whose first ``texts`` columns are text; a long one is folded away."""
    rows = [element("tr", *(element("td", value) for value in line)) for line in body]
    head = element("thead", element("tr", *(heading(title) for title in titles)))
    table = scroll(element("table", head, element("tbody", *rows), class_=f"text-{texts}"), label)
    return table if len(rows) <= _FEW else folded(f"All {len(rows)} rows", table)


def folded(title: str, content: Markup) -> Markup:
    """Content that opens when its title is clicked."""
    return element("details", element("summary", title), content)


def heading(title: object) -> Markup:
    """The heading of a column. A line may break after a plus, as in "Salt+pepper", and nowhere else in a word."""
    return element("th", Markup(joined(title).replace("+", "+<wbr>")), scope="col")


def scroll(table: Markup, label: str) -> Markup:
    """A table in a box of its own that scrolls sideways where it is too wide."""
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
