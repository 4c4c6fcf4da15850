"""SqueezeLLM's and Any-Precision LLM's checkpoints, packed here as their layouts say, one bit after the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

State = dict[str, Tensor]


class Tokens(nn.Module):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.up, self.down = nn.Linear(width, 96, bias=False), nn.Linear(96, width)
        self.head = nn.Linear(width, 20, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.head(self.down(torch.relu(self.up(self.embed(tokens)))))
        return result


def _word(bits: list[int]) -> int:
    """Of 32 bits, the lowest first."""
    value = sum(bit << place for place, bit in enumerate(bits))
    return value - (1 << 32) if value >> 31 else value


def squeezed(codes: Tensor, table: Tensor, bits: int) -> State:
    """Each column a stream of codes, lowest bits first."""
    streams = [[int(code) >> bit & 1 for code in row for bit in range(bits)] for row in codes]
    words = [[_word(s[i : i + 32]) for i in range(0, len(s), 32)] for s in streams]
    return {"qweight": torch.tensor(words, dtype=torch.int32).T.contiguous(), "lookup_table": table}


def any_precision(codes: Tensor, tables: dict[int, Tensor], bits: int) -> State:
    """Of a warp's 1,024 weights, 8 (32 j + t) + i is bit 8 (3 - j) + 7 - i of the word of thread t; a last warp has
    fewer threads than 32."""
    outputs, inputs = codes.shape
    planes = torch.zeros(bits, outputs, inputs // 32, dtype=torch.int64)
    each = torch.stack([codes >> bits - 1 - plane & 1 for plane in range(bits)])
    for column in range(inputs):
        warp, inside = column // 1024, column % 1024
        threads = min(32, inputs // 32 - 32 * warp)
        j, t, i = inside // 8 // threads, inside // 8 % threads, inside % 8
        planes[:, :, 32 * warp + t] |= each[:, :, column] << 8 * (3 - j) + 7 - i
    planes = torch.where(planes >= 1 << 31, planes - (1 << 32), planes)
    return {"qweight": planes.int(), **{f"lut{n}": table for n, table in tables.items()}}


def drawn(shape: tuple[int, ...], bits: int) -> tuple[Tensor, Tensor]:
    return torch.randint(1 << bits, shape), torch.randn(shape[0], 1 << bits)


def checkpoint(pack: Callable[[Tensor, Tensor], State], bits: int, dtype: torch.dtype, width: int = 64) -> Any:
    """The state dict, and the model that it stands for."""
    torch.manual_seed(0)
    model = Tokens(width).to(dtype)
    state = {name: value for name, value in model.state_dict().items() if name != "head.weight"}
    for name in ("up", "down"):
        layer = model.get_submodule(name)
        codes, table = drawn(tuple(layer.weight.shape), bits)  # type: ignore[arg-type, union-attr]
        table = table.to(dtype)
        layer.weight.data = table.gather(1, codes)  # type: ignore[union-attr]
        del state[f"{name}.weight"]
        state |= {f"{name}.{part}": value for part, value in pack(codes, table).items()}
    return state, model.eval()


def fresh(dtype: torch.dtype = torch.float32, width: int = 64) -> nn.Module:
    torch.manual_seed(1)
    return Tokens(width).to(dtype)


TOKENS = torch.arange(20)[None]


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_squeezellm(bits: int, tmp_path: Path) -> None:
    state, original = checkpoint(lambda codes, table: squeezed(codes, table, bits), bits, torch.float32)
    torch.save(state, tmp_path / "packed.pt")
    made = lloydmax.from_squeezellm(tmp_path / "packed.pt", fresh())
    assert torch.equal(made(TOKENS), original(TOKENS)) and not made.training
    held = lloydmax.codebooks(made)
    assert set(held) == {"up.weight", "down.weight"}
    assert torch.equal(held["up.weight"].centroids, state["up.lookup_table"]) and held["up.weight"].k == 1 << bits


@pytest.mark.parametrize(("bits", "width"), [(3, 64), (4, 1152)])
def test_any_precision(bits: int, width: int, tmp_path: Path) -> None:
    def pack(codes: Tensor, table: Tensor) -> State:
        fewer = codes >> 1  # codes of fewer bits are the highest bits
        return any_precision(codes, {bits: table, bits - 1: table[:, : 1 << (bits - 1)]}, bits) | {"_": fewer}

    state, original = checkpoint(pack, bits, torch.float16, width)
    fewer = {name: state.pop(f"{name}._") for name in ("up", "down")}
    save_file({name: value.contiguous() for name, value in state.items()}, tmp_path / "model.safetensors")
    made = lloydmax.from_any_precision(tmp_path, fresh(torch.float16, width))
    held = lloydmax.codebooks(made)
    for name in ("up", "down"):
        assert torch.equal(held[f"{name}.weight"].dequantize(), original.get_parameter(f"{name}.weight"))
    lower = lloydmax.codebooks(lloydmax.from_any_precision(tmp_path, fresh(torch.float16, width), bits=bits - 1))
    assert torch.equal(lower["up.weight"].codes.long(), fewer["up"])
    assert torch.equal(lower["up.weight"].centroids, state[f"up.lut{bits - 1}"])


def test_onto_meta_and_saved(tmp_path: Path) -> None:
    state, original = checkpoint(lambda codes, table: squeezed(codes, table, 3), 3, torch.float32)
    with torch.device("meta"):
        empty = Tokens()
    made = lloydmax.from_squeezellm(state, empty)
    lloydmax.save(made, tmp_path / "model.safetensors")
    assert torch.equal(lloydmax.load(tmp_path / "model.safetensors", fresh())(TOKENS), original(TOKENS))


def _without(part: str) -> Callable[[State], None]:
    def change(state: State) -> None:
        del state[part]

    return change


def _with(part: str, value: Callable[[Tensor], Tensor]) -> Callable[[State], None]:
    return lambda state: state.update({part: value(state.get(part, torch.ones(3)))})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_with("up.vals", lambda _: torch.ones(7)), "up adds 7 outliers in a sparse matrix"),
        (_without("up.lookup_table"), r"lacks up\.lookup_table"),
        (_without("down.bias"), r"lacks down\.bias"),
        (_without("embed.weight"), r"lacks embed\.weight"),
        (_with("up.lookup_table", lambda t: t[:, :5]), "do not belong together"),
        (_with("up.lookup_table", lambda t: t / 0), r"up\.lookup_table holds NaN or infinite values"),
        (_with("up.qweight", lambda t: t.float()), r"up\.qweight is torch\.float32"),
        (_with("up.qweight", lambda t: t[:3]), r"up\.weight is \(96, 32\), \(96, 64\) in the model"),
        (_with("embed.weight", lambda t: t[:, :3]), r"embed\.weight is \(20, 3\)"),
        (_with("other.qweight", lambda t: t), r"belongs to another model, which lacks other\.weight"),
    ],
)
def test_refusals_are_one_line_and_change_nothing(change: Callable[[State], None], said: str, tmp_path: Path) -> None:
    state, _ = checkpoint(lambda codes, table: squeezed(codes, table, 3), 3, torch.float32)
    change(state)
    torch.save(state, tmp_path / "packed.pt")
    model = fresh()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(lloydmax.CheckpointError, match=said) as caught:
        lloydmax.from_squeezellm(tmp_path / "packed.pt", model)
    assert "\n" not in str(caught.value) and "packed.pt" in str(caught.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_other_refusals(tmp_path: Path) -> None:
    state, _ = checkpoint(lambda codes, table: squeezed(codes, table, 3), 3, torch.float32)
    with pytest.raises(lloydmax.CheckpointError, match=r"cannot hold it: call model\.to\(torch\.float32\)"):
        lloydmax.from_squeezellm(state, fresh(torch.bfloat16))
    with pytest.raises(lloydmax.CheckpointError, match="no layer of Any-Precision LLM"):
        lloydmax.from_any_precision({"embed.weight": state["embed.weight"]}, fresh())
    with pytest.raises(lloydmax.CheckpointError, match=r"up\.qweight is torch\.int32 of shape"):
        lloydmax.from_any_precision(state, fresh())
    with pytest.raises(lloydmax.CheckpointError, match="no checkpoint there"):
        lloydmax.from_squeezellm(tmp_path / "absent", fresh())
    (tmp_path / "broken.pt").write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(lloydmax.CheckpointError, match=r"broken\.pt") as caught:
        lloydmax.from_squeezellm(tmp_path / "broken.pt", fresh())
    assert "\n" not in str(caught.value)


def test_what_the_model_does_not_have_is_named() -> None:
    state, original = checkpoint(lambda codes, table: squeezed(codes, table, 3), 3, torch.float32)
    with pytest.warns(UserWarning, match=r"the model has no rotary\.inv_freq: left out"):
        made = lloydmax.from_squeezellm(state | {"rotary.inv_freq": torch.ones(2)}, fresh())
    assert torch.equal(made(TOKENS), original(TOKENS))
