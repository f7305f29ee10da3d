"""HTML that cannot be forgotten to be escaped: text is escaped on its way into an element, only Markup is not."""

from __future__ import annotations

import base64
import html
from collections.abc import Sequence
from dataclasses import dataclass

from fusiondistill.report.words import printable

__all__ = [
    "Markup",
    "Section",
    "element",
    "folded",
    "heading",
    "image",
    "joined",
    "plain_table",
    "prose",
    "scroll",
]

_FEW = 12  # rows of a table that is shown without being asked for


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


@dataclass(frozen=True)
class Section:
    """A part of the page that its table of contents leads to; ``anchor`` is the id that links use."""

    anchor: str
    title: str
    body: Markup

    def shown(self) -> Markup:
        """The section with its heading."""
        return element("section", element("h2", self.title), self.body, id=self.anchor)


def element(name: str, *children: object, **attributes: object) -> Markup:
    """One HTML element: ``element("td", "a < b", class_="n")`` -> ``<td class="n">a &lt; b</td>``.

    A child that is not :class:`Markup` is text. An attribute given as None is left out; a trailing underscore of its
    name is dropped and the others become hyphens.
    """
    return Markup(f"<{name}{_given(attributes)}>{joined(*children)}</{name}>")


def image(png: bytes, alt: str, **attributes: object) -> Markup:
    """A picture within the page itself."""
    data = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    return Markup(f"<img{_given({'src': data, 'alt': alt, **attributes})}>")


def _given(attributes: dict[str, object]) -> str:
    return "".join(
        f' {key.rstrip("_").replace("_", "-")}="{html.escape(printable(value))}"'
        for key, value in attributes.items()
        if value is not None
    )


def prose(text: str) -> Markup:
    """A sentence whose percent signs stay with their numbers."""
    return Markup(joined(text).replace(" %", "&nbsp;%"))


def joined(*children: object) -> Markup:
    """The children one after the other, text escaped."""
    return Markup("".join(c if isinstance(c, Markup) else html.escape(printable(c, lines=True)) for c in children))


def plain_table(
    titles: Sequence[object], body: Sequence[Sequence[object]], label: str, *, texts: int = 1, fold: bool = True
) -> Markup:
    """A table whose first ``texts`` columns are text; a long one is folded away, and can be sorted and filtered."""
    rows = [element("tr", *(element("td", value) for value in line)) for line in body]
    head = element("thead", element("tr", *(heading(title) for title in titles)))
    long = len(rows) > _FEW
    kind = f"plain text-{texts} sortable" if long else f"plain text-{texts}"
    table = scroll(element("table", head, element("tbody", *rows), class_=kind), label)
    return folded(f"All {len(rows)} rows", table) if long and fold else table


def folded(title: str, content: Markup, **attributes: object) -> Markup:
    """Content that opens when its title is clicked."""
    return element("details", element("summary", title), content, **attributes)


def heading(title: object) -> Markup:
    """The heading of a column. A line may break after a plus, as in "Salt+pepper", and nowhere else in a word."""
    return element("th", Markup(joined(title).replace("+", "+<wbr>")), scope="col")


def scroll(table: Markup, label: str) -> Markup:
    """A table in a box of its own that scrolls sideways where it is too wide."""
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)
