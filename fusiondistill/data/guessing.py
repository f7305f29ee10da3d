"""Chooses the data source and its keys for the files at a path."""

from __future__ import annotations

from pathlib import Path

from fusiondistill.data.errors import DataError
from fusiondistill.data.hub import SUFFIXES as PARQUET
from fusiondistill.data.tables import TABLES, tables_in
from fusiondistill.registry import close_to
from fusiondistill.sources import SOURCES

__all__ = ["keys_for"]

KNOWN = {"wnids.txt": "tiny_imagenet", "batches.meta": "cifar10"}
"""A file that only one published layout has -> its source."""
LABELS = ("train", "labels", "train_labels", "annotations", "metadata", "classes")
"""What tables of labels are called where several tables lie beside each other."""
MANY = 2000


def keys_for(path: Path) -> dict[str, str]:
    """The keys of ``data:`` that read the files at a path: ``name`` and ``root``, of a table also ``labels``.

    Args:
        path: a folder of images in one of the layouts of ``folder``, with Parquet files, or of a published set; a
            table; a Parquet file.

    Raises:
        DataError: nothing is there, or it is a file of another kind.
    """
    if path.is_dir():
        return _folder(path)
    if not path.exists():
        named = close_to(path.name, [name for name in SOURCES if not SOURCES[name].needs_root], listed=False)
        raise DataError(f"{path}: there is no such file, folder or data set{named or '.'}")
    suffix = path.suffix.lower()
    if suffix in TABLES:
        return {"name": "table", "images": str(_images_beside(path)), "labels": str(path)}
    if suffix in PARQUET:
        return {"name": "parquet", "root": str(path)}
    if suffix in (".zip", ".tar", ".gz", ".tgz", ".7z", ".rar"):
        raise DataError(f"{path}: is an archive. Unpack it, and give the folder.")
    raise DataError(
        f"{path}: is no folder, table ({', '.join(TABLES)}), Parquet file or config. Give the folder of the images."
    )


def _images_beside(table: Path) -> Path:
    """The folder of a table's images: one called images beside it, or that of the table."""
    called = [p for p in table.parent.iterdir() if p.is_dir() and p.name.lower() in ("images", "image", "imgs", "img")]
    return called[0] if len(called) == 1 else table.parent


def _folder(path: Path) -> dict[str, str]:
    root = {"root": str(path)}
    for place in (path, *sorted(entry for entry in path.iterdir() if entry.is_dir())[:20]):
        for file, name in KNOWN.items():
            if (place / file).is_file():
                return {"name": name, **root}
        if all((place / file).is_file() for file in ("train", "test", "meta")):
            return {"name": "cifar100", **root}
    if _has_parquet(path):
        return {"name": "parquet", **root}
    tables = tables_in(path)
    if len(tables) > 1:  # a competition's, beside a form for answers
        tables = [p for p in tables if p.stem.lower() in LABELS]
    if len(tables) == 1 and not _has_classes(path):
        return {"name": "table", "images": str(_images_beside(tables[0])), "labels": str(tables[0])}
    return {"name": "folder", **root}


def _has_parquet(path: Path) -> bool:
    """Whether Parquet files are among the first files below a folder."""
    for number, found in enumerate(path.rglob("*")):
        if found.suffix.lower() in PARQUET:
            return True
        if number > MANY:
            break
    return False


def _has_classes(path: Path) -> bool:
    """Whether the folders are those of splits or of classes, as the source ``folder`` reads them."""
    try:
        files = SOURCES["folder"].locate(path, cut=True)
    except DataError:
        return False
    return len({name.split("/")[1] for name in files}) > 1
