"""The page: everything that there is to say about the results in one HTML file that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from importlib import resources
from string import Template
from typing import TYPE_CHECKING

from fusiondistill.report.drawing import inlined
from fusiondistill.report.figures import Picture, dimensions
from fusiondistill.report.markup import Markup, element, joined
from fusiondistill.report.published import NETWORK
from fusiondistill.report.summary import Group, Row, headline
from fusiondistill.report.text import NOTHING, caption, cell_text, column_title, difference_text, group_title
from fusiondistill.report.words import (
    MISSING,
    TOLD,
    in_order,
    method_line,
    method_title,
    printable,
    protocol_lines,
    published_note,
)
from fusiondistill.statistics import mean_interval

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["curves_section", "facts_section", "fusion_section", "group_section", "page", "trials_section"]

_FEW = 12  # rows of a table that is shown without being asked for


def page(groups: Sequence[Group], sections: Sequence[Markup], end: Markup | None = None) -> str:
    """The whole HTML file: the sections, then what the rows and protocols are, then the end."""
    names = list(dict.fromkeys(printable(group.experiment) for group in groups))
    template = Template(resources.files("fusiondistill.report").joinpath("page.html").read_text(encoding="utf-8"))
    sentences = [sentence for group in groups if (sentence := headline(group))]
    lead = [element("p", sentence, class_="lead") for sentence in sentences if len(groups) == 1]
    if len(groups) > 1:
        links = [element("li", element("a", group_title(g), href=f"#table-{i + 1}")) for i, g in enumerate(groups)]
        lead.append(element("nav", element("ul", *links), aria_label="Tables"))
    if not groups:
        lead.append(element("p", NOTHING, class_="lead"))
    title = joined(f"FusionDistill: {', '.join(names)}" if names else "FusionDistill")
    explained = [_rows_explained(groups), _protocols_explained(groups)] if groups else []
    main = [*sections, *explained, *([end] if end else [])]
    return template.substitute(title=title, lead=joined(*lead), main="\n".join(main))


def group_section(group: Group, number: int, pictures: Sequence[Picture], several: bool) -> Markup:
    """A group's table and figures; with several groups on the page each has its own sentence."""
    note = published_note(group.dataset, group.model, group.protocol)
    sentence = headline(group) if several else None
    return element(
        "section",
        element("h2", group_title(group), id=f"table-{number}"),
        element("p", sentence) if sentence else Markup(""),
        _scroll(_answer(group), "Accuracies"),
        element("p", caption(group), " ", element("a", "What the rows are", href="#rows"), class_="note"),
        element("p", note, class_="note") if note else Markup(""),
        _figures("Accuracy against level", pictures),
    )


def curves_section(pictures: Sequence[Picture]) -> Markup:
    """The training curves."""
    text = "Each metric after every epoch of every training stage that reports it."
    return element("section", element("h2", "Training"), element("p", text, class_="note"), _figures("", pictures))


def trials_section(trials: pa.Table, pictures: Sequence[Picture]) -> Markup:
    """The search: every trial, the best first, and validation accuracy against each dimension."""
    names = dimensions(trials)
    rows = sorted(
        trials.to_pylist(),
        key=lambda row: (row.get("seed") or 0, bool(row.get("stopped")), -_finite(row.get("validation"), -1.0)),
    )
    body = [
        [
            row.get("trial"),
            _plain(row.get("seed")),
            *(_plain(row.get(name)) for name in names),
            _plain(row.get("epochs")),
            _percent(row.get("validation")),
            "yes" if row.get("stopped") else "",
        ]
        for row in rows
    ]
    heading = ["trial", "seed", *names, "epochs", "validation, %", "stopped early"]
    text = (
        f"{len(rows)} trials: the distillation stage with fewer epochs, under other loss weights and another "
        "temperature, judged by accuracy on the validation split. Sorted by seed, finished trials first, the best on "
        "top."
    )
    if {"ce", "feature", "kd"} <= set(names):
        text += " ce, feature and kd weigh the three terms: cross-entropy, cosine feature, softened logits."
    return element(
        "section",
        element("h2", "Search"),
        element("p", text, class_="note"),
        _figures("", pictures),
        _table(heading, body, "Trials"),
    )


def fusion_section(fusion: pa.Table) -> Markup:
    """How far each expert went from the base, and how much worse the average is than what it is made of."""
    found: dict[tuple[str, str], list[dict[str, object]]] = {}
    for row in fusion.to_pylist():
        found.setdefault((str(row.get("stage")), str(row.get("expert"))), []).append(row)
    body = [
        [stage, expert, len(rows), *(_spread(row.get(name) for row in rows) for name in ("distance", "barrier"))]
        for (stage, expert), rows in found.items()
    ]
    text = (
        "Distance is how far fine-tuning moved an expert from the base, |expert - base| / |base| over all weights, "
        "without unit. The barrier is the cross-entropy of the merged network minus the mean of the experts', in nats, "
        "on degraded images held out of training (training images where nothing is held out): near 0 or below, "
        "averaging cost nothing. Mean over n seeds ± half the 95 % interval."
    )
    return element(
        "section",
        element("h2", "Fusion"),
        element("p", text, class_="note"),
        _table(["stage", "expert", "n", "distance", "barrier"], body, "Fusion", text_columns=2),
    )


