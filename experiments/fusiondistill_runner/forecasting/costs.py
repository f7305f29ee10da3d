"""What the rest of a plan costs, in words: device-hours, and the time of a run on this machine."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from fusiondistill.config import Config, Resources
from fusiondistill.counting import counted
from fusiondistill_runner.driving.local import device_of
from fusiondistill_runner.driving.prepared import Prepared
from fusiondistill_runner.forecasting.duration import Duration, duration_line
from fusiondistill_runner.forecasting.estimates import Estimates, measured
from fusiondistill_runner.forecasting.speeds import Speeds, machine_name
from fusiondistill_runner.planning.stage import Stage

__all__ = ["LACKS", "can_measure", "cost_lines", "estimated", "run_here", "seconds_by_kind", "trainings_of"]

MEASURE = "--measure measures a few seconds of training on this machine"

LACKS = "workers need a GPU (resources.gpus_per_worker), and this machine has none to measure on"


def can_measure(config: Config) -> bool:
    """Whether this machine could be one of a run's workers: it has a GPU where they need one."""
    return not config.resources.gpus_per_worker or device_of(config).type == "cuda"


def estimated(prepared: Prepared, say: Callable[[str], None] | None = None) -> Estimates:
    """What the store and this machine's noted speeds tell of a plan's missing stages.

    Args:
        say: told what is measured; None: nothing is measured, nor where workers need a GPU that this machine lacks.
    """
    estimates = measured(prepared.store)
    if not can_measure(prepared.config):
        return estimates
    speeds = Speeds(prepared.context, device_of(prepared.config))
    if say is not None:
        unknown = [stage for stage in prepared.missing if estimates.seconds(stage) is None]
        try:
            speeds.measure(unknown, lambda text: say(f"measuring {text}"))
        except Exception as error:  # a network of the user's may raise anything; the plan is told all the same
            say(f"could not be measured: {type(error).__name__}: {error}")
    estimates.speeds = speeds
    return estimates


def seconds_by_kind(stages: Iterable[Stage], estimates: Estimates) -> dict[str, list[float | None]]:
    """Kind of stage -> the estimated seconds of each stage, None for one without an estimate."""
    found: dict[str, list[float | None]] = {}
    for stage in stages:
        found.setdefault(stage.kind, []).append(estimates.seconds(stage))
    return found


def trainings_of(stages: Iterable[Stage]) -> int:
    """How many trainings the searches among these stages do at most."""
    return sum(stage.spec.trainings for stage in stages if stage.kind == "search")


def cost_lines(missing: Iterable[Stage], estimates: Estimates, resources: Resources) -> list[str]:
    """Lines with the estimated device-hours of these stages, and the stages that have no estimate."""
    missing = list(missing)
    if not missing:
        return ["nothing to do"]
    by_kind = seconds_by_kind(missing, estimates)
    known = [seconds for times in by_kind.values() for seconds in times if seconds is not None]
    more = {"search": f" ({counted(trainings_of(missing), 'training')} at most)"}
    kinds = ", ".join(f"{len(times)} {kind}{more.get(kind, '')}" for kind, times in by_kind.items())
    lines = [f"{counted(len(missing), 'stage')} to do: {kinds}"]
    source = estimates.told_by(missing)
    if not source and len(known) < len(missing):  # what is known is imports, which take no time
        return [*lines, f"cost unknown: nothing like them was measured yet; {_how(estimates)}"]
    lines.append(f"about {_hours(sum(known), resources)}" + (f", from {source}" if source else ""))
    unknown = {kind: sum(seconds is None for seconds in times) for kind, times in by_kind.items()}
    if rest := ", ".join(f"{n} {kind}" for kind, n in unknown.items() if n):
        return [*lines, f"and an unknown time for {rest}: nothing like them was measured yet; {_how(estimates)}"]
    if (duration := run_here(missing, estimates, resources)) and estimates.speeds:
        lines.append(duration_line(duration, machine_name(estimates.speeds.device)))
    return lines


def _how(estimates: Estimates) -> str:
    return MEASURE if estimates.speeds else LACKS


def run_here(missing: Sequence[Stage], estimates: Estimates, resources: Resources) -> Duration | None:
    """How long a run over these stages takes on this machine; None where nothing is missing or a time is unknown."""
    times = {stage.digest: estimates.seconds(stage) for stage in missing}
    known = {digest: seconds for digest, seconds in times.items() if seconds is not None}
    return Duration.of(missing, known, resources) if missing and len(known) == len(times) else None


def _hours(seconds: float, resources: Resources) -> str:
    """Seconds of a worker as device-hours; as GPU-hours where the config says what part of a GPU a worker holds."""
    if resources.gpus_per_worker:
        return f"{seconds / 3600 * resources.gpus_per_worker:.2g} GPU-hours ({seconds / 3600:.2g} worker-hours)"
    amount = f"{seconds / 3600:.2f} device-hours" if seconds >= 360 else f"{seconds / 60:.1f} device-minutes"
    return f"{amount} (a device: what one worker holds)"
