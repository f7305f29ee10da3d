"""What a user asks ``fusiondistill init`` for, and what of it cannot be. Nothing here imports torch."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fusiondistill import NAME, config_file
from fusiondistill.targets import why_no_file

__all__ = ["Wish", "seconds_of"]

SHORT = 600.0
"""A run of fewer seconds is one with --local: starting Ray would take a good part of it."""


_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_FORM = re.compile("".join(rf"(?:(\d+(?:\.\d+)?){unit})?" for unit in _UNITS), re.ASCII)


def seconds_of(text: str) -> float:
    """The seconds of a time like 90s, 30m, 1h, 1h30m or 2d.

    Raises:
        ValueError: it is none, or 0.
    """
    found = _FORM.fullmatch(text.strip().lower().replace(" ", ""))
    parts = found.groups() if found else ()
    total = sum(float(part or 0) * size for part, size in zip(parts, _UNITS.values(), strict=False))
    if not total:
        raise ValueError(f"a budget of {text!r} is no time: write it like 90s, 30m, 1h, 1h30m or 2d")
    return total


@dataclass(frozen=True)
class Wish:
    """What a user asks for.

    Attributes:
        path: a folder, a table of labels or a Parquet file.
        budget: like 1h30m.
        out: the file to write; None: the folder's name with .yaml, in the current folder.
        model: the network's name; None: one that suits images and budget.
        degradations: as in a config; empty: the default ones.
        local: whether the run is to be one with ``--local``, whatever the budget.
        force: whether an existing file may be replaced.
    """

    path: str
    budget: str = "1h"
    out: str | None = None
    model: str | None = None
    degradations: tuple[Any, ...] = ()
    local: bool = False
    force: bool = False

    @property
    def seconds(self) -> float:
        """The budget."""
        return seconds_of(self.budget)

    @property
    def runs_locally(self) -> bool:
        """Whether the run that the budget is for is one with ``--local``."""
        return self.local or self.seconds < SHORT

    @property
    def experiment(self) -> str:
        """The path's last name, as far as an experiment can be called so."""
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", Path(self.path).expanduser().absolute().stem).strip("-._")
        return name[:60] or "mine"

    @property
    def file(self) -> Path:
        """The file to write."""
        return Path(self.out or f"{self.experiment}.yaml").expanduser()

    @property
    def overrides(self) -> list[str]:
        """What the user said, laid over a config."""
        said = [] if self.model is None else [f"model.name={self.model}"]
        return [*said, *([f"degradations={json.dumps(self.degradations)}"] if self.degradations else [])]

    @property
    def command(self) -> str:
        """The command line that says all this."""
        words = [NAME, "init", self.path, "--budget", self.budget, *(["--out", self.out] if self.out else [])]
        words += ["--model", self.model] if self.model else []
        said = (one if isinstance(one, str) else json.dumps(one) for one in self.degradations)
        words += [word for one in said for word in ("--degradation", one)]
        return shlex.join([*words, *(["--local"] if self.local else [])])

    @property
    def run(self) -> str:
        """The command line that runs the file."""
        return shlex.join([NAME, "run", str(self.file), *(["--local"] if self.runs_locally else [])])

    def check(self) -> None:
        """Raise ValueError where something cannot be, before any image is read."""
        seconds_of(self.budget)
        self.check_file()
        config_file.parse("experiment: init\n", source="init", overrides=self.overrides)

    def check_file(self) -> None:
        """Raise ValueError where the file may not be written."""
        found = self.file
        if found.suffix.lower() not in (".yaml", ".yml"):
            raise ValueError(f"--out {found}: a config is a .yaml file")
        if why := why_no_file(found, force=self.force):
            raise ValueError(f"--out {found}: {why}")
