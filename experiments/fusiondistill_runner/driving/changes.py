"""Plugins that changed since the last run into a store, and how many stages are new because of that."""

from __future__ import annotations

from collections.abc import Iterator

from fusiondistill_runner.driving.prepared import Prepared
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.noted_plans import noted_plugins

__all__ = ["changed_plugins"]


def changed_plugins(prepared: Prepared) -> Iterator[str]:
    """A line for each plugin that changed since the last run that the store notes.

    Args:
        prepared: after a look at what the store holds.
    """
    plugins = prepared.context.plugins
    if not plugins:
        return
    started, before = noted_plugins(prepared.store, prepared.points[0].config.experiment)
    missing = {stage.digest for stage in prepared.missing}
    for plugin in plugins:
        if before.get(plugin.file, plugin.sha256) == plugin.sha256:
            continue
        new = [stage for stage in _resting_on(prepared.plan.stages, plugin.sha256) if stage.digest in missing]
        count = f"{len(new)} stages are new" if len(new) != 1 else "1 stage is new"
        yield f"plugin {plugin.file} changed since the run of {started[:16].replace('T', ' ')}: {count}"


def _resting_on(stages: tuple[Stage, ...], sha256: str) -> list[Stage]:
    """The stages that use a plugin of that digest, or rest on one that does; inputs come first."""
    found: dict[str, Stage] = {}
    for stage in stages:
        own = any(sha256 in code for code in stage.code.values())
        if own or any(needed.digest in found for needed in stage.inputs.values()):
            found[stage.digest] = stage
    return list(found.values())
