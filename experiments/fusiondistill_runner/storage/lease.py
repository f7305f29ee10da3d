"""One driver per bucket. A bucket has no locks, so a driver writes a claim, keeps changing it, and looks for others.

Each driver writes its own claim first and takes the store only if it then sees no other claim. Of two drivers the one
that wrote later sees the other's claim, so the two never both take the store. A driver judges a claim by whether it
changes while the driver watches, never by a clock: machines need not agree on the time.

A driver that others took for dead (it was stopped, or its network failed) finds its claim deleted when it goes on, and
ends. What it has written does no harm, since each manifest names its own files.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

__all__ = ["ClaimFolder", "Lease", "Taken", "gone", "identity", "leased", "machine"]

BEAT = 10.0
"""Seconds between two signs of life; a holder that misses two is gone."""
LENGTH = 1000


class Taken(Exception):
    """Another driver holds the store; the text names it."""


class ClaimFolder(Protocol):
    """A folder of claims: small files, which every driver sees as they are now."""

    def names(self) -> list[str]:
        """The names of all claims."""

    def read(self, name: str) -> bytes | None:
        """A claim, None if it is gone."""

    def write(self, name: str, data: bytes) -> None:
        """Write a claim whole."""

    def delete(self, name: str) -> None:
        """Take a claim away, if it is there."""


class Lease:
    """One driver's claim: taken, kept alive by a thread, given back."""

    def __init__(self, folder: ClaimFolder, beat: float | None = None) -> None:
        self.folder, self.beat, self.name = folder, beat or BEAT, secrets.token_hex(8)
        self.facts: dict[str, Any] = {
            "who": identity(),
            "machine": machine(),
            "process": os.getpid(),
            "beat": 0,
            "held": False,
        }
        self.lost: str | None = None
        """The process that took the store over."""
        self.last = time.monotonic()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._live, name="lease", daemon=True)

    def take(self) -> None:
        """Take the store.

        Raises:
            Taken: another driver holds it, or claimed it first.
        """
        self._watch(self._others())
        self._write()
        try:
            while rivals := self._others():
                if any(_parsed(data).get("held") for data in rivals.values()) or min(rivals) < self.name:
                    raise Taken(_who(min(rivals.items())[1]))
                self._watch(rivals, patient=False)  # until a rival gives way, or has died
            self.facts["held"] = True
            self._write()
            if rivals := self._others():  # another driver has just taken this claim for a dead driver's
                raise Taken(_who(min(rivals.items())[1]))
        except BaseException:
            self.folder.delete(self.name)
            raise
        self.last = time.monotonic()
        self.thread.start()

    def give_back(self) -> None:
        """Delete the claim, also after the store was lost: a late sign of life may have written the claim again."""
        self.over.set()
        self.thread.join()
        with contextlib.suppress(OSError):
            self.folder.delete(self.name)

    def _others(self) -> dict[str, bytes]:
        """The other drivers' claims, by name."""
        found = {name: self.folder.read(name) for name in self.folder.names() if name != self.name}
        return {name: data for name, data in found.items() if data is not None}

    def _watch(self, claims: dict[str, bytes], patient: bool = True) -> None:
        """Wait until none of these claims is left. Claims that do not change any more are deleted as dead drivers'.

        Args:
            patient: whether a claim that changes ends the wait with an error; else any change ends it.

        Raises:
            Taken: a claim changed, so its driver is alive.
        """
        limit = time.monotonic() + 2.5 * self.beat
        while claims:
            over = time.monotonic() >= limit
            for name, data in list(claims.items()):
                now = self.folder.read(name)
                if now is not None and now != data and patient:
                    raise Taken(_who(now))
                if now is not None and now == data and (over or _dead(data)):
                    self.folder.delete(name)
                if now != data or over or _dead(data):
                    del claims[name]
                    if not patient:
                        return
            if claims:
                time.sleep(self.beat / 20)

    def _live(self) -> None:
        while self.lost is None and not self.over.wait(self.beat):
            with contextlib.suppress(OSError, ValueError):  # a gap in the network, a foreign file: the next beat tells
                self._sign()

    def _sign(self) -> None:
        """Give a sign of life, or find that another driver took the store over."""
        began = time.monotonic()
        mine = self.folder.read(self.name)
        holders = [data for data in self._others().values() if _parsed(data).get("held")]
        slept = began - self.last > 2 * self.beat
        if mine is None or (slept and holders):
            self.lost = _who(holders[0]) if holders else "another run"
            return
        self.facts["beat"] += 1
        self._write()
        self.last = began

    def _write(self) -> None:
        # Always of one length: a reader asks for the size first, and this write may come before it reads the content.
        self.folder.write(self.name, json.dumps(self.facts).encode().ljust(LENGTH))


@contextlib.contextmanager
def leased(folder: ClaimFolder, beat: float | None = None) -> Iterator[Lease]:
    """Hold the store for the length of a block.

    A killed holder is recognised at once on its own machine, elsewhere after 2.5 beats without a sign of life.

    Raises:
        Taken: another driver holds it.
    """
    lease = Lease(folder, beat)
    lease.take()
    try:
        yield lease
    finally:
        lease.give_back()


def identity() -> str:
    """What other processes call this one in their messages."""
    return f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def machine() -> str:
    """This machine, where process ids mean the same: its host name, boot, and namespace of process ids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def gone(where: object, process: object) -> bool:
    """Whether a process was on this machine (see :func:`machine`) and has ended; False for other machines."""
    if where != machine() or type(process) is not int:
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # another user's process
    return False


def _dead(claim: bytes) -> bool:
    facts = _parsed(claim)
    return gone(facts.get("machine"), facts.get("process"))


def _who(claim: bytes) -> str:
    return str(_parsed(claim).get("who", "another run"))


def _parsed(claim: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(claim)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
