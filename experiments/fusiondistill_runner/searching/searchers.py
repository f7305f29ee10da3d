"""Where a search's candidates come from: a list drawn ahead, or Optuna, which learns from judged trials. No Ray."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from fusiondistill.config import Dimension
from fusiondistill_runner.planning import search_space
from fusiondistill_runner.planning.search_space import signature
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.planning.trials import as_it_stands, spec_of, whole_recipe
from fusiondistill_runner.searching.journal import Candidate

__all__ = ["Drawn", "Optuna", "Searcher", "searcher_for"]


class Searcher(Protocol):
    """A source of candidates."""

    def ask(self) -> dict[str, Any] | None:
        """The values of the next candidate, which no earlier one has; None: there are no more."""

    def tell(self, candidate: Candidate) -> None:
        """Learn how a candidate ended, also one that an earlier run proposed."""


def searcher_for(search: Stage, past: list[Candidate]) -> Searcher:
    """The searcher that a search names, going on after the candidates of an earlier run."""
    return Optuna(search, past) if spec_of(search).searcher == "optuna" else Drawn(search, past)


class Drawn:
    """Random draws and grids: a fixed list, less the candidates of an earlier run."""

    def __init__(self, search: Stage, past: list[Candidate]) -> None:
        self.recipe = whole_recipe(search)
        self.seen = {signature({**self.recipe, **candidate.values}) for candidate in past}
        self.candidates = search_space.candidates(spec_of(search), self.recipe, search.seed)

    def ask(self) -> dict[str, Any] | None:
        """The next candidate of the list."""
        new = (values for values in self.candidates if signature({**self.recipe, **values}) not in self.seen)
        return next(new, None)

    def tell(self, candidate: Candidate) -> None:
        """Nothing: the list is fixed."""


class Optuna:
    """Optuna's TPE sampler. The first candidate is the recipe, the next are random, later ones lie near good ones.

    Optuna knows a trial that was stopped early as pruned, and ranks it by its epochs, then by its accuracy. A recipe
    with values outside the space (``kd: 0`` in a loguniform one) is tried, but TPE cannot learn from it.
    """

    def __init__(self, search: Stage, past: list[Candidate]) -> None:
        import optuna

        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.optuna, self.spec, self.first = optuna, spec_of(search), as_it_stands(search)
        self.recipe = whole_recipe(search)
        self.count = len(past)
        # Another seed after a restart, or it would propose its first candidates again.
        seed = (search.seed * 1_000_003 + len(past)) % 2**32
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True)
        self.study = optuna.create_study(direction="maximize", sampler=sampler)
        self.space = {name: self._distribution(dimension) for name, dimension in self.spec.space.items()}
        self.open: dict[str, Any] = {}
        self.scores: dict[str, float | None] = {self._signature(candidate.values): None for candidate in past}
        for candidate in past:
            if candidate.ended:
                self.tell(candidate)

    def ask(self) -> dict[str, Any] | None:
        """The recipe as it stands, then TPE's proposals; None after ``trials``, or if TPE only repeats itself."""
        if self.count >= self.spec.trials:
            return None
        self.count += 1
        if (text := self._signature(self.first)) not in self.scores:
            self.scores[text] = None
            return self.first
        for _ in range(search_space.TRIES):
            trial = self.study.ask(self.space)
            values = {name: self._value(name, trial.params[name]) for name in self.space}
            text = self._signature(values)
            if text not in self.scores:
                self.open[text], self.scores[text] = trial, None
                return values
            score, failed = self.scores[text], self.optuna.trial.TrialState.FAIL
            self.study.tell(trial, score, state=failed if score is None else None)
        return None

    def tell(self, candidate: Candidate) -> None:
        """Learn a candidate's best accuracy, and whether it was stopped early."""
        states, text = self.optuna.trial.TrialState, self._signature(candidate.values)
        score = self.scores[text] = candidate.score
        state = states.FAIL if score is None else states.PRUNED if candidate.outcome == "stopped" else states.COMPLETE
        value = score if state == states.COMPLETE else None
        trial = self.open.pop(text, None)
        if trial is not None:
            if score is not None:
                trial.report(score, max(candidate.rows))
            self.study.tell(trial, value, state=state)
        elif (params := self._params(candidate.values)) is not None:
            reports = {max(candidate.rows): score} if score is not None else {}
            self.study.add_trial(
                self.optuna.trial.create_trial(
                    state=state, value=value, params=params, distributions=self.space, intermediate_values=reports
                )
            )

    def _signature(self, values: Mapping[str, Any]) -> str:
        return signature({**self.recipe, **values})

    def _distribution(self, dimension: Dimension) -> Any:
        kinds = self.optuna.distributions
        if dimension.uniform is not None:
            return kinds.FloatDistribution(*dimension.uniform)
        if dimension.loguniform is not None:
            return kinds.FloatDistribution(*dimension.loguniform, log=True)
        if dimension.integers is not None:
            return kinds.IntDistribution(*dimension.integers)
        assert dimension.choice is not None
        return kinds.CategoricalDistribution(range(len(dimension.choice)))  # by number: a value may be a list

    def _value(self, name: str, drawn: Any) -> Any:
        choice = self.spec.space[name].choice
        return drawn if choice is None else choice[drawn]

    def _params(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Values as Optuna knows them; None if one lies outside its dimension."""
        params = {}
        for name, dimension in self.spec.space.items():
            if dimension.choice is not None:
                numbers = [
                    n for n, v in enumerate(dimension.choice) if signature({"": v}) == signature({"": values[name]})
                ]
                if not numbers:
                    return None
                params[name] = numbers[0]
                continue
            low, high = dimension.uniform or dimension.loguniform or dimension.integers or (0, 0)
            if not isinstance(values[name], int | float) or not low <= values[name] <= high:
                return None
            params[name] = values[name]
        return params
