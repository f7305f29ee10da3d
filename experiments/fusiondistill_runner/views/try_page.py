"""The page of ``fusiondistill try``: an image, a degradation, a level, and the networks' answers side by side.

NiceGUI (the extra ``try``) makes the page and serves all of its parts itself: the browser asks no other machine.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
import socket
import webbrowser
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from fusiondistill import NAME
from fusiondistill.data import DataError
from fusiondistill.data.decoding import MAX_FILE_BYTES
from fusiondistill.degradation_config import spelled
from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.report.words import degradation_title
from fusiondistill.samples import png
from fusiondistill_runner.views.trying import Tried, Tryout

if TYPE_CHECKING:
    import torch

__all__ = ["serve"]

HERE = "127.0.0.1"
PROMISE = "It stays in this machine's memory. A network names one of its classes for any image, also for none of them."
TOO_LARGE = f"The file is larger than {MAX_FILE_BYTES:,} bytes."
SAID = "what the networks say of the degraded image"
STYLE = """
.q-uploader__list { min-height: 0; padding: 0 }
.q-uploader__subtitle { display: none }
.q-uploader__header-content { padding: 20px 12px }
.pictures figure { width: min(45%, 256px) }
.pictures .q-img { width: 100%; image-rendering: pixelated; border: 1px solid #8888 }
.answers { display: grid; gap: 12px 24px; grid-template-columns: repeat(auto-fill, minmax(250px, 1fr)) }
.answer { display: grid; gap: 0 8px; grid-template-columns: 1fr 80px 4em; align-items: center }
.answer .title { grid-column: 1 / 4; font-weight: 600 }
.answer .name { overflow-wrap: anywhere }
.answer .chance { text-align: right; font-variant-numeric: tabular-nums }
"""


def serve(
    tryout: Tryout, port: int | None, open_browser: bool, say: Callable[[str], None], degradation: str | None = None
) -> None:
    """Serve the page on this machine alone until Ctrl-C.

    Args:
        port: None: a free one.
        say: is given the page's address once it is there.
        degradation: what the page starts with; None: the experiment's first.

    Raises:
        ValueError: NiceGUI is not installed, the port is taken, or the experiment has no such degradation.
    """
    first = tryout.degradation(degradation or next(iter(tryout.degradations))).id
    listening = _listen(port)
    try:
        import uvicorn
        from fastapi import FastAPI
        from nicegui import ui
    except ImportError as error:
        raise ValueError(f"the page needs NiceGUI: pip install '{NAME}[try]'") from error
    from starlette.formparsers import MultiPartParser
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    MultiPartParser.spool_max_size = 2 * MAX_FILE_BYTES  # images stay in memory
    page = FastAPI(openapi_url=None)
    # A page from elsewhere whose name was made to point here is not answered.
    page.add_middleware(TrustedHostMiddleware, allowed_hosts=[HERE, "localhost"])
    title = f"{tryout.experiment}: try an image"
    ui.run_with(page, root=lambda: _Page(tryout, first, ui), title=title, dark=None, show_welcome_message=False)
    server = uvicorn.Server(uvicorn.Config(page, log_level="warning", timeout_graceful_shutdown=1))
    address = f"http://{HERE}:{listening.getsockname()[1]}/"
    with contextlib.suppress(KeyboardInterrupt):
        if tryout.others:
            say(f"{tryout.experiment} of this store; --experiment takes {', '.join(tryout.others)}, too")
        say(f"{address}  (Ctrl-C ends it)")
        if open_browser:
            webbrowser.open(address)
        server.run(sockets=[listening])


def _listen(port: int | None) -> socket.socket:
    """A socket at the port, or at a free one; ValueError if the port cannot be had."""
    try:
        return socket.create_server((HERE, port or 0))
    except OSError as error:
        reason = os.strerror(error.errno or 0)
        raise ValueError(f"port {port}: {reason}. Choose another, or leave --port out") from error


class _Page:
    """What one visitor sees; the image is kept, at the networks' size, as long as the page is open."""

    def __init__(self, tryout: Tryout, first: str, ui: Any) -> None:
        self.tryout, self.ui, self.asked = tryout, ui, 0
        self.name = ""
        self.image: torch.Tensor | None = None
        names = {one: network.title for one, network in tryout.networks.items()}
        kinds = {one: degradation_title(one) for one in tryout.degradations}
        taken = tryout.preparation
        height, width = taken.size or (0, 0)
        ui.add_css(STYLE)
        with ui.column().classes("w-full max-w-screen-lg mx-auto p-2"):
            ui.label(f"{tryout.experiment}: try an image").classes("text-2xl").props("role=heading aria-level=1")
            drop = ui.upload(label="Drop an image here, or choose one with +", auto_upload=True, on_upload=self.take,
                             max_file_size=MAX_FILE_BYTES, on_rejected=lambda: self.empty(TOO_LARGE))  # fmt: skip
            self.upload = drop.classes("w-full").props("flat bordered")
            text = f"It is brought to {width} x {height} pixels ({taken.fit}), as the networks take it, and degraded."
            self.said = ui.label(f"{text} {PROMISE}").props("role=status")
            with ui.row().classes("w-full items-center"):
                kind = ui.select(kinds, value=first, label="Degradation", on_change=self.choose)
                self.kind = kind.classes("w-40")
                with ui.column().classes("grow gap-0 px-4"):
                    self.means = ui.label()
                    self.level = ui.slider(min=0, max=1).props("aria-label=Level")
                    self.level.on("update:model-value", self.show, throttle=0.2)
            chosen = ui.select(names, value=list(tryout.first), multiple=True, label="Networks", on_change=self.show)
            self.networks = chosen.props("use-chips").classes("w-full")
            self.pictures = ui.row().classes("w-full pictures")
            self.answers = ui.element("section").classes("w-full answers")
        self.start_level()

    async def take(self, event: Any) -> None:
        """Take an image that was dropped."""
        self.upload.reset()
        self.name, self.image = event.file.name, None
        self.empty(f"{self.name}: is looked at")
        try:
            self.image = await asyncio.to_thread(self.tryout.prepared, await event.file.read(), self.name)
        except DataError as error:
            self.empty(str(error))
        await self.show()

    async def choose(self) -> None:
        """Take another degradation."""
        self.start_level()
        await self.show()

    def start_level(self) -> None:
        """Give the slider the levels of the degradation; its value is a place among them, at first the middle."""
        last = len(self.tryout.degradation(self.kind.value).every_level) - 1
        self.level.props(f"max={last}").set_value(last // 2)
        self.say_level()

    def say_level(self) -> int:
        """Say which level the slider is at, and what it means; returns it."""
        of = self.tryout.degradation(self.kind.value)
        level = of.every_level[int(self.level.value)]
        means = [DEGRADATIONS.find(of.name).means, *(f"{key} {value}" for key, value in of.parameters.items())]
        told = ", ".join(filter(None, means))
        self.means.set_text(f"Level {level} of {spelled(of.every_level)}{f': {told}' if told else ''}")
        return level

    async def show(self) -> None:
        """Show what comes of the image; an answer that was overtaken by a later question is dropped."""
        level = self.say_level()
        if self.image is None:
            return
        self.asked += 1
        asked, words = self.asked, (self.image, self.kind.value, level, list(self.networks.value))
        try:
            found, said = await asyncio.to_thread(self.tryout.tried, *words), SAID
        except (ValueError, RuntimeError) as error:
            found, said = None, str(error)
        if asked == self.asked and not self.said.is_deleted:
            self.empty(f"{self.name}: {said}")
            if found:
                self.draw(found)

    def empty(self, text: str) -> None:
        """Take away what is shown, and say something instead."""
        self.said.set_text(text)
        self.pictures.clear()
        self.answers.clear()

    def draw(self, found: Tried) -> None:
        """Show the pictures, and the answers side by side."""
        ui = self.ui
        for title, image in (("Clean", found.clean), ("Degraded", found.degraded)):
            with self.pictures, ui.element("figure"):
                source = f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
                ui.image(source).props(f"no-transition no-spinner alt={title}")
                ui.label(title)
        for of, best in found.answers.items():
            network = self.tryout.networks[of]
            with self.answers, ui.element("article").classes("answer"):
                ui.label(network.title).classes("title").tooltip(network.line)
                for name, chance in best:
                    ui.label(name).classes("name")
                    ui.linear_progress(chance, show_value=False).props("aria-hidden=true")
                    ui.label(f"{100 * chance:.1f} %").classes("chance")
