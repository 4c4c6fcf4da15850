"""Random combinations of outputs whose gradients have the Fisher information."""

from __future__ import annotations

import torch
from lloydmax.teacher.fisher import fisher_draws


def test_combinations_have_the_fisher_information() -> None:
    logits = torch.tensor([[2.0, 0.5, -1.0]]).requires_grad_()
    p = logits.detach().softmax(1)[0]
    generator, total, plain, draws = torch.Generator().manual_seed(0), torch.zeros(3, 3), torch.zeros(3, 3), 4000
    for _ in range(draws):
        classes, every = (torch.autograd.grad(loss, logits)[0][0] for loss in fisher_draws([logits], generator))
        total += torch.outer(classes, classes) / draws
        plain += torch.outer(every, every) / draws
    torch.testing.assert_close(total, torch.diag(p) - torch.outer(p, p), atol=0.02, rtol=0)
    torch.testing.assert_close(plain, torch.eye(3), atol=0.06, rtol=0)
