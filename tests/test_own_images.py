"""Photos as people have them: of any size, with or without splits, with a table of labels."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner
from PIL import Image

from fusiondistill import DataError, build_model, config_file, save_checkpoint
from fusiondistill.cards import card_of
from fusiondistill.data import fingerprint, load_images
from fusiondistill.data.resizing import resized
from fusiondistill.sources import SOURCES
from fusiondistill_runner.cli import main
from fusiondistill_runner.driving.prepared import prepare, prepare_evaluation


@pytest.fixture(autouse=True)
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("FUSIONDISTILL_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)


def photo(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def put(path: Path, seed: int, height: int = 8, width: int = 8) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(png(photo(seed, height, width)))


def classes_of(root: Path, count: int = 6, **sizes: int) -> Path:
    """``root/<class>/*.png``, of two classes."""
    for label, name in enumerate("ab"):
        for number in range(count):
            put(root / name / f"{number}.png", 100 * label + number, **sizes)
    return root


BASE = "experiment: x\nmethods: [base]\nmodel: {name: cifar_resnet8}\n"


def planned(data: str, *overrides: str):
    Path("c.yaml").write_text(f"{BASE}data: {data}\n")
    return prepare("c.yaml", overrides)


# --- sizes ------------------------------------------------------------------------------------------------------------


def reference(image: np.ndarray, height: int, width: int, left: int = 0, right: int = 0) -> np.ndarray:
    """Cubic convolution (a = -0.5), widened by the reduction, of the columns from ``left`` to ``right``, in float64."""

    def weights(new: int, old: int, first: int, last: int) -> np.ndarray:
        scale = max((last - first) / new, 1.0)
        centre = first + (np.arange(new)[:, None] + 0.5) * (last - first) / new
        x = np.abs((np.arange(old)[None] + 0.5 - centre) / scale)
        near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
        found = np.where(x < 1, near, np.where(x < 2, far, 0.0))
        return found / found.sum(1, keepdims=True)

    rows = weights(height, len(image), 0, len(image))
    columns = weights(width, image.shape[1], left, right or image.shape[1])
    return np.clip(np.einsum("ih,hwc,jw->ijc", rows, image.astype(np.float64), columns), 0, 255)


def fits(said: str) -> bool:
    """Whether the lines have at most 80 columns, but for a word (a path) that is longer by itself."""
    return all(len(line) <= 80 or len(line.split()) == 1 for line in said.splitlines())


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_an_image_is_resized_with_antialiasing(fit):
    image, wanted = photo(0, 24, 48), (8, 8)
    found = resized(image, wanted, fit)
    assert found.shape == (8, 8, 3) and found.dtype == np.uint8
    if fit == "crop":
        expected = reference(image, 8, 8, 12, 36)
    elif fit == "stretch":
        expected = reference(image, 8, 8)
    else:
        expected = np.zeros((8, 8, 3))
        expected[2:6] = reference(image, 4, 8)
    assert abs(found - expected).max() <= 2  # Pillow rounds after each of the two passes
    assert resized(image, (24, 48), fit) is image


def test_every_source_is_resized_once_into_an_entry_of_its_own(tmp_path):
    whole, small = load_images("digits", "train"), load_images("digits", "train", size=8)
    expected = resized(whole.images[3].permute(1, 2, 0).numpy(), (8, 8))
    assert (small.images[3].permute(1, 2, 0).numpy() == expected).all()
    assert tuple(load_images("digits", "test", size=(8, 12), fit="pad").images.shape[2:]) == (8, 12)
    prints = {fingerprint("digits", size=size, fit=fit) for size in (None, 8, (8, 12)) for fit in ("crop", "pad")}
    assert len(prints) == 6 and fingerprint("digits", size=8) == fingerprint("digits", size=(8, 8), fit="crop")
    with pytest.raises(ValueError, match=r"^size of the data set 'digits'"):
        load_images("digits", "train", size=0)


def test_mixed_sizes_are_counted_and_the_line_is_said(tmp_path):
    root = classes_of(tmp_path / "set" / "train", count=4)
    classes_of(tmp_path / "set" / "test")
    for number, (height, width) in enumerate([(90, 70), (90, 70), (40, 50), (41, 50), (42, 50), (43, 50), (44, 50)]):
        put(root / "b" / f"x{number}.png", number, height, width)
    told = r"15 images have 7 sizes: 8 of 8x8, 2 of 70x90, 1 of 50x40, .*, 2 of 2 other sizes.*write data\.size: 8 "
    with pytest.raises(DataError, match=told):
        planned(f"{{name: folder, root: {tmp_path}/set}}")
    prepared = planned(f"{{name: folder, root: {tmp_path}/set, size: 16, fit: pad}}", "data.validation=0.3")
    assert prepared.points[0].size == (16, 16)
    assert any(
        "15 images of 7 sizes" in note and "16x16 (pad); 8 of them are smaller" in note for note in prepared.notes
    )


def test_a_checkpoint_is_evaluated_on_images_of_the_size_that_its_card_says(tmp_path):
    for split in ("train", "test"):
        put(classes_of(tmp_path / "set" / split, count=2) / "a" / "x.png", 9, 12, 20)
    card = card_of("cifar_resnet8", None, classes=["a", "b"], mean=[100] * 3, std=[50] * 3, size=(8, 16), dataset="x")
    state = build_model("cifar_resnet8", 2).state_dict()
    save_checkpoint("one.safetensors", state, {**card, "fit": "pad"})
    line = ([f"data.root={tmp_path}/set", "degradations=[blur]"], str(tmp_path / "store"))
    found = prepare_evaluation(["one.safetensors"], *line, data="folder")
    assert any("test: 5 images of 2 sizes" in note and "16x8 (pad)" in note for note in found.notes)
    save_checkpoint("other.safetensors", state, {**card, "size": [8, 8]})
    with pytest.raises(DataError, match="have 2 sizes"):
        prepare_evaluation(["one.safetensors", "other.safetensors"], *line, data="folder")


def test_a_photo_may_be_larger_than_an_image_that_is_stored_as_it_is(tmp_path):
    for split in ("train", "test"):
        classes_of(tmp_path / "set" / split, count=1)
    Image.new("RGB", (2100, 2100), (9, 8, 7)).save(tmp_path / "set" / "train" / "a" / "0.png")
    with pytest.raises(DataError, match=r"2100x2100 pixels, more than the limit.*data\.size"):
        load_images("folder", "train", tmp_path / "set")
    assert load_images("folder", "train", tmp_path / "set", size=4).images[0, :, 0, 0].tolist() == [9, 8, 7]


def test_settings_at_their_default_are_in_no_digest():
    digests = [
        [stage.digest for stage in planned(data, "data.validation=0.2").plan.stages]
        for data in ("{name: digits}", "{name: digits, size: null, test: null}", "{name: digits, size: 8}")
    ]
    assert digests[0] == digests[1] and not set(digests[0]) & set(digests[2])
    with pytest.raises(config_file.ConfigError, match=r"data\.fit: says nothing without data\.size"):
        planned("{name: digits, fit: pad}")
    with pytest.raises(config_file.ConfigError, match=r"data\.root: is one folder or file, not a list"):
        planned("{name: parquet, root: [a.parquet, b.parquet]}")


# --- splits -----------------------------------------------------------------------------------------------------------


def test_a_test_split_is_cut_off_class_by_class_by_a_seed_of_its_own(tmp_path):
    root = classes_of(tmp_path / "set", count=10)
    for copy in range(4):  # five images of equal pixels, in files of different bytes
        image = Image.open(root / "a" / "0.png")
        image.save(root / "a" / f"copy{copy}.png", compress_level=copy)
    train, test = (load_images("folder", split, root, test=0.25) for split in ("train", "test"))
    assert len(train) + len(test) == 24 and test.labels.bincount().tolist() in ([3, 3], [4, 2], [3, 2], [4, 3])
    sides = [{image.numpy().tobytes() for image in one.images} for one in (train, test)]
    assert not sides[0] & sides[1]
    assert any("6 of 24" in note or "of 24 training images are cut off" in note for note in test.notes)
    again = load_images("folder", "test", root, test=0.25)
    other = load_images("folder", "test", root, test=0.25, split_seed=1)
    assert (again.images == test.images).all() and again.fingerprint == test.fingerprint != other.fingerprint
    assert train.mean == pytest.approx(train.images.double().mean((0, 2, 3)).tolist())
    digests = [
        {stage.digest for stage in planned(f"{{name: folder, root: {root}, {more}}}", "seeds=[5]").plan.stages}
        for more in ("test: 0.25", "test: 0.25, split_seed: 0", "test: 0.25, split_seed: 1")
    ]
    assert digests[0] == digests[1] and not digests[0] & digests[2]


def test_what_cannot_be_cut_is_said(tmp_path):
    root = classes_of(tmp_path / "set")
    with pytest.raises(DataError, match=r"2 folders with 12 images: a \(6\), b \(6\)\)\. .*write data\.test: 0\.2"):
        planned(f"{{name: folder, root: {root}}}")
    put(root / "c" / "only.png", 999)
    notes = planned(f"{{name: folder, root: {root}, test: 0.3}}", "data.validation=0.2").notes
    assert any("classes of one image, which stays for training: c" in note for note in notes)
    for split in ("train", "test"):
        classes_of(tmp_path / "both" / split)
    with pytest.raises(DataError, match=r"has a test split, so none is cut off"):
        planned(f"{{name: folder, root: {tmp_path}/both, test: 0.2}}")
    with pytest.raises(DataError, match="has a test split"):
        load_images("digits", "train", test=0.2)
    with pytest.raises(config_file.ConfigError, match=r"line 4: data\.test: digits has a test split"):
        planned("{name: digits, test: 0.2}")


LAYOUTS = {
    "capitals": ("Train/{}", "", "TEST/{}"),
    "deeper": ("dataset/train/{}", "", "dataset/test/{}"),
    "deeper, with another folder": ("data/train/{}", "", "data/testing/{}"),
    "validation beside test": ("train/{}", "val/{}", "test/{}"),
    "validation as people call it": ("Training/{}", "Valid/{}", "Testing/{}"),
    "as archives unpack": ("train/train/{}", "", "test/test/{}"),
    "a word of the name": ("images_train/{}", "val-set/{}", "Testset/{}"),
    "below the classes": ("{}/Train", "{}/valid", "{}/testing"),
    "below the classes, deeper": ("data/{}/train", "", "data/{}/test"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_layouts_of_folders(layout, tmp_path):
    train, validation, test = LAYOUTS[layout]
    for form, count in ((train, 5), (validation, 3), (test, 2)):
        for name in "ab" if form else "":
            for number in range(count):
                put(tmp_path / "set" / form.format(name) / f"{number}.png", number + ord(name) + 10 * count)
    if "another" in layout:
        (tmp_path / "set" / "docs").mkdir()
    counts = {split: len(load_images("folder", split, tmp_path / "set")) for split in ("train", "test")}
    assert counts == {"train": 10, "test": 4}
    prepared = planned(f"{{name: folder, root: {tmp_path}/set}}")
    specs = {stage.kind: stage.spec.data for stage in prepared.plan.stages}
    if validation:
        assert (
            specs["train"].validation_split and specs["train"].held_out == 0 and not specs["evaluate"].validation_split
        )
        assert len(load_images("folder", "validation", tmp_path / "set")) == 6
        assert "train 10, validation 6, test 4" in prepared.data[0].lines()[0]
        by_share = planned(f"{{name: folder, root: {tmp_path}/set, validation: 0.2}}")
        assert any("6 validation images are not used" in note for note in by_share.notes)
    else:
        assert specs["train"].held_out == 0.1 and "validation_split" not in specs["train"].model_dump()


def test_a_validation_split_stands_in_for_the_test_split_or_stays_beside_one_that_is_cut_off(tmp_path):
    for split, count in (("train", 10), ("val", 3)):
        classes_of(tmp_path / "set" / split, count=count)
    assert len(load_images("folder", "test", tmp_path / "set")) == 6
    there = {s: len(load_images("folder", s, tmp_path / "set", test=0.2)) for s in ("train", "validation", "test")}
    assert there == {"train": 16, "validation": 6, "test": 4}


def test_what_stands_beside_splits_below_the_classes_is_counted(tmp_path):
    root = tmp_path / "set"
    for name in "ab":
        for split, count in (("train", 5), ("val", 2), ("valid", 1), ("extra", 1)):
            for number in range(count):
                put(root / name / split / f"{number}.png", number + ord(name))
    put(root / "a" / "loose.png", 7)
    (root / "labels.txt").touch()
    train, test = (load_images("folder", split, root) for split in ("train", "test"))
    assert (len(train), len(test), train.classes) == (10, 4, ["a", "b"])
    notes = SOURCES["folder"].locate(root).notes
    assert "validation is used as the test split" in notes[0] and "read below the classes" in notes[1]
    told = [note.partition("left out: ")[2] for note in notes[2:]]  # the second validation folder is the test split's
    assert told == [
        "4 files or folders (1 beside the folders of the classes, 3 beside the folders of the splits)",
        "2 files or folders (2 beside the folders of the splits)",
    ]
    put(root / "c" / "test" / "0.png", 5)
    with pytest.raises(DataError, match="no folder called train"):
        load_images("folder", "train", root)


def test_a_class_may_be_called_train(tmp_path):
    for number, name in enumerate(("bus", "train")):
        put(tmp_path / "set" / name / "0.png", number)
        put(tmp_path / "set" / name / "1.png", 10 + number)
    assert load_images("folder", "train", tmp_path / "set", test=0.5).classes == ["bus", "train"]


def test_folders_that_are_no_classes_are_told_with_what_they_hold(tmp_path):
    for split in ("train", "test"):  # a competition's, whose classes stand in a table
        put(tmp_path / "splits" / split / "0.png", 0)
    for name in "ab":
        put(tmp_path / "deep" / name / "photos" / "0.png", 0)
        (tmp_path / "heic" / name).mkdir(parents=True)
        (tmp_path / "heic" / name / "0.heic").touch()
        (tmp_path / "empty" / name).mkdir(parents=True)
    for place, told in (
        ("splits", r"test \(1 image\), train \(1 image\)\)\. Where a table names"),
        ("deep", r"a \(1 folder inside a class, 1 image in these\), .*Give the folder that holds"),
        ("heic", r"a \(1 \.heic\), b \(1 \.heic\)\)\. Read are .*: convert the files"),
        ("empty", r"a \(nothing\), b \(nothing\)\)\. Give the folder"),
    ):
        for test in (None, 0.2):
            with pytest.raises(DataError, match=told):
                load_images("folder", "train", tmp_path / place, test=test)


def test_a_class_of_which_no_image_is_left_is_an_error(tmp_path):
    root = classes_of(tmp_path / "set")
    for path in (root / "b").iterdir():
        path.write_bytes(b"no image")
    with pytest.raises(DataError, match=r"all images of 1 class are broken and left out .*: b\."):
        load_images("folder", "train", root, test=0.2, broken="skip")


# --- tables -----------------------------------------------------------------------------------------------------------


def a_table(path: Path, rows: list[list[object]], separator: str = ",") -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file, delimiter=separator).writerows(rows)
    return path


FORMS = {
    "suffix": ("{}.PNG", ",", ["file", "label"]),
    "no suffix": ("{}", ",", ["id", "breed"]),
    "a folder in front": ("photos/{}.png", ";", ["path", "kind"]),
    "tabs": ("{}.png", "\t", ["x", "category"]),
    "no header": ("{}.png", ",", None),
    "more columns": ("{}.png", ",", ["width", "image", "class_name", "height"]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_of_labels(form, tmp_path):
    name, separator, header = FORMS[form]
    rows: list[list[object]] = [header] if header else []
    for number in range(8):
        put(tmp_path / "photos" / "sub" / f"n{number}.png", number)
        row = [name.format(f"n{number}"), "dog" if number % 2 else "cat"]
        rows.append(row if form != "more columns" else [8, *row, 8])
    file = a_table(tmp_path / ("labels.tsv" if form == "tabs" else "labels.csv"), rows, separator)
    found = [load_images("table", split, [tmp_path / "photos", file], test=0.25) for split in ("train", "test")]
    assert found[0].classes == ["cat", "dog"] and [len(one) for one in found] == [6, 2]
    pixels = {photo(number).tobytes(): number % 2 for number in range(8)}
    for one in found:
        for image, label in zip(one.images, one.labels.tolist(), strict=True):
            assert pixels[image.permute(1, 2, 0).numpy().tobytes()] == label
    plan = planned(f"{{name: table, images: {tmp_path}/photos, labels: {file}, test: 0.25}}", "data.validation=0.3")
    assert plan.plan.stages and plan.context.roots[0][1] == (f"{tmp_path}/photos", str(file))
    assert str(tmp_path) not in json.dumps([stage.spec.digested() for stage in plan.plan.stages])


TEXTS = {
    "as Excel saves Unicode": ("path\tlabel\n{}\tcat\n{}\tdog\n{}\tcat\n".encode("utf-16"), ["cat", "dog"]),
    "as pandas writes numbers": (b"path,label\n{},2.0\n{},10.0\n{},2\n", ["2", "10"]),
    "a column for each class": (b"image,cat,dog,cow\n{},1.0,0.0,0.0\n{},0,1,0\n{},1,0,0\n", ["cat", "dog"]),
    "paths of Windows": (
        b"\xef\xbb\xbfpath;label\n" + b"".join(b"D:\\x\\{};%s\n" % c for c in (b"a", b"b", b"a")),
        ["a", "b"],
    ),
}


@pytest.mark.parametrize("form", TEXTS)
def test_tables_as_programs_write_them(form, tmp_path):
    text, classes = TEXTS[form]
    for number, name in enumerate(("x/0.png", "y/1.png", "y/2.png")):
        put(tmp_path / name, number)
        mark, path = ("{}".encode("utf-16-le"), name.encode("utf-16-le")) if "Excel" in form else (b"{}", name.encode())
        text = text.replace(mark, path, 1)
    file = tmp_path / "labels.csv"
    file.write_bytes(text)
    found = load_images("table", "train", file, test=0.4)
    assert found.classes == classes and len(load_images("table", "test", file, test=0.4)) == 1
    assert any("labels.csv: column of the image" in note for note in found.notes)


@pytest.mark.parametrize(
    "column, cells, counts",
    [
        ("is_valid", "FTFT", {"train": 2, "test": 2}),
        ("Is Test", "0110", {"train": 2, "test": 2}),
        ("is_valid", "0?10", {"train": 3, "test": 1}),  # no column of splits: one is cut off
    ],
)
def test_a_column_of_yes_and_no_may_name_a_split(column, cells, counts, tmp_path):
    for number in range(4):
        put(tmp_path / f"{number}.png", number)
    said = {"T": "True", "F": "False"}
    rows = [[f"{number}.png", "ab"[number // 2], said.get(cell, cell)] for number, cell in enumerate(cells)]
    file = a_table(tmp_path / "labels.csv", [["image", "label", column], *rows])
    more = {"test": 0.25} if "?" in cells else {}
    assert {split: len(load_images("table", split, file, **more)) for split in counts} == counts


def test_a_path_does_not_lead_into_another_folder(tmp_path):
    for number, name in enumerate(("cat/0.png", "cat/1.png", "dog/2.png")):
        put(tmp_path / "set" / name, number)
    rows = [["path", "label"], ["/data/set/cat/0.png", "cat"], ["old/cat/1.png", "cat"], ["dog/2", "dog"]]
    file = a_table(tmp_path / "labels.csv", rows)
    assert len(load_images("table", "train", [tmp_path / "set", file], test=0.3)) == 2
    a_table(file, [*rows, ["dog/0.png", "dog"]])
    with pytest.raises(DataError, match=r"line 5 \(dog/0\.png\)"):
        load_images("table", "train", [tmp_path / "set", file], test=0.3)
    for text, told in ((b"PK\0\1", "is no text"), (b"path,label\n", "no line after")):
        file.write_bytes(text)
        with pytest.raises(DataError, match=told):
            load_images("table", "train", [tmp_path / "set", file], test=0.3)


def test_what_a_table_lacks_is_named_and_counted(tmp_path):
    for number in range(6):
        put(tmp_path / "set" / f"{number}.png", number)
    rows = [["image", "label", "split"], *([f"{n}.png", n % 2 + 1, "TRAIN" if n < 4 else "test"] for n in range(6))]
    rows += [["gone.png", 1, "train"], ["away.png", 2, "train"], ["0.png", "1", "TRAIN"]]
    put(tmp_path / "set" / "unnamed.png", 99)
    file = a_table(tmp_path / "set" / "labels.csv", rows)
    with pytest.raises(DataError, match=r"2 rows of labels\.csv whose image is not below .*line 8 \(gone\.png\).*skip"):
        load_images("table", "train", tmp_path / "set")
    images = load_images("table", "train", tmp_path / "set", broken="skip")
    assert images.classes == ["1", "2"] and images.labels.tolist() == [0, 1, 0, 1]
    for told in ("2 rows of labels.csv whose image", "1 image that labels.csv does not name", "1 row repeats"):
        assert any(told in note for note in images.notes), images.notes
    (tmp_path / "set" / "classes.txt").write_text("1 cat\n2 dog\n")
    assert load_images("table", "test", tmp_path / "set", broken="skip").classes == ["cat", "dog"]
    a_table(file, [*rows, ["1.png", 1, "train"]])
    with pytest.raises(DataError, match=r"line 11: 1\.png is '1' .*'2' .*in an earlier line"):
        load_images("table", "train", tmp_path / "set", broken="skip")
    a_table(file, [["image", "p", "q"], ["0.png", 1, 2]])
    with pytest.raises(DataError, match=r"which column holds the label: it may be p or q.*data\.label_column: NAME"):
        load_images("table", "train", tmp_path / "set", test=0.5)


# --- Parquet ----------------------------------------------------------------------------------------------------------


def shard(path: Path, labels: list[object], kind: pa.DataType, raw: bool = False, names: str = "") -> None:
    cells = [png(photo(number + len(path.name))) for number in range(len(labels))]
    image = pa.array(cells) if raw else pa.array([{"bytes": one, "path": None} for one in cells])
    table = pa.table({"image": image, "label": pa.array(labels, kind)})
    features = {"label": {"names": list(names), "_type": "ClassLabel"}}
    if names:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
@pytest.mark.parametrize("raw", [False, True])
def test_labels_that_are_texts(kind, raw, tmp_path):
    shard(tmp_path / "set" / "train.parquet", ["dog", "cat", "dog"], kind, raw)
    shard(tmp_path / "set" / "test.parquet", ["cat"], kind, raw)
    train, test = (load_images("parquet", split, tmp_path / "set") for split in ("train", "test"))
    assert train.classes == test.classes == ["cat", "dog"]
    assert train.labels.tolist() == [1, 0, 1] and test.labels.tolist() == [0]
    shard(tmp_path / "set" / "test.parquet", ["cow"], kind, raw)
    with pytest.raises(DataError, match=r"test\.parquet has images of 1 class that the training split lacks: cow"):
        load_images("parquet", "train", tmp_path / "set")


def test_parquet_files_without_a_test_split_and_with_a_validation_split(tmp_path):
    shard(tmp_path / "one" / "mine.parquet", ["a", "b"] * 5, pa.string())
    with pytest.raises(DataError, match=r"data\.test: 0\.2"):
        load_images("parquet", "train", tmp_path / "one")
    assert len(load_images("parquet", "test", tmp_path / "one", test=0.2)) == 2
    shard(tmp_path / "two" / "train.parquet", ["a", "b"] * 5, pa.string())
    with pytest.raises(DataError, match=r"no test split among train.*data\.test: 0\.2"):
        planned(f"{{name: parquet, root: {tmp_path}/two}}")
    shard(tmp_path / "two" / "validation.parquet", ["a", "b"], pa.string())
    assert len(load_images("parquet", "test", tmp_path / "two")) == 2
    assert len(load_images("parquet", "validation", tmp_path / "two", test=0.2)) == 2
    shard(tmp_path / "two" / "test.parquet", ["a"], pa.string())
    assert len(load_images("parquet", "validation", tmp_path / "two")) == 2
    shard(tmp_path / "kept" / "train.parquet", [0, 1] * 5, pa.int64())
    shard(tmp_path / "kept" / "test.parquet", [-1, -1], pa.int64())  # a competition keeps its labels
    with pytest.raises(DataError, match=r"-1 is outside.*data\.test: 0\.2"):
        load_images("parquet", "test", tmp_path / "kept")
    images = load_images("parquet", "test", tmp_path / "kept", test=0.2)
    assert len(images) == 2 and any("test split has no labels" in note for note in images.notes)


def test_named_classes_that_are_counted_from_one(tmp_path):
    shard(tmp_path / "set" / "train.parquet", [1, 2, 1], pa.int64(), names="ab")
    shard(tmp_path / "set" / "test.parquet", [2], pa.int64(), names="ab")
    train = load_images("parquet", "train", tmp_path / "set")
    assert train.labels.tolist() == [0, 1, 0] and any("from 1" in note for note in train.notes)


def test_numbers_without_names_that_are_counted_from_one_leave_no_idle_class(tmp_path):
    """The digest tells such a set from one that was stored when its classes began with an idle 0."""
    shard(tmp_path / "set" / "train.parquet", [1, 3, 1, 2], pa.int64())
    shard(tmp_path / "set" / "test.parquet", [3], pa.int64())
    train, test = (load_images("parquet", split, tmp_path / "set") for split in ("train", "test"))
    assert train.classes == ["1", "2", "3"] == test.classes
    assert train.labels.tolist() == [0, 2, 0, 1] and test.labels.tolist() == [2]
    found = SOURCES["parquet"].locate(tmp_path / "set")
    assert found.read_as == "labels from 1" and any("3 classes from 1" in note for note in train.notes)
    shard(tmp_path / "set" / "test.parquet", [0], pa.int64())
    assert SOURCES["parquet"].locate(tmp_path / "set").read_as == ""
    assert load_images("parquet", "train", tmp_path / "set").classes == ["0", "1", "2", "3"]


def test_the_column_of_labels_is_named_where_several_may_be_meant(tmp_path):
    shard(file := tmp_path / "set" / "train.parquet", [0, 1] * 5, pa.int64())
    table = pq.read_table(file).rename_columns(["image", "left"])
    table = table.append_column("right", pa.array(["x", "y", "z", "x", None] * 2))
    table = table.append_column("up", pa.array(range(10)))
    pq.write_table(table, file)
    options = {"name": "parquet", "split": "train", "root": tmp_path / "set", "test": 0.2}
    with pytest.raises(DataError, match=r"more than one label.* left \(int64\).* up .*Write data\.label_column: NAME"):
        load_images(**options)
    assert load_images(**options, label_column="left").classes == ["0", "1"]
    with pytest.raises(DataError, match=r"no column .*label_column.* 'rigt'; did you mean 'right'\?"):
        load_images(**options, label_column="rigt")
    with pytest.raises(DataError, match=r"row 4: column 'right' holds no label.*data\.broken: skip"):
        load_images(**options, label_column="right")
    images = load_images(**options, label_column="right", broken="skip")
    assert images.classes == ["x", "y", "z"]
    assert any("left out: 2 (" in note and "row 9" in note for note in images.notes)


def test_a_column_of_yes_and_no_is_one_of_labels(tmp_path):
    shard(tmp_path / "set" / "train.parquet", [True, False, True], pa.bool_())
    shard(tmp_path / "set" / "test.parquet", [True], pa.bool_())
    images = load_images("parquet", "train", tmp_path / "set")
    assert images.labels.tolist() == [1, 0, 1] and images.classes == ["0", "1"]


def test_labels_that_are_floating_point_numbers_are_whole(tmp_path):
    shard(tmp_path / "set" / "train.parquet", [2.0, 1.0, 2.0, None, float("nan")], pa.float32())
    shard(tmp_path / "set" / "test.parquet", [1.0], pa.float64())
    images = load_images("parquet", "train", tmp_path / "set", broken="skip")
    assert images.labels.tolist() == [1, 0, 1] and images.classes == ["1", "2"]
    shard(tmp_path / "half.parquet", [0.5, 1.0], pa.float64())
    with pytest.raises(DataError, match="column 'label' holds numbers that are not whole"):
        load_images("parquet", "train", tmp_path / "half.parquet", test=0.5)


def test_what_a_parquet_file_lacks_is_said_with_what_to_do(tmp_path):
    for name, table, told in (
        ("lists", {"image": [{"bytes": b"x"}], "label": [[1]]}, "Each image has one label: an integer or a text"),
        ("paths", {"image": ["a.png"], "label": [1]}, "must be in a column, not their paths"),
    ):
        pq.write_table(pa.table(table), tmp_path / f"{name}.parquet")
        with pytest.raises(DataError, match=told):
            load_images("parquet", "train", tmp_path / f"{name}.parquet", test=0.5)
    shard(tmp_path / "one" / "train.parquet", [0, 1, 0, 1], pa.int64())
    table = pq.read_table(tmp_path / "one" / "train.parquet").append_column("split", [["train"] * 2 + ["test"] * 2])
    pq.write_table(table, tmp_path / "one" / "train.parquet")
    notes = load_images("parquet", "train", tmp_path / "one", test=0.5).notes
    assert any("column 'split' is not read" in note for note in notes)


def test_a_table_finds_images_in_linked_folders(tmp_path):
    classes_of(tmp_path / "else", count=2)
    (tmp_path / "set").mkdir()
    for name in "ab":
        (tmp_path / "set" / name).symlink_to(tmp_path / "else" / name)
    (tmp_path / "else" / "a" / "back").symlink_to(tmp_path / "set")
    lines = [f"{path.parent.name}/{path.name},{path.parent.name}" for path in (tmp_path / "else").glob("*/*.png")]
    (tmp_path / "set" / "labels.csv").write_text("\n".join(["file,kind", *lines]))
    there = SOURCES["table"].locate([tmp_path / "set", tmp_path / "set" / "labels.csv"])
    assert len(there.labels) == len(lines) > 3


