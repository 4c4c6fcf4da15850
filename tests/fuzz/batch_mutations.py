"""Hypothesis strategies for unlabelled data of strangers: batches of all values, shapes, types and structures."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from hypothesis import strategies as st

SHAPE = (3, 8, 8)
"""Of one sample that the network takes."""
VALUES = (float("nan"), float("inf"), float("-inf"), 0.0, -0.0, 1e30, -1e38, 1e-40, 255.0)
DTYPES = (torch.float16, torch.float64, torch.bfloat16, torch.uint8, torch.int64, torch.bool, torch.complex64)
SHAPES = ((), (0,), (3,), (8, 8), (1, 8, 8), (4, 8, 8), (3, 1, 1), (3, 0, 8), (3, 9, 7), (3, 8, 8, 1), (192,))
THINGS: list[Any] = [
    *(
        None,
        True,
        3,
        1.5,
        "a",
        b"a",
        object(),
        [],
        (),
        {},
        set(),
        {"x": 1},
        [None],
        ["a", "b"],
        lambda: 1,
        float("nan"),
    ),
    *(np.zeros(3), np.array(["a"]), np.array([None, 1], dtype=object), torch.nn.Linear(1, 1), torch.Generator(), type),
]


@st.composite
def tensors(draw: st.DrawFn) -> Any:
    """Some samples, most of them sound."""
    count = draw(st.sampled_from([0, 1, 2, 3, 7, 40]))
    found = torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(draw(st.integers(0, 3))))
    kind = draw(st.sampled_from(["good", "good", "value", "value", "all", "dtype", "shape", "strange"]))
    if kind in ("value", "all") and count:
        at = draw(st.integers(0, count - 1)) if kind == "value" else slice(None)
        found[at, ..., draw(st.integers(0, 7))] = draw(st.sampled_from(VALUES))
    elif kind == "dtype":
        found = found.to(draw(st.sampled_from(DTYPES)))
    elif kind == "shape":
        found = torch.zeros(count, *draw(st.sampled_from(SHAPES)))
    elif kind == "strange":
        found = draw(st.sampled_from(STRANGE))(found)
    return found


STRANGE: list[Any] = [
    lambda x: x.numpy(),
    lambda x: x.requires_grad_(),
    lambda x: x.to_sparse(),
    lambda x: x.to("meta"),
    lambda x: x.expand(2, *x.shape),
    lambda x: x.transpose(0, 1),
    lambda x: x.flip(0)[::2],
    lambda x: list(x),
    lambda x: x.numpy().astype("float16"),
    lambda x: x.numpy().astype(object),
    lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.qint8) if len(x) else x,
]


def batches() -> st.SearchStrategy[Any]:
    """What a model might be given once."""
    things = st.sampled_from(THINGS)
    return st.one_of(
        *[tensors()] * 4,
        st.tuples(tensors(), st.integers(0, 3)),
        st.tuples(tensors(), tensors()),
        st.dictionaries(st.sampled_from(["input", "x", "labels", ""]), tensors() | things, max_size=2),
        st.lists(tensors() | things, max_size=3),
        things,
    )


def sources() -> st.SearchStrategy[Any]:
    """What may be given as data: a tensor, or an iterable of batches, which may end in an error."""
    return tensors() | st.lists(batches(), max_size=4) | st.lists(tensors(), min_size=1, max_size=4) | batches()
