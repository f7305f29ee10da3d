"""The model card of a folder: what the network is, how good it is, what it is not good for, and how to load it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fusiondistill import NAME, __version__
from fusiondistill.report.grid import escaped

if TYPE_CHECKING:
    from fusiondistill.exporting.forms import Exported

__all__ = ["Results", "model_card"]

_FITS = {
    "crop": "the largest centred part of the target's shape is cut out and resized",
    "pad": "the whole image is resized into the middle of a black one",
    "stretch": "the whole image is resized to the target's shape",
}


@dataclass(frozen=True)
class Results:
    """What a store knows about a network.

    Attributes:
        name: of its row: "FusionDistill".
        about: sentences about the row, its seed and its training.
        dataset: the name of the data set that it was evaluated on.
        text: sections of Markdown, "## ..." each: tables, data, protocol.
        figures: name -> accuracy of this network in percent: "clean", "mean over degradations".
        limits: further sentences for the section of limits.
    """

    name: str
    about: str
    dataset: str
    text: str
    figures: Mapping[str, float]
    limits: tuple[str, ...] = ()


def model_card(what: Exported) -> str:
    """README.md of a folder: Markdown below the YAML that the Hub reads. The licence is left to the user."""
    parts = [f"---\n{_front_matter(what)}---", f"# {escaped(_title(what))}", _opening(what)]
    results = what.results
    if results:
        parts.append(results.text)
    else:
        parts.append("## Results\n\nNot known: the network was exported from a file, not from the store of its run.")
    parts += [_use(what), _input(what), _limits(what), _licence()]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _title(what: Exported) -> str:
    network = str(what.card["model"])
    return f"{what.results.name} ({network})" if what.results else network


def _front_matter(what: Exported) -> str:
    import yaml

    results = what.results
    content: dict[str, Any] = {
        "library_name": NAME,
        "pipeline_tag": "image-classification",
        "tags": ["image-classification", "robustness", "image-degradation", NAME],
        "metrics": ["accuracy"],
    }
    if results and results.figures:
        measured = [
            {"type": "accuracy", "name": f"accuracy in %, {name}", "value": round(value, 2)}
            for name, value in results.figures.items()
        ]
        content["model-index"] = [
            {
                "name": _title(what),
                "results": [
                    {
                        "task": {"type": "image-classification", "name": "Image classification"},
                        "dataset": {"type": results.dataset, "name": results.dataset, "split": "test"},
                        "metrics": measured,
                    }
                ],
            }
        ]
    comment = "# license: left to you; the Hub shows it once it stands here\n"
    return comment + str(yaml.safe_dump(content, sort_keys=False, allow_unicode=True))


def _opening(what: Exported) -> str:
    height, width = what.size
    classes = what.classifier.classes
    shown = ", ".join(escaped(name) for name in classes[:20]) + (", ..." if len(classes) > 20 else "")
    dataset = escaped(str(what.card.get("dataset", "")))
    trained = f" Trained on images of {dataset}." if dataset else ""
    about = f"\n\n{escaped(what.results.about)}" if what.results else ""
    return (
        f"A network {escaped(str(what.card['model']))} that tells {len(classes)} classes apart on images of "
        f"{width}x{height} pixels: {shown}.{trained}{about}"
    )


def _use(what: Exported) -> str:
    plugin = what.card.get("plugin")
    lines = ["import torch", f"import {NAME}", ""]
    note = ""
    if plugin:
        file = str(plugin["file"])
        lines += [f"from {NAME}.plugins import load_plugins, read_plugins", ""]
        lines += [f"load_plugins(read_plugins([{file!r}]))  # a program: read it first"]
        note = (
            f"\n\nThe network is that of a plugin, {escaped(file)} (sha256 {escaped(plugin['sha256'])}). The file "
            "plugin.* here is a copy of it: give it its own name before it is loaded."
        )
    height, width = what.size
    lines += [
        f'model = {NAME}.load_model("FOLDER")  # where this README.md lies',
        f"images = torch.zeros(1, 3, {height}, {width}, dtype=torch.uint8)  # RGB, 0..255, not normalised",
        "probabilities = model(images).softmax(1)",
        "label = model.classes[probabilities.argmax(1)[0]]",
    ]
    code = "\n".join(lines)
    return f"## How to use it\n\n```python\n{code}\n```{note}\n\nMade by {NAME} {__version__}."


def _input(what: Exported) -> str:
    height, width = what.size
    fit = str(what.card.get("fit", ""))
    mean, std = ([round(value, 3) for value in what.card[name]] for name in ("mean", "std"))
    shape = (
        f" Images of another shape, in training: {_FITS[fit]} (`{fit}`), by Pillow's BICUBIC." if fit in _FITS else ""
    )
    return (
        f"## Input and output\n\nIn: uint8 [N,3,{height},{width}], RGB, 0..255.{shape} `load_model` normalises by "
        f"itself; for other programs: mean {mean}, std {std} on the scale 0..255.\n\nOut: logits, float32 "
        f"[N,{len(what.classifier.classes)}], in the order of `id2label` in config.json; their softmax: probabilities."
    )


def _limits(what: Exported) -> str:
    height, width = what.size
    said = [
        f"It answers with one of its {len(what.classifier.classes)} classes for any image, also where none is shown.",
        f"It was trained on images of {width}x{height} pixels; a degradation means something at that size.",
        *(what.results.limits if what.results else ()),
        "Robustness against other degradations than those named here was not measured.",
        "Accuracies are those of a test split from the same source as the training images; other cameras, places and "
        "times were not looked at.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {escaped(line)}" for line in said)


def _licence() -> str:
    return (
        "## Licence\n\nNot chosen yet: weights may be bound by the licence of the images that they were trained on. "
        "The publisher of this folder writes `license: ...` into the first lines of this file."
    )
