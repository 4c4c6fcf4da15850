"""The page as text: it holds what was measured, loads nothing, and says what there is not."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner
from lloydmax import Report
from lloydmax.report import page as page_module
from lloydmax.report import tables
from lloydmax_command import main
from report_runs import measured, plain


def written(folder: Path, report: Report, **more: object) -> str:
    report.to_html(folder / "page.html", **more)
    return re.sub(r"<script>.*?</script>", "", (folder / "page.html").read_text(), flags=re.S)


def test_a_page_holds_what_was_measured_and_loads_nothing(tmp_path: Path) -> None:
    page = written(tmp_path, measured()[0], sweep=measured()[1])
    assert f"{measured()[0].agreement.after:.1%}".replace("%", " %") in page
    assert all(page.count(tables.breakable(layer.name)) > 1 for layer in measured()[0].layers), "row and drawing"
    for heading in (
        "Size",
        "Accuracy through",
        "Winning accuracy back",
        "Layers",
        "Weights of",
        "Layers one at a time",
    ):
        assert f"<h2>{heading}" in page
    assert "What the search chose" in page and "at most 5 bits a weight" in page
    assert "Measured on 96 samples in memory" in page
    assert "default-src 'none'" in page and not re.search(r'(src|href)=(?!"#)|url\(|@import', page)


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    page = written(tmp_path, plain())
    assert "Not measured: this run had no data" in page and "No step ran" in page
    assert "were trained" not in page and "Agreement</dt>" not in page
    assert ">8 × 4<" in page and "each a vector of 4 weights" in page and ">4.75<" in page, "24 + 128 bytes"
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
    many = CliRunner().invoke(main, ["report", *[report] * 9, "--out", out])
    assert many.exit_code == 2 and "8 reports at most" in many.output
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


def test_a_page_of_many_layers_is_small(tmp_path: Path) -> None:
    layer = max(measured()[0].layers, key=lambda layer: layer.weights.values)
    many = replace(layer.weights, counts=tuple(range(64)), centroids=tuple(n / 64 - 0.12345 for n in range(64)))
    layers = [
        replace(layer, name=f"encoder.layers.{n}.self_attention.out_proj.weight", weights=many) for n in range(200)
    ]
    page = written(tmp_path, replace(measured()[0], layers=layers), sweep=measured()[1])
    assert (tmp_path / "page.html").stat().st_size < 400_000
    assert "Drawn are the 64 largest of 200 layers." in page


def test_steps_that_runs_have_in_common_share_a_chart(tmp_path: Path) -> None:
    first, other = measured()[0], replace(measured()[0], recovery=measured()[0].recovery[1:], recipe="other")
    page = written(tmp_path, first, other=[other, other])
    assert "three" not in page and "3 runs" in page
    assert page.count("<h3>distill</h3>") == 1 and page.count("<h3>renormalize</h3>") == 1
    loss = page[page.index("<h3>loss</h3>") :].partition("</figure>")[0]
    assert all(f'class="line {run}"' in loss for run in "abc")


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_colours_stand_out_from_the_paper(scheme: int) -> None:
    style = (Path(page_module.__file__).parent / "assets" / "page.css").read_text()
    found = {name: pair for name, *pair in re.findall(r"--(\w+): light-dark\((#\w+), (#\w+)\)", style)}

    def light(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    for name, least in ({"ink": 7, "muted": 4.5, "accent": 4.5, "soft": 3} | dict.fromkeys("bcdefgh", 4.5)).items():
        low, high = sorted(light(found[each][scheme]) for each in (name, "paper"))
        assert (high + 0.05) / (low + 0.05) >= least, name
