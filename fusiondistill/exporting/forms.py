"""The forms in which a classifier is exported: what each needs, what it can hold, and where it is written."""

from __future__ import annotations

import importlib.util
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from fusiondistill import NAME, __version__
from fusiondistill.cards import HOW
from fusiondistill.targets import why_no_file, why_nothing_in

if TYPE_CHECKING:
    import torch

    from fusiondistill.exporting.folder_form import Folder
    from fusiondistill.exporting.model_card import Results
    from fusiondistill.models import ImageClassifier
    from fusiondistill.models.whole import Whole

__all__ = ["Answer", "Differs", "ExportError", "Exported", "Form", "Trained", "check_target", "form_of", "size_of"]

Answer = Callable[["torch.Tensor"], "torch.Tensor"]
"""From images, uint8 [N,3,H,W], to logits, float32 [N,classes]."""


class ExportError(ValueError):
    """A network that cannot be exported; the message says why, and what to do."""


class Differs(RuntimeError):
    """The exported file gives other answers than the network."""


@dataclass(frozen=True)
class Trained:
    """What a network was trained on, as a store knows it.

    Attributes:
        dataset: the name of the data set, with the end of its root where that says more: ``folder photos``.
        images: how many different training images; None where that is not known.
    """

    dataset: str
    images: int | None = None


