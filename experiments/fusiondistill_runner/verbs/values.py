"""Options and values that several verbs take: degradations, seeds, protocols, and three numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from fusiondistill_runner.command import THREE

__all__ = [
    "classes_option", "degradation_of", "degradations_option", "network_options", "noise_seed_option",
    "protocol_option",
]  # fmt: skip


def _names(context: click.Context, option: click.Parameter, text: str | None) -> list[str] | None:
    """The names of classes in the order of the outputs: parted by commas, or the lines of a file."""
    if text is None:
        return None
    if "," not in text and Path(text).is_file():
        read = Path(text).read_text(encoding="utf-8-sig", errors="surrogateescape")
        return [line for line in read.splitlines() if line]
    return [name.strip() for name in text.split(",")]


classes_option = click.option(
    "--classes",
    metavar="NAMES|FILE",
    callback=_names,
    help="The names of its classes in their order: cat,dog or a file with one a line.",
)
degradations_option = click.option(
    "--degradation",
    "degradations",
    multiple=True,
    metavar="NAME",
    help="A degradation of `fusiondistill list degradations`, or one with settings, like '{name: blur, as: light, "
    "levels: 0..20}'; may be repeated. Default: the paper's four.",
)

noise_seed_option = click.option(
    "--seed", type=int, default=123, show_default=True, help="The seed of random degradations."
)
protocol_option = click.option(
    "--protocol",
    type=click.Choice(["standard", "paper"]),
    default="standard",
    show_default=True,
    help="paper: salt is painted as the value 1, as in the released code; standard: as 255.",
)


def network_options(default: str, network: str = "model") -> Callable[[Any], Any]:
    """The options that say what files without a card do not: the network, and its normalisation.

    Args:
        default: what happens without a mean.
        network: the name of the verb's parameter for the network.
    """
    options = (
        click.option(
            "--model",
            network,
            metavar="NAME",
            help="The network of checkpoints that do not name it; see `fusiondistill list networks`.",
        ),
        click.option(
            "--mean",
            metavar=THREE,
            callback=_three,
            help="The mean that images were normalised by in such a network's training: 0.485,0.456,0.406 or "
            f"123.7,116.3,103.5. Default: {default}.",
        ),
        click.option(
            "--std", metavar=THREE, callback=_three, help="The standard deviation, on the same scale as --mean."
        ),
    )

    def with_options(verb: Any) -> Any:
        for option in reversed(options):
            verb = option(verb)
        return verb

    return with_options


def _three(context: click.Context, option: click.Parameter, text: str | None) -> list[float] | None:
    """Three numbers of the command line, parted by commas or spaces; ``255`` alone stands for all three."""
    if text is None:
        return None
    try:
        found = [float(part) for part in text.strip("[]() ").replace(",", " ").split()]
    except ValueError:
        found = []
    if len(found) not in (1, 3):
        raise click.BadParameter(f"{text!r} is not three numbers, like 0.485,0.456,0.406 or '0.485 0.456 0.406'")
    return found * 3 if len(found) == 1 else found


def degradation_of(text: str) -> Any:
    """A degradation of the command line: a name, or a mapping as in a config, like ``{name: blur, levels: 0..20}``.

    Raises:
        ValueError: a mapping that is none.
    """
    from fusiondistill import safe_yaml

    if not text.lstrip().startswith("{"):
        return text
    try:
        return safe_yaml.read(text)[0]
    except safe_yaml.YAMLProblem as error:
        raise ValueError(f"{text!r}: {error}; write it like '{{name: blur, as: light, levels: 0..20}}'") from error