def test_a_test_class_that_training_lacks_is_an_error(tmp_path):
    shard(tmp_path / "set" / "train.parquet", [0, 1] * 10, pa.int64(), names="abc")
    shard(tmp_path / "set" / "test.parquet", [0, 2], pa.int64(), names="abc")
    with pytest.raises(DataError, match=r"test split has 1 image of 1 class without a training image: c"):
        planned(f"{{name: parquet, root: {tmp_path}/set}}")


# --- data check -------------------------------------------------------------------------------------------------------


def checked(*words: str) -> tuple[int, str]:
    said = CliRunner().invoke(main, ["data", "check", *words])
    return said.exit_code, said.output


def test_a_set_is_looked_at_by_its_name(tmp_path):
    code, text = checked("digits")
    assert code == 0 and "1,797 images (train 1,397, test 400), 10 classes" in text and "data: {name: digits}" in text
    code, text = checked("digit")
    assert code == 2 and "no such file, folder or data set; did you mean 'digits'?" in text


def test_a_look_at_a_folder_says_what_is_there_and_what_to_write(tmp_path):
    classes_of(Path("photos"), count=5)
    put(Path("photos/a/wide.png"), 50, 64, 80)
    code, said = checked("photos")
    assert code == 0 and fits(said), said
    for told in ("11 images (train 11), 2 classes", "10 of 8x8, 1 of 80x64", "11 RGB", "0 images are copies"):
        assert told in said, said
    assert "data: {name: folder, root: photos, size: 8, test: 0.2}" in said and "1.2 to 1" in said
    put(Path("photos/b/copy.png"), 0)  # the content of a/0.png
    Path("photos/a/grey.png").write_bytes(png(photo(7)[..., 0]))
    Path("photos/b/broken.png").write_bytes(b"no image")
    code, said = checked("photos", "--json")
    found = json.loads(said)
    assert code == 1 and found["data"]["broken"] == "skip"
    assert found["wrong"] == ["1 file is broken", "1 image is there with two labels"]
    assert found["splits"]["train"]["modes"] == {"RGB": 12, "L": 1} and "broken.png" in str(found["splits"])
    assert found["splits"]["train"]["classes"] == {"a": 7, "b": 6}


