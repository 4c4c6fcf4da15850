"""Buffers that become parameters, and models that share their tensors."""

from __future__ import annotations

from foreign_layers import InBuffers
from lloydmax.network.baking import copied as copy_of
from lloydmax.network.parameters import promote, weight_of
from torch import nn


def test_buffers_become_parameters_wherever_they_are() -> None:
    original = InBuffers()
    copied = copy_of(original, share=True)
    assert not promote(copied, ["conv.weight"])
    assert promote(copied, ["inner.w", "conv.weight"])
    held = dict(copied.named_parameters(remove_duplicate=False))
    assert held["inner.w"] is held["inner.again"] and not held["inner.w"].requires_grad
    assert isinstance(copied.out, nn.Parameter) is False
    assert set(dict(original.named_buffers(remove_duplicate=False))) == {"inner.w", "inner.again", "mask", "out"}
    assert (
        weight_of(copied, "inner.w").data_ptr()
        == original.inner.w.data_ptr()
        == weight_of(original, "inner.w").data_ptr()
    )
    assert copied.conv.weight is original.conv.weight
