"""What a plan says of each row, so that views and reports guess nothing from names."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import PurePosixPath
from typing import Any

from fusiondistill.catalogue import value_text
from fusiondistill.config import Config
from fusiondistill.methods import Combined, Merge, Merged, Method, Trained, chooses, searched_name
from fusiondistill.recipes import PRETRAINED

__all__ = ["Description", "of_method", "of_network"]


@dataclass(frozen=True)
class Description:
    """One row of the table.

    Attributes:
        id: the method's id in results.
        title: what tables call it.
        description: one sentence about it.
        form: ``clean``, ``each``, ``all``, ``merged``, ``combined``, or ``file`` for a checkpoint that is evaluated.
        of: the method whose networks it uses or belongs to, else "".
        own: the degradation that a network of form ``each`` is for, else "".
        start: ``random``, a method, or "".
        teachers: a method, or "".
        told: whether it is told each image's degradation.
        searched: the method whose search gave it, else "".
        parameters: of all its networks together, at run time.
        passes: forward passes an image.
        part: parameters among these of a part that is fitted for how its networks answer, such as a router.
        transductive: whether it looks at several test images together.
    """

    id: str
    title: str
    description: str
    form: str
    of: str = ""
    own: str = ""
    start: str = ""
    teachers: str = ""
    told: bool = False
    searched: str = ""
    parameters: int = 0
    passes: int = 1
    part: int = 0
    transductive: bool = False

    def content(self) -> dict[str, Any]:
        """JSON-able."""
        return asdict(self)


def of_method(config: Config, name: str, parameters: int, *, passes: int = 1, told: bool = False) -> Description:
    """A method's row, or that of its search."""
    searched = next((s.of for s in config.search if searched_name(s.of) == name and name not in config.table), "")
    method = config.table[searched or name]
    title = method.title or searched or name
    description = (_described(method, config) or _sentence(method, config)) + _pretrained(method, config)
    if searched:
        title, description = f"{title} (searched)", _SEARCHED
    start = "" if isinstance(method, Combined) else method.start
    of = method.of if isinstance(method, Combined) else ""
    return Description(
        id=name,
        title=title,
        description=description,
        form=method.form,
        of=start.of if isinstance(method, Merged) and isinstance(start, Merge) else of,
        start=start if isinstance(start, str) else "",
        teachers=method.teachers.of if isinstance(method, Trained) and method.teachers and method.taught else "",
        told=told,
        searched=searched,
        parameters=parameters,
        passes=passes,
    )


def _described(method: Method, config: Config) -> str:
    """What a method's config says of it, with what a section may have changed beside the built-in sentence."""
    if not method.description or not isinstance(method, Trained):
        return method.description
    together = method.teachers is not None and method.taught and method.teachers.together
    said = [method.description, _taught(method, config) if together else "", _rounds(method)]
    return "; ".join(filter(None, said))


def _pretrained(method: Method, config: Config) -> str:
    """Which pretrained weights a method starts from; "" for none."""
    if not isinstance(method, Trained) or method.start != PRETRAINED:
        return ""
    weights = str(config.model.weights)
    of = f"of {config.model.name}" if weights == PRETRAINED else PurePosixPath(weights).name
    return f"; starts from the pretrained weights {of}"


_SEARCHED = "the same with what the search found on the validation split; what the search cost comes on top"


def of_network(name: str, parameters: int, config: Config | None = None, of: str = "", own: str = "") -> Description:
    """The row of one network of several, or of a checkpoint."""
    if config is None:
        return Description(name, name, "an evaluated checkpoint", "file", parameters=parameters)
    whole = of_method(config, of, parameters)
    title, what = f"{whole.title}: {own}", f"the network of {whole.title} for {own} alone"
    return Description(
        name, title, what, whole.form, of=of, own=own, start=whole.start, teachers=whole.teachers,
        searched=whole.searched, parameters=parameters,
    )  # fmt: skip


def _sentence(method: Method, config: Config) -> str:
    """What a method is, made from its settings."""
    if isinstance(method, Combined):
        return f"the networks of {_title(config, method.of)} together: {method.inference.name}"
    start = _merge(method.start, config) if isinstance(method.start, Merge) else _title(config, method.start)
    if isinstance(method, Merged):
        said = [f"{start}, evaluated without further training"]
    else:
        seen = {"clean": "clean images", "each": "one degradation alone", "all": "all degradations"}[method.train_on]
        taught = f", {_taught(method, config)}" if method.taught else ""
        said = [f"starts from {start}, trained on {seen}{taught}", _rounds(method)]
    return "; ".join(filter(None, [*said, f"inference: {method.inference.name}" if method.inference else ""]))


def _rounds(method: Trained) -> str:
    """How often its networks are averaged; "" for never."""
    return f"averaged every {method.average_every} epochs" if method.average_every else ""


def _taught(method: Trained, config: Config) -> str:
    """Who teaches a method, and what that costs where it is several networks."""
    assert method.teachers is not None
    of = _title(config, method.teachers.of)
    if not method.teachers.together:
        return f"taught by {of}"
    how = "averaged evenly" if method.teachers.by == "mean" else "averaged by their confidence in each image's label"
    return f"taught by all {len(config.degradations)} networks of {of} together, {how} (a forward pass of each)"


def _merge(merge: Merge, config: Config) -> str:
    usual = {key: field.default for key, field in merge.entry().parameters.model_fields.items()}
    said = {key: value for key, value in merge.parameters.items() if value != usual[key]}
    given = "".join(f", {key} {value_text(value)}" for key, value in said.items())
    chosen = ", chosen on validation" if chooses(merge.model_dump()) else ""
    of = config.table[merge.of]
    if isinstance(of, Trained) and of.train_on != "each":
        how = "" if merge.merge == "average" else f" ({merge.merge}{given}{chosen})"
        return f"the weights of {_title(config, merge.of)}{how}"
    return f"the networks of {_title(config, merge.of)}, merged ({merge.merge}{given}{chosen})"


def _title(config: Config, name: str) -> str:
    return config.table[name].title or name if name in config.table else f"{name} weights"
