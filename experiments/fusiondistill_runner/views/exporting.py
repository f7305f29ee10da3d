"""Exports a network with what its store knows: its results for the model card, its test images for the check."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fusiondistill.checkpoints import MANIFEST, CheckpointError, checkpoint_digest
from fusiondistill.exporting import ExportError, Results, check_target, export, form_of, size_of
from fusiondistill.report.grid import escaped, markdown_grid
from fusiondistill.report.groups import Group, Row
from fusiondistill.report.summary import summarise
from fusiondistill.report.tables import answer_grid
from fusiondistill.report.words import kind_title, printable, protocol_lines
from fusiondistill_runner.storage.best import BEST, model_place, noted_best
from fusiondistill_runner.storage.noted_plans import plans
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.results import planned_table, results_table
from fusiondistill_runner.views.sample_tables import SAMPLES

if TYPE_CHECKING:
    import torch

__all__ = ["export_network", "home_of", "kept_images", "results_of"]

MOST, FEWEST, PIXELS = 256, 32, 256 * 64 * 64
"""Images that answers are compared on: so many pixels together, within these numbers of images."""


def export_network(
    model: str, out: str, tell: Callable[[str], object], *, force: bool = False, plugins: Sequence[str] = ()
) -> None:
    """Write a network as ``out`` says, and tell how it was checked.

    Args:
        model: a checkpoint, see :func:`fusiondistill.load_checkpoint`; or a store, which stands for its best network.
        out, force: see :func:`fusiondistill.exporting.export`.
        plugins: files that register what the network needs.

    Raises:
        CheckpointError: there is no such network, or it is none that this project made.
        ExportError, Differs: see :func:`fusiondistill.exporting.export`.
    """
    check_target(out, force=force)
    form_of(out).check_packages()
    from fusiondistill.checkpoints import from_card, load_checkpoint
    from fusiondistill.exporting.images import digits
    from fusiondistill.plugins import load_plugins, read_plugins

    load_plugins(read_plugins(plugins))
    model = model_place(model)
    home = home_of(model)
    if home:
        _check_network(*home)
    state, card = load_checkpoint(model)
    classifier = from_card(state, card, model)
    images, of = (kept_images(*home, card), "test images in its store") if home else (None, "")
    if images is None:
        images, of = digits(size_of(card)), "scanned digits in its size, clean and degraded"
    results = results_of(*home) if home else None
    written = export(classifier, card, out, _some(images), force=force, results=results)
    for line in written.lines(of):
        tell(line)


def _some(images: torch.Tensor) -> torch.Tensor:
    """Evenly spread ones of images uint8 [n,3,H,W], since a large network takes long for all of them."""
    most = max(FEWEST, min(MOST, PIXELS // (images.shape[2] * images.shape[3])))
    return images[:: -(-len(images) // most)]


def home_of(model: str) -> tuple[Store, str] | None:
    """(the store, the directory) of a network that is a stage of a store, or its best one; None for any other."""
    place, mark, query = model.partition("?")
    above, _, directory = place.rstrip("/").removesuffix("/" + MANIFEST).rpartition("/")
    store = Store((above or ".") + mark + query)
    try:
        if not directory or not plans(store):
            return None
        if directory == BEST:
            noted = noted_best(store) or {}
            return (store, noted["stage"]) if noted.get("sha256") == checkpoint_digest(model) else None
        return store, directory
    except (CheckpointError, OSError):
        return None


def _check_network(store: Store, directory: str) -> None:
    """Refuse a stage that holds no network, and name those that it used."""
    manifest = store.manifest_of(directory)
    if manifest is None or "model.safetensors" in manifest["files"]:
        return
    used = sorted(set(manifest.get("inputs", {}).values()))
    several = "an ensemble's answer is not one network; " if len(used) > 1 else ""
    raise ExportError(
        f"{store.shown(directory)} holds no network ({manifest.get('kind')}): {several}give one of what it was made "
        f"from: {', '.join(store.shown(one) for one in used) or 'nothing'}"
    )


def _plans_with(store: Store, directory: str) -> list[dict[str, Any]]:
    """The plans of a store that have a stage."""
    return [plan for plan in plans(store) if any(stage["directory"] == directory for stage in plan["stages"])]


def _evaluations(store: Store, plan: Mapping[str, Any], directory: str) -> list[Mapping[str, Any]]:
    """The rows of a plan that show what one network answers by itself."""
    known: dict[str, bool] = {}
    for row in plan["rows"]:
        if row["directory"] not in known:
            manifest = store.manifest_of(row["directory"]) or {}
            known[row["directory"]] = set(manifest.get("inputs", {}).values()) == {directory}
    return [row for row in plan["rows"] if known[row["directory"]]]


def kept_images(store: Store, directory: str, card: Mapping[str, Any]) -> torch.Tensor | None:
    """Real test images in the network's size, clean and degraded, that evaluations in a store kept.

    Returns:
        uint8 [n,3,H,W], the network's own first; None where the store has none.
    """
    import torch

    seen = store.glance(MANIFEST, f"{SAMPLES.removesuffix('.parquet')}.*.parquet")
    there = _plans_with(seen, directory)
    own = [row["directory"] for plan in there for row in _evaluations(seen, plan, directory)]
    others = [row["directory"] for plan in there for row in plan["rows"]]
    found: list[torch.Tensor] = []
    for stage in dict.fromkeys([*own, *others]):
        if stage not in own and found:
            break
        manifest = seen.manifest_of(stage)
        if manifest and SAMPLES in manifest["files"]:
            table = read_parquet(seen.read_from(stage, SAMPLES))
            images = (_pixels(data, size_of(card)) for data in table["image"].to_pylist())
            found += [one for one in images if one is not None]
    return torch.stack(found) if found else None


def _pixels(data: bytes, size: tuple[int, int]) -> torch.Tensor | None:
    """The image in a PNG file that an evaluation wrote, uint8 [3,H,W]; None of another (height, width)."""
    import numpy as np
    import torch
    from PIL import Image

    with Image.open(io.BytesIO(data), formats=["PNG"]) as image:
        if (image.height, image.width) != size:
            return None
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)


def results_of(store: Store, directory: str) -> Results | None:
    """What the tables of a store say about a network; None where no row of a table is this network alone."""
    seen = store.glance(MANIFEST, "counts.*.parquet", "images.*.parquet")
    best = (noted_best(store) or {}).get("stage") == directory
    for plan in _plans_with(seen, directory):
        rows = _evaluations(seen, plan, directory)
        named = {(row["method"], row["seed"]) for row in rows}
        for method, seed in sorted(named, key=lambda one: -sum(one == (row["method"], row["seed"]) for row in rows)):
            table = results_table(seen, [plan])
            for group in summarise(table, planned=planned_table([plan], table)):
                row = group.row(method)
                if row and row.cells and _is_whole(plan, rows, method, seed):
                    return _results(group, row, seed, best)
    return None


def _is_whole(plan: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], method: str, seed: int) -> bool:
    """Whether all of a method's figures are this network's: each of the oracle's is another's."""
    asked = [row for row in plan["rows"] if (row["method"], row["seed"]) == (method, seed)]
    return all(row in rows for row in asked)


def _results(group: Group, row: Row, seed: int, best: bool) -> Results:
    name = row.about.name
    about = f"It is the row {name} of the experiment {group.experiment}, seed {seed}: {row.about.line}."
    about += " Of the single networks of its run it is the one that validation chose." if best else ""
    figures = {"clean": row.clean, "mean over degradations": row.average}
    known = {key: cell.by_seed[seed] for key, cell in figures.items() if seed in cell.by_seed}
    limits = [f"It was trained for the degradation {row.about.own} alone."] if row.about.own else []
    return Results(name, about, printable(group.dataset), _text(group, name, seed, known), known, tuple(limits))


def _text(group: Group, name: str, seed: int, known: Mapping[str, float]) -> str:
    """The sections of a model card on results, data and protocol."""
    mine = ", ".join(f"{key} {value:.1f} %" for key, value in known.items())
    seeds = f" The table has the mean over {len(group.seeds)} seeds." if len(group.seeds) > 1 else ""
    lead = f"This network ({name}, seed {seed}): {mine}.{seeds}" if mine else f"This network is {name}, seed {seed}."
    parts = ["## Results", escaped(lead), markdown_grid(answer_grid(group))]
    for other in group.others:
        parts += [f"### {escaped(kind_title(other.kind))}", markdown_grid(answer_grid(other))]
    size = f" of {group.size} pixels" if group.size else ""
    trained = f" Trained on {group.training}." if group.training else ""
    counts = sorted({f"{group.images[name]:,}" for name in group.degradations if group.levels[name]})
    parts += ["## Data", escaped(f"{group.dataset}{size}: {' or '.join(counts) or 'no'} test images.{trained}")]
    if lines := protocol_lines(group.protocol, group.select):
        parts += ["## Protocol", f"{escaped(group.protocol)}:\n\n" + "\n".join(f"- {escaped(line)}" for line in lines)]
    return "\n\n".join(parts)
