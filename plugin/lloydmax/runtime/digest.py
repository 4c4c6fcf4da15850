"""Digests of tensors, models and plain data: what tells two runs apart."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn


def fingerprint(tensors: Iterable[Tensor]) -> bytes:
    """A digest (16 bytes) of the values, shapes and dtypes of tensors, in their order."""
    digest = hashlib.sha256()
    for tensor in tensors:
        plain = tensor.detach().cpu().contiguous()
        digest.update(f"{plain.dtype}{tuple(plain.shape)}".encode())
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().data)
    return digest.digest()[:16]


def model_fingerprint(model: nn.Module) -> bytes:
    """A digest (16 bytes) of all parameters and buffers."""
    return fingerprint([*model.parameters(), *model.buffers()])
