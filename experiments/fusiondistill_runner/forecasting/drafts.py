"""The config that ``fusiondistill init`` writes, as a value and as text in which each line says why it is there."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fusiondistill.methods import DEFAULT_ROWS, EXPERTS, FEW_ROWS, METHODS
from fusiondistill_runner.views.data_report import yaml_text

__all__ = ["Draft"]

WIDTH, COLUMN = 118, 36
SEARCH = {
    "loss.ce": {"loguniform": [0.1, 2.0]},
    "loss.feature": {"loguniform": [0.05, 1.0]},
    "loss.kd": {"loguniform": [0.02, 1.0]},
    "loss.kd.temperature": {"uniform": [1.0, 8.0]},
}
TRIALS = 8
DATA = {
    "name": "how the files are read: fusiondistill list sources",
    "root": "relative to the folder that the command starts in, or absolute",
    "images": "the folder of the table's images",
    "labels": "the table",
    "test": "there is no test split: this part of the images is cut off, class by class",
    "broken": "files that cannot be read are left out",
    "bits": "what the 16-bit images say is brightest",
}
"""Key of ``data`` -> why it is there."""


@dataclass(frozen=True)
class Draft:
    """What a config says.

    Attributes:
        experiment: its name.
        data: the keys of its ``data``.
        model: the network's name.
        pretrained: whether the base starts from published weights.
        degradations: as the user gave them; empty: the default ones.
        methods: the rows; empty: those that a config without methods has.
        searched: whether the weights of the loss are searched.
        every: evaluate every k-th level.
        batch_size: of each degradation.
        balanced: whether classes are drawn evenly.
        cores: that a worker holds.
        epochs: trained method -> its epochs; empty: the recipe's.
        search_epochs: of a trial.
        why: key of the config -> a reason, for :meth:`text`.
    """

    experiment: str
    data: Mapping[str, Any]
    model: str
    pretrained: bool = False
    degradations: tuple[Any, ...] = ()
    methods: tuple[str, ...] = FEW_ROWS
    searched: bool = False
    every: int = 5
    batch_size: int = 128
    balanced: bool = False
    cores: int = 1
    epochs: Mapping[str, int] = field(default_factory=dict)
    search_epochs: int = 1
    why: Mapping[str, str] = field(default_factory=dict)

    @property
    def trained(self) -> tuple[str, ...]:
        """The methods that are trained, each with its own section."""
        names = (name for name, raw in METHODS.items() if "train_on" in raw)
        return tuple(name for name in names if name in (EXPERTS, *(self.methods or DEFAULT_ROWS)))

    def text(self, header: Sequence[str] = ()) -> str:
        """The file's content, with lines of a header as comments at its top."""
        return "\n".join([*(f"# {line}".rstrip() for line in header), *self._lines(), ""])

    def _lines(self) -> Iterator[str]:
        yield from self._line("", "experiment", yaml_text(self.experiment))
        yield from self._line("", "recipe", "fast", "a quarter of the paper's epochs; paper: the published training")
        yield from self._line("", "seeds", "[0]")
        yield "data:"
        for key, value in self.data.items():
            yield from self._line("  ", f"data.{key}", yaml_text(value), DATA.get(key, ""))
        weights = ", weights: pretrained" if self.pretrained else ""
        yield from self._line("", "model", f"{{name: {self.model}{weights}}}")
        if self.degradations:
            said = (one if isinstance(one, str) else json.dumps(one) for one in self.degradations)
            yield from self._line("", "degradations", f"[{', '.join(said)}]")
        if self.methods:
            yield from self._line("", "methods", f"[{', '.join(self.methods)}]")
        if self.balanced:
            yield f"# sampling: {self.why.get('sampling', '')}"
        for name in self.trained:
            yield from self._line("", name, f"{{{', '.join(self._section(name))}}}")
        if self.searched:
            yield from self._line("", "search", "")
            yield f"  trials: {TRIALS}"
            yield f"  epochs: {self.search_epochs}"
            yield "  space:"
            yield from (f"    {key}: {json.dumps(one).replace(chr(34), '')}" for key, one in SEARCH.items())
        matrix = ", expert_matrix: false" if self.methods else ""
        yield from self._line("", "evaluation", f"{{every: {self.every}{matrix}}}")
        if self.cores > 1:
            yield from self._line("", "resources", f"{{cpus_per_worker: {self.cores}}}")

    def _section(self, name: str) -> Iterator[str]:
        """The settings of a trained method."""
        yield from [f"epochs: {self.epochs[name]}"] if name in self.epochs else []
        yield f"batch_size: {self.batch_size}"
        yield from ["sampling: balanced"] if self.balanced else []

    def _line(self, indent: str, key: str, value: str, why: str = "") -> Iterator[str]:
        """A key with its reason behind it, or above it where that line would get too long."""
        said, reason = f"{indent}{key.removeprefix('data.')}: {value}".rstrip(), self.why.get(key, why)
        whole = f"{said:{COLUMN}}  # {reason}" if reason else said
        if len(whole) <= WIDTH:
            yield whole
            return
        yield from (f"{indent}# {line}" for line in textwrap.wrap(reason, WIDTH - 4))
        yield said
