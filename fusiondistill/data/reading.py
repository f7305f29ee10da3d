"""Decodes the images of one split, leaves broken ones out where the user says so, and keeps what is to be said."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar

from pydantic import Field

from fusiondistill.counting import counted
from fusiondistill.data.decoding import BrokenImage, Decoded, decode
from fusiondistill.data.errors import DataError
from fusiondistill.data.names import escaped
from fusiondistill.data.source import Row

__all__ = [
    "BROKEN",
    "Background",
    "Bits",
    "Broken",
    "LabelColumn",
    "Observed",
    "Reader",
    "ahead_of_need",
    "bits_filled",
    "colour",
    "observing",
]

Item = TypeVar("Item")
Done = TypeVar("Done")

Byte = Annotated[int, Field(ge=0, le=255)]
Background = Annotated[
    Literal["white", "black"] | tuple[Byte, Byte, Byte],
    Field(description="the colour behind transparent pixels: white, black or [red, green, blue]"),
]
Bits = Annotated[
    int | None,
    Field(ge=9, le=16, description="bits that the values of 16-bit images fill, like 12; default: all of them"),
]
Broken = Annotated[
    Literal["error", "skip"], Field(description="skip leaves out files that cannot be decoded, and names them")
]
LabelColumn = Annotated[str | None, Field(description="the column of the labels; default: by its name and content")]

_COLOURS = {"white": (255, 255, 255), "black": (0, 0, 0)}
_DARK = 2**14
"""Images of 16 bits whose largest value is below this fill 14 bits at most, as cameras' values do."""
_NAMED = 20
BROKEN = "broken images that are left out"
MOST_THREADS = 8
"""That decode side by side: each may hold a photo of 200 MB."""


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def colour(background: Background) -> tuple[int, int, int]:
    """A background as RGB, 0..255."""
    return _COLOURS[background] if isinstance(background, str) else background


def bits_filled(images: int, largest: int) -> int | None:
    """How many bits the values of images with 16 bits a channel seem to fill, where these are far fewer.

    Args:
        images: how many images there are that are taken to fill 16 bits.
        largest: their largest value.
    """
    fills = max(9, largest.bit_length())
    return fills + fills % 2 if images and largest < _DARK else None  # cameras have 10, 12 or 14


def ahead_of_need(
    function: Callable[[Item], Done], items: Iterable[Item], ahead: int = 0
) -> Iterator[tuple[Item, Future[Done]]]:
    """What a function makes of items, in their order; as many threads as there are cores call it.

    Args:
        ahead: how many items are begun before the first is asked for; at least one for each thread.
    """
    threads = min(MOST_THREADS, cores())
    pool, waiting = ThreadPoolExecutor(threads), deque[tuple[Item, Future[Done]]]()
    try:
        for item in items:
            waiting.append((item, pool.submit(copy_context().run, function, item)))
            if len(waiting) > max(threads, ahead):
                yield waiting.popleft()
        while waiting:
            yield waiting.popleft()
    finally:
        pool.shutdown(cancel_futures=True)


@dataclass
class Observed:
    """What readers met, for ``data check``."""

    modes: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)
    """What is wrong with each image that was left out."""
    bits: int | None = None
    """How many bits the values of 16-bit images seem to fill, where the user must say it."""


_observed: ContextVar[Observed | None] = ContextVar("observed", default=None)


@contextmanager
def observing() -> Iterator[Observed]:
    """Within the block all readers say here what they meet."""
    found = Observed()
    token = _observed.set(found)
    try:
        yield found
    finally:
        _observed.reset(token)


class Reader:
    """Decodes one image after another, by the parameters that sources of encoded images share."""

    def __init__(self, background: Background, bits: Bits, broken: Broken) -> None:
        self.background, self.bits, self.broken = colour(background), bits, broken
        self._skipped: list[str] = []
        self._kept, self._lost = set[int](), set[int]()
        self._images = self._several = self._deep = self._sixteen = self._largest = 0

    def rows(self, items: Iterable[tuple[Callable[[], bytes], int, str]]) -> Iterator[Row]:
        """Images with their labels, in order, decoded side by side by as many threads as there are cores.

        Args:
            items: of each image what reads its bytes, its label, and its file and row for messages.

        Yields:
            those that can be decoded.

        Raises:
            DataError: one is broken and ``broken`` is ``error``; or another mistake of an image.
        """
        for (_, label, where), decoding in ahead_of_need(self._decode, items):
            yield from self._taken(decoding, label, where)

    def _decode(self, item: tuple[Callable[[], bytes], int, str]) -> Decoded:
        read, _, where = item
        return decode(read(), where, background=self.background, bits=self.bits)

    def _taken(self, decoding: Future[Decoded], label: int, where: str) -> Iterator[Row]:
        """The row of an image, unless it is broken and left out."""
        try:
            image = decoding.result()
        except BrokenImage as error:
            if self.broken == "error":
                raise BrokenImage(f"{error} With data.broken: skip the run goes on without such files.") from error
            self._skipped.append(where)
            self._lost.add(label)
            if (seen := _observed.get()) is not None:
                seen.broken.append(str(error))
            return
        self._images += 1
        self._kept.add(label)
        if (seen := _observed.get()) is not None:
            seen.modes[image.mode] += 1
        self._several += image.several
        self._deep += image.deep
        if image.largest is not None:
            self._sixteen += 1
            self._largest = max(self._largest, image.largest)
        yield Row(image.pixels, label, where)

    def finish(self, where: str, classes: Sequence[str] = ()) -> None:
        """Check the split as a whole, after its last image.

        Args:
            where: for messages.
            classes: their names, of a split in which each class must keep an image.

        Raises:
            DataError: no image could be decoded; all images of a class are left out; or the values of 16-bit images
                fill far fewer bits, and the user has not said how many.
        """
        if self._skipped and not self._images:
            raise DataError(f"{where}: none of {counted(len(self._skipped), 'image')} can be decoded.")
        if gone := [classes[label] for label in sorted(self._lost - self._kept) if label < len(classes)]:
            raise DataError(
                f"{where}: all images of {counted(len(gone), 'class')} are broken and left out (data.broken: skip): "
                f"{', '.join(escaped(name) for name in gone[:_NAMED])}. Fetch them again, or delete these classes."
            )
        if self.bits is None and (fills := bits_filled(self._sixteen, self._largest)):
            if (seen := _observed.get()) is not None:
                seen.bits = fills
            raise DataError(
                f"{where}: the largest value of its {counted(self._sixteen, 'image')} with 16 bits a channel is "
                f"{self._largest:,}, so they would be nearly black. Say how many bits the values fill: "
                f"data.bits: {fills} (or data.bits: 16, if they are so dark)."
            )

    def notes(self, split: str) -> list[str]:
        """What users should know of the images, after the last one."""
        said = []
        if self._skipped:
            names = ", ".join(escaped(name) for name in self._skipped[:_NAMED])
            more = len(self._skipped) - _NAMED
            rest = f" and {more:,} more" if more > 0 else ""
            said.append(f"{split}: {BROKEN}: {len(self._skipped):,} ({names}{rest})")
        if self._several:
            files = counted(self._several, "file has", "files have")
            said.append(f"{split}: {files} several frames or pages; the first is read")
        if self._deep:
            fills = f"{self.bits} bits" if self.bits else "the full range of their format"
            deep = counted(
                self._deep, "image with more than 8 bits a channel is", "images with more than 8 bits a channel are"
            )
            said.append(f"{split}: {deep} scaled from {fills}")
        return said