def test_a_look_at_other_forms(tmp_path):
    for split in ("train", "test"):
        classes_of(Path("set") / split, count=3)  # the same images in both
    assert (
        "among the training images, too (equal pixels): 6 test"
        in planned("{name: folder, root: set}", "data.validation=0.4").data[0].lines()[2]
    )
    code, said = checked("set")
    assert code == 1 and "6 images stand in two splits" in said and "data: {name: folder, root: set}" in said
    a_table(Path("set/train/a/labels.csv"), [["file", "kind"], ["0", "x"], ["1", "y"], ["2", "x"]])
    code, said = checked("set/train/a/labels.csv")
    assert code == 0 and "labels: set/train/a/labels.csv,\n  test: 0.2}" in said, said
    shard(Path("p/mine.parquet"), ["x", "y", "x"], pa.string(), raw=True)
    for place in ("p", "p/mine.parquet"):
        code, said = checked(place)
        assert code == 0 and f"data: {{name: parquet, root: {place}, test: 0.2}}" in said, said
    Path("c.yaml").write_text(f"{BASE}data: {{name: parquet, root: p}}\n")
    code, said = checked("c.yaml", "--set", "data.size=16")
    assert code == 0 and "data: {name: parquet, root: p, size: [16, 16], test: 0.2}" in said, said
    for wrong, words in (("nowhere/x", "there is no such file"), ("c.zip", "is an archive"), ("p/none", "no such")):
        if wrong.endswith(".zip"):
            Path(wrong).touch()
        code, said = checked(wrong)
        assert code == 2 and words in said, said


