"""The report's words for degradations, protocols and published figures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fusiondistill.report.published import MODEL, NETWORK, has_published

__all__ = [
    "CLEAN", "FALLING", "MISSING", "degradation_title", "in_order", "kind_lines", "kind_title", "level_axis",
    "printable", "protocol_line", "protocol_lines", "published_note", "short_title",
]  # fmt: skip

MISSING = "\N{EN DASH}"

# name -> (title, the axis of its levels, the paper's name)
_DEGRADATIONS = {
    "jpeg": ("JPEG", "JPEG quality, falling (101: left clean)", "JPEG"),
    "blur": ("Blur", "blur level (sigma = level / 10 pixels)", "Blur"),
    "noise": ("Noise", "noise level (sigma, of 255)", "AWGN"),
    "saltpepper": ("Salt+pepper", "salt and pepper level (% of the values)", "SAPN"),
}

FALLING = ("jpeg",)  # their higher levels are milder, so their axis falls: harder is to the right everywhere
CLEAN = {"jpeg": 101, "blur": 0, "noise": 0, "saltpepper": 0}  # the levels that leave an image as it is

_PUBLISHED_SET = "c-"  # opens the names of a published corruption set's corruptions

# kind -> (title, what it is)
_KINDS = {
    "trained": ("Degradations trained for", "The degradations that experts were trained for."),
    "unseen": (
        "Unseen degradations",
        "Degradations that no row was trained on. They have their own average and no part in the one above.",
    ),
    "corruption": (
        "Published corruption set",
        "Images of a published corruption set as they are, levels are its severities; no row was trained on them "
        "unless its name says so. They have their own average and no part in the one above.",
    ),
}

# protocol -> what it does beside choosing epochs
_PROTOCOLS = {
    "paper": (
        "As the authors' released code does it, leaks and quirks included; random numbers are our own.",
        "Salt is painted as the value 1, all but black, instead of 255: the salt-and-pepper column is another, easier "
        "task.",
        "The fused network keeps the BatchNorm statistics (buffers) of the first expert in the list, unless the "
        "configuration says otherwise; the other experts' are dropped. The paper's ModelSoups row is at chance; "
        "these statistics alone are not known to be the cause.",
        "A training step holds the same images under every degradation, with the same flip and crop, and a seed "
        "changes the initial weights only. The loss weights are the published ones; there is no search.",
        "Draws are coupled unless the configuration says otherwise: degradations with equally many levels draw the "
        "same one for an image, like blur and noise. Degradations without random numbers share the hole of its "
        "cutout, like JPEG and blur.",
        "At 64x64 the cutout of rows that start from merged weights is 16 pixels, that of other rows 32.",
    ),
    "standard": (
        "Nothing is chosen on the test split: it is looked at once, at the end. A search is judged on images held out "
        "of the training set.",
        "Salt is painted as 255.",
        "BatchNorm statistics of the fused network are recomputed on a mixture of all degradations, unless the "
        "configuration says otherwise.",
        "Each degradation of a training step draws its own images, flips and crops.",
    ),
}
_PROTOCOL_LINE = {
    "paper": "the published experiment as its code does it, salt painted as 1, all but black",
    "standard": "the test split is looked at once",
}
_USUAL = {"paper": "test", "standard": "validation"}  # how a protocol chooses epochs by default

# select -> how every training stage chooses the epoch that it keeps
_SELECTS = {
    "validation": "the kept epoch is the one that scores best on images held out of training",
    "last": "the kept epoch is the last one",
    "test": "the kept epoch is the one that scores best on the test split",
}
_LEAK = "Leak: {}, so the figures flatter all trained rows."
_SCORES = {
    "paper": " A score is the mean over batches of 128 images of each degradation, the short last one too, at levels "
    "and noise drawn anew at every epoch; of equal epochs the later one is kept."
}  # how networks in training are scored, where that is unusual


def printable(text: object, *, lines: bool = False) -> str:
    """The text without control characters, which terminals obey and XML forbids.

    ``lines`` keeps line breaks and tabs; without it the text ends up on one line.
    """
    if (given := str(text)).isprintable():
        return given
    kept = "\n\t" if lines else ""
    flat = given if lines else given.replace("\n", " ").replace("\t", " ")
    return "".join(c if c.isprintable() or c in kept else "\N{REPLACEMENT CHARACTER}" for c in flat)


def in_order(degradations: Iterable[str]) -> list[str]:
    """Each of these degradations once: those of the paper first, in its order, the others as they come."""
    known = [*_DEGRADATIONS]
    return sorted(dict.fromkeys(degradations), key=lambda name: known.index(name) if name in known else len(known))


def degradation_title(degradation: str) -> str:
    """The title of a degradation: "noise" -> "Noise", "c-motion_blur" -> "Motion blur (published set)"."""
    title = short_title(degradation)
    return f"{title} (published set)" if degradation.startswith(_PUBLISHED_SET) else title


def short_title(degradation: str) -> str:
    """The title without "(published set)"."""
    if degradation in _DEGRADATIONS:
        return _DEGRADATIONS[degradation][0]
    name = degradation.removeprefix(_PUBLISHED_SET)
    return name.replace("_", " ").capitalize() if name.isidentifier() and name.islower() else printable(name)


def level_axis(degradation: str, means: str = "") -> str:
    """The label of the axis of a degradation's levels; ``means``: what a level is, where its entry says so."""
    if degradation.startswith(_PUBLISHED_SET):
        return "severity, as published"
    if degradation in _DEGRADATIONS:
        return _DEGRADATIONS[degradation][1]
    return f"level of {printable(degradation)}" + (f" ({printable(means)})" if means else "")


