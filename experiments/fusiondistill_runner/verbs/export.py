"""A network in a form that other programs run: export."""

from __future__ import annotations

import sys

import click

from fusiondistill_runner.command import FAILED, plugin_option, tell, verb


@verb(
    "export",
    "fusiondistill export runs/quickstart --out model.onnx\n"
    "fusiondistill export runs/quickstart/base-0123456789abcdef --out model.pt2\n"
    "fusiondistill export model.safetensors --out my-model/",
    whole=True,
)
@click.argument("model")
@click.option(
    "--out",
    required=True,
    metavar="FILE.onnx|FILE.pt2|FOLDER",
    help="What to write; the ending says the form: ONNX, torch.export, or a folder for the Hub.",
)
@click.option(
    "--force",
    is_flag=True,
    help="Replace an existing file, or a folder that an export wrote. Default: that is an error.",
)
@plugin_option
def export_verb(model: str, out: str, force: bool, plugins: tuple[str, ...]) -> None:
    """Write a network as one file for ONNX or torch.export, or as a folder for the Hugging Face Hub.

    MODEL is a stage directory, a .safetensors file, or a store, which stands for its best network. The files take raw
    pixels, uint8 [N,3,H,W], and give logits; class names are in their metadata. What was written is read again and
    compared with the network on real images. Where answers differ, the exit code is 1 and nothing is written.
    """
    from fusiondistill.exporting import Differs
    from fusiondistill_runner.views.exporting import export_network

    try:
        export_network(model, out, tell, force=force, plugins=plugins)
    except Differs as error:
        tell(f"error: {error}", err=True)
        sys.exit(FAILED)
