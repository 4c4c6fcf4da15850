"""A transformers folder compressed from its files: the same bytes as in memory, and clear refusals."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from lloydmax.errors import IntegrationError, LloydmaxError, OutputError, RecipeError

transformers = pytest.importorskip("transformers")

from lloydmax.integrations.transformers import compress_folder  # noqa: E402
from lloydmax.integrations.transformers.skeleton import skeleton  # noqa: E402

SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}


def llama() -> Any:
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, vocab_size=320, max_position_embeddings=64)
    return transformers.LlamaForCausalLM._from_config(config, dtype=torch.bfloat16)


def gpt2() -> Any:
    config = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=320, n_positions=64)
    return transformers.GPT2LMHeadModel(config)


def bert() -> Any:
    config = transformers.BertConfig(**SIZES, vocab_size=320, max_position_embeddings=64)
    return transformers.BertForSequenceClassification(config)


@pytest.fixture(params=[llama, gpt2, bert], ids=lambda make: make.__name__)
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    return request.param().eval()


@pytest.fixture
def folder(model: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "original", max_shard_size="20KB")
    (tmp_path / "original" / "tokenizer_config.json").write_text("{}")
    assert len([*(tmp_path / "original").glob("*.safetensors")]) > 2
    return tmp_path / "original"


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(torch.arange(12)[None]).logits


def test_the_file_is_that_of_the_model_in_memory(model: Any, folder: Path, tmp_path: Path) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 6}], "storage": {"codes": "entropy", "layout": "compact"}}
    made = compress_folder(folder, tmp_path / "out", recipe, progress=False)
    lloydmax.compress(model, recipe, progress=False).save(tmp_path / "whole.safetensors")
    assert (made.path / "lloydmax.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert made.file == (tmp_path / "whole.safetensors").stat().st_size
    assert sorted(path.name for path in made.path.iterdir() if path.name != "generation_config.json") == [
        "config.json",
        "lloydmax.safetensors",
        "tokenizer_config.json",
    ]


@pytest.mark.parametrize("model", [llama, gpt2], indirect=True)
def test_bits_are_kept_and_the_result_loads(model: Any, folder: Path, tmp_path: Path) -> None:
    made = compress_folder(folder, tmp_path / "out", bits=5, progress=False)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert 0.97 * 5 * weights / 8 < made.file <= 5 * weights / 8
    loaded = type(model).from_pretrained(tmp_path / "out")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["bits"] == 5
    built = type(model)._from_config(model.config, dtype=model.dtype)
    assert torch.equal(logits(loaded), logits(lloydmax.load(tmp_path / "out", built)))
    near = torch.nn.functional.cosine_similarity(logits(loaded).float().flatten(), logits(model).float().flatten(), 0)
    assert near > 0.9


def test_tables_of_tokens_and_heads_get_more_bits(tmp_path: Path) -> None:
    torch.manual_seed(0)
    llama().save_pretrained(tmp_path / "original")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in (tmp_path / "original").iterdir()}
    plan = compress_folder(tmp_path / "original", tmp_path / "out", bits=4, progress=False).plan
    compress_folder(tmp_path / "original", tmp_path / "again", bits=4, progress=False)
    again, first = ((tmp_path / name / "lloydmax.safetensors").read_bytes() for name in ("again", "out"))
    assert again == first
    assert {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in before} == before
    prices = {name: p.options.price for name, p in plan.parameters.items()}  # type: ignore[attr-defined]
    assert prices["lm_head.weight"] < prices["model.layers.1.mlp.down_proj.weight"] / 4
    assert prices["model.embed_tokens.weight"] < prices["model.layers.1.mlp.down_proj.weight"] / 4


def test_a_skeleton_has_what_no_file_keeps(model: Any, folder: Path) -> None:
    made = skeleton(folder)
    fleeting = {name: buffer for name, buffer in model.named_buffers() if name not in model.state_dict()}
    assert fleeting or type(model).__name__ == "GPT2LMHeadModel"
    for name, buffer in fleeting.items():
        assert torch.equal(made.get_buffer(name), buffer), name
    assert all(parameter.is_meta for parameter in made.parameters())


@pytest.fixture
def one(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    gpt2().save_pretrained(tmp_path / "original")
    return tmp_path / "original"


def refused(folder: Path, error: type[LloydmaxError], what: str, recipe: Any = None, bits: float | None = 4) -> None:
    out = folder.parent / "out"
    with pytest.raises(error, match=what) as caught:
        compress_folder(folder, out, recipe, bits=None if recipe else bits, progress=False)
    assert len(str(caught.value).splitlines()) == 1
    assert not out.exists() and [path for path in folder.parent.iterdir() if path != folder] == []


@pytest.fixture
def mixtral(tmp_path: Path) -> Path:
    """A folder in shards, where each expert has tensors of its own."""
    torch.manual_seed(0)
    sizes = SIZES | {"num_local_experts": 3, "num_key_value_heads": 2, "vocab_size": 320}
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes))
    model.save_pretrained(tmp_path / "mixtral", max_shard_size="60KB")
    return tmp_path / "mixtral"


def test_experts_are_joined_as_from_pretrained_joins_them(mixtral: Path, tmp_path: Path) -> None:
    assert "experts.1." in (mixtral / "model.safetensors.index.json").read_text()
    recipe = {"quantize": [{"layers": "all", "centroids": 6}]}
    made = compress_folder(mixtral, tmp_path / "out", recipe, progress=False)
    model = transformers.AutoModelForCausalLM.from_pretrained(mixtral)
    lloydmax.compress(model, recipe, progress=False).save(tmp_path / "whole.safetensors")
    assert (made.path / "lloydmax.safetensors").read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"mixtral", "out", "whole.safetensors"}


def test_batch_norms_stay_where_the_recipe_is_made(tmp_path: Path) -> None:
    sizes = {"embedding_size": 8, "hidden_sizes": [8, 32], "depths": [1, 1], "layer_type": "basic"}
    model = transformers.ResNetForImageClassification(transformers.ResNetConfig(**sizes)).eval()
    model.save_pretrained(tmp_path / "original")
    compress_folder(tmp_path / "original", tmp_path / "out", bits=5, progress=False)
    loaded, x = type(model).from_pretrained(tmp_path / "out"), torch.rand(1, 3, 32, 32)
    assert torch.nn.functional.cosine_similarity(loaded(x).logits, model(x).logits).item() > 0.9


@pytest.mark.parametrize("kind", ["one", "shards", "old"])
def test_pickles_are_read_as_safetensors_are(one: Path, tmp_path: Path, kind: str) -> None:
    recipe = {"quantize": [{"layers": "all", "centroids": 6}]}
    expected = compress_folder(one, tmp_path / "expected", recipe, progress=False).path / "lloydmax.safetensors"
    state = transformers.GPT2LMHeadModel.from_pretrained(one).state_dict()
    (one / "model.safetensors").unlink()
    state["transformer.h.0.attn.bias"] = torch.ones(1, 1, 64, 64)  # old files have it, and models do not
    if kind == "shards":
        names = sorted(state)
        parts = {"a.bin": names[:9], "b.bin": names[9:]}
        for file, held in parts.items():
            torch.save({name: state[name] for name in held}, one / file)
        where = {name: file for file, held in parts.items() for name in held}
        (one / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": where}))
    else:
        torch.save(state, one / "pytorch_model.bin", _use_new_zipfile_serialization=kind != "old")
    made = compress_folder(one, tmp_path / "out", recipe, progress=False)
    assert (made.path / "lloydmax.safetensors").read_bytes() == expected.read_bytes()
    assert [path.name for path in made.path.glob("*.bin*")] == []


def test_recipes_that_need_inputs_are_refused(one: Path) -> None:
    rule = {"layers": "all", "centroids": 4}
    refused(one, RecipeError, "'distill' needs", {"quantize": [rule], "recover": [{"step": "distill"}]})
    refused(one, RecipeError, "needs the whole model", {"quantize": [rule | {"importance": "fisher"}]})
    refused(one, IntegrationError, "one of the two", bits=None)
    refused(one, LloydmaxError, "fill", bits=0.01)


@pytest.mark.parametrize("what", ["cut", "length", "offset", "other", "none", "text", "code", "config", "custom"])
def test_broken_folders_are_refused(one: Path, what: str) -> None:
    file, config = one / "model.safetensors", one / "config.json"
    data = file.read_bytes()
    if what == "cut":
        file.write_bytes(data[:2000])
    elif what == "length":
        file.write_bytes(struct.pack("<Q", 2**62) + data[8:])
    elif what == "offset":
        file.write_bytes(data.replace(b'"data_offsets":[0,', b'"data_offsets":[8,', 1))
    elif what == "other":
        file.write_bytes(data.replace(b"transformer.wpe", b"transformer.wxe"))
    elif what == "none":
        file.unlink()
    elif what in ("text", "code"):
        torch.save({"a": 1} if what == "text" else transformers.GPT2Config(), one / "pytorch_model.bin")
        file.unlink()
    else:
        kept = json.loads(config.read_text())
        config.write_text("[" if what == "config" else json.dumps(kept | {"architectures": ["Mine"]}))
    refused(one, IntegrationError, {"other": "wpe", "none": "holds neither", "custom": "Mine"}.get(what, one.name))


def test_compressed_folders_and_full_ones_are_refused(one: Path, tmp_path: Path) -> None:
    compress_folder(one, tmp_path / "out", bits=4, progress=False)
    with pytest.raises(IntegrationError, match="holds a compressed model"):
        compress_folder(tmp_path / "out", tmp_path / "again", bits=4, progress=False)
    with pytest.raises(OutputError, match="not empty"):
        compress_folder(one, tmp_path / "out", bits=4, progress=False)
