"""Inputs captured from the calls of a model."""

from __future__ import annotations

import pytest
import torch
from lloydmax.data import capture_inputs
from lloydmax.errors import DataError
from samples import N, Text, Two, X, assert_holds_x, linear
from torch import nn


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_inputs_of_a_calibration_are_captured(mode):
    model = Two()
    with capture_inputs(model) as captured, mode():
        buffer = torch.empty(2, 3)
        for start in range(0, N, 2):
            buffer.copy_(X[start : start + 2])
            model(buffer, b=buffer + 1, scale=2.0)
    model(X, X)
    assert len(captured) == N
    source = captured.source()
    assert_holds_x(source)
    (_, batch), *_ = source.batches(N)
    assert torch.equal(batch.kwargs["b"], X + 1) and batch.kwargs["scale"] == 2.0
    held = [tensor for kept in captured.batches for tensor in kept.tensors()]
    assert not any(tensor.is_inference() or tensor.requires_grad for tensor in held)
    batch.run(model).sum().backward()  # usable for training, wherever they were captured
    assert "captured from calls of Two" in source.describe()


def test_capturing_drops_labels_and_stops_at_its_limit():
    text = Text()
    ids = torch.ones(2, 5, dtype=torch.int64)
    with capture_inputs(text) as captured:
        text(input_ids=ids, attention_mask=torch.ones(2, 5), labels=None)
    assert set(captured.batches[0].kwargs) == {"input_ids", "attention_mask"}
    model = linear()
    with capture_inputs(model, limit_bytes=X.nbytes * 2) as captured, pytest.warns(UserWarning) as warned:
        for _ in range(5):
            model(X)
    assert len(warned) == 1 and "first 20 samples" in str(warned[0].message)
    assert len(captured.source()) == 2 * N


def test_capturing_nothing_is_an_error():
    model = nn.Sequential(linear())
    with capture_inputs(model) as captured:
        model[0](X)
    with pytest.raises(DataError, match="no inputs were captured"):
        captured.source()
    assert not model._forward_pre_hooks
