"""A page on which people try a store's networks: try."""

from __future__ import annotations

import click

from fusiondistill_runner.command import plugin_option, tell, verb


@verb("try", "fusiondistill try runs/quickstart\nfusiondistill try runs/quickstart --port 8000 --open")
@click.argument("store")
@click.option(
    "--experiment",
    metavar="NAME",
    help="The experiment, where the store has several. Default: the first with a finished row.",
)
@click.option(
    "--degradation", metavar="ID", help="The degradation that the page starts with. Default: the experiment's first."
)
@click.option("--port", type=click.IntRange(1, 65535), help="The port of 127.0.0.1 to listen on. Default: a free one.")
@click.option("--open", "open_browser", is_flag=True, help="Also open the page in the browser.")
@plugin_option
def try_verb(
    store: str,
    experiment: str | None,
    degradation: str | None,
    port: int | None,
    open_browser: bool,
    plugins: tuple[str, ...],
) -> None:
    """Serve a page on which a user drops an image and sees what the networks of STORE say of it, degraded.

    Degradations, their levels and parameters are the experiment's. The page is for this machine's browser alone
    (127.0.0.1), and asks no other. Needs the extra: pip install 'fusiondistill[try]'. Ctrl-C ends it.
    """
    from fusiondistill.plugins import load_plugins, read_plugins
    from fusiondistill_runner.storage.store import Store
    from fusiondistill_runner.views.try_page import serve
    from fusiondistill_runner.views.trying import open_tryout

    load_plugins(read_plugins(plugins))
    serve(open_tryout(Store(store), experiment), port, open_browser, tell, degradation)
