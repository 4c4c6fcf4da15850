"""Reports and sweeps that somebody changed by hand: one line says what is wrong, and no page runs what they hold."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from lloydmax import Report, ReportError
from lloydmax.report.curves import DamageCurves
from lloydmax.teacher.agreement import Agreement
from lloydmax_command import main
from report_runs import measured

SCRIPT = "</script><script>alert(1)</script>\"'"


def changed(data: Any, path: tuple[str | int, ...], value: Any) -> str:
    """The data as JSON text with another value at a path; a text that starts with ``=`` stands as it is."""
    data = json.loads(json.dumps(data))
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    return re.sub(r'"=([^"]*)"', r"\1", json.dumps(data))


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("recovery",), [{}], r"recovery\[0\]\.step"),
        (("recovery", 1, "history"), None, r"recovery\[1\]\.history"),
        (("recovery", 1, "history"), {"curves": {}}, r"recovery\[1\]\.history\.total"),
        (("recovery", 1, "history", "curves"), {"loss": [[]]}, r"recovery\[1\]\.history\.curves\.loss"),
        (("data",), {"data": {}}, r"data\.data\.samples"),
        (("data",), {"data": {"samples": 1, "left_out": 1, "which": None}}, r"data\.data\.which"),
        (("stages", 0, "score"), "=1e999", "1e999"),
        (("stages", 0, "score"), "=-1e308", "1e308"),
        (("seconds", "prepare"), "=1e999", "1e999"),
        (("stages", 0, "score"), "nan", r"stages\[0\]\.score"),
        (("stages", 0, "score"), True, r"stages\[0\]\.score"),
        (("model",), "\ud800", "model"),
        (("weights",), 0, "weights is 0"),
    ],
)
def test_a_forged_report_is_refused_in_one_line(
    tmp_path: Path, path: tuple[str | int, ...], value: Any, said: str
) -> None:
    (tmp_path / "report.json").write_text(changed(measured()[0].to_dict(), path, value))
    with pytest.raises(ReportError, match=f"report.json.*{said}") as caught:
        Report.from_json(tmp_path / "report.json")
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        (("rows",), [], "rows"),
        (("rows", 0, "kl"), "=1e999", "1e999"),
        (("rows", 0, "snr"), -1e9, r"rows\[0\]"),
        (("rows", 0, "bytes"), "5", r"rows\[0\]\.bytes"),
    ],
)
def test_a_forged_sweep_is_refused_in_one_line(
    tmp_path: Path, path: tuple[str | int, ...], value: Any, said: str
) -> None:
    (tmp_path / "sweep.json").write_text(changed(measured()[1].sweep.to_dict(), path, value))
    with pytest.raises(ReportError, match=f"sweep.json.*{said}") as caught:
        DamageCurves.from_json(tmp_path / "sweep.json")
    assert str(caught.value).isprintable()


def texts(data: Any, path: tuple[str | int, ...] = ()) -> list[tuple[str | int, ...]]:
    """Where texts are in plain data, the first two of a list only."""
    items = data.items() if isinstance(data, dict) else enumerate(data[:2]) if isinstance(data, list) else ()
    return [path] if isinstance(data, str) else [place for key, item in items for place in texts(item, (*path, key))]


def test_no_text_of_a_report_or_sweep_becomes_a_script(tmp_path: Path) -> None:
    left_out = {"data": {"samples": 5, "left_out": 1, "which": {"3": "bad"}}}
    report, sweep = replace(measured()[0], data=left_out, notes=("a note",)).to_dict(), measured()[1].sweep.to_dict()
    for data in (report, sweep):
        for path in texts(data):
            if path[-1] != "centroids":
                data |= json.loads(changed(data, path, SCRIPT))
    report["recovery"][1]["history"]["curves"] |= {SCRIPT: [[0, 1.0]], '\\"+expression+"': [[0, 1.0]]}
    (tmp_path / "report.json").write_text(json.dumps(report))
    (tmp_path / "sweep.json").write_text(json.dumps(sweep))
    files = [str(tmp_path / name) for name in ("report.json", "sweep.json", "page.html")]
    done = CliRunner().invoke(main, ["report", files[0], "--sweep", files[1], "--out", files[2]])
    assert done.exit_code == 0, done.output
    page = Path(files[2]).read_text()
    assert "<script>alert" not in page and '\\"+expression+"' not in page and "&quot;+expression+&quot;" in page


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_figures_that_json_cannot_hold_are_read_and_drawn(tmp_path: Path, number: float) -> None:
    first, *others = measured()[0].stages
    for stages in (
        [replace(first, score=number), *others],
        [first, *(replace(stage, score=number) for stage in others)],
        [replace(stage, score=number) for stage in (first, *others)],
        [first, *(replace(stage, agreement=Agreement(0.5, number, number, 9)) for stage in others)],
    ):
        report = replace(measured()[0], stages=stages)
        report.to_html(tmp_path / "own.html")
        report.to_json(tmp_path / "report.json")
        Report.from_json(tmp_path / "report.json").to_html(tmp_path / "read.html", other=report)
