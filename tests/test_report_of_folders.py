"""Reports on data sets whose name alone says nothing."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from running import fusiondistill


def test_paired_tests_of_a_folder_are_in_its_report(tmp_path: Path) -> None:
    """Tables of counts and of tests are matched by the name of the data, which has the end of the root in it."""
    numbers = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("a", "b"):
            (tmp_path / "mine" / split / label).mkdir(parents=True)
            for number in range(4):
                pixels = numbers.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / "mine" / split / label / f"{number}.png")
    (tmp_path / "c.yaml").write_text(
        f"experiment: x\ndata: {{name: folder, root: {tmp_path / 'mine'}, validation: 0}}\nselect: last\n"
        "model: {name: cifar_resnet8}\nmethods: [base, modelsoups]\nsearch: null\ndegradations: [noise]\n"
        "base: {epochs: 1}\nexpert: {epochs: 1}\nevaluation: {every: 50}\n"
    )
    done = fusiondistill("run", str(tmp_path / "c.yaml"), "--local", "--store", str(tmp_path / "store"), cache=tmp_path)
    assert done.returncode == 0, done.stderr
    tested = pq.read_table(tmp_path / "store" / "comparisons.parquet").to_pylist()
    assert [row["dataset"] for row in tested] == ["folder mine"]
    page = (tmp_path / "store" / "report" / "table.md").read_text()
    assert "Not tested in pairs" not in page and "data folder mine" in page
