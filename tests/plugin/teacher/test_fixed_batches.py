"""Models that take batches of one size only: refused with that size, and the way that works."""

from __future__ import annotations

from typing import Any

import lloydmax
import pytest
import torch
from lloydmax import DataError
from lloydmax.data import unlabelled
from lloydmax.extend import Batch
from lloydmax.teacher.trial import trial
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Fixed(nn.Module):
    """Writes the number of samples into its shapes."""

    def __init__(self, samples: int) -> None:
        super().__init__()
        self.layer, self.samples = nn.Linear(4, 3), samples

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layer(x.view(self.samples, 4))
        return out


def inputs(samples: int) -> Tensor:
    return torch.randn(samples, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize(
    ("samples", "data"),
    [
        (8, inputs(40)),
        (1, inputs(40)),
        (7, list(inputs(35).split(7))),
        (12, DataLoader(TensorDataset(inputs(48)), batch_size=12)),
    ],
)
def test_the_number_is_named_with_the_cure(samples: int, data: Any) -> None:
    net = Fixed(samples).eval()
    with pytest.raises(DataError, match=f"Fixed takes batches of {samples}, .*whole=True.*split\\({samples}\\)"):
        trial(net, unlabelled(data, net))


def test_batches_that_stay_together_are_the_way() -> None:
    net, data = Fixed(8).eval(), [Batch((x,), whole=True) for x in inputs(320).split(8)]
    recipe = {
        "quantize": [{"layers": "all", "centroids": 4}],
        "trainable": ["all"],
        "recover": [{"step": "distill", "epochs": 2, "batch_size": 16}],
    }
    assert lloydmax.compress(net, recipe, data, progress=False).report.agreement.after > 0.5


def test_what_no_size_helps_is_told_with_the_number_of_samples() -> None:
    net = nn.Linear(5, 2).eval()
    with pytest.raises(DataError, match=r"input = float32 \(N, 4\) \(N = 3 samples\), and said"):
        trial(net, unlabelled(inputs(8), net))
