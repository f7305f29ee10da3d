"""Classifies image files: a few threads decode them ahead of need, a network classifies them in batches.

Files are prepared as the images of the network's training were (:class:`fusiondistill.data.preparation.Preparation`).
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from torch import nn

from fusiondistill.counting import counted
from fusiondistill.data.arrangement import Arrangement, Fit
from fusiondistill.data.decoding import Decoded, read_bounded
from fusiondistill.data.errors import DataError
from fusiondistill.data.finding import find_images
from fusiondistill.data.names import escaped
from fusiondistill.data.preparation import Preparation
from fusiondistill.data.reading import ahead_of_need, bits_filled
from fusiondistill.devices import device_of
from fusiondistill.folding import for_inference, piece_of
from fusiondistill.models.classifier import ImageClassifier
from fusiondistill.models.whole import names_of, single_apart, together
from fusiondistill.registry import WrongResult

if TYPE_CHECKING:
    from fusiondistill.inference._routing import Route

__all__ = ["BATCH", "Failure", "Prediction", "Predictor", "predict"]

_Begun = tuple[list[str], torch.Tensor, "Route | None"]
"""The files of a batch, their logits, and what a router says of them."""
BATCH = 128
"""Images of a forward pass, and as many are decoded ahead of it."""


class Prediction(NamedTuple):
    """A network's answer for one file.

    Attributes:
        path: of the file; bytes of a name that are not UTF-8 are written as ``\\xe9``.
        label: the name of the class.
        probability: the softmax of the logits, a fraction; None of a model that votes.
        others: the next best classes, each with its probability.
        degradation: what a model with a router sees in the image, "clean" where it sees none; else None.
        level: a rough level of that degradation; None of a clean image.
    """

    path: str
    label: str
    probability: float | None
    others: tuple[tuple[str, float], ...] = ()
    degradation: str | None = None
    level: int | None = None


class Failure(NamedTuple):
    """A file that could not be classified, and why, in a sentence that names it."""

    path: str
    reason: str


def predict(
    model: nn.Module,
    paths: str | Path | Iterable[str | Path],
    *,
    top: int = 1,
    batch_size: int = BATCH,
    device: str | torch.device | None = None,
    fit: Fit | None = None,
    size: int | tuple[int, int] | None = None,
    bits: int | None = None,
) -> list[Prediction]:
    """Classify image files.

    Each is prepared as the images of the training were: turned upright, transparent pixels laid over the background,
    more than 8 bits scaled, and resized if these were. A file that cannot be read is left out, and a warning names
    it.

    Args:
        model: what :func:`fusiondistill.load_model` gives, or an ensemble of such.
        paths: a file, a folder with all below it, a pattern like ``photos/**/*.jpg``, or several of these.
        top: how many classes to name.
        batch_size: images of a forward pass.
        device: where to compute; None: where the model is.
        fit: how images of another size are brought to the network's: ``crop`` the middle, ``pad`` with black, or
            ``stretch``; None: as in its training. If those were not resized, such an image is passed over.
        size: of the images in pixels, 64 or (height, width), where the model does not say it; no other than it says.
        bits: how many bits the values of 16-bit images fill, 9 to 16; None: as in the training.

    Returns:
        A :class:`Prediction` for each file that can be read, in order.

    Raises:
        DataError: there is no such file or no image.
        ValueError: ``top`` or ``batch_size`` below 1, or another value out of its range; a model that does not say its
            classes or its size; no such device.

    Example:
        >>> found = predict(load_model("runs/quickstart/best"), "photos", top=3)
        >>> found[0].label, found[0].probability
    """
    given = [paths] if isinstance(paths, str | Path) else paths
    predictor = Predictor(model, top=top, batch_size=batch_size, device=device, fit=fit, size=size, bits=bits)
    found = []
    for one in predictor.of(find_images(given).files):
        if isinstance(one, Failure):
            warnings.warn(f"passed over: {one.reason}", stacklevel=2)
        else:
            found.append(one)
    for text in filter(None, (predictor.note, predictor.doubt)):
        warnings.warn(text, stacklevel=2)
    return found


class Predictor:
    """A model made ready to classify files; arguments and errors are those of :func:`predict`."""

    def __init__(
        self,
        model: nn.Module,
        *,
        top: int = 1,
        batch_size: int = BATCH,
        device: str | torch.device | None = None,
        fit: Fit | None = None,
        size: int | tuple[int, int] | None = None,
        bits: int | None = None,
    ) -> None:
        for name, value in (("top", top), ("batch_size", batch_size)):
            if value < 1:
                raise ValueError(f"{name} is {value}: at least 1 is needed")
        self.classes: Sequence[str] = getattr(model, "classes", ())
        if not self.classes:
            raise ValueError("the model does not say its classes: give one of load_model, or an ensemble of such")
        self.votes = getattr(model, "gives", "logits") == "votes"
        if self.votes and top > 1:
            raise ValueError("a model that votes ranks no classes behind the first: top must be 1")
        self.top = min(top, len(self.classes))
        self.preparation = _prepared(model, fit, size, bits)
        first = next(model.parameters(), None)
        self.device = device_of(str(device or (first.device if first is not None else "cpu")))
        self._sixteen = self._largest = 0
        self._model = for_inference(model).to(self.device)
        piece = piece_of(self._model, *self.preparation.size)  # type: ignore[misc]
        self.batch_size = -(-batch_size // piece) * piece

    def of(self, files: Iterable[str]) -> Iterator[Prediction | Failure]:
        """What the model says of files; those that cannot be read come as failures as soon as they are met.

        The answers to a batch are fetched while the device computes the next one.
        """
        batch: list[tuple[str, np.ndarray]] = []
        under_way: _Begun | None = None
        for path, reading in ahead_of_need(self._read, files, ahead=2 * self.batch_size):
            try:
                batch.append((path, self._noted(reading.result())))
            except DataError as error:
                yield Failure(escaped(path), str(error))
            if len(batch) == self.batch_size:
                begun, batch = self._forward(batch), []
                yield from self._answers(under_way)
                under_way = begun
        yield from self._answers(under_way)
        yield from self._answers(self._forward(batch) if batch else None)

    @property
    def note(self) -> str:
        """What a user must know of all answers, in a sentence; "" where there is nothing."""
        count = together(self._model)
        return (
            f"this model looks at {count} images together, in the order of the files: an answer depends on the files "
            "beside it, and is right where they are degraded alike"
            if count > 1 else ""
        )  # fmt: skip

    @property
    def doubt(self) -> str:
        """What makes the answers doubtful that were given so far, in a sentence; "" where nothing does."""
        fills = bits_filled(self._sixteen, self._largest)
        if fills is None or self.preparation.bits is not None:
            return ""
        return (
            f"the largest value of {counted(self._sixteen, 'image')} with 16 bits a channel is {self._largest:,}, so "
            f"the network saw them nearly black. Say how many bits the values fill: --bits {fills} (in Python "
            f"bits={fills})"
        )

    def _read(self, path: str) -> Decoded:
        return self.preparation.prepared(read_bounded(Path(path)), path)

    def _noted(self, image: Decoded) -> np.ndarray:
        if image.largest is not None:
            self._sixteen += 1
            self._largest = max(self._largest, image.largest)
        return image.pixels

    @torch.no_grad()
    def _forward(self, batch: Sequence[tuple[str, np.ndarray]]) -> _Begun:
        """The files of a batch with their logits [B, classes], on the device, and what a router says of them."""
        paths = [path for path, _ in batch]
        images = torch.from_numpy(np.stack([pixels for _, pixels in batch])).to(self.device).permute(0, 3, 1, 2)
        logits, route = single_apart(self._model, images)
        if logits.shape != (len(paths), len(self.classes)):
            raise WrongResult(f"a network must give logits [{len(paths)}, {len(self.classes)}], not {[*logits.shape]}")
        return paths, logits, route

    def _answers(self, batch: _Begun | None) -> Iterator[Prediction | Failure]:
        if batch is None:
            return
        paths, logits = batch[0], batch[1].cpu().double()
        order, chances = ranked(logits, self.top)
        finite, seen = logits.isfinite().all(1).tolist(), self._seen(batch[2], len(paths))
        for path, ranks, chance, usable, what in zip(paths, order, chances, finite, seen, strict=True):
            if not usable:
                yield Failure(escaped(path), f"{escaped(path)}: the network gives a number that is not finite.")
                continue
            names = [self.classes[rank] for rank in ranks]
            others = tuple(zip(names[1:], chance[1:], strict=True))
            yield Prediction(escaped(path), names[0], None if self.votes else chance[0], others, *what)

    def _seen(self, route: Route | None, count: int) -> list[tuple[str | None, int | None]]:
        """(degradation, level) of each image of a batch."""
        if route is None:
            return [(None, None)] * count
        names = names_of(self._model)
        pairs = zip(route.named.tolist(), route.levels.tolist(), strict=True)
        return [(names[named], level if named else None) for named, level in pairs]


def ranked(logits: torch.Tensor, top: int) -> tuple[list[list[int]], list[list[float]]]:
    """The ``top`` best classes of each image and their softmax probabilities; of equal ones the first, as arg-max does.

    Args:
        logits: float [B, classes].
    """
    order = logits.sort(dim=1, descending=True, stable=True).indices[:, :top]
    return order.tolist(), logits.softmax(1).gather(1, order).tolist()


def _prepared(model: nn.Module, fit: Fit | None, size: Any, bits: int | None) -> Preparation:
    """How files become images that a model takes, changed as the caller says."""
    told = [part.preparation for part in model.modules() if isinstance(part, ImageClassifier)]
    found = next((one for one in told if one.size), told[0] if told else Preparation())
    given = Arrangement(size=size, fit=fit or "crop")  # checks them
    if bits is not None and not 9 <= bits <= 16:
        raise ValueError(f"bits is {bits}: images of 16 bits a channel fill 9 to 16")
    if found.size and given.size not in (None, found.size):
        height, width = found.size
        raise ValueError(f"size: the model's card says so already: its images have {width}x{height} pixels")
    found = replace(found, fit=fit or found.fit, size=given.size or found.size, bits=bits or found.bits)
    if found.size is None:
        raise ValueError("the model does not say the size of its images: say it, like --size 224 (in Python size=224)")
    return found
