"""Archives and folders that are damaged, hostile or incomplete: a DataError that names the file and the member."""

import io
import time
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fusiondistill.data import DataError, decoding, load_images
from fusiondistill.data.archive import open_zip


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def png(height=4, width=4, value=7) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fails(*parts: str, name="tiny_imagenet", split="train", root=None) -> None:
    """Loading must fail with a DataError that contains all the parts."""
    with pytest.raises(DataError) as error:
        load_images(name, split, root)
    for part in parts:
        assert part in str(error.value), str(error.value)


# --- Tiny ImageNet ----------------------------------------------------------------------------------------------------

TINY = {
    "wnids.txt": b"n1\nn2\n",
    "words.txt": b"n1\tone\n",
    "val/val_annotations.txt": b"v.JPEG\tn2\t0\n",
    "train/n1/images/a.JPEG": png(),
    "train/n2/images/b.JPEG": png(),
    "val/images/v.JPEG": png(),
}


def write_zip(path: Path, members: dict[str, bytes], prefix="tiny-imagenet-200/", extra=()) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(prefix + name, data)
        for info, data in extra:
            archive.writestr(info, data)
    return path


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = 0o120777 << 16
    return info


@pytest.mark.parametrize(
    "extra, reason",
    [
        ("../../evil.txt", "outside"),
        ("tiny-imagenet-200/../../evil", "outside"),
        ("/etc/evil", "outside"),
        ("C:/evil", "outside"),
        ("..\\evil", "outside"),
        (link("tiny-imagenet-200/train/n1/images/c.JPEG"), "is a link"),
    ],
)
def test_a_zip_with_members_that_lead_out_is_refused(extra, reason, tmp_path):
    path = write_zip(tmp_path / "x.zip", TINY, extra=[(extra, b"/etc/passwd")])
    before = {item for item in tmp_path.rglob("*") if "cache" not in item.parts}
    fails(str(path), reason, root=path)
    assert {item for item in tmp_path.rglob("*") if "cache" not in item.parts} == before


def test_a_zip_bomb_is_refused_unread(tmp_path):
    with zipfile.ZipFile(write_zip(tmp_path / "x.zip", TINY), "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("tiny-imagenet-200/train/n1/images/c.JPEG", bytes(decoding.MAX_FILE_BYTES + 1))
    start = time.process_time()
    fails("c.JPEG", "67,108,865 bytes", root=tmp_path / "x.zip")
    assert time.process_time() - start < 10


def test_a_zip_may_list_its_own_folder(tmp_path):
    """Some tools write it; a member without any name is passed over."""
    nameless = zipfile.ZipInfo("a")
    nameless.filename = "\0a"  # which is read as ""
    path = write_zip(tmp_path / "x.zip", TINY, extra=[("./", b""), (nameless, b"")])
    assert {"./", ""} <= set(zipfile.ZipFile(path).namelist())
    assert len(load_images("tiny_imagenet", "train", path)) == 2


def test_a_member_that_is_no_longer_what_was_packed(tmp_path):
    """By each of the ways to pack: what their libraries raise is told as a damage of the member."""
    for kind in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        path = tmp_path / f"{kind}.zip"
        with zipfile.ZipFile(path, "w", kind) as out:
            out.writestr("a", np.random.default_rng(0).bytes(2000))
        sound = path.read_bytes()
        for at in (30, 33, *range(50, 60), 500, 1500):
            path.write_bytes(sound[:at] + bytes([sound[at] ^ 0xFF]) + sound[at + 1 :])
            with pytest.raises(DataError, match=rf"{kind}\.zip.*damaged"), open_zip(path) as archive:
                archive.read("a")


def test_a_name_that_is_no_text(tmp_path):
    """The flag says UTF-8, the bytes are none: in the directory at the end, or before the member."""
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as out:
        out.writestr("é", b"x")
    sound = (tmp_path / "x.zip").read_bytes()
    for at in (sound.index("é".encode()), sound.rindex("é".encode())):
        (tmp_path / "x.zip").write_bytes(sound[:at] + b"\xff" + sound[at + 1 :])
        with pytest.raises(DataError, match=r"x\.zip"), open_zip(tmp_path / "x.zip") as archive:
            archive.read("é")


def test_tiny_imagenet_that_is_incomplete(tmp_path):
    def check(*parts, split="train", **changes):
        members = {name: data for name, data in (TINY | changes).items() if data is not None}
        path = write_zip(tmp_path / "x.zip", members)
        fails("x.zip", *parts, split=split, root=path)
        folder = tmp_path / f"folder{len(list(tmp_path.iterdir()))}"
        for name, data in members.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        fails(*parts, split=split, root=folder)

    check("wnids.txt", **{"wnids.txt": None})
    check("wnids.txt", "twice", **{"wnids.txt": b"n1\nn1\n"})
    check("wnids.txt", "no text", **{"wnids.txt": b"\xff\xfe\n"})
    check("words.txt", "missing", **{"words.txt": None})
    check("train/n2/images", "no image", **{"train/n2/images/b.JPEG": None})
    check("n3", "not in wnids.txt", **{"train/n3/images/b.JPEG": png()})
    check("val/images/v.JPEG", "missing", split="test", **{"val/images/v.JPEG": None})
    check("val_annotations.txt", "line 2", split="test", **{"val/val_annotations.txt": b"v.JPEG\tn2\nv.JPEG\tn9\n"})
    check("line 1", split="test", **{"val/val_annotations.txt": b"../../train/n1/images/a.JPEG\tn2\n"})
    check("b.JPEG", "cannot be decoded", **{"train/n2/images/b.JPEG": png()[:50]})
    check("b.JPEG: the image is 9x4", **{"train/n2/images/b.JPEG": png(4, 9)})


def test_a_damaged_zip(tmp_path):
    path = write_zip(tmp_path / "x.zip", TINY)
    content = path.read_bytes()
    inside = content.index(b"n1/images/a.JPEG") + 40
    flipped = content[:inside] + bytes([content[inside] ^ 16]) + content[inside + 1 :]
    for damaged in (b"", content[:100], content[:-30], flipped):
        path.write_bytes(damaged)
        fails("x.zip", "again", root=path)
    fails("needs a root")
    fails("nowhere", root=tmp_path / "nowhere")


# --- a folder ---------------------------------------------------------------------------------------------------------


def test_a_folder_with_mistakes(tmp_path):
    fails("needs a root", name="folder")
    fails("no such folder", name="folder", root=tmp_path / "nowhere")
    fails("is an empty folder", "root/train/<class>", name="folder", root=tmp_path)
    for name in ("train/cat/0.png", "train/dog/0.png", "test/cow/0.png"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(png())
    fails("test: has images of 1 class without", "cow", "cat, dog", name="folder", split="test", root=tmp_path)
    (tmp_path / "test" / "cow").rename(tmp_path / "test" / "cat")
    (tmp_path / "train" / "dog" / "1.png").write_bytes(png(4, 6))
    fails("dog/1.png: the image is 6x4", "cat/0.png is 4x4", name="folder", root=tmp_path)
    (tmp_path / "test" / "cat" / "0.png").unlink()
    fails("no image of the test split", name="folder", split="test", root=tmp_path)
