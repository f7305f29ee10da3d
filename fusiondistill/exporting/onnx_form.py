"""ONNX: one file with the weights inside, run by onnxruntime and many others. Class names are in its metadata."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from pathlib import Path

from fusiondistill.exporting.forms import Answer, Exported, ExportError, Form

__all__ = ["INPUT", "OUTPUT", "Onnx"]

INPUT, OUTPUT = "images", "logits"
MOST = 2**31 - 2**24
"""Bytes of weights: a file of protocol buffers holds less than 2 GiB."""


class Onnx(Form):
    """A file of ONNX. Its metadata are texts: :meth:`Exported.facts`, lists as JSON."""

    title = "ONNX"
    packages = ("onnx", "onnxscript", "onnxruntime")
    extra = "onnx"

    def check(self, what: Exported) -> None:
        """As :meth:`Form.check`; raises ExportError also where the weights are too large for one file."""
        super().check(what)
        size = sum(t.numel() * t.element_size() for t in what.classifier.state_dict().values())
        if size > MOST:
            raise ExportError(
                f"an ONNX file holds less than 2 GiB, these weights take {size / 2**30:.1f}: use FILE.pt2 or a folder"
            )

    def write(self, what: Exported, path: Path) -> None:
        """Write the file.

        Raises:
            ExportError: an operation of the network has no counterpart in ONNX.
        """
        import torch

        from fusiondistill.exporting.graph import BATCH, captured, in_a_line

        program = captured(what, self.title)
        names = {"input_names": [INPUT], "output_names": [OUTPUT], "dynamic_shapes": ({0: BATCH},)}
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            try:
                made = torch.onnx.export(program, dynamo=True, verbose=False, **names)  # type: ignore[arg-type]
            except Exception as error:  # those of two libraries
                raise ExportError(
                    f"ONNX cannot hold the network {what.card['model']}: {in_a_line(error)}; use FILE.pt2 or a folder"
                ) from error
        assert made is not None
        for key, value in what.facts().items():
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            made.model.metadata_props[key] = text
        made.save(path, external_data=False)

    def use(self, what: Exported, path: str) -> str:
        """With onnxruntime."""
        return f'onnxruntime.InferenceSession({path!r}).run(None, {{"{INPUT}": pixels}})'

    def opened(self, path: Path) -> Answer:
        """A session of onnxruntime on the CPU, with as many threads as torch has."""
        import onnxruntime
        import torch

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

        def answer(images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(session.run([OUTPUT], {INPUT: images.numpy()})[0])

        return answer
