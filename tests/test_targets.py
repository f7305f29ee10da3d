"""Places to write to: each command says the same of the same place, before any work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fusiondistill.exporting import ExportError, check_target
from fusiondistill.prediction_table import OutError, check_out
from fusiondistill.targets import why_no_file
from fusiondistill_runner.forecasting.wishes import Wish
from fusiondistill_runner.views.fusing_input import FuseError, checked_target

WAYS = {
    "fuse": (lambda out, force: checked_target(out, force=force), FuseError, ".safetensors"),
    "export": (lambda out, force: check_target(out, force=force), ExportError, ".onnx"),
    "predict": (lambda out, force: check_out(out, [], force=force), OutError, ".csv"),
    "init": (lambda out, force: Wish(path="photos", out=out, force=force).check_file(), ValueError, ".yaml"),
}


@pytest.mark.parametrize("verb", WAYS)
def test_a_file_is_written_where_nothing_is_lost(verb: str, tmp_path: Path) -> None:
    check, error, suffix = WAYS[verb]
    there, folder, dangling = (tmp_path / f"{name}{suffix}" for name in ("there", "folder", "dangling"))
    there.write_text("kept")
    folder.mkdir()
    dangling.symlink_to(tmp_path / "gone")
    check(str(tmp_path / f"new{suffix}"), False)
    check(str(there), True)
    refused = {
        (there, False): "is there already: give another name, or --force", (dangling, False): "is there already",
        (folder, True): "a folder is there: give the name of a file",
        (tmp_path / "no" / f"new{suffix}", True): r"there is no folder .*no; make it first",
        (there / f"new{suffix}", True): "there is no folder",
    }  # fmt: skip
    for (out, force), said in refused.items():
        with pytest.raises(error, match=said):
            check(str(out), force)
    assert there.read_text() == "kept"


@pytest.mark.skipif(os.geteuid() == 0, reason="the administrator may write everywhere")
@pytest.mark.parametrize("verb", WAYS)
def test_what_takes_no_files_is_named(verb: str, tmp_path: Path) -> None:
    check, error, suffix = WAYS[verb]
    closed, guarded = tmp_path / "closed", tmp_path / f"guarded{suffix}"
    closed.mkdir(mode=0o500)
    guarded.write_text("kept")
    guarded.chmod(0o400)
    with pytest.raises(error, match="takes no files from you"):
        check(str(closed / f"new{suffix}"), True)
    with pytest.raises(error, match="may not be changed by you"):
        check(str(guarded), True)


def test_a_bucket_is_asked_for_only_where_it_can_be_written() -> None:
    assert "this machine's disk" in (why_no_file("s3://bucket/file.csv", force=True) or "")
