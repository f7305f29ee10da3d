"""Small valid inputs of every loader, and what to call on damaged ones: shared by both kinds of fuzzing.

``CASES`` maps a name to (valid inputs, a function of (folder, bytes)). The function must return or raise one of
``OURS``, with a message; anything else is a bug.
"""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from PIL import Image

from fusiondistill import config_file
from fusiondistill.checkpoints import CheckpointError, card_of, from_card, parse_weights, sealed, to_safetensors
from fusiondistill.commits import digest, read_file, read_manifest
from fusiondistill.config_file import ConfigError
from fusiondistill.data import DataError, load_images
from fusiondistill.data.corruptions import check_corruptions, load_corruption
from fusiondistill.data.decoding import decode_image
from fusiondistill.data.pickles import read_pickle
from fusiondistill_runner.planning.specs import SearchSpec
from fusiondistill_runner.searching.journal import Journal
from fusiondistill_runner.searching.search_results import epoch_rows, summary, trial_rows
from fusiondistill_runner.storage.noted_plans import note_plan, plans
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.watching.status import status_lines
from fusiondistill_runner.watching.status_file import read_status
from running import TINY

OURS = (ConfigError, DataError, CheckpointError)
Case = tuple[list[bytes], Callable[[Path, bytes], object]]


def image(kind: str) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.arange(6 * 6 * 3, dtype=np.uint8).reshape(6, 6, 3)).save(stream, kind)
    return stream.getvalue()


def config(folder: Path, data: bytes) -> object:
    path = folder / "config.yaml"
    path.write_bytes(data)
    return config_file.load_points(str(path))


def override(folder: Path, data: bytes) -> object:
    return config_file.parse(TINY, overrides=[data.decode(errors="surrogateescape")])


def folder_images(folder: Path, data: bytes) -> object:
    for split in ("train", "test"):
        place = folder / "images" / split / "class"
        place.mkdir(parents=True, exist_ok=True)
        (place / "a.png").write_bytes(data)
    return [load_images("folder", split, folder / "images") for split in ("train", "test")]


def parquet() -> bytes:
    cells = pa.array([{"bytes": image("PNG"), "path": None}] * 6)
    features = {"info": {"features": {"label": {"names": ["a", "b"]}}}}
    table = pa.table({"image": cells, "label": pa.array([0, 1] * 3)})
    stream = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"huggingface": json.dumps(features)}), stream)
    return stream.getvalue()


def parquet_images(folder: Path, data: bytes) -> object:
    (folder / "train.parquet").write_bytes(data)
    return load_images("parquet", "train", folder / "train.parquet")


def archive() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in {
            "wnids.txt": b"n1\n", "words.txt": b"n1\tone\n", "val/val_annotations.txt": b"v.JPEG\tn1\t0\n",
            "train/n1/images/a.JPEG": image("PNG"), "val/images/v.JPEG": image("PNG"),
        }.items():  # fmt: skip
            out.writestr(f"tiny-imagenet-200/{name}", data)
    return stream.getvalue()


def archive_images(folder: Path, data: bytes) -> object:
    path = folder / "tiny.zip"
    path.write_bytes(data)
    return [load_images("tiny_imagenet", split, path) for split in ("train", "test")]


def array(values: Any) -> bytes:
    stream = io.BytesIO()
    np.save(stream, values)
    return stream.getvalue()


def corruption(folder: Path, data: bytes) -> object:
    place = folder / "corruptions"
    place.mkdir(exist_ok=True)
    (place / "fog.npy").write_bytes(data)
    (place / "labels.npy").write_bytes(array(np.tile([0, 1], 5)))
    check_corruptions(place, 2)
    return load_corruption(place, "fog", 5, 2)[0].sum()


def labels(folder: Path, data: bytes) -> object:
    place = folder / "labels"
    place.mkdir(exist_ok=True)
    (place / "fog.npy").write_bytes(array(np.zeros((10, 4, 4, 3), np.uint8)))
    (place / "labels.npy").write_bytes(data)
    check_corruptions(place, 2)
    return load_corruption(place, "fog", 5, 2)


CARD = card_of("cifar_resnet8", None, classes=["a", "b"], mean=(1.0, 2.0, 3.0), std=(1.0, 1.0, 1.0), size=(8, 8),
               dataset="d")  # fmt: skip


@cache
def weights() -> dict[str, torch.Tensor]:
    from fusiondistill.models import build_model

    state: dict[str, torch.Tensor] = build_model("cifar_resnet8", 2).state_dict()
    return state


def torch_file() -> bytes:
    stream = io.BytesIO()
    torch.save({"w": torch.arange(6.0).reshape(2, 3), "n": torch.tensor(1)}, stream)
    return stream.getvalue()


def card(folder: Path, data: bytes) -> object:
    """A sound file whose card is what a stranger wrote."""
    from safetensors.torch import save

    text = data.decode(errors="replace")
    state, found = parse_weights(save(weights(), metadata={"fusiondistill": text}), "model.safetensors")
    return from_card(state, found)


def resealed(data: bytes) -> bytes:
    """What a stranger would leave: changed facts under a seal of their own; what holds no facts as it is."""
    try:
        facts = json.loads(data)
    except (ValueError, RecursionError):
        return data
    return sealed({name: fact for name, fact in facts.items() if name != "seal"}) if isinstance(facts, dict) else data


