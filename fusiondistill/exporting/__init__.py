"""Writes a classifier in a form that other programs run, and checks the file on images before it is kept.

Three forms, told apart by the name of the target: ``FILE.onnx`` for onnxruntime and others, ``FILE.pt2`` for
``torch.export.load``, and a folder in the layout of the Hugging Face Hub. The first two hold the whole way from raw
pixels to logits: ``images`` uint8 [N,3,H,W] (RGB, 0..255, N from 1) in, ``logits`` float32 [N,classes] out.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fusiondistill.exporting.forms import (
    Differs,
    Exported,
    ExportError,
    Form,
    Trained,
    check_target,
    form_of,
    is_empty_folder,
    size_of,
)
from fusiondistill.exporting.model_card import Results

if TYPE_CHECKING:
    import torch

    from fusiondistill.exporting.comparing import Speeds
    from fusiondistill.models import ImageClassifier
    from fusiondistill.models.whole import Whole

__all__ = [
    "Differs", "ExportError", "Exported", "Form", "Results", "Trained", "Written", "check_target", "export", "form_of",
    "size_of",
]  # fmt: skip


@dataclass(frozen=True)
class Written:
    """What :func:`export` wrote.

    Attributes:
        path: of the file or folder.
        size: in bytes, of a folder the sum over its files.
        form: the form in words.
        images: how many pictures it was checked on.
        largest, scale: the largest difference of a logit from that of torch; the largest logit.
        speeds: of torch and of what was written, side by side; None of a folder, which torch runs.
        use: how a user runs it, in one line.
    """

    path: Path
    size: int
    form: str
    images: int
    largest: float
    scale: float
    speeds: Speeds | None
    use: str

    def lines(self, of: str) -> list[str]:
        """Lines for a terminal.

        Args:
            of: how many pictures of what it was checked on, in words.
        """
        return [
            f"checked: {of}: all labels the same, largest difference of a logit {self.largest:.2g}, where logits reach "
            f"{self.scale:.2g}",
            *([f"speed: {self.speeds.line(self.form)}"] if self.speeds else []),
            f"written: {self.path} ({self.size / 1e6:,.2f} MB)",
            f"use: {self.use}",
        ]


def export(
    classifier: ImageClassifier | Whole,
    card: Mapping[str, Any],
    out: str | Path,
    images: torch.Tensor,
    *,
    force: bool = False,
    results: Results | None = None,
    trained: Trained | None = None,
    state: Mapping[str, torch.Tensor] | None = None,
) -> Written:
    """Write a classifier, read the file again, compare its answers on images, and only then give it its name.

    Args:
        classifier: as :func:`fusiondistill.load_model` gives it.
        card: its card, as :func:`fusiondistill.load_checkpoint` gives it. A key ``fit`` may say how images of another
            shape were brought to the size in training.
        out: ``FILE.onnx``, ``FILE.pt2``, or a folder (no suffix, or ``/`` at the end).
        images: uint8 [n,3,H,W] of the card's size, to compare on; at least one.
        force: replace what is there, if it is a file, or a folder that an export wrote.
        results: what the model card of a folder says of the network's accuracy.
        trained: what it was trained on, where that is known better than by the card.
        state: its weights as its checkpoint has them; needed of several networks that are stored together.

    Raises:
        ExportError: the target is there already, cannot be written or has an unknown suffix; a package is missing; or
            the form cannot hold the network or a class name. Nothing is written.
        Differs: what was written gives other labels, or logits further off than rounding explains. It is deleted.
    """
    from fusiondistill.exporting.comparing import compared, speeds

    form, path = form_of(out), check_target(out, force=force)
    what = Exported(classifier, card, results, trained, state)
    form.check(what)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.parent))
    try:
        form.write(what, work / path.name)
        theirs = form.opened(work / path.name)
        largest, scale = compared(classifier, theirs, images, form.title)
        measured = speeds(classifier, theirs, images) if form.own_program else None
        _move(work / path.name, path, work / "before", force=force)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
    size = sum(one.stat().st_size for one in files)
    return Written(path, size, form.title, len(images), largest, scale, measured, _use(form, what, str(out)))


def _use(form: Form, what: Exported, out: str) -> str:
    """The line that runs what was written, and what a caller must know for it."""
    line = form.use(what, out)
    if not form.own_program:
        plugin = "; its plugin is loaded first, as README.md there shows" if what.card.get("plugin") else ""
        return f"{line}{plugin}"
    height, width = what.size
    return f"{line}, pixels: uint8 [N,3,{height},{width}], RGB 0..255; `preparation` in its metadata: how from a photo"


def _move(made: Path, path: Path, before: Path, *, force: bool) -> None:
    """Give what was made its name. A folder that is there goes to ``before`` first: none is renamed onto another."""
    if not force and (path.exists() or path.is_symlink()) and not is_empty_folder(path):
        raise ExportError(f"{path} was made by something else meanwhile: nothing is overwritten")
    if not (made.is_dir() and path.is_dir()):
        os.replace(made, path)  # noqa: PTH105  # says what it does better than Path.replace
        return
    path.rename(before)
    try:
        made.rename(path)
    except OSError:
        before.rename(path)
        raise
