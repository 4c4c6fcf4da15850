"""What a report says about what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import lloydmax
import pytest
import torch
from torch import nn


def test_it_names_how_many_of_the_inputs_the_agreement_is_of() -> None:
    net, recipe = nn.Linear(4, 3), {"quantize": [{"layers": "all", "centroids": 2}]}
    for count, said in ((50, "50 samples in memory"), (1500, "1,000 of 1,500 samples in memory")):
        report = lloydmax.compress(net, recipe, torch.randn(count, 4), progress=False).report
        assert report.measured_on is not None and report.measured_on.startswith(said)


def test_a_layer_says_how_many_weights_a_centroid_replaces() -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 4, "block": 2}]}
    (layer,) = lloydmax.compress(nn.Linear(8, 8), recipe, progress=False).report.layers
    assert (layer.block, layer.bits, layer.centroids) == (2, 1.0, 4)
    assert sum(layer.weights.counts) == 64 and len(layer.weights.centroids) == layer.weights.values == 8


def test_what_was_skipped_is_said_in_every_form(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Embedding(100, 3))
    with pytest.warns(UserWarning, match=r"an embedding, which a rule has to name: 1\.weight"):
        report = lloydmax.compress(net, {"quantize": [{"layers": "all", "centroids": 4}]}, progress=False).report
    (note, *_) = report.notes
    assert note.startswith("1.weight (100x3, 80.6 %) stays as it is: it is an embedding")
    assert "- 1.weight (100x3, 80.6 %) stays as it is" in str(report)
    report.to_json(tmp_path / "report.json")
    assert lloydmax.Report.from_json(tmp_path / "report.json").notes == report.notes
    report.to_html(tmp_path / "report.html")
    assert "<li>1.<wbr>weight (100x3, 80.<wbr>6 %) stays as it is" in (tmp_path / "report.html").read_text()


def test_a_report_from_before_there_were_notes_is_read(tmp_path: Path) -> None:
    report = lloydmax.compress(
        nn.Linear(8, 8), {"quantize": [{"layers": "all", "centroids": 4}]}, progress=False
    ).report
    data = report.to_dict()
    del data["notes"]
    (tmp_path / "report.json").write_text(json.dumps(data))
    assert lloydmax.Report.from_json(tmp_path / "report.json").notes == ()
    del data["seed"]
    (tmp_path / "report.json").write_text(json.dumps(data))
    with pytest.raises(lloydmax.ReportError, match="seed"):
        lloydmax.Report.from_json(tmp_path / "report.json")