def manifest(folder: Path, data: bytes) -> object:
    place = folder / "stage-0123456789abcdef"
    place.mkdir(exist_ok=True)
    (place / "a.x.bin").write_bytes(b"data")
    (place / "manifest.json").write_bytes(resealed(data))
    store = Store(folder)
    found = read_manifest(store.filesystem, str(place))
    for name in found["files"] if found else ():
        read_file(store.filesystem, str(place), found or {}, name)
    return found


def plan(folder: Path, data: bytes) -> object:
    store = Store(folder)
    store.write(resealed(data), "plans", "x.json")
    return plans(store), status_lines(store)


def status_file(folder: Path, data: bytes) -> object:
    from shelf import PLAN

    store = Store(folder)
    note_plan(store, PLAN, {})
    store.write(data, "status.json")
    return read_status(store), status_lines(store)


def progress(folder: Path, data: bytes) -> object:
    from shelf import PLAN

    store, stage = Store(folder), PLAN.stages[0]
    store.write(resealed(data), stage.directory, "progress.json")
    return store.load_progress(stage), store.epochs_stored(stage.directory), store.stored([stage])


def journal(folder: Path, data: bytes) -> object:
    """A candidate under a digest of its own: the search would delete its trainings only, for any content."""
    from shelf import PLAN

    search, store = next(stage for stage in PLAN.stages if stage.kind == "search"), Store(folder)
    address = {"search": search.digest, "made_from": store.made_from(search)}
    body = f'{json.dumps(address)[:-1]}, "candidate": {data.decode(errors="replace")}}}'
    content = json.dumps({"sha256": digest(body.encode()), "body": body})
    store.write(content.encode(), search.directory, "last.candidate-000000.json")
    found = Journal(search, store).candidates
    for one in found:
        assert all(re.fullmatch(r"(trial|fusiondistill)-[0-9a-f]{16}", name) for name in one.directories)
        assert isinstance(search.spec, SearchSpec) and summary(one, search.spec)
    return trial_rows([summary(one, search.spec) for one in found]), epoch_rows(found, ("jpeg",))


def lease(folder: Path, data: bytes) -> object:
    from fusiondistill_runner.storage.lease import _dead, _who

    return _dead(data), _who(data)


def _facts() -> bytes:
    files = {"a.bin": {"file": "a.x.bin", "sha256": "0" * 64, "bytes": 4}}
    return json.dumps({"attempt": "x", "digest": "d", "files": files}).encode()


def _plan() -> bytes:
    from shelf import PLAN

    return json.dumps(PLAN.describe()).encode()


def _candidate(outcome: str, value: float) -> bytes:
    row = {"epoch": 1.0, "validation": 0.5, "validation_jpeg": 0.5, "seconds": 1.0}
    return json.dumps(
        {"number": 0, "values": {"loss.ce": value}, "directories": ["../victim"], "rows": {"1": row},
         "outcome": outcome, "error": None, "started": 1.0, "finished": 2.0}
    ).encode()  # fmt: skip


def _status() -> bytes:
    from shelf import PLAN

    running = [{"directory": PLAN.stages[0].directory, "since": 1.0, "epoch": 1, "epochs": 2, "worker": "w"}]
    return json.dumps(
        {"state": "running", "host": "h", "machine": "m", "process": 1, "updated": 1e12, "running": running,
         "seconds_left": 3.0, "complete": False, "failed": [], "finished": 0}
    ).encode()  # fmt: skip


def _batch() -> bytes:
    return pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1], "names": [b"a", "b"]}, protocol=2)


SWEEP = TINY + "sweep:\n  model.name: [cifar_resnet8, cifar_resnet14]\n  base: [{epochs: 1}, {epochs: 2}]\n"


@cache
def cases() -> dict[str, Case]:
    """Name -> (valid inputs, what to do with a damaged one)."""
    pictures = [image(kind) for kind in ("PNG", "JPEG", "BMP", "WEBP", "AVIF", "JPEG2000")]
    arrays = [array(np.zeros((10, 4, 4, 3), np.uint8))]
    return {
        "config": ([TINY.encode(), SWEEP.encode()], config),
        "override": ([b"base.epochs=3", b"search={space: {loss.kd: {uniform: [0.1, 1]}}}", b"seeds=[1, 2]"], override),
        "image": (pictures, lambda folder, data: decode_image(data, "here")),
        "folder": (pictures[:1], folder_images),
        "parquet": ([parquet()], parquet_images),
        "archive": ([archive()], archive_images),
        "pickle": ([_batch()], lambda folder, data: read_pickle(data, "here")),
        "corruption": (arrays, corruption),
        "labels": ([array(np.tile([0, 1], 5)), array(np.array([0, 1]))], labels),
        "safetensors": (
            [to_safetensors({"w": torch.arange(6.0), "n": torch.tensor(1)}, CARD)],
            lambda folder, data: parse_weights(data, "model.safetensors"),
        ),
        "torch": ([torch_file()], lambda folder, data: parse_weights(data, "model.pt")),
        "card": ([json.dumps(CARD).encode()], card),
        "manifest": ([_facts(), sealed(json.loads(_facts()))], manifest),
        "plan": ([_plan()], plan),
        "progress": ([sealed({"file": "last.a.1.pt", "epoch": 1, "sha256": "0" * 64, "made_from": {}})], progress),
        "journal": ([_candidate("done", 0.5), _candidate("open", 0.25)], journal),
        "status": ([_status()], status_file),
        "lease": ([b'{"who": "process 1", "machine": "here", "process": 1, "beat": 1, "held": true}'], lease),
    }
