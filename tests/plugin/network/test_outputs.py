"""Which tensors of a model's output count."""

from __future__ import annotations

import pytest
import torch
from lloydmax import RecoveryError
from lloydmax.network.outputs import output_tensors

FIRST, SECOND = torch.zeros(2, 3), torch.ones(2, 3)


@pytest.mark.parametrize(("key", "expected"), [(0, FIRST), (1, SECOND), (-1, SECOND), (-2, FIRST)])
def test_an_output_is_chosen_by_its_place(key: int, expected: torch.Tensor) -> None:
    (found,) = output_tensors((FIRST, SECOND), key)
    assert found is expected


@pytest.mark.parametrize("key", [2, -3, "logits"])
def test_a_place_that_is_not_there_is_refused(key: int | str) -> None:
    with pytest.raises(RecoveryError, match=repr(key)):
        output_tensors((FIRST, SECOND), key)


def test_an_output_is_chosen_by_its_name() -> None:
    assert output_tensors({"logits": FIRST, "other": SECOND}, "other")[0] is SECOND
    with pytest.raises(RecoveryError, match="'nothing'"):
        output_tensors({"logits": FIRST}, "nothing")