@dataclass(frozen=True)
class Exported:
    """The content of a file.

    Attributes:
        classifier: the network with its normalisation and its classes.
        card: what :func:`fusiondistill.cards.card_of` gives.
        results: its accuracy, if known.
        trained: what it was trained on, if a store knows more of it than the card.
        state: its weights as its checkpoint has them; needed of several networks that are stored together.
    """

    classifier: ImageClassifier | Whole
    card: Mapping[str, Any]
    results: Results | None = None
    trained: Trained | None = None
    state: Mapping[str, torch.Tensor] | None = None

    @property
    def weights(self) -> Mapping[str, torch.Tensor]:
        """The state dict that a file with its card holds: of several networks as they are stored together."""
        if self.state is not None:
            return self.state
        found: Mapping[str, torch.Tensor] = self.classifier.network.state_dict()  # type: ignore[union-attr]
        return found

    @property
    def dataset(self) -> str:
        """The name of the data set that it was trained on, or ""."""
        return self.trained.dataset if self.trained else str(self.card.get("dataset", ""))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the images in pixels."""
        return size_of(self.card)

    def facts(self) -> dict[str, Any]:
        """What stands beside the weights in every form, JSON-able.

        Mean and std are on the scale 0..255; the graph applies them itself.
        """
        from fusiondistill.data.preparation import Preparation

        height, width = self.size
        classes = list(self.classifier.classes)
        images = {"training_images": self.trained.images} if self.trained and self.trained.images else {}
        prepared = {key: self.card[key] for key in ("fit", "background", "bits") if self.card.get(key)}
        return {
            "model": self.card["model"],
            "classes": classes,
            "size": [height, width],
            **prepared,
            "preparation": Preparation.of_card(self.card).sentence(),
            "mean": [round(value, 6) for value in self.card["mean"]],
            "std": [round(value, 6) for value in self.card["std"]],
            "dataset": self.dataset,
            **images,
            **({"inference": self.card[HOW]["name"], "networks": self.card[HOW]["roles"]} if HOW in self.card else {}),
            "input": f"images: uint8 [N,3,{height},{width}], RGB, 0..255, not normalised",
            "output": f"logits: float32 [N,{len(classes)}] in the order of classes; their softmax: probabilities",
            f"{NAME}_version": __version__,
            "torch_version": version("torch"),
        }


def size_of(card: Mapping[str, Any]) -> tuple[int, int]:
    """(height, width) of the images that a network was trained on, in pixels.

    Raises:
        ExportError: its card does not say.
    """
    size = card.get("size")
    if not (isinstance(size, list | tuple) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise ExportError(
            f"the card of this network does not say how large its images are: size is {size!r}, not [height, width]"
        )
    return (size[0], size[1])


class Form(ABC):
    """A form of export.

    Attributes:
        title: in words.
        packages: modules that it needs beside torch.
        extra: the project's extra that brings them.
        own_program: whether another program than the network's own code runs it.
    """

    title: ClassVar[str]
    packages: ClassVar[tuple[str, ...]] = ()
    extra: ClassVar[str] = ""
    own_program: ClassVar[bool] = True

    def check_packages(self) -> None:
        """Raise ExportError where a package is missing; nothing is imported."""
        missing = [name for name in self.packages if importlib.util.find_spec(name) is None]
        if missing:
            raise ExportError(f"{self.title} needs {', '.join(missing)}: pip install '{NAME}[{self.extra}]'")

    def check(self, what: Exported) -> None:
        """Check that this form can hold the network's facts.

        Raises:
            ExportError: it cannot.
        """
        from fusiondistill.data.names import escaped, is_text

        self.check_packages()
        _ = what.size
        for place, name in enumerate(what.classifier.classes):
            if not is_text(name):
                raise ExportError(
                    f"class {place} is called {escaped(name)}, which is not Unicode text: no metadata can hold it; "
                    "rename the class and train again"
                )
        try:
            json.dumps(what.facts(), ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise ExportError(
                f"the card of this network holds text that is not Unicode: {error.object!r:.80}"
            ) from error

    @abstractmethod
    def write(self, what: Exported, path: Path) -> None:
        """Write to a path that is not there yet."""

    @abstractmethod
    def use(self, what: Exported, path: str) -> str:
        """How a user runs the file, in one line of Python without its imports."""

    @abstractmethod
    def opened(self, path: Path) -> Answer:
        """Read what was written, as its users do."""


def form_of(out: str | Path) -> Form:
    """The form that the name of a target asks for.

    Raises:
        ExportError: an unknown suffix.
    """
    from fusiondistill.exporting.folder_form import Folder
    from fusiondistill.exporting.onnx_form import Onnx
    from fusiondistill.exporting.torch_form import TorchExport

    suffix, known = Path(out).suffix, {".onnx": Onnx, ".pt2": TorchExport}
    if not suffix or str(out).endswith("/") or (Path(out).is_dir() and suffix.lower() not in known):
        return Folder()
    if suffix.lower() not in known:
        raise ExportError(
            f"{out}: there is no form {suffix}; give FILE.onnx, FILE.pt2, or a folder (a name without a suffix, or "
            "with / at its end)"
        )
    return known[suffix.lower()]()


def check_target(out: str | Path, *, force: bool = False) -> Path:
    """The absolute path of a target, where something may be written.

    Args:
        force: a file, or a folder with nothing but what an export writes, may be there. An empty folder may always.

    Raises:
        ExportError: unknown suffix; a URI; its folder is missing; or something is there that may not be replaced.
    """
    from fusiondistill.exporting.folder_form import Folder

    form = form_of(out)
    if "://" in str(out):
        raise ExportError(f"{out}: an export goes to this machine's disk; copy it from there")
    path = Path(out).expanduser().absolute()
    if isinstance(form, Folder):
        why = why_nothing_in(path.parent) or _why_not_replaced(form, path, force=force)
    else:
        why = why_no_file(path, force=force)
    if why:
        raise ExportError(f"{out}: {why}")
    return path


def is_empty_folder(path: Path) -> bool:
    """Whether a path is a folder, and no link to one, that holds nothing."""
    return path.is_dir() and not path.is_symlink() and not any(path.iterdir())


def _why_not_replaced(form: Folder, path: Path, *, force: bool) -> str | None:
    """Why a folder is not written where something lies; None: nothing is there, or what an export wrote."""
    if not (path.exists() or path.is_symlink()) or is_empty_folder(path):
        return None
    if path.is_symlink() or not path.is_dir():
        return "is no folder: a folder does not replace it; delete it first"
    if strange := form.strangers(path):
        return f"holds {strange}, which no export wrote: it is not replaced; give another name"
    return None if force else "is there already: give another name, or --force to replace it"
