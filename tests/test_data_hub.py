"""Parquet sets as the Hub's tools, and people, name, number and nest their files."""

import io
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from fusiondistill.data import DataError, fingerprint, load_images
from fusiondistill.data.hub import locate
from fusiondistill.data.hub_card import card_configs
from fusiondistill.data.hub_names import Place, place_of


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))


def write(root: Path, *names: str, classes=("cat", "dog"), binary: bool = False, label: int = 0) -> Path:
    """A Parquet file of one image for each name; the image's grey is the number of the file."""
    for number, name in enumerate(names):
        buffer = io.BytesIO()
        Image.new("RGB", (2, 2), (number,) * 3).save(buffer, "PNG")
        cells = [buffer.getvalue() if binary else {"bytes": buffer.getvalue(), "path": "x.png"}]
        kind = pa.binary() if binary else pa.struct([("bytes", pa.binary()), ("path", pa.string())])
        table = pa.table({"image": pa.array(cells, kind), "label": pa.array([label])})
        features = {"label": {"names": list(classes), "_type": "ClassLabel"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, root / name)
    return root


def greys(root, split: str, **parameters) -> list[int]:
    return load_images("parquet", split, root, **parameters).images[:, 0, 0, 0].tolist()


LAYOUTS = {
    "push_to_hub": "data/train-00000-of-00002 data/train-00001-of-00002 data/test-00000-of-00001",
    "push_to_hub, older": "data/train-00000-of-00002-9e1b data/train-00001-of-00002-0a1b data/test-00000-of-00001-77",
    "refs/convert/parquet": "default/train/0000 default/train/0001 default/test/0000",
    "converted in part": "en/partial-train/0000 en/partial-train/0001 en/test/0000",
    "converted, very large": "en/train-part0/0000 en/train-part1/0000 en/test/0000",
    "converted before 2023": "mine/mine-train-00000-of-00002 mine/mine-train-00001-of-00002 mine/mine-test",
    "download_and_prepare": "mnist-train-00000-of-00002 mnist-train-00001-of-00002 mnist-test",
    "folders": "train/0 train/1 test/0",
    "folders of Spark": "train/part-00000-a.snappy train/part-00001-a.snappy test/part-00000-b.snappy",
    "folders in data": "data/train/a data/train/b data/eval/a",
    "folder and file": "data/train-00000-of-00002 data/train-00001-of-00002 test",
    "numbers": "train_0 train_1 test_0",
    "numbers without a mark": "train0 train1 test0",
    "capitals": "Train-a Train-b Test",
    "counted from one": "train-00001-of-00002 train-00002-of-00002 test-00001-of-00001",
    "other words": "training-a training-b dev",
}
LAYOUTS = {what: tuple(f"{name}.parquet" for name in names.split()) for what, names in LAYOUTS.items()}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts(layout, tmp_path):
    root = write(tmp_path / "set", *LAYOUTS[layout])
    assert greys(root, "train") == [0, 1] and greys(root, "test") == [2]


@pytest.mark.parametrize("word", ["test", "testing", "eval", "evaluation", "validation", "valid", "val", "dev"])
@pytest.mark.parametrize("form", ["data/{}-00000-of-00001.parquet", "{}/0000.parquet", "{}.parquet", "mine_{}.parquet"])
def test_words_of_the_test_split(word, form, tmp_path):
    root = write(tmp_path / "set", form.format("train"), form.format(word))
    assert greys(root, "test") == [1] and greys(root, "train") == [0]


@pytest.mark.parametrize(
    "layout, inside", [("push_to_hub", "data"), ("refs/convert/parquet", "default"), ("converted in part", "en")]
)
def test_the_folder_of_a_configuration_is_the_same_set(layout, inside, tmp_path):
    root = write(tmp_path / "set", *LAYOUTS[layout])
    listed = sorted(root.rglob("*.parquet"))
    assert fingerprint("parquet", root=root) == fingerprint("parquet", root=root / inside)
    assert fingerprint("parquet", root=root) == fingerprint("parquet", root=listed)


def test_a_set_that_a_hub_tool_wrote_is_said_to_be_partial(tmp_path):
    notes = locate(write(tmp_path, *LAYOUTS["converted in part"])).notes
    assert any("first part of train" in note for note in notes)


def test_the_download_cache_of_the_hub(tmp_path):
    top = tmp_path / "datasets--me--mine"
    for number, revision in enumerate(("aaaa", "bbbb")):
        blobs = write(top / "blobs", f"{number}-a.parquet", f"{number}-b.parquet", label=number)
        for split, blob in (("train", "a"), ("test", "b")):
            link = top / "snapshots" / revision / "data" / f"{split}-00000-of-00001.parquet"
            link.parent.mkdir(parents=True, exist_ok=True)
            link.symlink_to(blobs / f"{number}-{blob}.parquet")
    with pytest.raises(DataError, match="2 revisions"):
        locate(top)
    (top / "refs").mkdir()
    (top / "refs" / "main").write_text("bbbb")
    assert load_images("parquet", "train", top).labels.tolist() == [1]


def test_of_several_revisions_the_one_with_parquet_files_counts(tmp_path):
    top = tmp_path / "datasets--me--mine"
    write(top / "snapshots" / "converted", "default/train/0000.parquet", "default/test/0000.parquet")
    (top / "snapshots" / "uploaded").mkdir()
    (top / "refs").mkdir()
    (top / "refs" / "main").write_text("uploaded")
    assert locate(top)["train/train/0000.parquet"].parts[-4:-2] == ("converted", "default")


def test_hidden_folders_are_left_out_and_links_are_followed(tmp_path):
    real = write(tmp_path / "real", "train/0.parquet", "test/0.parquet")
    root = write(tmp_path / "set", ".cache/huggingface/train.parquet", "__old__/train.parquet", ".train.parquet")
    (root / "there").symlink_to(real)
    (real / "back").symlink_to(root)
    assert set(locate(root)) == {"train/train/0.parquet", "test/test/0.parquet"}


# --- several configurations and splits --------------------------------------------------------------------------------


def test_several_configurations_are_asked_for(tmp_path):
    names = (
        "en/train-00000-of-00001.parquet",
        "en/test-00000-of-00001.parquet",
        "de/train/0000.parquet",
        "de/test/0000.parquet",
    )
    root = write(tmp_path, *names)
    with pytest.raises(DataError, match=r"en \(.*data\.config: de"):
        locate(root)
    assert greys(root, "train", config="de") == [2] and greys(root, "test", config="en") == [1]
    assert greys(root / "en", "train") == [0]
    with pytest.raises(DataError, match=r"no configuration 'fr'.*de, en"):
        locate(root, config="fr")


def test_splits_of_other_names(tmp_path):
    root = write(
        tmp_path, *(f"data/{name}-00000-of-00001.parquet" for name in ("train_small", "train_large", "held_out"))
    )
    with pytest.raises(DataError, match=r"data\.train_split: train_large or train_small"):
        locate(root)
    assert greys(root, "train", train_split="train_large", test_split="held_out") == [1]
    assert greys(root, "test", train_split="train_large", test_split="held_out") == [2]
    with pytest.raises(DataError, match=r"no split 'big'\. There are .*train_small"):
        locate(root, train_split="big")


def test_a_name_that_is_a_keyword_goes_before_one_that_holds_it(tmp_path):
    root = write(tmp_path, *(f"data/{name}-00000-of-00001.parquet" for name in ("train_small", "train", "test")))
    assert greys(root, "train") == [1]
    assert any("not used: train_small" in note for note in locate(root).notes)


def test_names_that_say_nothing_are_told_with_what_to_write(tmp_path):
    root = write(tmp_path, "default/train/0000.parquet")
    with pytest.raises(DataError, match="folder above"):
        locate(root / "default" / "train")
    with pytest.raises(DataError, match=r"no test split among train; expected test-\*\.parquet.*data\.test_split"):
        load_images("parquet", "test", root)


def test_a_test_split_without_labels(tmp_path):
    write(tmp_path, "train.parquet", "validation.parquet")
    write(tmp_path, "test.parquet", label=-1)
    with pytest.raises(DataError, match=r"test\.parquet, row 0: the label -1.*data\.test_split: validation"):
        load_images("parquet", "test", tmp_path)
    assert greys(tmp_path, "test", test_split="validation") == [1]


# --- what is missing --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "names, lacking",
    [
        (
            ("data/train-00000-of-00003.parquet", "data/train-00002-of-00003.parquet"),
            "data/train-00001-of-00003.parquet",
        ),
        (("train-00000-of-00002-0af1.parquet",), "train-00001-of-00002-*.parquet"),
        (("train/0000.parquet", "train/0002.parquet"), "train/0001.parquet"),
        (("x-train-00001-of-00003.parquet", "x-train-00003-of-00003.parquet"), "x-train-00002-of-00003.parquet"),
    ],
)
def test_a_missing_part_is_named(names, lacking, tmp_path):
    with pytest.raises(DataError) as error:
        locate(write(tmp_path, *names, "test.parquet"))
    assert f"{lacking} is missing" in str(error.value)


