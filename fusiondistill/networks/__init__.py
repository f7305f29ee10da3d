"""Networks by name: providers of many names, and your own networks, each under its own name.

Your own network is a function ``(classes, **parameters) -> nn.Module``. The module maps normalised images,
float32 [B,3,H,W], to logits, float32 [B,classes]. It needs no method for its features: the project takes them from the
output of a layer, the one that is named, or else the last that gives a map [B,F,h,w].

A provider is a function ``(name, classes, **parameters) -> nn.Module`` with a list of its names. Importing this package
does not import torch.

Example:
    >>> from torch import nn
    >>> @NETWORKS.register("tiny", feature_layer="0", replace=True)
    ... def tiny(classes: int, *, width: int = 8) -> nn.Module:
    ...     "One convolution and a head."
    ...     head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
    ...     return nn.Sequential(nn.Conv2d(3, width, 3), *head)
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from fusiondistill.registry import Entry, Registry, UnknownEntry, close_to

if TYPE_CHECKING:
    import torch
    from torch import nn

    from fusiondistill.networks._pretrained import Pretrained

__all__ = ["NETWORKS", "Network"]

Names = Callable[[], tuple[str, ...]]
Provides = Callable[[str], bool | str]
OfWeights = Callable[[str], "Pretrained"]
Adapted = Callable[[str, int, "Mapping[str, torch.Tensor]", "Mapping[str, Any]"], "Mapping[str, torch.Tensor]"]


class Network(Entry):
    """A network, or a provider of several."""

    @property
    def feature_layer(self) -> str | None:
        """The dotted name of the module whose output is the feature map; None: found, or chosen by the function."""
        return self.facts["feature_layer"]

    def names(self) -> tuple[str, ...]:
        """The names that a config may give; of a provider with endless many, some of them. Imports no torch."""
        listed: Names | None = self.facts["names"]
        return (self.name,) if listed is None else listed()

    def provides(self, name: str) -> bool | str:
        """Whether there is a network of that name; a text says what is wrong with a name of its kind."""
        rule: Provides | None = self.facts["provides"]
        return name in self.names() if rule is None else rule(name)

    def build(self, name: str, classes: int, feature_layer: str | None, parameters: dict[str, Any]) -> nn.Module:
        """What the function makes of a name, a number of classes and checked parameters."""
        chosen = {"feature_layer": feature_layer} if self.chooses_layer else {}
        arguments = (classes,) if self.facts["names"] is None else (name, classes)
        made: Any = self.function(*arguments, **chosen, **parameters)
        if not callable(getattr(made, "state_dict", None)):
            raise self.gave(f"must return an nn.Module, not {type(made).__name__}")
        network: nn.Module = made
        return network

    def pretrained(self, name: str) -> Pretrained:
        """The published weights of a network.

        Raises:
            ValueError: its provider has none for it.
        """
        given: OfWeights | None = self.facts["pretrained"]
        if given is None:
            raise ValueError(f"there are no pretrained weights for {name}: say model.weights: FILE, a checkpoint")
        return given(name)

    def adapted(
        self, name: str, classes: int, state: Mapping[str, torch.Tensor], parameters: Mapping[str, Any]
    ) -> Mapping[str, torch.Tensor]:
        """Weights made to fit a network whose tensors have other shapes, as a provider knows how; else as they are."""
        given: Adapted | None = self.facts["adapted"]
        return state if given is None else given(name, classes, state, parameters)

    @property
    def chooses_layer(self) -> bool:
        """Whether the function takes ``feature_layer`` and sees to the features itself."""
        return "feature_layer" in inspect.signature(self.function).parameters

    def notes(self) -> tuple[str, ...]:
        """The names of a provider, for ``fusiondistill list``."""
        if self.facts["names"] is None:
            return ()
        word = "names" if self.facts["provides"] is None else "names such as"
        return (f"{word}: {', '.join(self.names())}",)


class Networks(Registry[Network]):
    """The registry of networks."""

    entry = Network

    def register(  # type: ignore[override]  # names and layer are no facts among others
        self,
        name: str,
        *,
        feature_layer: str | None = None,
        names: Names | None = None,
        provides: Provides | None = None,
        pretrained: OfWeights | None = None,
        adapted: Adapted | None = None,
        version: int = 1,
        source: str = "",
        replace: bool = False,
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Make a function a network, or with ``names`` a provider of networks.

        Args:
            name: lower-case letters, digits and underscores, a letter first; of a network what a config names.
            feature_layer: the dotted name of the module whose output is the feature map; None: the last module that
                gives a map [B,F,h,w] of more than one pixel, adaptive pooling left out.
            names: a provider's function that lists its names.
            provides: a provider's function that says whether it has a name: True, False, or a text with what is wrong
                with a name of its kind. Default: whether it is listed.
            pretrained: a function that says which weights were published for a name
                (:class:`fusiondistill.networks._pretrained.Pretrained`); it raises ValueError where there are none.
            adapted: a function ``(name, classes, state dict, parameters) -> state dict`` that makes weights fit other
                shapes, such as position embeddings for another image size.
            version, source, replace: see :meth:`fusiondistill.registry.Registry.register`, which also says how
                parameters are written.

        The function is called as ``function(classes, **parameters)``, a provider's as ``function(name, classes,
        **parameters)``. It returns an ``nn.Module`` from normalised images, float32 [B,3,H,W], to logits, float32
        [B,classes]. It draws its weights from torch's generator. A parameter ``img_size: tuple[int, int] | None =
        None`` that a config leaves out is given the (height, width) of its images.

        Raises:
            ValueError: as :meth:`fusiondistill.registry.Registry.register`.

        Example:
            A file ``mine.py``, which the config names under ``plugins: [mine.py]``; then ``model: {name: small, width:
            16}``:

            >>> from torch import nn
            >>> from fusiondistill import NETWORKS
            >>> @NETWORKS.register("small")
            ... def small(classes: int, *, width: int = 8):
            ...     "Two convolutions and a head."
            ...     first = [nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.ReLU()]
            ...     second = [nn.Conv2d(width, width, 3), nn.BatchNorm2d(width), nn.ReLU()]
            ...     head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)]
            ...     return nn.Sequential(*first, *second, *head)
        """
        known = {"feature_layer": feature_layer, "names": names, "provides": provides,
                 "pretrained": pretrained, "adapted": adapted}  # fmt: skip
        return super().register(name, version=version, source=source, replace=replace, **known)

    def takes_of(self, entry: Entry) -> tuple[str, ...]:
        """A provider is given the name first."""
        return ("classes",) if entry.facts["names"] is None else ("name", "classes")

    def find(self, name: str) -> Network:
        """An entry by its own name, or the one that makes networks of that name; UnknownEntry as :meth:`provider`."""
        return self[name] if name in self else self.provider(name)

    def provider(self, name: str) -> Network:
        """The entry that makes networks of that name; imports no torch for built-in ones.

        Raises:
            UnknownEntry: there is none; the message has the nearest names, or what is wrong with this one.
        """
        if name in self and self[name].facts["names"] is None:
            return self[name]
        entries = [self[one] for one in self]
        for entry in entries:
            answer = entry.provides(name)
            if isinstance(answer, str):
                raise UnknownEntry(answer)
            if answer:
                return entry
        known = tuple(one for entry in entries for one in entry.names())
        hint = close_to(str(name), known, listed=False) or "; `fusiondistill list networks` shows all names"
        raise UnknownEntry(f"no {self.kind} {name!r}{hint}")

    def code_of(self, name: str) -> str:
        """What stands in a digest for the code of a network: its provider's."""
        return self.provider(name).code

    def check_name(self, name: str) -> str | None:
        """What is wrong with the name of a network; None: nothing."""
        try:
            self.provider(name)
        except UnknownEntry as error:
            return str(error)
        return None


NETWORKS = Networks(
    "network",
    __name__,
    offered=frozenset({"feature_layer"}),
    takes=("classes",),
    reserved=frozenset({"name", "weights"}),
)
"""Every network and provider of networks by name."""
