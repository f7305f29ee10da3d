"""One report over several stores: names told apart, tables below each other, errors in words."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from fusiondistill_runner.cli import main
from fusiondistill_runner.storage.store import Store
from fusiondistill_runner.views.side_by_side import labels, merged, open_stores, side_by_side
from report_tables import Page
from shelf import Shelf

RIGHT = np.arange(120).reshape(2, 60) % 3 > 0


def shelf(path: Path, experiment: str, *methods: str) -> Shelf:
    made = Shelf(path, experiment)
    for method in methods:
        for degradation in ("jpeg", "blur"):
            made.piece(method, 0, degradation, RIGHT, [1, 2])
    made.write()
    return made


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Two stores with an experiment of the same name, and one with another."""
    folder = tmp_path_factory.mktemp("stores")
    shelf(folder / "a", "x", "base", "fusing")
    shelf(folder / "b", "x", "base")
    shelf(folder / "c", "y", "base")
    return [str(folder / name) for name in "abc"]


def run(*arguments: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, ["report", *arguments])
    return result.exit_code, result.output


def test_experiments_of_the_same_name_are_told_apart(stores: list[str], tmp_path: Path) -> None:
    tables = side_by_side(open_stores(stores))
    assert set(tables["results"]["experiment"].to_pylist()) == {"x (a)", "x (b)", "y"}
    assert {name.partition(":")[0] for name in tables["facts"]} == {"a", "b", "c"}
    code, output = run(*stores, "--out", str(tmp_path / "out"))
    assert code == 0 and output.endswith(f"report: {tmp_path / 'out' / 'index.html'}\n")
    assert all(f"{name} · data" in output for name in ("x (a)", "x (b)", "y"))
    page = Page((tmp_path / "out" / "index.html").read_text())
    assert [row[0] for row in page.rows[1:4]] == ["x (a)", "x (b)", "y"], "the overview"
    assert not (Path(stores[1]) / "report").exists(), "several stores make no report in any of them"


def test_stores_that_cannot_be_written_are_reported_all_the_same(
    stores: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: Store, data: bytes, *parts: str) -> None:
        raise PermissionError(13, "Permission denied", "/".join(parts))

    monkeypatch.setattr(Store, "write", refused)
    (Path(stores[0]) / "comparisons.parquet").unlink()
    code, output = run(*stores, "--out", str(tmp_path / "out"))
    assert code == 0, output
    page = Page((tmp_path / "out" / "index.html").read_text())
    pairs = [{row[0], row[1]} for row in page.rows if len(row) == 9]
    assert {"Base", "Fusing"} in pairs, "the paired tests are there, too"
    assert not (Path(stores[0]) / "comparisons.parquet").exists()


def test_one_store_is_reported_where_it_lies_or_where_it_is_told(stores: list[str], tmp_path: Path) -> None:
    code, output = run(stores[2])
    assert code == 0 and output.endswith(f"report: {stores[2]}/report/index.html\n")
    inside = (Path(stores[2]) / "report" / "index.html").read_bytes()
    code, output = run(stores[2], "--out", str(tmp_path))
    assert code == 0 and (tmp_path / "index.html").read_bytes() == inside
    assert {path.name for path in tmp_path.iterdir()} == {"index.html", "table.md", "table.tex", "figures"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["{a}", "{a}/"], "given twice"),
        (["{a}", "{a}/../nowhere"], "does not exist"),
        (["{a}", "{b}", "--out", "{a}/results.parquet"], "takes a directory"),
        ([], "Missing argument"),
    ],
)
def test_what_cannot_be_reported_is_said(stores: list[str], arguments: list[str], said: str) -> None:
    run(stores[0])
    code, output = run(*(argument.format(a=stores[0], b=stores[1]) for argument in arguments))
    assert code == 2 and said in output


def test_stores_are_called_by_as_much_as_tells_them_apart() -> None:
    assert labels(["/runs/a", "s3://bucket/b/"]) == ["a", "b"]
    assert labels(["/mine/run", "/yours/run", "run"]) == ["mine/run", "yours/run", "run"]


def test_tables_need_not_have_the_same_columns() -> None:
    import pyarrow as pa

    def part(**columns: Any) -> dict[str, Any]:
        return {"results": pa.table({"experiment": ["x"]}), "trials": pa.table({"experiment": ["x"], **columns}),
                "curves": None, "facts": {"command": "c"}}  # fmt: skip

    found = merged(["a", "b"], [part(kd=[0.5]), part(method=["ties"])])
    assert found["trials"].to_pylist() == [
        {"experiment": "x (a)", "kd": 0.5, "method": None}, {"experiment": "x (b)", "kd": None, "method": "ties"},
    ]  # fmt: skip
    assert "curves" not in found and merged(["a"], [part()])["facts"] == {"command": "c"}