@pytest.mark.parametrize(
    "names",
    [
        ("train-00000-of-00001-aa.parquet", "train-00000-of-00001-bb.parquet"),
        ("train-00000-of-00001.parquet", "train-00000-of-00002.parquet", "train-00001-of-00002.parquet"),
    ],
)
def test_parts_of_two_uploads_are_refused(names, tmp_path):
    with pytest.raises(DataError, match="earlier upload"):
        locate(write(tmp_path, *names))


def test_files_in_the_place_of_parquet_files(tmp_path):
    write(tmp_path, "test.parquet")
    (tmp_path / "train.parquet").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    with pytest.raises(DataError, match=r"train\.parquet.*git lfs pull"):
        load_images("parquet", "train", tmp_path)
    (tmp_path / "arrow" / "train").mkdir(parents=True)
    (tmp_path / "arrow" / "train" / "data-00000-of-00001.arrow").touch()
    with pytest.raises(DataError, match="save_to_disk"):
        locate(tmp_path / "arrow")


# --- README.md --------------------------------------------------------------------------------------------------------

CARD = """---
license: mit
configs:
- config_name: small
  data_files:
  - split: train
    path: files/a*.parquet
  - split: validation
    path: ["files/v.parquet"]
- config_name: large
  {default}data_files:
  - split: train
    path: files/**
  - split: test
    path: "files/t?.parquet"
dataset_info:
  features:
  - name: image
---
# A set
"""


