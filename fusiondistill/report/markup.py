"""HTML that cannot be forgotten to be escaped: text is escaped on its way into an element, only Markup is not."""

from __future__ import annotations

import html

from fusiondistill.report.words import printable

__all__ = ["Markup", "element", "joined"]


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
