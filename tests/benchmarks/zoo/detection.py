"""Networks that find boxes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from zoo import inputs, onnx_import, scores
from zoo.network import Loaded, Network, against, checkpoint, package

FACES = "Linzaer/Ultra-Light-Fast-Generic-Face-Detector-1MB"


def yolo_boxes(found: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """``(N, 4 + classes, anchors)``: boxes in pixels, then independent scores."""
    picked = found[:, 4:].max(1)
    return list(zip(scores.corners(found[:, :4].transpose(1, 2)), picked.values, picked.indices, strict=True))


def yolo() -> Loaded:
    model = onnx_import.network(package("nudenet", "nudenet") / "320n.onnx")
    x, test = (inputs.scenes(count, (320, 320), bool(test)) for test, count in enumerate((32, 64)))
    return against(model, x, test, scores.same_boxes(yolo_boxes, 0.2))


def grid_boxes(found: Tensor) -> list[tuple[Tensor, Tensor, Tensor]]:
    """``(N, 1 + 4 + classes, h, w)``: whether there is something, offset and size, probabilities of classes."""
    height, width = found.shape[2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    left, top = (found[:, 1].tanh() + columns) / width, (found[:, 2].tanh() + rows) / height
    centres = torch.stack([left, top, found[:, 3].sigmoid(), found[:, 4].sigmoid()], -1).flatten(1, 2)
    picked = found[:, 5:].flatten(2).max(1)
    certain = found[:, 0].flatten(1) ** 0.6 * picked.values**0.4
    return list(zip(scores.corners(centres), certain, picked.indices, strict=True))


def fastest() -> Loaded:
    path = checkpoint("FastestDet.onnx", "dog-qiuqiu/FastestDet", "example/onnx-runtime/FastestDet.onnx")
    model = onnx_import.network(path, reshape=lambda shape: shape if shape[0] == 2 else [-1, *shape[1:]])
    x, test = (inputs.scenes(count, (352, 352), bool(test)) for test, count in enumerate((48, 100)))
    return against(model, x, test, scores.same_boxes(grid_boxes, 0.4))


def anchor_boxes(found: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Probabilities ``(N, anchors, 2)`` and corners ``(N, anchors, 4)``."""
    certain, boxes = found
    return list(zip(boxes, certain[..., 1], torch.zeros_like(certain[..., 1], dtype=torch.long), strict=True))


def faces() -> Loaded:
    model = onnx_import.network(checkpoint("version-RFB-320.onnx", FACES, "models/onnx/version-RFB-320.onnx"))
    x, test = (inputs.scenes(count, (240, 320), bool(test)) for test, count in enumerate((48, 128)))
    return against(model, (x * 255 - 127) / 128, (test * 255 - 127) / 128, scores.same_boxes(anchor_boxes, 0.6))


def face_parts(found: Any) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Offsets of the box ``(N, 4)``, places of the parts ``(N, 10)``, probabilities ``(N, 2)``; in sides of a face."""
    return [
        (offset[None] + torch.tensor([0.0, 0.0, 1.0, 1.0]), certain[1:], torch.zeros(1, dtype=torch.long))
        for offset, _, certain in zip(*found, strict=True)
    ]


def looks() -> Loaded:
    """MTCNN's last network: is it a face, where exactly, where are eyes, nose and mouth."""
    package("facenet_pytorch", "facenet-pytorch")
    from facenet_pytorch.models.mtcnn import ONet

    model = ONet(pretrained=True).eval()
    small = torch.from_numpy(inputs.faces())[:, None]
    large = nn.functional.interpolate(small, (48, 48), mode="bicubic").expand(-1, 3, -1, -1).clamp(0, 1)
    x = (large * 255 - 127.5) / 128

    def close(found: Any, wanted: Any) -> float:
        """Share of faces (of the original) that are found and whose parts are all within 3 % of a side."""
        near = (found[1] - wanted[1]).abs().amax(1) < 0.03
        face = wanted[2][:, 1] > 0.5
        return (near & (found[2][:, 1] > 0.5))[face].double().mean().item()

    return against(model, x[::2], x[1::2], close)


NETWORKS = (
    Network("yolo", "detection (YOLO)", "nudenet (AGPL-3.0)", "box F1", yolo),
    Network("fastestdet", "detection of things", "checkpoint of dog-qiuqiu/FastestDet (BSD-3)", "box F1", fastest),
    Network("faces", "detection of faces, anchors", f"checkpoint of {FACES} (MIT)", "box F1", faces),
    Network("onet", "parts of a face", "facenet-pytorch (MIT), faces of scikit-image", "same places", looks),
)