def test_a_card_says_which_files_are_which(tmp_path):
    root = write(
        tmp_path, "files/a1.parquet", "files/a2.parquet", "files/v.parquet", "files/deep/b.parquet", "files/t1.parquet"
    )
    (root / "README.md").write_text(CARD.format(default=""))
    with pytest.raises(DataError, match=r"small \(train, validation\); large \(train, test\).*data\.config: small"):
        locate(root)
    assert greys(root, "train", config="small") == [0, 1] and greys(root, "test", config="small") == [2]
    assert greys(root, "test", config="large") == [4] and len(greys(root, "train", config="large")) == 5
    with pytest.raises(DataError, match="no configuration 'tiny'; it has small, large"):
        locate(root, config="tiny")
    (root / "README.md").write_text(CARD.format(default="default: true\n  "))
    assert greys(root, "test") == [4]
    assert any("makes large the default" in note for note in locate(root).notes)


@pytest.mark.parametrize(
    "files, expected",
    [
        ("data_files: a.parquet", {"train": ["a.parquet"]}),
        ("data_files: [a.parquet, b.parquet]", {"train": ["a.parquet", "b.parquet"]}),
        ("data_files: {train: a.parquet, test: [b.parquet]}", {"train": ["a.parquet"], "test": ["b.parquet"]}),
        ("data_files: '*.parquet'\n  data_dir: in", {"train": ["in/c.parquet"]}),
        ("data_dir: sub", {"train": ["sub/train.parquet"], "test": ["sub/test.parquet"]}),
        ("data_files: '**/c.parquet'", {"train": ["in/c.parquet"]}),
        ("data_files: ./[ab].parquet", {"train": ["a.parquet", "b.parquet"]}),
    ],
)
def test_forms_of_data_files(files, expected, tmp_path):
    card = tmp_path / "README.md"
    card.write_text(f"---\nconfigs:\n- config_name: default\n  {files}\n---\n")
    paths = ["a.parquet", "b.parquet", "in/c.parquet", "sub/train.parquet", "sub/test.parquet"]
    assert card_configs(card, paths)["default"].files == expected


@pytest.mark.parametrize(
    "text", ["", "# no head", "---\nconfigs: [", "---\nconfigs: 3\n---\n", "---\nconfigs: [*a]\n---\n"]
)
def test_a_card_that_says_nothing_is_no_card(text, tmp_path):
    (write(tmp_path, "train.parquet", "test.parquet") / "README.md").write_text(text)
    assert greys(tmp_path, "test") == [1]


