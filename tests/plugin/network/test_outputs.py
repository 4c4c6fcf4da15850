"""Which tensors of a model's output count, and how they are read."""

from __future__ import annotations

import collections
import dataclasses
import types
from typing import Any

import pytest
import torch
from lloydmax import RecoveryError
from lloydmax.data import Batch
from lloydmax.network.outputs import AskedOutputs, Leaf, Outputs
from lloydmax.network.trees import counted, output_tensors, written

FIRST, SECOND = torch.zeros(2, 3), torch.ones(2, 3)
Named = collections.namedtuple("Named", "scores hidden")


@dataclasses.dataclass
class Scores:
    """An output as people write it."""

    scores: torch.Tensor
    more: Any = None


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


TREES = [
    ({"heads": {"cls": [FIRST, SECOND]}, "mask": FIRST > 0}, ["heads.cls.0", "heads.cls.1"]),
    ({"out": Scores(FIRST, (SECOND, None)), "epoch": 3, "name": "x"}, ["out.scores", "out.more.0"]),
    (Named(FIRST, [SECOND]), ["scores", "hidden.0"]),
    (types.SimpleNamespace(a=FIRST, b=types.SimpleNamespace(c=SECOND), _own=FIRST), ["a", "b.c"]),
    ({"a.b": FIRST, 7: SECOND}, ["a.b", "7"]),
    (collections.deque([FIRST, FIRST.long(), torch.empty(0, 3)]), ["0"]),
    ({"logits": FIRST, "loss": SECOND.mean(), "hidden": (SECOND,)}, ["logits"]),
    ({"state": FIRST, "past_key_values": ((SECOND, SECOND),)}, ["state"]),
    (FIRST, [""]),
]


@pytest.mark.parametrize(("tree", "paths"), TREES)
def test_all_floating_tensors_of_a_tree_count(tree: Any, paths: list[str]) -> None:
    assert [written(path) for path in counted(tree)] == paths
    for path in paths if paths != [""] else []:
        assert [tensor.shape for tensor in output_tensors(tree, path)] == [FIRST.shape]


def test_a_path_to_a_part_means_all_below_it() -> None:
    tree = {"heads": {"cls": [FIRST, SECOND], "mask": FIRST > 0}, "more": FIRST}
    assert [written(path) for path in counted(tree, "heads")] == ["heads.cls.0", "heads.cls.1"]
    assert [written(path) for path in counted({"past_key_values": ((FIRST,),)}, "past_key_values")] == [
        "past_key_values.0.0"
    ]
    assert output_tensors((FIRST, (FIRST, SECOND)), "1.-1")[0] is SECOND


def test_what_holds_itself_ends() -> None:
    node = types.SimpleNamespace(scores=FIRST)
    node.parent = node
    assert [written(path) for path in counted(node)] == ["scores"]


@pytest.mark.parametrize(
    ("tree", "key", "said"),
    [
        ({"a": FIRST, "b": {"c": SECOND}}, "b.d", r"'b\.d'.* a \(float32 2x3\), b\.c \(float32 2x3\)"),
        ({"a": FIRST, "mask": FIRST > 0}, "mask", "'mask'.*no floating tensor"),
        (FIRST.long(), None, "no floating tensor: the tensor itself .int64 2x3.*decisions come from"),
        ((value for value in [FIRST]), None, "generator"),
        (["cat"], None, "type list"),
        ([FIRST] * 25, "x", "and 5 more"),
        (FIRST.to_sparse(), None, "no floating tensor"),
        (torch.nested.as_nested_tensor([FIRST, FIRST[:1]]), None, "float32 nested"),
    ],
)
def test_what_cannot_be_compared_is_told_with_what_there_is(tree: Any, key: str | None, said: str) -> None:
    with pytest.raises(RecoveryError, match=said):
        output_tensors(tree, key)


def test_complex_numbers_are_pairs_of_real_ones() -> None:
    spectrum = torch.fft.rfft(torch.randn(2, 8))
    (pairs,) = output_tensors(spectrum.conj())
    assert pairs.shape == (2, 5, 2) and torch.equal(pairs[..., 1], -spectrum.imag)
    assert Outputs((Leaf((), 0, None),)).class_axes([pairs]) == [None]


@pytest.mark.parametrize(
    ("shape", "samples", "said", "classes"),
    [
        ((7, 2, 5), 1, "auto", 2),
        ((2, 5, 7), 0, 1, 1),
        ((5, 7, 2), 2, 0, 0),
        ((7, 5, 2), 2, 1, 1),
        ((2, 4, 4, 5), 0, 3, 3),
        ((4, 2, 5, 3), 1, "auto", 0),
        ((5, 2), 1, "auto", 0),
    ],
)
def test_samples_come_first_and_classes_where_they_are_looked_for(
    shape: tuple[int, ...], samples: int, said: Any, classes: int
) -> None:
    outputs, tensor = Outputs((Leaf((), samples, said),)), torch.randn(shape)
    (found,) = outputs.read(tensor)
    axis = 2 if len(shape) == 3 else 1
    assert torch.equal(found.movedim(axis, 1), tensor.movedim((samples, classes), (0, 1)))
    assert outputs.class_axes([found]) == [axis] and outputs.scores([found]) == (0, axis)


def test_no_classes_where_the_recipe_says_so() -> None:
    outputs = Outputs((Leaf((), 0, None),))
    assert outputs.class_axes([FIRST]) == [None] and outputs.scores([FIRST]) is None


def test_padding_is_left_out() -> None:
    outputs = Outputs((Leaf((0,)), Leaf((1,))), mask="attention_mask")
    mask = torch.tensor([[1, 1, 0], [1, 0, 0]])
    tokens, pooled = torch.randn(2, 3, 4), torch.randn(2, 3)
    inputs = Batch((), {"input_ids": mask, "attention_mask": mask})
    found = outputs.of((tokens, pooled), inputs)
    assert torch.equal(found[0], tokens[mask.bool()]) and found[1] is pooled
    assert outputs.class_axes(found) == [1, 1]
    everything = Batch((), {"attention_mask": torch.ones_like(mask)})
    assert outputs.of((tokens, pooled), everything)[0] is tokens
    added = Batch((), {"attention_mask": (1 - mask) * -1e9})
    assert outputs.of((tokens, pooled), added)[0] is tokens, "a mask that is added to scores is another one"
    assert outputs.of((tokens, pooled), Batch((mask,)))[0] is tokens
    by_place = dataclasses.replace(outputs, mask=1)
    assert len(by_place.of((tokens, pooled), Batch((mask, mask)))[0]) == 3


def test_a_student_whose_outputs_have_other_shapes_is_told() -> None:
    outputs = Outputs((Leaf(()),))
    with pytest.raises(RecoveryError, match="depends on the weights"):
        outputs.of(torch.zeros(5, 6), Batch((FIRST,)), like=[torch.zeros(7, 6)])
    with pytest.raises(RecoveryError, match="'aux' this time"):
        Outputs((Leaf(("aux",)),)).read(Scores(FIRST))


@pytest.mark.parametrize("wrong", [True, ["a"], 2j])
def test_what_is_no_path_is_refused(wrong: Any) -> None:
    with pytest.raises(RecoveryError, match="output is a path"):
        AskedOutputs(wrong)
    assert AskedOutputs(1.0).output == "1.0"  # type: ignore[arg-type]


def test_what_was_asked_for_tells_outputs_apart_in_a_cache() -> None:
    leaf = Leaf(("logits",))
    assert len({Outputs((leaf,)), Outputs((leaf,)), Outputs((leaf,), asked=AskedOutputs("logits"))}) == 2
