"""ASHA (Li et al. 2020): which trials of a search are stopped early. Ray Tune decides."""

from __future__ import annotations

from types import SimpleNamespace

__all__ = ["Asha", "rungs"]

FACTOR = 3
"""Of the trials that reach a rung the best of so many go on."""


def rungs(epochs: int) -> frozenset[int]:
    """The epochs after which a trial may be stopped: a quarter of all, and from there three times as many each.

    No trial is stopped at its last epoch, so that each one that reaches it commits its result.
    """
    found, rung = set(), max(1, epochs // 4)
    while rung < epochs:
        found.add(rung)
        rung *= FACTOR
    return frozenset(found)


class Asha:
    """The scores that trials had at the rungs.

    Args:
        epochs: of a whole trial; at least 2.
    """

    def __init__(self, epochs: int) -> None:
        from ray.tune.schedulers import ASHAScheduler

        self.rungs = rungs(epochs)
        self._tune = ASHAScheduler(
            time_attr="epoch", metric="validation", mode="max", grace_period=min(self.rungs), max_t=epochs - 1,
            reduction_factor=FACTOR, stop_last_trials=False,
        )  # fmt: skip
        self._known: dict[int, SimpleNamespace] = {}
        self._verdicts: dict[tuple[int, int], bool] = {}

    def goes_on(self, number: int, epoch: int, score: float) -> bool:
        """Whether a trial goes on after an epoch: yes, unless two thirds of those before it were better at this rung.

        Args:
            number: the candidate's.
            epoch: epochs of a trial come in their order; those that come again get the same answer.
            score: its accuracy on the validation images, a fraction.
        """
        if (number, epoch) in self._verdicts:
            return self._verdicts[number, epoch]
        if number not in self._known:
            self._known[number] = SimpleNamespace(trial_id=str(number))
            self._tune.on_trial_add(None, self._known[number])
        result = {"epoch": epoch, "validation": score}
        action = self._tune.on_trial_result(None, self._known[number], result)
        return self._verdicts.setdefault((number, epoch), bool(action != self._tune.STOP))