def test_a_card_whose_files_were_not_fetched(tmp_path):
    write(tmp_path, "data/train-00000-of-00001.parquet")
    patterns = "data_files: [{split: train, path: data/train-*}, {split: test, path: data/test-*}]"
    (tmp_path / "README.md").write_text(f"---\nconfigs:\n- config_name: default\n  {patterns}\n---\n")
    with pytest.raises(DataError, match=r"data/test-\* is its test split; fetch it"):
        locate(tmp_path)


# --- classes and columns ----------------------------------------------------------------------------------------------


def test_the_same_classes_in_another_order_are_matched_by_name(tmp_path):
    write(tmp_path, "train.parquet", label=0)
    write(tmp_path, "test.parquet", classes=("dog", "cat"), label=0)
    train, test = (load_images("parquet", split, tmp_path) for split in ("train", "test"))
    assert train.classes == test.classes == ["cat", "dog"]
    assert train.labels.tolist() == [0] and test.labels.tolist() == [1]
    assert not train.notes and "test.parquet: the same classes in another order" in test.notes[0]


def test_a_split_that_stands_in_for_the_test_split_is_said(tmp_path):
    for word in ("valid", "dev", "eval"):
        write(tmp_path / word, "data/train-00000-of-00001.parquet", f"data/{word}-00000-of-00001.parquet")
        assert f"{word} is used as the test split" in locate(tmp_path / word).notes[0]
        assert not locate(tmp_path / word, test_split=word).notes
    write(tmp_path / "two", "train.parquet", "test.parquet", "validation.parquet")
    assert not any("is used as" in note for note in locate(tmp_path / "two").notes)


@pytest.mark.parametrize("classes, words", [(("cat", "cow"), "has 'cow' and lacks 'dog'"), (("cat",), "lacks 'dog'")])
def test_other_classes_are_named(classes, words, tmp_path):
    write(tmp_path, "train.parquet")
    write(tmp_path, "test.parquet", classes=classes)
    with pytest.raises(DataError, match=words):
        load_images("parquet", "train", tmp_path)


def test_a_plain_binary_column(tmp_path):
    assert greys(write(tmp_path, "train.parquet", "test.parquet", binary=True), "test") == [1]


@pytest.mark.parametrize(
    "path, place",
    [
        ("train-test-0.parquet", Place("", "train")),
        ("my_test_set/train/0000.parquet", Place("my_test_set", "train")),
        ("a/b/random/0000.parquet", Place("a/b", "random")),
        ("data/random-00000-of-00003.parquet", Place("data", "random")),
        ("trainset.parquet", Place("", "trainset")),
    ],
)
def test_places(path, place):
    assert place_of(path) == place


@pytest.mark.parametrize(
    "names",
    ["split=train/part-0 split=test/part-0", "v1/data/train/chunk-000/file-000 v1/data/test/chunk-000/file-000"],
)
def test_folders_of_other_tools(names, tmp_path):
    root = write(tmp_path, *(f"{name}.parquet" for name in names.split()), "metadata.parquet")
    assert greys(root, "train") == [0] and greys(root, "test") == [1]
    assert any("not used" in note and "metadata" in note for note in locate(root).notes)


def encoded(orientation: int = 1, **options) -> bytes:
    buffer, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    image = Image.new("RGBA", (2, 2), (9, 9, 9, 0))
    image.putpixel((1, 0), (200, 0, 0, 255))
    image.save(buffer, "PNG", exif=exif, **options)
    return buffer.getvalue()


def test_images_in_parquet_files_are_decoded_by_the_same_rules(tmp_path):
    broken = [encoded()[:50], b"", None]
    cells = [{"bytes": data, "path": None} for data in (encoded(), *broken, encoded(6))]
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    for split in ("train", "test"):
        table = pa.table({"image": pa.array(cells, kind), "label": pa.array([0, 1, 1, 0, 1])})
        pq.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=r"train\.parquet, row 1: cannot be decoded.*data\.broken: skip"):
        load_images("parquet", "train", tmp_path)
    images = load_images("parquet", "train", tmp_path, broken="skip", background="black")
    assert images.labels.tolist() == [0, 1] and len(images.classes) == 2
    assert images.images[0, 0].tolist() == [[0, 200], [0, 0]] and images.images[1, 0].tolist() == [[0, 0], [0, 200]]
    assert any("row 1" in note and "row 2" in note and "row 3" in note for note in images.notes)
