"""Networks whose batch norm is far from the identity, and how far the outputs of two networks are apart."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def difference(one: nn.Module, other: nn.Module, x: Tensor) -> float:
    with torch.no_grad():
        expected = one(x)
        return float((other(x) - expected).abs().max() / expected.abs().max())


def shuffled(model: nn.Module) -> nn.Module:
    """Random batch-norm statistics and parameters, far from the identity."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
                module.running_mean.normal_(0, 0.1, generator=generator)
                module.running_var.uniform_(0.25, 2, generator=generator)
                if module.affine:
                    module.weight.uniform_(-0.5, 2, generator=generator)
                    module.bias.normal_(0, 0.2, generator=generator)
    return model.eval()
