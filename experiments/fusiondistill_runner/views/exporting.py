"""Exports a network with what its store knows: its results for the model card, its test images for the check."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from fusiondistill.checkpoints import MANIFEST, CheckpointError, checkpoint_digest
from fusiondistill.counting import counted
from fusiondistill.exporting import Results, Trained, check_target, export, form_of, size_of
from fusiondistill.report.answers import ONE_CLASS
from fusiondistill.report.grid import escaped, markdown_grid
from fusiondistill.report.groups import Group, Row
from fusiondistill.report.summary import summarise
from fusiondistill.report.tables import answer_grid
from fusiondistill.report.words import kind_title, printable, protocol_lines
from fusiondistill_runner.storage.best import BEST, model_place, noted_best, stood_for
from fusiondistill_runner.storage.noted_plans import plans
from fusiondistill_runner.storage.parquet import read_parquet
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.answers import answers_of
from fusiondistill_runner.views.data_names import data_name
from fusiondistill_runner.views.results import kept_table, planned_table, results_table
from fusiondistill_runner.views.sample_tables import SAMPLES
from fusiondistill_runner.views.settings import settings

if TYPE_CHECKING:
    import torch

__all__ = ["export_network", "home_of", "kept_images", "results_of", "trained_on"]

METRICS = "metrics.parquet"
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
    from fusiondistill.checkpoints import load_checkpoint, model_of
    from fusiondistill.exporting.images import CLEAN, digits
    from fusiondistill.plugins import load_plugins, read_plugins

    load_plugins(read_plugins(plugins))
    given, model = model, model_place(model)
    home = home_of(model)
    if model != given:
        tell(f"network: {stood_for(Store(given))}")
    state, card = load_checkpoint(model)
    classifier = model_of(state, card, model)
    kept, of, how = kept_images(*home, card) if home else None, "test images of its store", " at several levels"
    if kept is None:
        pixels = digits(size_of(card))
        kept = Pictures(pixels, [number % CLEAN for number in range(len(pixels))])
        of, how = "scanned digits in its size", ", clean and degraded"
    shown = kept.some()
    results, trained = (results_of(*home), trained_on(*home)) if home else (None, None)
    written = export(classifier, card, out, shown.pixels, force=force, results=results, trained=trained, state=state)
    if results and results.warning:
        tell(f"warning: {results.warning}")
    for line in written.lines(shown.words(of, how)):
        tell(line)


class Pictures(NamedTuple):
    """Images to compare answers on, the same ones perhaps several times at several levels.

    Attributes:
        pixels: uint8 [n,3,H,W].
        images: of each picture which image it shows.
    """

    pixels: torch.Tensor
    images: Sequence[Hashable]

    def some(self) -> Pictures:
        """Evenly spread ones, since a large network takes long for all of them."""
        most = max(FEWEST, min(MOST, PIXELS // (self.pixels.shape[2] * self.pixels.shape[3])))
        step = -(-len(self.images) // most)
        return Pictures(self.pixels[::step], self.images[::step])

    def words(self, of: str, how: str) -> str:
        """How many images ``of`` what there are, and pictures where these are more: as ``how`` says."""
        images, pictures = len(set(self.images)), len(self.images)
        return f"{images:,} {of}" + (f"{how}, {pictures:,} pictures" if pictures > images else "")


def trained_on(store: Store, directory: str) -> Trained | None:
    """What a network of a store was trained on; None for one from elsewhere."""
    there = _plans_with(store, directory)
    manifest = store.manifest_of(directory)
    if not there or manifest is None or manifest["kind"] == "import":
        return None
    return Trained(data_name(there[0]["config"]), _training_images(store, directory, manifest))


def _training_images(store: Store, directory: str, manifest: Mapping[str, Any]) -> int | None:
    """How many images the first epoch of a training had, each counted once; of a merged network one that it is of."""
    if manifest["kind"] == "train" and METRICS in manifest["files"]:
        table = read_parquet(store.read_from(directory, METRICS))
        seen = table["images"].to_pylist() if "images" in table.column_names else []
        return round(seen[0] / max(1, len(manifest["spec"]["degradations"]))) if seen else None
    below = ((one, store.manifest_of(one)) for one in manifest["inputs"].values())
    return next((_training_images(store, one, its) for one, its in below if its), None)


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


def kept_images(store: Store, directory: str, card: Mapping[str, Any]) -> Pictures | None:
    """Real test images in the network's size, clean and degraded, that evaluations in a store kept.

    Returns:
        them, the network's own first; None where the store has none.
    """
    import torch

    seen = store.glance(MANIFEST, f"{SAMPLES.removesuffix('.parquet')}.*.parquet")
    there = _plans_with(seen, directory)
    own = [row["directory"] for plan in there for row in _evaluations(seen, plan, directory)]
    others = [row["directory"] for plan in there for row in plan["rows"]]
    found: list[tuple[torch.Tensor, Hashable]] = []
    for stage in dict.fromkeys([*own, *others]):
        if stage not in own and found:
            break
        manifest = seen.manifest_of(stage)
        if manifest and SAMPLES in manifest["files"]:
            data = json.dumps(manifest["spec"].get("data"), sort_keys=True)
            for row in read_parquet(seen.read_from(stage, SAMPLES)).select(["index", "image"]).to_pylist():
                if (pixels := _pixels(row["image"], size_of(card))) is not None:
                    found.append((pixels, (data, row["index"])))
    return Pictures(torch.stack([one for one, _ in found]), [image for _, image in found]) if found else None


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
    seen = store.glance(MANIFEST, "counts.*.parquet", "images.*.parquet", "predictions.*.parquet")
    best = (noted_best(store) or {}).get("stage") == directory
    for plan in _plans_with(seen, directory):
        rows = _evaluations(seen, plan, directory)
        answers = answers_of(seen, [plan], kept_table(store, "classes")) if rows else {}
        named = {(row["method"], row["seed"]) for row in rows}
        for method, seed in sorted(named, key=lambda one: -sum(one == (row["method"], row["seed"]) for row in rows)):
            table = results_table(seen, [plan], answers)
            for group in summarise(table, planned=planned_table([plan], table)):
                row = group.row(method)
                if row and row.cells and _is_whole(plan, rows, method, seed):
                    return _results(group, row, seed, best, _training(plan, method))
    return None


def _training(plan: Mapping[str, Any], method: str) -> str:
    """On how many images and for how many epochs a row and what it rests on were trained; "" for a checkpoint."""
    own = [one for one in plan.get("methods") or () if one["id"] == method and one["form"] != "file"]
    return settings({**plan, "methods": own})["training"] if own else ""


def _is_whole(plan: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], method: str, seed: int) -> bool:
    """Whether all of a method's figures are this network's: each of the oracle's is another's."""
    asked = [row for row in plan["rows"] if (row["method"], row["seed"]) == (method, seed)]
    return all(row in rows for row in asked)


def _results(group: Group, row: Row, seed: int, best: bool, training: str) -> Results:
    name = row.about.name
    about = f"It is the row {name} of the experiment {group.experiment}, seed {seed}: {row.about.line}."
    about += " Of the single networks of its run it is the one that validation chose." if best else ""
    figures = {"clean": row.clean, "mean over degradations": row.average}
    known = {key: cell.by_seed[seed] for key, cell in figures.items() if seed in cell.by_seed}
    limits = [f"It was trained for the degradation {row.about.own} alone."] if row.about.own else []
    text = _text(group, name, seed, known, training)
    warning = _warning(group, row, seed)
    marked = f"{name} {ONE_CLASS}" if warning else name
    return Results(marked, about, printable(group.dataset), text, known, tuple(limits), warning)


def _warning(group: Group, row: Row, seed: int) -> str:
    """What a network is worth that names one class for everything; "" for any other."""
    if seed not in row.always:
        return ""
    said = f'It names one class, "{printable(row.always[seed])}", for every test image at every level.'
    return said + (
        f" Always naming the largest class is right for {group.majority:.1f} %." if group.majority is not None else ""
    )


def _text(group: Group, name: str, seed: int, known: Mapping[str, float], training: str) -> str:
    """The sections of a model card on results, data and protocol."""
    mine = ", ".join(f"{key} {value:.1f} %" for key, value in known.items())
    seeds = f" The table has the mean over {len(group.seeds)} seeds." if len(group.seeds) > 1 else ""
    lead = f"This network ({name}, seed {seed}): {mine}.{seeds}" if mine else f"This network is {name}, seed {seed}."
    parts = ["## Results", escaped(lead), markdown_grid(answer_grid(group))]
    for other in group.others:
        parts += [f"### {escaped(kind_title(other.kind))}", markdown_grid(answer_grid(other))]
    size = f" of {group.size} pixels" if group.size else ""
    trained = f" Trained on {training}." if training else ""
    counts = sorted({counted(group.images[name], "test image") for name in group.degradations if group.levels[name]})
    parts += ["## Data", escaped(f"{group.dataset}{size}: {' or '.join(counts) or 'no test images'}.{trained}")]
    if lines := protocol_lines(group.protocol, group.select):
        parts += ["## Protocol", f"{escaped(group.protocol)}:\n\n" + "\n".join(f"- {escaped(line)}" for line in lines)]
    return "\n\n".join(parts)
