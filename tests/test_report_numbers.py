"""What stands behind the page's figures: counts of each number, gains, and the table for LaTeX."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import planned_report as report
from fusiondistill.report import counts
from fusiondistill.report.text import latex
from fusiondistill.report.text import latex_escaped as escaped
from report_tables import HOSTILE, METHODS, Page, known, rows_of, table


def embedded(text: str) -> dict[str, dict[str, list[list[object]]]]:
    found = re.search(r'<script type="application/json" id="counts">(.*?)</script>', text, flags=re.DOTALL)
    data: dict[str, dict[str, list[list[object]]]] = json.loads(known(found)[1])
    return data


def test_every_count_is_on_the_page_once(tmp_path: Path) -> None:
    rows = [{**row, "stage": f"evaluate-{row['method']}-{row['degradation']}-{row['seed']}"} for row in rows_of()]
    results = table(rows).append_column("stage", [[row["stage"] for row in rows]])
    text = report.write(tmp_path, results)[0].read_text()
    data = embedded(text)["1"]
    (group,) = report.summarise(results)
    by_cell: dict[tuple[str, str, int], list[int]] = {}
    for row in rows:
        by_cell.setdefault((row["method"], row["degradation"], row["seed"]), []).append(row["right"])
    for row_index, row in enumerate(group.rows):
        _, cells, average = data["rows"][row_index]
        assert [seed for seed, _ in average] == [0, 1, 2]  # type: ignore[attr-defined]
        for column, name in enumerate(group.degradations):
            for seed, mean, stages, rights in cells[column]:  # type: ignore[index]
                assert rights == by_cell[row.method, name, seed]
                assert mean == pytest.approx(row.cells[name].by_seed[seed], abs=0.005)
                assert stages == [f"evaluate-{row.method}-{name}-{seed}"]
    page = Page(text)
    line = next(row for row in page.rows if row[:3] == ["Base", "Blur", "1"])
    mean = group.rows[0].cells["blur"].by_seed[1]
    assert line[3:] == ["2", str(sum(by_cell["base", "blur", 1])), "80", f"{mean:.2f}", "evaluate-base-blur-1"]
    links = [value for tag, name, value in page.attributes if tag == "a" and name == "href" and "counts" in str(value)]
    assert len(links) == len(METHODS) * 5


def test_shards_and_missing_levels_are_told(tmp_path: Path) -> None:
    rows = rows_of(["base"], seeds=(0, 1), levels={"blur": (0, 25)})
    rows = [{**rows[0], "right": 4, "seen": 10}, {**rows[0], "right": 5, "seen": 30}, *rows[1:3]]
    data = embedded(report.write(tmp_path, table(rows))[0].read_text())["1"]
    (first, second) = data["rows"][0][1][0]  # type: ignore[index]
    assert first[3] == [9, rows[2]["right"]] and second[1] is None and second[3][1] is None


def test_what_a_page_has_no_room_for_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "_BUDGET", 100)
    text = report.write(tmp_path, table(rows_of()))[0].read_text()
    assert (
        embedded(text) == {}
        and "the store&#39;s results.parquet has all counts" in text
        and 'a class="number"' not in text
    )


def test_what_is_still_to_come_is_said_above_the_table(tmp_path: Path) -> None:
    rows = [row for row in rows_of(["base", "fusing"]) if (row["method"], row["seed"]) != ("fusing", 2)]
    page = Page(report.write(tmp_path, table(rows))[0].read_text())
    assert "4 of 8 numbers are not evaluated, or not for all seeds" in page.text["dd"]
    page = Page(report.write(tmp_path, table(rows_of()))[0].read_text())
    assert "not for all seeds" not in page.text["dd"]


def test_gains_are_differences_over_common_seeds(tmp_path: Path) -> None:
    rows = [row for row in rows_of(["base", "vanilla"]) if (row["method"], row["seed"]) != ("vanilla", 0)]
    page = Page(report.write(tmp_path, table(rows))[0].read_text())
    (group,) = report.summarise(table(rows))
    base, vanilla = (known(group.row(name)).cells["jpeg"].by_seed for name in ("base", "vanilla"))
    gain = sum(vanilla[seed] - base[seed] for seed in (1, 2)) / 2
    said = [v for tag, name, v in page.attributes if name == "aria-label" and str(v).startswith("Points above")]
    assert f"Vanilla: JPEG {gain:+.1f}" in str(said[0])


def test_latex_escapes_whatever_it_is_given() -> None:
    assert escaped("50 % of a_b & {c} #1 ~^ $x$ \\n") == (
        r"50 \% of a\_b \& \{c\} \#1 \textasciitilde{}\textasciicircum{} \$x\$ \textbackslash{}n"
    )
    odd = HOSTILE.replace("\ud800", "") + "\r\\end{tabular}\n\\input{/etc/passwd}%"
    rows = rows_of([odd, "base"], experiment=odd, levels={odd: (0, 1), "blur": (0, 1)}, protocol=odd)
    text = latex(report.summarise(table(rows)))
    for line in text.splitlines():
        allowed = line.startswith("%") or re.fullmatch(r"\\(toprule|midrule|bottomrule|(begin|end)\{tabular\}.*)", line)
        assert allowed or line.endswith(r"\\"), line
    shown = [line for line in text.splitlines() if not line.startswith("%")]
    assert len([line for line in shown if "{tabular}" in line]) == 2, "one begins and one ends"
    assert all(char.isprintable() or char == "\n" for char in text)


def test_latex_has_the_tables_numbers_and_columns() -> None:
    (group,) = report.summarise(table(rows_of()))
    text = latex([group])
    body = [line for line in text.splitlines() if line.endswith(r"\\")]
    assert len(body) == 1 + len(METHODS) and all(len(re.findall(r"(?<!\\)&", line)) == 5 for line in body)
    interval = known(known(group.row("fusing")).average.interval)
    line = next(line for line in body if line.startswith("{Fusing}"))
    assert line.endswith(rf"{{{interval.mean:.1f}}} {{\footnotesize $\pm${interval.half:.1f}}} \\")
    assert r"\usepackage{booktabs}" in text and latex([]).rstrip().endswith("Nothing is evaluated yet.")


@pytest.mark.skipif(not shutil.which("pdflatex"), reason="needs pdflatex")
def test_latex_compiles(tmp_path: Path) -> None:
    report.write(tmp_path, table(rows_of(["base", HOSTILE.replace("\ud800", "")])))
    packages = r"\documentclass{article}\usepackage[T1]{fontenc}\usepackage{booktabs}"
    (tmp_path / "whole.tex").write_text(packages + r"\begin{document}\input{table}\end{document}")
    subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "whole"], cwd=tmp_path, check=True)
