"""One driver per bucket. A bucket has no locks, so whoever wants it leaves a claim that lives, and looks for others.

Each claim is a file of its own, and nobody takes the store before a look that came after the claim shows no other. Of
two claims one was written first, and whoever wrote the other sees it: so both never take it, however they are timed.
Claims are judged by whether they change while one watches, never by a clock: machines need not agree on the time.

A process that was taken for dead (it was stopped, its network was gone) finds its claim gone when it goes on, and has
to leave. What it wrote until then does no harm: results are never mixed, since each manifest names files of its own.
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

__all__ = ["Board", "Lease", "Taken", "gone", "leased", "machine", "whoever"]

BEAT = 10.0
"""Seconds between two signs of life; a holder that misses two is gone."""
LENGTH = 1000


class Taken(Exception):
    """Somebody else holds the store; the text says who."""


class Board(Protocol):
    """Where claims lie: small files that everybody sees as they are now."""

    def names(self) -> list[str]:
        """Of all claims."""

    def read(self, name: str) -> bytes | None:
        """A claim, None if it is gone."""

    def write(self, name: str, data: bytes) -> None:
        """Write a claim whole."""

    def delete(self, name: str) -> None:
        """Take a claim away, if it is there."""


class Lease:
    """A claim on a board: taken, kept alive by a thread, given back."""

    def __init__(self, board: Board, beat: float | None = None) -> None:
        self.board, self.beat, self.name = board, beat or BEAT, secrets.token_hex(8)
        self.facts: dict[str, Any] = {
            "who": whoever(),
            "machine": machine(),
            "process": os.getpid(),
            "beat": 0,
            "held": False,
        }
        self.lost: str | None = None
        """Who took it over."""
        self.last = time.monotonic()
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._live, name="lease", daemon=True)

    def take(self) -> None:
        """Get hold of the board.

        Raises:
            Taken: somebody else has it, or wants it and came first.
        """
        self._watch(self._others())
        self._write()
        try:
            while rivals := self._others():
                if any(_parsed(data).get("held") for data in rivals.values()) or min(rivals) < self.name:
                    raise Taken(_who(min(rivals.items())[1]))
                self._watch(rivals, patient=False)  # the other one gives way, or died meanwhile
            self.facts["held"] = True
            self._write()
            if rivals := self._others():  # somebody took this claim for a dead one's just before
                raise Taken(_who(min(rivals.items())[1]))
        except BaseException:
            self.board.delete(self.name)
            raise
        self.last = time.monotonic()
        self.thread.start()

    def give_back(self) -> None:
        """Leave the board to others; also when it was lost: a sign of life that came late may lie there again."""
        self.over.set()
        self.thread.join()
        with contextlib.suppress(OSError):
            self.board.delete(self.name)

    def _others(self) -> dict[str, bytes]:
        """The claims of others, by name."""
        found = {name: self.board.read(name) for name in self.board.names() if name != self.name}
        return {name: data for name, data in found.items() if data is not None}

    def _watch(self, claims: dict[str, bytes], patient: bool = True) -> None:
        """Wait until none of these claims is left; those that do not change any more are the dead's, and go.

        Args:
            patient: a claim that changes is another's for good; else return when there is something new.

        Raises:
            Taken: one is alive.
        """
        limit = time.monotonic() + 2.5 * self.beat
        while claims:
            over = time.monotonic() >= limit
            for name, data in list(claims.items()):
                now = self.board.read(name)
                if now is not None and now != data and patient:
                    raise Taken(_who(now))
                if now is not None and now == data and (over or _dead(data)):
                    self.board.delete(name)
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
        """Give a sign of life, or find that it was taken over."""
        began = time.monotonic()
        mine = self.board.read(self.name)
        holders = [data for data in self._others().values() if _parsed(data).get("held")]
        slept = began - self.last > 2 * self.beat
        if mine is None or (slept and holders):
            self.lost = _who(holders[0]) if holders else "another run"
            return
        self.facts["beat"] += 1
        self._write()
        self.last = began

    def _write(self) -> None:
        # Of one length: who reads asks for the size first, and this may be written in between.
        self.board.write(self.name, json.dumps(self.facts).encode().ljust(LENGTH))


@contextlib.contextmanager
def leased(board: Board, beat: float | None = None) -> Iterator[Lease]:
    """Hold a board for the length of a block.

    A holder that was killed is recognised at once on its own machine, elsewhere after 2.5 beats without a sign of life.

    Raises:
        Taken: somebody else holds it.
    """
    lease = Lease(board, beat)
    lease.take()
    try:
        yield lease
    finally:
        lease.give_back()


def whoever() -> str:
    """This process as others should call it."""
    return f"process {os.getpid()} on {socket.gethostname()} since {time.strftime('%Y-%m-%d %H:%M:%S')}"


def machine() -> str:
    """What tells whether a process id means the same here and there: host name, boot, and space of process ids."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
        parts.append(str(Path("/proc/self/ns/pid").readlink()))
    return " ".join(parts)


def gone(where: object, process: object) -> bool:
    """Whether a process was on this machine (see :func:`machine`) and has ended; of others nobody here can tell."""
    if where != machine() or type(process) is not int:
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return True
    except PermissionError:
        pass  # somebody else's
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
