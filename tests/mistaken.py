"""What is wrong with a config, as its loader says."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from fusiondistill.config_file import ConfigError, Mistake


def mistakes(load: Callable[[], object]) -> list[Mistake]:
    """All mistakes that a call of the loader ends with."""
    with pytest.raises(ConfigError) as caught:
        load()
    return list(caught.value.mistakes)


def only_mistake(load: Callable[[], object]) -> Mistake:
    """The mistake that a call of the loader ends with: there is just one."""
    (mistake,) = mistakes(load)
    return mistake


def places(load: Callable[[], object]) -> list[tuple[int | None, str, str]]:
    """Line, key and message of all mistakes."""
    return [(one.line, one.key, one.message) for one in mistakes(load)]