def facts_section(facts: Mapping[str, str]) -> Markup:
    """What it takes to run this again; long values and those of several lines are kept as they are."""
    items = []
    for name, value in facts.items():
        long = "\n" in str(value) or len(str(value)) > 100 or name in ("command", "config")
        shown = element("pre", str(value).strip("\n"), tabindex="0") if long else value
        items.append(joined(element("dt", name.replace("_", " ")), element("dd", shown)))
    return element("section", element("h2", "How it was run"), element("dl", *items, style="max-width: none"))


def _answer(group: Group) -> Markup:
    # A line may break after the plus of "Salt+pepper", nowhere else in a heading.
    titles = [Markup(joined(column_title(column)).replace("+", "+<wbr>")) for column in group.columns]
    heading = element("tr", element("td"), *(_heading(title) for title in titles))
    first_expert = next((row for row in group.rows if row.is_expert), None)
    body = []
    for row in group.rows:
        ours = "ours" if row.method.startswith("fusiondistill") else None
        kind = "first-expert" if row is first_expert else ours
        told = element("small", "told the degradation") if row.method in TOLD else Markup("")
        name = element("th", method_title(row.method), told, scope="row")
        numbers = [cell_text(row.cell(column), len(group.seeds)) for column in group.columns]
        body.append(element("tr", name, *(_number(*number) for number in numbers), class_=kind))
        body.append(_published(group, row, ours))
    return element("table", element("thead", heading), element("tbody", *body), class_="answer")


def _published(group: Group, row: Row, kind: str | None) -> Markup:
    """The paper's figures below ours, or nothing."""
    figures = {column: group.published(row.method, column) for column in group.columns}
    if all(figure is None for figure in figures.values()):
        return Markup("")
    cells = [
        element("td") if figure is None else _number(f"{figure:.1f}", difference_text(group, row.cell(column), figure))
        for column, figure in figures.items()
    ]
    name = element("th", f"published, {NETWORK}", scope="row")
    return element("tr", name, *cells, class_=f"published {kind or ''}".strip())


def _number(number: str, beside: str) -> Markup:
    return element("td", number, element("small", beside) if beside else Markup(""))


def _rows_explained(groups: Sequence[Group]) -> Markup:
    methods = in_order(row.method for group in groups for row in group.rows)
    items = [joined(element("dt", method_title(m)), element("dd", method_line(m))) for m in methods]
    return element("section", element("h2", "What the rows are", id="rows"), element("dl", *items))


def _protocols_explained(groups: Sequence[Group]) -> Markup:
    parts = []
    for protocol in dict.fromkeys(group.protocol for group in groups):
        lines = protocol_lines(protocol) or ("A protocol that this report knows nothing about.",)
        parts += [element("h3", protocol), element("ul", *(element("li", line) for line in lines))]
    title = "Protocols" if len(parts) > 2 else "Protocol"
    return element("section", element("h2", title), *parts)


def _figures(title: str, pictures: Sequence[Picture]) -> Markup:
    if not pictures:
        return Markup("")
    drawn = [
        element(
            "figure",
            element("h4", picture.title),
            Markup(inlined(picture.svg, f"{picture.name}-", picture.alt)),
            element("figcaption", picture.caption),
        )
        for picture in pictures
    ]
    heading = element("h3", title) if title else Markup("")
    return joined(heading, element("div", *drawn, class_="figures"))


def _table(heading: Sequence[str], body: Sequence[Sequence[object]], label: str, text_columns: int = 1) -> Markup:
    """A plain table; a long one is folded away."""
    rows = [element("tr", *(element("td", value) for value in line)) for line in body]
    head = element("thead", element("tr", *(_heading(name) for name in heading)))
    table = _scroll(element("table", head, element("tbody", *rows), class_=f"text-{text_columns}"), label)
    return table if len(rows) <= _FEW else element("details", element("summary", f"All {len(rows)} rows"), table)


def _heading(text: str) -> Markup:
    return element("th", text, scope="col")


def _scroll(table: Markup, label: str) -> Markup:
    return element("div", table, class_="scroll", tabindex="0", role="region", aria_label=label)


def _finite(value: object, otherwise: float) -> float:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else otherwise


def _plain(value: object) -> str:
    """A number as a person would write it, three digits; text as it is."""
    if value is None:
        return MISSING
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _percent(value: object) -> str:
    return f"{100 * value:.1f}" if isinstance(value, int | float) and math.isfinite(value) else MISSING


def _spread(values: Iterable[object]) -> str:
    known = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if not known:
        return MISSING
    interval = mean_interval(known)
    return f"{interval.mean:.3f}" + ("" if interval.half is None else f" ±{interval.half:.3f}")
