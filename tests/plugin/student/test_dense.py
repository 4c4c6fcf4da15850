"""The way back: a student without codebooks is the original architecture with decoded weights."""

from __future__ import annotations

import copy
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.student.dense import decompressed, holds_codebooks, original_type, parametrized
from torch import Tensor, nn

RECIPE = {"quantize": [{"layers": "all", "centroids": 4}]}


class _Transposed(nn.Module):
    """Layers with odd settings, one of them used under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(3, 4, 3, stride=2, output_padding=1)
        self.circular = nn.Conv2d(4, 4, 3, padding=1, padding_mode="circular", groups=2, bias=False)
        self.again = self.circular

    def forward(self, x: Tensor) -> Tensor:
        return self.again(torch.relu(self.circular(self.up(x))))


CASES: dict[str, Any] = {"small_net": torch.ones(2, 3, 8, 8), "text_net": torch.arange(20).view(2, 10)}


@pytest.mark.parametrize("name", [*CASES, "transposed"])
def test_the_architecture_comes_back(name: str, request: pytest.FixtureRequest) -> None:
    teacher = (_Transposed() if name == "transposed" else request.getfixturevalue(name)).eval()
    student = lloydmax.compress(teacher, RECIPE, progress=False).model
    x = CASES.get(name, torch.ones(2, 3, 8, 8))
    wanted, before = student(x), copy.deepcopy(student)
    dense = decompressed(student)
    if name == "text_net":  # attention and recurrent layers run faster from parameters of their own, by other sums
        torch.testing.assert_close(dense(x), wanted)
    else:
        assert torch.equal(dense(x), wanted)
    assert not lloydmax.codebooks(dense) and not any(map(holds_codebooks, dense.modules()))
    assert [type(module) for module in dense.modules()] == [type(module) for module in teacher.modules()]
    assert dense.state_dict().keys() == teacher.state_dict().keys()
    assert len([*dense.parameters()]) == len([*teacher.parameters()])  # what was tied is tied
    assert torch.equal(before(x), wanted)


def test_a_layer_alone_comes_back() -> None:
    student = lloydmax.compress(nn.Linear(64, 8), RECIPE, progress=False).model
    x = torch.ones(2, 64)
    wanted = student(x)
    held = parametrized(student)  # type: ignore[arg-type]
    assert isinstance(held, nn.Linear) and original_type(held) is nn.Linear and holds_codebooks(held)
    assert torch.equal(held(x), wanted) and not any(each.requires_grad for each in held.parameters())
    assert type(decompressed(held)) is nn.Linear
    dense = decompressed(student)
    assert type(dense) is nn.Linear and torch.equal(dense(x), wanted)
