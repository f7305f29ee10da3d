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


@dataclass(frozen=True)
class Results:
    """What a store knows about a network.

    Attributes:
        name: of its row: "FusionDistill"; marked where it names one class for everything.
        about: sentences about the row, its seed and its training.
        dataset: the name of the data set that it was evaluated on.
        text: sections of Markdown, "## ..." each: tables, data, protocol.
        figures: name -> accuracy of this network in percent: "clean", "mean over degradations".
        limits: further sentences for the section of limits.
        warning: what stands before them where the network names one class for everything; else "".
    """

    name: str
    about: str
    dataset: str
    text: str
    figures: Mapping[str, float]
    limits: tuple[str, ...] = ()
    warning: str = ""


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
    count = f"{what.trained.images:,} " if what.trained and what.trained.images else ""
    trained = f" Trained on {count}images of {escaped(what.dataset)}." if what.dataset else ""
    about = f"\n\n{escaped(what.results.about)}" if what.results else ""
    return (
        f"A network {escaped(str(what.card['model']))} that tells {len(classes)} classes apart on images of "
        f"{width}x{height} pixels: {shown}.{trained}{about}"
    )


def _use(what: Exported) -> str:
    plugin = what.card.get("plugin")
    lines = [f"import {NAME}", ""]
    note = ""
    if plugin:
        file = str(plugin["file"])
        lines += [f"from {NAME}.plugins import load_plugins, read_plugins", ""]
        lines += [f"load_plugins(read_plugins([{file!r}]))  # a program: read it first"]
        note = (
            f"\n\nThe network is that of a plugin, {escaped(file)} (sha256 {escaped(plugin['sha256'])}). The file "
            "plugin.* here is a copy of it: give it its own name before it is loaded."
        )
    fit = ("", "") if what.card.get("fit") else (', fit="crop"', '  # or "pad", "stretch": the training resized none')
    lines += [
        f'model = {NAME}.load_model("FOLDER")  # where this README.md lies',
        f'(found,) = model.predict(["photo.jpg"]{fit[0]}){fit[1]}',
        "print(found.label, found.probability)",
    ]
    code = "\n".join(lines)
    return f"## How to use it\n\n```python\n{code}\n```{note}\n\nMade by {NAME} {__version__}."


def _input(what: Exported) -> str:
    from fusiondistill.data.preparation import Preparation

    height, width = what.size
    preparation = escaped(Preparation.of_card(what.card).sentence())
    mean, std = ([round(value, 3) for value in what.card[name]] for name in ("mean", "std"))
    return (
        f"## Input and output\n\nIn: uint8 [N,3,{height},{width}], RGB, 0..255. `predict` makes them of a photo as "
        f"the training did: {preparation} The model normalises; for other programs: mean {mean}, std {std} on the "
        f"scale 0..255.\n\nOut: logits, float32 [N,{len(what.classifier.classes)}], in the order of `id2label` in "
        "config.json; their softmax: probabilities."
    )


def _limits(what: Exported) -> str:
    height, width = what.size
    said = [
        *([what.results.warning] if what.results and what.results.warning else []),
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
