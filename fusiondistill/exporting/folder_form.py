"""A folder in the layout of the Hugging Face Hub: weights as safetensors, configuration, and a model card.

``config.json`` has the keys that timm writes (``architecture``, ``label_names``, ``pretrained_cfg``), so that timm
loads its own networks from the folder, and ``id2label``/``label2id`` beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fusiondistill import NAME
from fusiondistill.exporting.forms import Answer, Exported, ExportError, Form
from fusiondistill.exporting.model_card import model_card
from fusiondistill.plugins import COPY, copies_of

__all__ = ["Folder"]

WEIGHTS, CONFIG, PREPROCESSOR, CARD = "model.safetensors", "config.json", "preprocessor_config.json", "README.md"
_TIMM = "timm/"


class Folder(Form):
    """A folder that ``fusiondistill.load_model`` reads, and that can be uploaded to the Hub as it is."""

    title = "the folder"
    own_program = False

    def check(self, what: Exported) -> None:
        """As :meth:`Form.check`; raises ExportError also where two classes have one name."""
        super().check(what)
        places: dict[str, int] = {}
        for place, name in enumerate(what.classifier.classes):
            if name in places:
                raise ExportError(
                    f"classes {places[name]} and {place} are both called {name!r}: label2id of {CONFIG} holds a "
                    "name once; give one of them another name and train again"
                )
            places[name] = place

    def write(self, what: Exported, path: Path) -> None:
        """Write the folder."""
        from fusiondistill.checkpoints import to_safetensors

        plugin = what.card.get("plugin", {}).get("sha256", "")
        files = {WEIGHTS: to_safetensors(what.weights, what.card), CONFIG: _json(_config(what)), **copies_of([plugin])}
        if preprocessor := _preprocessor(what):
            files[PREPROCESSOR] = _json(preprocessor)
        files[CARD] = model_card(what).encode()
        path.mkdir()
        for name, data in files.items():
            (path / name).write_bytes(data)

    def use(self, what: Exported, path: str) -> str:
        """With this project."""
        fit = "" if what.card.get("fit") else ', fit="crop"'
        return f'{NAME}.load_model({path!r}).predict(["photo.jpg"]{fit})'

    def opened(self, path: Path) -> Answer:
        """A fresh load."""
        import torch

        from fusiondistill.checkpoints import load_model

        model = load_model(path)

        def answer(images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                logits: torch.Tensor = model(images)
            return logits

        return answer

    def strangers(self, path: Path) -> str:
        """The name of something in a folder that no export wrote, or ""; a folder without weights is none of ours."""
        known = (WEIGHTS, CONFIG, PREPROCESSOR, CARD)
        names = sorted(one.name for one in path.iterdir())
        strange = [name for name in names if name not in known and not name.startswith(COPY)]
        return strange[0] if strange else "" if not names or CONFIG in names else names[0]


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, indent=2, ensure_ascii=False) + "\n").encode()


def _unit(what: Exported, name: str) -> list[float]:
    """Mean or std on the scale 0..1, as other libraries have it."""
    return [value / 255 for value in what.card[name]]


def _config(what: Exported) -> dict[str, Any]:
    (height, width), classes, name = what.size, what.classifier.classes, str(what.card["model"])
    own = name.removeprefix(_TIMM).partition(".")[0] if name.startswith(_TIMM) else name
    parameters = dict(what.card.get("parameters") or {})
    given = {"input_size": [3, height, width], "mean": _unit(what, "mean"), "std": _unit(what, "std"),
             "interpolation": "bicubic", "crop_pct": 1.0, "num_classes": len(classes)}  # fmt: skip
    facts = {key: value for key, value in what.facts().items() if key != "classes"}
    return {
        "architecture": own,
        "num_classes": len(classes),
        "label_names": list(classes),
        "id2label": {str(place): label for place, label in enumerate(classes)},
        "label2id": {label: place for place, label in enumerate(classes)},
        "pretrained_cfg": given,
        **({"model_args": parameters} if parameters else {}),
        NAME: facts,
    }


def _preprocessor(what: Exported) -> dict[str, Any] | None:
    """What image processors of the Hub read; None where theirs cannot do what the training did to other shapes.

    Where the training resized nothing, neither do they. For ``crop`` theirs resizes the whole image and then cuts, ours
    the reverse: the pixels differ by rounding.
    """
    (height, width), fit = what.size, what.card.get("fit")
    common = {"do_resize": bool(fit), "resample": 3, "do_rescale": True, "rescale_factor": 1 / 255,
              "do_normalize": True, "image_mean": _unit(what, "mean"), "image_std": _unit(what, "std"),
              "do_convert_rgb": True}  # fmt: skip
    exact = {"height": height, "width": width}
    if fit in (None, "stretch"):
        return {"image_processor_type": "ViTImageProcessor", **common, "size": exact}
    if fit == "crop" and height == width:
        cut = {"size": {"shortest_edge": height}, "do_center_crop": True, "crop_size": exact}
        return {"image_processor_type": "CLIPImageProcessor", **common, **cut}
    return None
