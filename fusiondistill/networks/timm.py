"""timm's classifiers with a new head, as ``timm/<name>``; timm is an extra, imported where a network is built."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from fusiondistill.networks import NETWORKS
from fusiondistill.networks._pretrained import Pretrained, not_here, torch_hub_file, torch_hub_place
from fusiondistill.registry import close_to

if TYPE_CHECKING:
    import torch
    from torch import nn

__all__ = ["names", "timm"]

PREFIX = "timm/"
_FILES = ("model.safetensors", "pytorch_model.bin")
"""A Hub repository of timm's has its weights under one of these names."""


@cache
def _all_names() -> tuple[str, ...]:
    """What ``timm.list_models()`` gives, without the import."""
    spec = importlib.util.find_spec("timm")
    folder = Path(next(iter(spec.submodule_search_locations or ()))) / "models" if spec else Path("timm")
    pattern = re.compile(r"^@register_model\n(?:@.*\n)*def (\w+)", re.M)
    return tuple(sorted(name for path in folder.glob("*.py") for name in pattern.findall(path.read_text())))


def names() -> tuple[str, ...]:
    """Some of the names; ``timm.list_models()`` has all."""
    some = ("convnext_atto", "efficientnet_b0", "mobilenetv4_conv_small", "resnet18", "vit_tiny_patch16_224")
    return tuple(f"{PREFIX}{name}" for name in some)


def provides(name: str) -> bool | str:
    """Whether a name is ``timm/<name>`` or ``timm/<name>.<tag of its weights>``; a text says what is wrong with it."""
    if not name.startswith(PREFIX):
        return False
    if importlib.util.find_spec("timm") is None:
        return "timm is not installed: pip install 'fusiondistill[timm]'"
    own = name.removeprefix(PREFIX).partition(".")[0]
    return own in _all_names() or f"timm has no network {own!r}{close_to(own, _all_names(), listed=False)}"


def pretrained(name: str) -> Pretrained:
    """The weights of timm's default tag, or of the one that the name has.

    Raises:
        ValueError: timm has none for it, or no such tag.
    """
    import timm as library

    own = name.removeprefix(PREFIX)
    tags = [tag for tag in library.list_pretrained(f"{own.partition('.')[0]}.*") if tag.partition(".")[2]]
    config = library.get_pretrained_cfg(own) if "." not in own or own in tags else None
    if config is None or not (config.hf_hub_id or config.url):
        told = f"; tags with weights: {', '.join(tags)}" if tags else ""
        raise ValueError(f"timm has no pretrained weights for {own}{told}")
    mean, std = tuple(config.mean), tuple(config.std)
    called = f"{config.architecture}.{config.tag}" if config.tag else str(config.architecture)
    return Pretrained.of_unit(called, mean, std, lambda: _file(config), lambda: _held(config) is not None)


def _wanted(config: Any) -> tuple[str, ...]:
    """The files of the Hub's repository that may hold the weights, the best first."""
    return (config.hf_hub_filename,) if config.hf_hub_filename else _FILES


def _held(config: Any) -> Path | None:
    """The file of a pretrained configuration, where it is in a cache already."""
    if not config.hf_hub_id:
        place = torch_hub_place(config.url)
        return place if place.exists() else None
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(config.hf_hub_id, file) for file in _wanted(config))
    return next((Path(place) for place in found if isinstance(place, str)), None)


def _file(config: Any) -> Path:
    """The file of a pretrained configuration in the Hub's cache, or in torch's."""
    if not config.hf_hub_id:
        return torch_hub_file(config.url)
    from huggingface_hub import constants, hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError

    if found := _held(config):
        return found
    repository, wanted = config.hf_hub_id, _wanted(config)
    problem: Exception = FileNotFoundError("no such file")
    for file in wanted:
        try:
            return Path(hf_hub_download(repository, file))
        except Exception as error:  # its errors are those of several libraries
            problem = error
            if isinstance(error, LocalEntryNotFoundError) or not isinstance(error, EntryNotFoundError):
                break  # the Hub does not answer
    at = f"{constants.HF_HUB_CACHE} (the Hub's cache; HF_HOME moves it)"
    raise not_here(f"{wanted[0]} of {repository}", f"the Hub's repository {repository}", at, "then", problem)


def adapted(
    name: str, classes: int, state: Mapping[str, torch.Tensor], parameters: Mapping[str, Any]
) -> Mapping[str, torch.Tensor]:
    """Weights with position embeddings and the like for other image sizes, as timm itself makes them.

    Args:
        state: under timm's names.

    Returns:
        a whole state dict of the network.
    """
    overlay = {"state_dict": dict(state), "num_classes": -1, "custom_load": False}
    own = name.removeprefix(PREFIX).partition(".")[0]
    network: nn.Module = _made(own, classes, parameters, pretrained=True, pretrained_cfg_overlay=overlay)
    return network.state_dict()


def _made(name: str, classes: int, parameters: Mapping[str, Any], **more: Any) -> Any:
    import timm as library

    config = library.get_pretrained_cfg(name, allow_unregistered=True)
    size = parameters.get("img_size")
    sized = {"img_size": tuple(size)} if size and config is not None and config.fixed_input_size else {}
    return library.create_model(name, num_classes=classes, **sized, **more)


@NETWORKS.register(
    "timm", names=names, provides=provides, pretrained=pretrained, adapted=adapted, source="timm (PyTorch Image Models)"
)
def timm(
    name: str,
    classes: int,
    *,
    feature_layer: str | None = None,
    img_size: Annotated[
        tuple[int, int] | None, Field(description="[height, width] that it is built for; default: that of the images")
    ] = None,
) -> nn.Module:
    """timm's classifiers as timm/<name>, or timm/<name>.<tag> for the tag's weights, with a head for the classes.

    A network that is built for one image size, like a vision transformer, is built for ``img_size``, which a config
    leaves out: it is that of the images.
    """
    from fusiondistill.models.features import with_features

    own = name.removeprefix(PREFIX).partition(".")[0]
    network: nn.Module = _made(own, classes, {"img_size": img_size})
    known = [str(one["module"]) for one in getattr(network, "feature_info", None) or () if one.get("module")]
    layer = feature_layer or (known[-1] if known else None)
    return with_features(network, layer, name, classes)
