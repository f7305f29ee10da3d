"""The methods as the plan describes them: name, kind, and place in the table.

The report knows no method by its id. One that no plan describes is named by its id and stands below the others.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from fusiondistill.counting import counted
from fusiondistill.report.words import degradation_title, printable

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["COLUMNS", "Method", "Methods", "base_of", "described", "final_of", "methods_of", "ours_of",
           "yardstick_of"]  # fmt: skip

COLUMNS = {
    "order": "int64",
    **dict.fromkeys(("title", "description", "form", "of", "own", "start", "teachers", "searched"), "string"),
    **dict.fromkeys(("told", "transductive"), "bool"),
    **dict.fromkeys(("parameters", "passes", "part"), "int64"),
}
"""The columns of a table of planned figures that describe each row's method, and their types."""
_UNPLANNED = 1 << 30


@dataclass(frozen=True)
class Method:
    """A method of the table.

    Attributes:
        id: as it stands in results.
        order: its place in the table.
        form: "clean" (trained on clean images), "each" (a network for one degradation), "all" (one network trained on
            all degradations), "merged", "combined"; empty where no plan says so.
        of: the method whose networks it uses or belongs to.
        own: the degradation that a network of form "each" is for.
        start: "random" or the id of the method that it starts from.
        teachers: the id of the method that teaches it.
        searched: the id of the method whose search gave it.
        told: whether it knows the degradation of each image.
        parameters: of all its networks at run time.
        passes: forward passes an image.
        part: parameters among these of a part that was fitted for how its networks answer, such as a router.
        transductive: whether it looks at several test images together.
    """

    id: str
    order: int = _UNPLANNED
    title: str = ""
    description: str = ""
    form: str = ""
    of: str = ""
    own: str = ""
    start: str = ""
    teachers: str = ""
    searched: str = ""
    told: bool = False
    parameters: int | None = None
    passes: int | None = None
    part: int | None = None
    transductive: bool = False

    @property
    def name(self) -> str:
        """The name that readers see, on one line: "FusionDistill (searched)"."""
        title = self.title or self.id
        if self.own and title.endswith(f": {self.own}"):
            title = title.removesuffix(self.own) + degradation_title(self.own)
        return printable(title)

    @property
    def short(self) -> str:
        """The name without its addition: "Expert" of "Expert: JPEG"."""
        return self.name.partition(":")[0] if self.own else self.name.removesuffix(" (searched)")

    @property
    def line(self) -> str:
        """A sentence that describes it, with its cost at run time where known."""
        text = self.description or "The plan says nothing more about this row."
        cost = [
            *([f"{self.parameters:,} parameters{self._of_part}"] if self.parameters else []),
            *([f"{counted(self.passes, 'forward pass')} an image"] if self.passes else []),
        ]
        return f"{text.rstrip('.')}; {', '.join(cost)}" if cost else text

    @property
    def _of_part(self) -> str:
        return f" ({self.part:,} of a fitted part)" if self.part else ""

    @property
    def rank(self) -> tuple[bool, int]:
        """Its place among others: networks for one degradation stand last."""
        return bool(self.own), self.order


@dataclass(frozen=True)
class Methods:
    """The methods of an experiment by id. A method that no plan describes has its id as its name."""

    known: Mapping[str, Method] = field(default_factory=dict)

    def __getitem__(self, method: str) -> Method:
        return self.known.get(method) or Method(method)

    def name(self, method: str) -> str:
        """The name that readers see for a method, or for a stage of the same name."""
        return self[method].name

    def sorted(self, methods: Iterable[str]) -> list[Method]:
        """Each of these once, in the order of the table; those not described keep the order in which they come."""
        return sorted((self[method] for method in dict.fromkeys(methods)), key=lambda method: method.rank)


def methods_of(plan: Mapping[str, Any]) -> Methods:
    """The methods of a plan, as a store holds it."""
    names = {item.name for item in fields(Method)}
    found = (
        Method(**{key: value for key, value in {"order": i, **given}.items() if key in names and value is not None})
        for i, given in enumerate(plan.get("methods") or ())
    )
    return Methods({method.id: method for method in found})


def described(planned: pa.Table | None) -> Mapping[str, Methods]:
    """Experiment -> its methods, from the columns :data:`COLUMNS`; under "" the methods of all experiments.

    A method that an experiment does not plan is described as the first experiment that plans it does.
    """
    found: dict[str, dict[str, Method]] = {"": {}}
    if planned is not None:
        columns = [name for name in COLUMNS if name in planned.column_names]
        values = (planned[name].to_pylist() for name in ("experiment", "method", *columns))
        for experiment, method, *given in zip(*values, strict=True):
            if method not in found.setdefault(experiment, {}):
                known = {name: value for name, value in zip(columns, given, strict=True) if value is not None}
                found[experiment][method] = Method(method, **known)
                found[""].setdefault(method, found[experiment][method])
    return {experiment: Methods({**found[""], **known}) for experiment, known in found.items()}


def base_of(methods: Iterable[Method]) -> Method | None:
    """The first method that was trained on clean images."""
    return next((method for method in methods if method.form == "clean"), None)


def yardstick_of(methods: Iterable[Method]) -> Method | None:
    """The first method that answers with the networks of another one and is told the degradation: an oracle."""
    return next((method for method in methods if method.told and method.form == "combined"), None)


def ours_of(methods: Iterable[Method]) -> list[Method]:
    """The methods that are trained on all degradations with teachers."""
    return [method for method in methods if method.form == "all" and method.teachers]


def final_of(methods: Sequence[Method]) -> Method | None:
    """The final network of a run: the last of ours, else the last single network (but the base) that is not told.

    ``methods`` are in the order of the table.
    """
    base = base_of(methods)
    single = [m for m in methods if m is not base and not m.own and not m.told and m.form != "combined"]
    return next(reversed(ours_of(methods) or single), None)
