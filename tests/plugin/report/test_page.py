"""The page as text: it holds what was measured, loads nothing, and says what there is not."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import lloydmax
import pytest
from click.testing import CliRunner
from lloydmax import Report
from lloydmax_command import main
from report_runs import measured, plain

pytest.importorskip("vl_convert", reason="the page needs vl-convert (extra report)")


def written(folder: Path, report: Report, **more: object) -> str:
    report.to_html(folder / "page.html", **more)
    return re.sub(r"<script>.*?</script>", "", (folder / "page.html").read_text(), flags=re.S)


def test_a_page_holds_what_was_measured_and_loads_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, measured()[0], sweep=measured()[1])
    assert f"{measured()[0].agreement.after:.1%}".replace("%", " %") in page
    assert all(f'data-layer="{layer.name}"' in page for layer in measured()[0].layers)
    for heading in ("Size", "Accuracy through the stages", "Recovery", "Layers", "Weights and", "Damage against bytes"):
        assert f"<h2>{heading}" in page
    assert "Allocation" in page and "at most 5 bits a weight" in page
    assert "Measured on 96 samples in memory" in page
    assert "default-src 'none'" in page and not re.search(r"(src|href)=|url\(|@import", page)


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    page = written(tmp_path, plain())
    assert "Not measured: this run had no data" in page and "No recovery step ran" in page
    assert "were trained" not in page and "Agreement</dt>" not in page
    assert ">8 × 4</td>" in page and "each a vector of 4 weights" in page and ">0.75</td>" in page
    assert "&lt;/script&gt;&lt;b&gt;&amp;" in page and "</script><b>" not in page
    assert "encoder_<wbr>block_<wbr>" in page


def test_two_reports_are_compared(tmp_path: Path) -> None:
    page = written(tmp_path, measured()[0], other=plain())
    assert "two runs" in page and "B against A" in page and "Not measured in this run." in page
    change = plain().bytes.file / measured()[0].bytes.file - 1
    assert f"{100 * change:+.1f} %".replace("-", "\N{MINUS SIGN}") in page


def test_the_command_writes_the_page(tmp_path: Path) -> None:
    report, search, out = (str(tmp_path / name) for name in ("report.json", "search.json", "page.html"))
    measured()[0].to_json(report)
    measured()[1].to_json(search)
    sweep = ["--sweep", search]
    done = CliRunner().invoke(main, ["report", report, report, *sweep, "--out", out])
    assert done.exit_code == 0 and out in done.output and "two runs" in Path(out).read_text()
    many = CliRunner().invoke(main, ["report", report, report, report, "--out", out])
    assert many.exit_code == 2 and "one or two reports" in many.output
    wrong = CliRunner().invoke(main, ["report", search, "--out", out])
    assert wrong.exit_code == 2 and "is not a report" in wrong.output
    wrong = CliRunner().invoke(main, ["report", report, "--sweep", report, "--out", out])
    assert wrong.exit_code == 2 and "neither a sweep nor a search" in wrong.output


def test_a_report_survives_its_json(tmp_path: Path) -> None:
    left_out = {"samples": 500, "left_out": 2, "which": {"3": "NaN", "77": "a<b.png: the file is empty"}}
    exact = replace(
        measured()[0],
        data={"reference_data": left_out},
        layers=[replace(measured()[0].layers[0], snr=float("inf")), *measured()[0].layers[1:]],
    )
    exact.to_json(tmp_path / "report.json")
    assert Report.from_json(tmp_path / "report.json") == exact
    (tmp_path / "older.json").write_text(json.dumps({k: v for k, v in exact.to_dict().items() if k != "data"}))
    assert Report.from_json(tmp_path / "older.json") == replace(exact, data={}), "as 0.1 wrote it"
    page = written(tmp_path, Report.from_json(tmp_path / "report.json"))
    assert "2 of 500 samples of reference data left out: 3 (NaN), 77 (a&lt;b.png: the file is empty)." in page


def test_without_the_extra_the_command_to_install_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vl_convert", None)
    with pytest.raises(lloydmax.IntegrationError, match=re.escape('pip install "lloydmax[report]"')):
        measured()[0].to_html(tmp_path / "page.html")
    assert not (tmp_path / "page.html").exists()
