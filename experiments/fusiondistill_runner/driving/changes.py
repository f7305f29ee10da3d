"""Plugins that changed since the last run into a store, and how many stages are new because of that."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from fusiondistill.counting import counted
from fusiondistill_runner.driving.prepared import Prepared
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.noted_plans import noted_plugins

__all__ = ["Changed", "changed_plugins"]


@dataclass(frozen=True)
class Changed:
    """A plugin that changed since the last run that a store notes.

    Attributes:
        plugin: the file's name.
        since: when that run was started, as ISO 8601 has it.
        stages: how many stages are new because of that.
    """

    plugin: str
    since: str
    stages: int

    def __str__(self) -> str:
        count = counted(self.stages, "stage is new", "stages are new")
        return f"plugin {self.plugin} changed since the run of {self.since[:16].replace('T', ' ')}: {count}"


def changed_plugins(prepared: Prepared) -> Iterator[Changed]:
    """Each plugin that changed since the last run that the store notes.

    Args:
        prepared: after a look at what the store holds.
    """
    plugins = prepared.context.plugins
    if not plugins:
        return
    started, before = noted_plugins(prepared.store, prepared.points[0].config.experiment)
    missing = {stage.digest for stage in prepared.missing}
    for plugin in plugins:
        if before.get(plugin.file, plugin.sha256) != plugin.sha256:
            new = [stage for stage in _resting_on(prepared.plan.stages, plugin.sha256) if stage.digest in missing]
            yield Changed(plugin.file, started, len(new))


def _resting_on(stages: tuple[Stage, ...], sha256: str) -> list[Stage]:
    """The stages that use a plugin of that digest, or rest on one that does; inputs come first."""
    found: dict[str, Stage] = {}
    for stage in stages:
        own = any(sha256 in code for code in stage.code.values())
        if own or any(needed.digest in found for needed in stage.inputs.values()):
            found[stage.digest] = stage
    return list(found.values())