def test_what_is_to_be_written_can_be_pasted(tmp_path):
    place = Path("a folder, with a long name/of photos")
    for number in range(8):
        put(place / "images" / f"{number}.png", number, 8 + number % 3)
    rows = [["file", "class", "n"], *([f"{n}.png", "Cat" if n < 4 else "dog" if n < 7 else "cat", n] for n in range(8))]
    a_table(place / "labels.csv", [*rows, ["gone.png", "dog", 9], ["0.png", "", 9]])
    a_table(place / "test.csv", rows)
    code, said = checked(str(place))
    assert code == 1 and fits(said), said
    for told in ("nearly the same: Cat, cat", "tables that are not read: test.csv", "lack their image or label"):
        assert told in said, said
    Path("c.yaml").write_text(BASE + said.partition("write into the config:\n")[2])
    prepared = prepare("c.yaml", ["data.validation=0.3"])
    assert prepared.points[0].size == (8, 8) and "nearly the same" in prepared.data[0].alike


def test_a_set_that_cannot_be_used_is_said(tmp_path):
    put(Path("one/a/0.png"), 0)
    put(Path("one/a/1.png"), 1)
    code, said = checked("one")
    assert code == 1 and "wrong    all training images are of one class" in said, said
    put(Path("one/b/0.png"), 2)
    Path("one/a/1.png").unlink()
    code, said = checked("one")
    assert code == 1 and "wrong    no class has two images" in said, said
    for name in "ab":
        for number in range(2):
            Image.fromarray(np.full((8, 8), 3000 + number, np.uint16)).save(Path("one", name, f"{number}.png"))
    code, said = checked("one")
    assert code == 1 and "bits: 12, test: 0.2}" in said and "nearly black" in said, said
    shard(Path("p/train.parquet"), [0.5, 1.5], pa.float64())
    (classes_of(Path("empty"), count=2) / "c").mkdir()
    shard(Path("u/train.parquet"), [0, 1, 0, 1], pa.int64())
    shard(Path("u/test.parquet"), [-1, -1], pa.int64())
    assert "root: u, test: 0.2}" in checked("u")[1]
    Path("broken/a").mkdir(parents=True)
    Path("broken/a/0.png").write_bytes(b"no image")
    for place, told in (
        ("p", "numbers that are not whole"),
        ("empty", "empty/c: holds no image for this class"),
        ("broken", "none of 1 image can be decoded"),
    ):
        code, said = checked(place)
        assert code == 2 and told in said, said


def test_a_look_at_a_named_set_of_a_config(tmp_path):
    Path("c.yaml").write_text(BASE)
    code, said = checked("c.yaml")
    assert code == 0 and "1,797 images (train 1,397, test 400), 10 classes" in said and "all 16x16" in said, said
