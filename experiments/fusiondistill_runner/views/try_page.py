"""The page of ``fusiondistill try``: an image, a degradation, a level, and the networks' answers side by side.

NiceGUI (the extra ``try``) makes the page and serves all of its parts itself: the browser asks no other machine.
"""

from __future__ import annotations

import asyncio
import base64
import socket
from collections.abc import Callable
from typing import Any

from fusiondistill import NAME
from fusiondistill.data.decoding import MAX_FILE_BYTES
from fusiondistill.degradation_config import spelled
from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.report.words import degradation_title
from fusiondistill.samples import png
from fusiondistill_runner.views.trying import Tried, Tryout

__all__ = ["serve"]

HERE = "127.0.0.1"
STYLE = """
.q-uploader__list { min-height: 0; padding: 0 }
.q-uploader__subtitle { display: none }
.q-uploader__header-content { min-height: 72px }
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
    try:
        from nicegui import app, ui
    except ImportError as error:
        raise ValueError(f"the page needs NiceGUI: pip install '{NAME}[try]'") from error
    from starlette.formparsers import MultiPartParser
    from starlette.middleware.trustedhost import TrustedHostMiddleware

    MultiPartParser.spool_max_size = 2 * MAX_FILE_BYTES  # images stay in memory
    # A page from elsewhere whose name was made to point here is not answered.
    app.add_middleware(TrustedHostMiddleware, allowed_hosts=[HERE, "localhost"])
    port, first = _free(port), tryout.degradation(degradation or next(iter(tryout.degradations))).id
    app.on_startup(lambda: say(f"http://{HERE}:{port}/  (Ctrl-C ends it)"))
    title = f"{tryout.experiment}: try an image"
    try:
        ui.run(
            lambda: _Page(tryout, first, ui), host=HERE, port=port, title=title, dark=None, show=open_browser,
            reload=False, show_welcome_message=False, timeout_graceful_shutdown=1,
        )  # fmt: skip
    except KeyboardInterrupt:
        say("ended")


def _free(port: int | None) -> int:
    """The port, or a free one; ValueError if it cannot be had."""
    with socket.socket() as one:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            one.bind((HERE, port or 0))
        except OSError as error:
            raise ValueError(f"port {port}: {error.strerror}. Choose another, or leave --port out") from error
        return int(one.getsockname()[1])


class _Page:
    """What one visitor sees; the image is kept as long as the page is open."""

    def __init__(self, tryout: Tryout, first: str, ui: Any) -> None:
        self.tryout, self.ui, self.asked = tryout, ui, 0
        self.image: tuple[bytes, str] | None = None
        names = {one: network.title for one, network in tryout.networks.items()}
        kinds = {one: degradation_title(one) for one in tryout.degradations}
        ui.add_css(STYLE)
        with ui.column().classes("w-full max-w-screen-lg mx-auto p-2"):
            ui.label(f"{tryout.experiment}: try an image").classes("text-2xl").props("role=heading aria-level=1")
            self.upload = ui.upload(
                label="Drop an image here, or choose one with +", auto_upload=True, on_upload=self.take,
                max_file_size=MAX_FILE_BYTES, on_rejected=self.refuse,
            ).classes("w-full").props("flat bordered")  # fmt: skip
            self.said = ui.label(self.invitation).props("role=status")
            with ui.row().classes("w-full items-center"):
                self.kind = ui.select(kinds, value=first, label="Degradation", on_change=self.choose)
                self.kind.classes("w-40")
                with ui.column().classes("grow gap-0 px-4"):
                    self.means = ui.label()
                    self.level = ui.slider(min=0, max=1).props("aria-label=Level")
                    self.level.on("update:model-value", self.show, throttle=0.2)
            chosen = ui.select(names, value=list(tryout.first), multiple=True, label="Networks", on_change=self.show)
            self.networks = chosen.props("use-chips").classes("w-full")
            self.pictures = ui.row().classes("w-full pictures")
            self.answers = ui.element("section").classes("w-full answers")
        self.start_level()

    @property
    def invitation(self) -> str:
        """What is said before there is an image."""
        height, width = self.tryout.size
        taken = f"It is brought to {width} x {height} pixels ({self.tryout.fit}), which the networks take, and degraded"
        return f"{taken} there. It stays in this machine's memory. A network names one of its classes for any image."

    def refuse(self) -> None:
        """Say why the browser did not send a file."""
        self.said.set_text(f"The file is larger than {MAX_FILE_BYTES:,} bytes.")

    async def take(self, event: Any) -> None:
        """Take an image that was dropped."""
        self.image = await event.file.read(), event.file.name
        self.upload.reset()
        await self.show()

    async def choose(self) -> None:
        """Take another degradation, at its middle level."""
        self.start_level()
        await self.show()

    def start_level(self) -> None:
        """Give the slider the levels of the degradation; its value is a place among them."""
        last = len(self.tryout.degradation(self.kind.value).every_level) - 1
        self.level.props(f"max={last}").set_value(last // 2)
        self.say_level()

    def say_level(self) -> int:
        """Say which level the slider is at, and what it means; returns it."""
        of = self.tryout.degradation(self.kind.value)
        level = of.every_level[int(self.level.value)]
        self.means.set_text(f"Level {level} of {spelled(of.every_level)}: {DEGRADATIONS.find(of.name).means}")
        return level

    async def show(self) -> None:
        """Show what comes of the image; an answer that was overtaken by a later question is dropped."""
        level = self.say_level()
        if self.image is None:
            return
        self.asked += 1
        asked = self.asked
        try:
            words = (*self.image, self.kind.value, level, list(self.networks.value))
            found = await asyncio.to_thread(self.tryout.tried, *words)
            said = f"{self.image[1]}: what the networks say of the degraded image"
        except ValueError as error:
            found, said = None, str(error)
        if asked == self.asked:
            self.said.set_text(said)
            self.pictures.clear()
            self.answers.clear()
            if found:
                self.draw(found)

    def draw(self, found: Tried) -> None:
        """The pictures, and the answers side by side."""
        ui = self.ui
        for title, image in (("Clean", found.clean), ("Degraded", found.degraded)):
            with self.pictures, ui.element("figure"):
                source = f"data:image/png;base64,{base64.b64encode(png(image)).decode()}"
                ui.image(source).props(f"no-transition no-spinner alt={title}")
                ui.label(title)
        for network, best in found.answers.items():
            with self.answers, ui.element("article").classes("answer"):
                ui.label(self.tryout.networks[network].title).classes("title").tooltip(
                    self.tryout.networks[network].line
                )
                for name, chance in best:
                    ui.label(name).classes("name")
                    ui.linear_progress(chance, show_value=False).props("aria-hidden=true")
                    ui.label(f"{100 * chance:.1f} %").classes("chance")
