"""Other people's methods on a whole model: every matrix at so many bits, embeddings and heads at others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from language import codebooks, packages, uniform
from language.matrices import Matrix, copied, matrices, moments, total_bits
from language.models import Subject
from language.uniform import Rounded

GROUP = 64
_CALIBRATION = 64
"""Sequences by which methods choose."""


@dataclass(frozen=True)
class Setting:
    """A method as it is run.

    Attributes:
        method: its name.
        bits: of the matrices; of GGUF a type.
        tables: of embeddings and tied heads, rounded to the nearest; of GGUF a type.
    """

    method: str
    bits: int | str
    tables: int | str

    def __str__(self) -> str:
        return f"{self.method} {self.bits}, embedding {self.tables}"


SETTINGS = (
    *(Setting(method, bits, tables) for method in ("RTN", "GPTQ", "AWQ", "HQQ")
      for bits, tables in ((2, 2), (2, 4), (2, 6), (3, 3), (3, 4), (3, 6), (4, 4))),
    *(Setting("AutoRound", bits, tables) for bits, tables in ((2, 4), (3, 4), (4, 4))),
    *(Setting(method, bits, tables) for method in ("SqueezeLLM", "SqueezeLLM dense")
      for bits, tables in ((2, 2), (2, 4), (3, 4), (4, 4))),
    *(Setting("any4", bits, tables) for bits, tables in ((2, 4), (3, 4), (4, 4))),
    *(Setting("GGUF", *types) for types in (
        ("IQ2_XS", "IQ2_S"), ("IQ2_XS", "IQ4_NL"), ("Q2_K", "Q2_K"), ("IQ3_XXS", "IQ3_S"), ("IQ3_S", "IQ4_NL"),
        ("Q3_K", "Q3_K"), ("IQ4_XS", "IQ4_XS"), ("Q4_0", "Q4_0"), ("Q4_K", "Q4_K"),
    )),
)  # fmt: skip


def why_not(setting: Setting, subject: Subject) -> str | None:
    """Why a method cannot be run."""
    needed = {"GGUF": ("gguf", "pywhispercpp"), "HQQ": ("hqq",), "AutoRound": ("auto_round",)}.get(setting.method, ())
    lacking = packages.missing(*needed)
    if lacking is not None:
        return f"pip install {lacking}"
    if setting.method.startswith(("AutoRound", "SqueezeLLM")) and not subject.language:
        return "for language models"
    return None


def quantized(subject: Subject, setting: Setting) -> tuple[nn.Module, float]:
    """A student, and its bits for each parameter: codes, scales, zeros and tables of values counted, what is left in 16
    bits."""
    student, data = copied(subject.model), subject.data[:_CALIBRATION]
    spent: dict[str, float] = {}
    if setting.method == "AutoRound":
        student, taken = packages.autoround(student, data, int(setting.bits), GROUP, subject.tokenizer)
        spent |= {one.name: taken for one in matrices(student) if not one.table}
    all_of_them = matrices(student)
    seen = moments(student, data, all_of_them) if setting.method not in ("RTN", "HQQ") else {}
    for one in all_of_them:
        if one.table:
            found, spent[one.name] = _table(setting, one.rows(), seen.get(one.name))
            one.put(found)
    if setting.method != "AutoRound":
        for block in _blocks([one for one in all_of_them if not one.table]):
            if setting.method == "GPTQ":
                seen = moments(student, data, block)
            for one in block:
                found, spent[one.name] = _method(setting, subject, one)(one.rows(), seen.get(one.name))
                one.put(found)
    return student, total_bits(subject.model, spent)


def _blocks(found: list[Matrix]) -> list[list[Matrix]]:
    """The matrices of each block of layers: those whose names agree up to the first number."""
    blocks: dict[str, list[Matrix]] = {}
    for one in found:
        parts = one.name.split(".")
        number = next((at for at, part in enumerate(parts) if part.isdigit()), len(parts))
        blocks.setdefault(".".join(parts[: number + 1]), []).append(one)
    return list(blocks.values())


def _table(setting: Setting, rows: Tensor, seen: Tensor | None) -> Rounded:
    if setting.method == "GGUF":
        return packages.gguf(rows, str(setting.tables), None if seen is None else seen.diagonal())
    rounded = packages.hqq if setting.method == "HQQ" else uniform.nearest
    return rounded(rows, int(setting.tables), GROUP)


def _method(setting: Setting, subject: Subject, one: Matrix) -> Callable[[Tensor, Any], Rounded]:
    bits = setting.bits
    if setting.method == "GGUF":
        return lambda rows, seen: packages.gguf(rows, str(bits), seen.diagonal())
    bits = int(bits)
    if setting.method.startswith("SqueezeLLM"):
        fisher, sparse = _fisher(subject)[one.name], not setting.method.endswith("dense")
        return lambda rows, _: codebooks.squeezellm(rows, fisher, bits, sparse)
    if setting.method == "HQQ":
        return lambda rows, _: packages.hqq(rows, bits, GROUP)
    if setting.method == "RTN":
        return lambda rows, _: uniform.nearest(rows, bits, GROUP)
    chosen = {"GPTQ": uniform.gptq, "AWQ": uniform.awq, "any4": codebooks.any4}[setting.method]
    return partial(lambda rows, seen: chosen(rows, seen, bits, 2 * GROUP if setting.method == "any4" else GROUP))


_FOUND: dict[int, dict[str, Tensor]] = {}


def _fisher(subject: Subject) -> dict[str, Tensor]:
    """Squared gradients of the loss on the text, sequence by sequence, for each matrix ``(outputs, inputs)``."""
    if id(subject) not in _FOUND:
        model = copied(subject.model)
        wanted = matrices(model)
        total = {one.name: torch.zeros_like(one.rows()) for one in wanted}
        for ids in subject.data[:_CALIBRATION]:
            model.zero_grad()
            model(input_ids=ids[None], labels=ids[None]).loss.backward()
            for one in wanted:
                gradient: Any = one.module.weight.grad  # type: ignore[union-attr]
                total[one.name] += (gradient.t() if one.transposed else gradient).square()
        _FOUND[id(subject)] = total
    return _FOUND[id(subject)]
