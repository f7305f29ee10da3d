"""Where results live: a directory or a bucket of stage directories, each committed by its manifest."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from fusiondistill import checkpoints
from fusiondistill.checkpoints import CheckpointError
from fusiondistill.code import code_facts
from fusiondistill.plugins import copies_of
from fusiondistill_runner.planning.stage import Stage
from fusiondistill_runner.storage.place import Place

__all__ = ["DAMAGED", "ERROR", "PROGRESS", "Store"]

PROGRESS = "progress.json"
ERROR = "error.txt"
DAMAGED = "damaged.txt"
"""Written beside a file whose digest did not match, so that the next look at a bucket does not trust its size."""
YOUNG = 600
"""Seconds within which a writer commits the manifest that names the files that it wrote."""


class Store(Place):
    """Stage results under one location.

    On a disk or NFS a stage counts as stored if its files were read and match their digests. In a bucket that would
    download every stage, so one listing is compared with the sizes that the manifests name. Digests are then compared
    when a file is used; the next run makes a stage again that was found damaged.
    """

    def manifest(self, stage: Stage) -> dict[str, Any] | None:
        """The manifest of a stage, if it is stored under exactly this digest.

        Raises:
            CheckpointError: it is damaged.
        """
        manifest = checkpoints.read_manifest(self.filesystem, self.path(stage.directory))
        return manifest if manifest and manifest.get("digest") == stage.digest else None

    def intact(self, stage: Stage) -> str | None:
        """None if the stage is stored and every file matches its digest, else what is wrong."""
        return self._problem(stage, self._matches)

    def _problem(self, stage: Stage, check: Callable[[str, dict[str, Any], str], object]) -> str | None:
        try:
            manifest = self.manifest(stage)
            if manifest is None or manifest.get("made_from") != self.made_from(stage):
                return "not stored"
            for name in manifest["files"]:
                check(stage.directory, manifest, name)
        except CheckpointError as error:
            return str(error)
        return None

    def _matches(self, directory: str, manifest: dict[str, Any], name: str) -> bytes:
        """A file, verified; in a bucket a mismatch is noted beside it."""
        try:
            return checkpoints.read_file(self.filesystem, self.path(directory), manifest, name)
        except CheckpointError as error:
            if self.remote and name in manifest["files"]:
                with contextlib.suppress(OSError):
                    self.write(str(error).encode(), directory, DAMAGED)
            raise

    def _fits(self, directory: str, manifest: dict[str, Any], name: str) -> None:
        """Check a file's size by a snapshot's listing, and its digest where damage was found before."""
        sizes = self.filesystem.sizes
        entry, there = manifest["files"][name], self.path(directory)
        if self.path(directory, DAMAGED) in sizes:
            checkpoints.read_file(self.filesystem, there, manifest, name)
        checkpoints.check_size(there, entry, sizes.get(f"{there}/{entry['file']}"))

    def made_from(self, stage: Stage) -> dict[str, str | None]:
        """Role -> the attempt that wrote the input as it is stored now; None for an input that is not stored."""
        attempts: dict[str, str | None] = {}
        for needed in stage.inputs.values():  # one stage may play several roles
            if needed.digest not in attempts:
                manifest = self.manifest(needed)
                attempts[needed.digest] = manifest["attempt"] if manifest else None
        return {role: attempts[needed.digest] for role, needed in stage.inputs.items()}

    def stored(self, stages: Iterable[Stage]) -> tuple[set[str], list[str]]:
        """Which stages are stored, and what was found damaged.

        A stage counts as stored if its manifest and files are intact, its inputs are stored, and it was made from just
        these: when an input is made again, so is all that follows from it.

        Args:
            stages: inputs before what uses them.

        Returns:
            Digests of the stored stages; messages about damaged ones, and about damaged epochs of unfinished ones.
        """
        done: set[str] = set()
        damage: list[str] = []
        seen = self.glance(checkpoints.MANIFEST)
        check = seen._fits if self.remote else seen._matches
        for stage in stages:
            if not all(needed.digest in done for needed in stage.inputs.values()):
                continue
            problem = seen._problem(stage, check)
            if problem is None:
                done.add(stage.digest)
                continue
            if problem == "not stored":
                problem = seen._progress_problem(stage)
            if problem:
                damage.append(problem)
        return done, damage

    def _progress_problem(self, stage: Stage) -> str | None:
        """What is wrong with the epochs of an unfinished training, if anything."""
        try:
            self._progress(stage)
        except CheckpointError as error:
            return str(error)
        return None

    def read(self, stage: Stage, name: str) -> bytes:
        """A committed file of a stage, verified."""
        return self.read_from(stage.directory, name)

    def read_from(self, directory: str, name: str) -> bytes:
        """A committed file of a stage directory, verified.

        Raises:
            CheckpointError: not stored or damaged.
        """
        manifest = self.manifest_of(directory)
        if manifest is None:
            raise CheckpointError(f"{self.path(directory)} is not stored")
        return self._matches(directory, manifest, name)

    def manifest_of(self, directory: str) -> dict[str, Any] | None:
        """The manifest of a stage directory, or None."""
        return checkpoints.read_manifest(self.filesystem, self.path(directory))

    def weights(self, stage: Stage) -> tuple[dict[str, Any], dict[str, Any]]:
        """The state dict and card of a stage that has weights."""
        data = self.read(stage, checkpoints.MODEL)
        return checkpoints.parse_weights(data, self.path(stage.directory, checkpoints.MODEL))

    def commit(
        self,
        stage: Stage,
        files: Mapping[str, bytes],
        facts: Mapping[str, Any],
        attempt: str,
        made_from: Mapping[str, str | None] | None = None,
    ) -> None:
        """Store a stage's result: files first, the manifest last; then delete what unfinished attempts left.

        The manifest's ``code`` holds ``version`` and ``digest`` of the project, and ``entries``, the version of each
        entry that the stage uses. The source of each plugin that it uses is one more file.

        Args:
            made_from: the inputs as they were before the stage read them; default: as they are now.
        """
        self._check_still_there()
        manifest = {
            "format": 1,
            "kind": stage.kind,
            "name": stage.name,
            "seed": stage.seed,
            "digest": stage.digest,
            "spec": stage.spec.model_dump(mode="json"),
            "inputs": {role: needed.directory for role, needed in stage.inputs.items()},
            "made_from": self.made_from(stage) if made_from is None else made_from,
            "code": {**code_facts(), "entries": stage.code},
            **facts,
        }
        # The network's plugin may be that of an input.
        network = (facts.get("card") or {}).get("plugin", {}).get("sha256", "")
        files = {**files, **copies_of((*stage.code.values(), network))}
        written = checkpoints.commit(self.filesystem, self.path(stage.directory), files, manifest, attempt)
        keep = {checkpoints.MANIFEST, *(entry["file"] for entry in written["files"].values())}
        self._sweep(stage.directory, keep)

    def _sweep(self, directory: str, keep: set[str]) -> None:
        """Delete the files that a manifest does not name. They do no harm, so a failure here is no error.

        Young files other than progress stay: a second writer may be about to name them in its own manifest.
        """
        from pyarrow import fs

        with contextlib.suppress(OSError):
            for info in self.filesystem.get_file_info(fs.FileSelector(self.path(directory))):
                name = info.base_name
                done = name in (PROGRESS, ERROR, DAMAGED) or name.startswith("last.")
                old = info.mtime is not None and info.mtime.timestamp() < time.time() - YOUNG
                if info.is_file and name not in keep and (old or (done and not name.startswith("."))):
                    self.filesystem.delete_file(info.path)

    def forget_error(self, stage: Stage) -> None:
        """Delete the note of an earlier failure, since the stage is tried again."""
        with contextlib.suppress(OSError):
            self.filesystem.delete_file(self.path(stage.directory, ERROR))

    def discard(self, directory: str) -> None:
        """Delete an unfinished stage's directory; a finished one stays, and so does one whose manifest is damaged."""
        with contextlib.suppress(OSError, CheckpointError):
            if self.manifest_of(directory) is None:
                self.filesystem.delete_dir(self.path(directory))

    def delete(self, directory: str) -> None:
        """Delete a stage's directory, finished or not: its manifest first, so that the rest never counts as stored."""
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.delete_file(self.path(directory, checkpoints.MANIFEST))
        self.filesystem.delete_dir(self.path(directory))

    def save_progress(
        self,
        stage: Stage,
        epoch: int,
        state: bytes,
        attempt: str,
        made_from: Mapping[str, str | None] | None = None,
        slot: int | None = None,
    ) -> None:
        """Store the last epoch of a training: the state, then the small file that names it with its digest.

        Args:
            made_from: the inputs that the training read; default: as they are now.
            slot: names the file instead of the epoch; the file of the call before is not deleted (in a bucket that
                takes three requests). The caller must change the slot from call to call.
        """
        self._check_still_there()
        name = f"last.{attempt}.{epoch if slot is None else slot}.pt"
        before = None
        if slot is None:
            with contextlib.suppress(CheckpointError):
                before = self._progress_entry(stage.directory)
        checkpoints.write_file(self.filesystem, self.path(stage.directory, name), state)
        made_from = self.made_from(stage) if made_from is None else made_from
        entry = {"file": name, "epoch": epoch, "sha256": checkpoints.digest(state), "made_from": made_from}
        path = self.path(stage.directory, PROGRESS)
        checkpoints.write_file(self.filesystem, path, checkpoints.sealed(entry))
        if before and before["file"] != name:
            with contextlib.suppress(OSError):
                self.filesystem.delete_file(self.path(stage.directory, before["file"]))

    def load_progress(self, stage: Stage) -> bytes | None:
        """The state of the last stored epoch; None if there is none or it is damaged (then training starts over)."""
        try:
            return self._progress(stage)
        except CheckpointError:
            return None

    def _progress(self, stage: Stage) -> bytes | None:
        entry = self._progress_entry(stage.directory)
        if entry is None or entry.get("made_from") != self.made_from(stage):
            return None
        path, data = self.path(stage.directory, entry["file"]), self.read_raw(stage.directory, entry["file"])
        if data is None:
            raise CheckpointError(f"{path} is missing although {PROGRESS} names it")
        if checkpoints.digest(data) != entry["sha256"]:
            raise CheckpointError(f"{path} is damaged: {len(data)} bytes that do not match their digest")
        return data

    def epochs_stored(self, directory: str) -> int:
        """How many epochs of an unfinished training are stored."""
        try:
            entry = self._progress_entry(directory)
        except CheckpointError:
            return 0
        return int(entry["epoch"]) if entry else 0

    def _progress_entry(self, directory: str) -> dict[str, Any] | None:
        data, path = self.read_raw(directory, PROGRESS), self.path(directory, PROGRESS)
        if data is None:
            return None
        entry = checkpoints.unsealed(data, path)
        kinds = {"file": str, "epoch": int, "sha256": str}
        if not all(isinstance(entry.get(key), kind) for key, kind in kinds.items()) or "/" in entry["file"]:
            raise CheckpointError(f"{path} is damaged: it points at no epoch")
        return entry
