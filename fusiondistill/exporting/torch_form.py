"""torch.export: one file that ``torch.export.load`` reads, without this project or the network's own code."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

from fusiondistill import NAME
from fusiondistill.exporting.forms import Answer, Exported, Form

__all__ = ["FACTS", "TorchExport"]

FACTS = f"{NAME}.json"
"""The extra file in it that has :meth:`Exported.facts`."""


class TorchExport(Form):
    """A file of torch.export, whose extra file :data:`FACTS` has the metadata."""

    title = "torch.export"

    def write(self, what: Exported, path: Path) -> None:
        """Write the file; raises as :func:`fusiondistill.exporting.graph.captured`."""
        import torch

        from fusiondistill.exporting.graph import captured

        program = captured(what, self.title)
        facts = json.dumps(what.facts(), ensure_ascii=False)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.export.save(program, path, extra_files={FACTS: facts})

    def use(self, what: Exported, path: str) -> str:
        """With torch alone."""
        return f"torch.export.load({path!r}).module()(torch.from_numpy(pixels))"

    def opened(self, path: Path) -> Answer:
        """The program as a module."""
        import torch

        module = torch.export.load(path).module()

        def answer(images: torch.Tensor) -> torch.Tensor:
            with torch.no_grad():
                logits: torch.Tensor = module(images)
            return logits

        return answer