def kind_title(kind: str) -> str:
    """The heading of a kind of degradation."""
    return _KINDS[kind][0] if kind in _KINDS else f"Degradations: {printable(kind)}"


def kind_lines(kind: str) -> str:
    """A kind of degradation, described in a sentence or two."""
    return _KINDS[kind][1] if kind in _KINDS else "A kind of degradation with its own average."


def protocol_lines(protocol: str, select: str = "") -> Sequence[str]:
    """What a protocol does, in sentences; empty for an unknown one.

    ``select``: how epochs are chosen ("validation", "last" or "test"); "": by the protocol's default.
    """
    if protocol not in _PROTOCOLS:
        return ()
    chosen = select or _USUAL[protocol]
    how = _SELECTS.get(chosen, f"epochs are chosen by {printable(chosen)}")
    sentence = _LEAK.format(how) if chosen == "test" else f"{how[:1].upper()}{how[1:]}."
    sentence += "" if chosen == "last" else _SCORES.get(protocol, "")
    first, *rest = _PROTOCOLS[protocol]
    return (first, sentence, *rest)


def protocol_line(protocol: str, select: str = "") -> str:
    """What a protocol does, in one line that names its leaks; ``select`` as in :func:`protocol_lines`."""
    if protocol not in _PROTOCOL_LINE:
        return "a protocol that this report does not know."
    chosen = select or _USUAL[protocol]
    how = _SELECTS.get(chosen, f"epochs are chosen by {printable(chosen)}")
    return f"{_PROTOCOL_LINE[protocol]}; {how}{' (a leak)' if chosen == 'test' else ''}."


def published_note(dataset: str, model: str, protocol: str, deviations: str = "") -> str | None:
    """What the published figures are and whether ours may be compared with them; None where there are none."""
    if not has_published(dataset):
        return None
    names = ", ".join(f"{title} is {paper} there" for title, _, paper in _DEGRADATIONS.values() if title != paper)
    note = f"Published: the paper's own figures, {NETWORK}, whole test split, protocol paper ({names})."
    reasons: list[str] = []
    if model != MODEL:
        reasons.append(f"ours is the network {printable(model)}")
    if protocol != "paper":
        reasons.append(f"ours follows the protocol {printable(protocol)}")
    if deviations:
        reasons.append(f"ours has {printable(deviations)}")
    if not reasons:
        note += " Beside them ours minus theirs, in points."
    else:
        note += f" Shown for orientation, without differences: {' and '.join(reasons)}."
    if dataset == "tiny_imagenet":
        note += " The printed average of the published Ensemble row, 35.5, is not the mean of its four cells, 41.5."
    return note
