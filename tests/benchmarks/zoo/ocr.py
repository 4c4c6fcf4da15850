"""Networks that find and read printed text."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from zoo import inputs, onnx_import, scores
from zoo.network import Loaded, Network, against, package

SOURCE = "rapidocr-onnxruntime (Apache-2.0)"


def _models() -> Path:
    return package("rapidocr_onnxruntime", "rapidocr-onnxruntime") / "models"


def _normal(pictures: Tensor) -> Tensor:
    return (pictures - 0.5) / 0.5


def read() -> Loaded:
    model = onnx_import.network(_models() / "ch_PP-OCRv4_rec_infer.onnx")
    x, test = (_normal(inputs.lines(count, (48, 240), bool(test))) for test, count in enumerate((40, 64)))
    return against(model, x, test, scores.same_sequence(scores.ctc))


def find() -> Loaded:
    model = onnx_import.network(_models() / "ch_PP-OCRv4_det_infer.onnx")
    x, test = (_normal(inputs.pages(count, (224, 224), bool(test))) for test, count in enumerate((32, 48)))
    return against(model, x, test, scores.same_marks(0.3))


def turned() -> Loaded:
    """Half of the lines stand on their heads."""
    model = onnx_import.network(_models() / "ch_ppocr_mobile_v2.0_cls_infer.onnx")

    def lines(count: int, test: bool) -> Tensor:
        straight = _normal(inputs.lines(count, (48, 192), test))
        return torch.cat([straight[::2], straight[1::2].flip(2, 3)])

    labels = torch.arange(200) // 100
    return Loaded(model, lines(64, False), lines(200, True), scores.accuracy(labels))


NETWORKS = (
    Network("ocr-read", "text recognition (CTC)", SOURCE, "same text", read),
    Network("ocr-find", "text detection", SOURCE, "F1 of the mask", find),
    Network("ocr-turned", "direction of text", SOURCE, "accuracy", turned),
)
