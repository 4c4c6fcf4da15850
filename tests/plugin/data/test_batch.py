"""A batch: moved, mapped, selected, and run through a model."""

from __future__ import annotations

import pytest
import torch
from lloydmax.data import Batch
from lloydmax.errors import DataError
from samples import N, Two, X
from torch import Tensor, nn


def test_batch_moves_maps_selects_and_runs():
    batch = Batch((torch.ones(4, 3, 2, 2), torch.arange(4)), {"scale": torch.tensor(2.0), "flag": True})
    assert len(batch) == 4
    half = batch[torch.tensor([0, 3])]
    assert half.args[0].shape == (2, 3, 2, 2)
    assert half.args[1].tolist() == [0, 3]
    assert half.kwargs["scale"] == 2 and half.kwargs["flag"] is True
    assert len(batch[1:]) == 3
    last = batch.to("cpu", channels_last=True)
    assert last.args[0].is_contiguous(memory_format=torch.channels_last)
    assert last.args[1].is_contiguous()
    assert batch.to("cpu").args[0].is_contiguous()
    assert batch.map(lambda t: t * 2).args[1].tolist() == [0, 2, 4, 6]
    assert batch.to("meta").args[0].is_meta
    model = Two()
    assert torch.equal(Batch((X,), {"b": X, "scale": 3.0}).run(model), model(X, X, 3.0))
    nested = Batch(((X, [X]),)).map(len)
    assert nested.args == ((N, [N]),)
    with pytest.raises(DataError, match="batch axis"):
        len(Batch((torch.tensor(1.0), "text")))


@pytest.mark.parametrize("channels", [1, 3])
def test_models_that_view_a_convolutions_output_run_on_channels_last_batches(channels: int) -> None:
    class Views(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(channels, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(x).view(len(x), -1)

    model, x = Views(), torch.randn(2, channels, 8, 8)
    batch = Batch((x,)).to("cpu", channels_last=True)
    for _ in range(2):
        torch.testing.assert_close(batch.run(model), model(x))
    with pytest.raises(RuntimeError, match="expected input"):
        Batch((torch.cat([x, x], 1),)).to("cpu", channels_last=True).run(model)
