"""transformers: what save_pretrained writes, from_pretrained gives back, bit for bit; weights are never random."""

from __future__ import annotations

import copy
import json
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch

hf = pytest.importorskip("transformers")

import lloydmax.integrations.transformers as door  # noqa: E402
from hf_models import ALL_LAYERS, IDS, KINDS, answers, bert, llama, model_folder, same, seeded, student, t5  # noqa: E402
from lloydmax.integrations.transformers import LloydmaxConfig  # noqa: E402

INPUTS = {"input_ids": IDS}
QUICK = ("llama, tied", "gpt2", "t5", "vit")
"""Kinds that are tried whenever tests are."""
pytestmark = pytest.mark.filterwarnings("ignore:.*looks untrained", "ignore:.*layers, all or")


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A student, and the folder that it was saved into."""
    folder = tmp_path_factory.mktemp("saved")
    model = student(llama)
    model.save_pretrained(str(folder))
    return model, folder


@pytest.mark.parametrize("kind", [*QUICK, *(pytest.param(k, marks=pytest.mark.slow) for k in KINDS if k not in QUICK)])
@pytest.mark.filterwarnings("error:.*left out")
def test_every_kind_comes_back_bit_for_bit(kind: str, tmp_path: Path) -> None:
    make, inputs = KINDS[kind]
    model = student(make)
    model.save_pretrained(str(tmp_path / "one"))
    loaded = type(seeded(make)).from_pretrained(str(tmp_path / "one"))
    assert same(model, loaded, inputs)
    assert lloydmax.codebooks(loaded).keys() == lloydmax.codebooks(model).keys()
    loaded.save_pretrained(str(tmp_path / "two"))
    one, two = (tmp_path / place / "lloydmax.safetensors" for place in ("one", "two"))
    assert one.read_bytes() == two.read_bytes()


def test_weights_are_never_random(saved: tuple[Any, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """What transformers does where nothing of lloydmax was imported."""
    for mapping in (hf.quantizers.auto.AUTO_QUANTIZER_MAPPING, hf.quantizers.auto.AUTO_QUANTIZATION_CONFIG_MAPPING):
        monkeypatch.delitem(mapping, "lloydmax")
    for kind in (hf.AutoModelForCausalLM, hf.AutoModel, hf.LlamaForCausalLM):
        with pytest.raises(ValueError, match="import lloydmax.integrations.transformers"):
            kind.from_pretrained(str(saved[1]))


@pytest.mark.slow
def test_a_fresh_process_needs_one_import_and_never_gets_random_weights(saved: tuple[Any, Path]) -> None:
    model, folder = saved
    code = f"""
import torch, transformers
try:
    transformers.AutoModelForCausalLM.from_pretrained({str(folder)!r})
except ValueError as error:
    assert "import lloydmax.integrations.transformers" in str(error), error
else:
    raise AssertionError("weights from nowhere")
import lloydmax.integrations.transformers
model = transformers.AutoModelForCausalLM.from_pretrained({str(folder)!r})
torch.save(model(torch.arange(3, 27).view(2, 12)).logits, {str(folder / "logits.pt")!r})
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=300)
    assert torch.equal(torch.load(folder / "logits.pt"), answers(model, INPUTS)[0])


def test_nothing_in_the_folder_passes_for_weights(saved: tuple[Any, Path]) -> None:
    _, folder = saved
    assert {path.name for path in folder.iterdir()} <= {
        "config.json", "generation_config.json", "lloydmax.safetensors", "logits.pt",
    }  # fmt: skip
    assert lloydmax.verify(folder).bytes == (folder / "lloydmax.safetensors").stat().st_size
    assert lloydmax.inspect(folder).parameters
    assert same(lloydmax.load(folder, seeded(llama)), saved[0])


def test_a_folder_without_its_file_is_refused(saved: tuple[Any, Path], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((saved[1] / "config.json").read_bytes())
    with pytest.raises((OSError, lloydmax.LloydmaxError)):
        hf.AutoModelForCausalLM.from_pretrained(str(tmp_path))


@pytest.mark.parametrize("left", [0, 6, -40])
def test_a_file_that_is_cut_off_is_named(saved: tuple[Any, Path], tmp_path: Path, left: int) -> None:
    (tmp_path / "config.json").write_bytes((saved[1] / "config.json").read_bytes())
    (tmp_path / "lloydmax.safetensors").write_bytes((saved[1] / "lloydmax.safetensors").read_bytes()[:left])
    with pytest.raises(lloydmax.CheckpointError, match=r"lloydmax\.safetensors: [^\n]*$"):
        hf.AutoModelForCausalLM.from_pretrained(str(tmp_path))


def test_compresses_on_loading(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "original")
    config = LloydmaxConfig(recipe=ALL_LAYERS, progress=False)
    model = hf.AutoModelForCausalLM.from_pretrained(str(folder), quantization_config=config)
    assert isinstance(model, hf.LlamaForCausalLM)
    assert same(model, lloydmax.compress(seeded(llama), ALL_LAYERS, progress=False).model)
    model.save_pretrained(str(tmp_path / "out"))
    assert same(model, hf.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out")))


@pytest.mark.slow
def test_bits_and_texts_with_the_folders_own_tokenizer(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "original")
    texts = ["a text of letters, not of words.", "another one, of which tokens are made."] * 8
    config = LloydmaxConfig(bits=5, data=texts, effort=0, seed=1, progress=False)
    model = hf.AutoModelForCausalLM.from_pretrained(str(folder), quantization_config=config)
    assert model.hf_quantizer.quantization_config.data is None  # the inputs are let go
    model.save_pretrained(str(tmp_path / "out"))
    asked = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert asked == {"quant_method": "lloydmax", "bits": 5.0, "effort": 0.0, "seed": 1}
    assert lloydmax.inspect(tmp_path / "out").bytes * 8 / seeded(llama).num_parameters() < 5.3


@pytest.mark.parametrize("tied", [False, True])
def test_shards_are_compressed(tmp_path: Path, tied: bool) -> None:
    seeded(lambda: llama(tied)).save_pretrained(str(tmp_path), max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").is_file()
    config = LloydmaxConfig(recipe=ALL_LAYERS, progress=False)
    model = hf.AutoModelForCausalLM.from_pretrained(str(tmp_path), quantization_config=config)
    assert same(model, student(lambda: llama(tied)))


@pytest.mark.parametrize("dtype", [torch.bfloat16, "auto"])
def test_a_dtype_may_be_asked_for(saved: tuple[Any, Path], dtype: Any) -> None:
    loaded = hf.AutoModelForCausalLM.from_pretrained(str(saved[1]), dtype=dtype)
    wanted = torch.float32 if dtype == "auto" else dtype
    assert {value.dtype for value in loaded.parameters()} == {wanted}
    assert {book.centroids.dtype for book in lloydmax.codebooks(loaded).values()} == {wanted}
    assert torch.isfinite(answers(loaded, INPUTS)[0]).all()


def test_half_models_keep_their_dtype(tmp_path: Path) -> None:
    folder = model_folder(tmp_path / "original")
    config = LloydmaxConfig(recipe=ALL_LAYERS, progress=False)
    model = hf.AutoModelForCausalLM.from_pretrained(str(folder), quantization_config=config, dtype=torch.bfloat16)
    assert model.dtype == torch.bfloat16
    model.save_pretrained(str(tmp_path / "out"))
    loaded = hf.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"))
    assert loaded.dtype == torch.bfloat16 and same(model, loaded)
    single = hf.AutoModelForCausalLM.from_pretrained(str(tmp_path / "out"), dtype=torch.float32)
    assert single.dtype == torch.float32


@pytest.mark.parametrize("device_map", ["auto", "cpu"])
def test_device_maps(saved: tuple[Any, Path], device_map: Any) -> None:
    pytest.importorskip("accelerate")
    loaded = hf.AutoModelForCausalLM.from_pretrained(str(saved[1]), device_map=device_map, low_cpu_mem_usage=True)
    assert device_map == "auto" or same(loaded, saved[0])
    with pytest.raises(lloydmax.IntegrationError, match="on one device"):
        hf.AutoModelForCausalLM.from_pretrained(str(saved[1]), device_map={"model": "cpu", "lm_head": "disk"})


def test_copies_pickles_and_parts_are_saved_with_their_codebooks(saved: tuple[Any, Path], tmp_path: Path) -> None:
    for number, model in enumerate([copy.deepcopy(saved[0]), pickle.loads(pickle.dumps(saved[0]))]):
        model.save_pretrained(str(tmp_path / str(number)))
        assert same(hf.AutoModelForCausalLM.from_pretrained(str(tmp_path / str(number))), saved[0])
    inner = saved[0].model
    inner.save_pretrained(str(tmp_path / "inner"))
    assert same(hf.AutoModel.from_pretrained(str(tmp_path / "inner")), inner)


def test_what_is_loaded_by_lloydmax_is_saved_with_its_codebooks(saved: tuple[Any, Path], tmp_path: Path) -> None:
    model = lloydmax.load(saved[1] / "lloydmax.safetensors", seeded(llama))
    model.save_pretrained(str(tmp_path))
    assert same(hf.AutoModelForCausalLM.from_pretrained(str(tmp_path)), saved[0])


def test_generation_settings_survive_and_generate_uses_them(tmp_path: Path) -> None:
    model = student(lambda: llama(tied=True))
    model.generation_config.max_new_tokens = 7
    model.save_pretrained(str(tmp_path))
    loaded = hf.AutoModelForCausalLM.from_pretrained(str(tmp_path))
    assert loaded.generation_config.max_new_tokens == 7
    found = loaded.generate(IDS, do_sample=False)
    assert torch.equal(found, model.generate(IDS, do_sample=False, use_cache=False))


@pytest.mark.parametrize("tied", [False, True])
def test_parameters_are_counted_as_of_the_original(tied: bool) -> None:
    make = partial(llama, tied)
    original, compressed = seeded(make), student(make)
    for without in (False, True):
        assert compressed.num_parameters(exclude_embeddings=without) == original.num_parameters(
            exclude_embeddings=without
        )
    assert compressed.num_parameters(only_trainable=True) < original.num_parameters() / 50


def test_a_table_of_tokens_in_codebooks_keeps_its_rows(saved: tuple[Any, Path]) -> None:
    model = hf.AutoModelForCausalLM.from_pretrained(str(saved[1]))
    assert model.resize_token_embeddings() is model.resize_token_embeddings(100) is model.get_input_embeddings()
    with pytest.raises(lloydmax.IntegrationError, match="resize the original, then compress it"):
        model.resize_token_embeddings(104)
    assert same(model, saved[0])
    assert model.dequantize().resize_token_embeddings(104).num_embeddings == 104
    inner = student(llama, {"quantize": [{"layers": "*_proj", "centroids": 8}]})
    assert inner.resize_token_embeddings(104).num_embeddings == inner(**INPUTS).logits.shape[-1] == 104


def test_dequantized_models_are_ordinary(saved: tuple[Any, Path], tmp_path: Path) -> None:
    model = hf.AutoModelForCausalLM.from_pretrained(str(saved[1])).dequantize()
    assert type(model) is hf.LlamaForCausalLM and not lloydmax.codebooks(model) and same(model, saved[0])
    model.save_pretrained(str(tmp_path))
    assert (tmp_path / "model.safetensors").is_file()
    assert "quantization_config" not in json.loads((tmp_path / "config.json").read_text())
    assert same(hf.AutoModelForCausalLM.from_pretrained(str(tmp_path)), saved[0])


def test_the_caller_keeps_his_model(tmp_path: Path) -> None:
    teacher = seeded(llama)
    before = (type(teacher), dict(vars(teacher)), teacher.config.to_dict())
    lloydmax.compress(teacher, ALL_LAYERS, progress=False).model.save_pretrained(str(tmp_path))
    assert before == (type(teacher), dict(vars(teacher)), teacher.config.to_dict())
    teacher.save_pretrained(str(tmp_path / "teacher"))
    assert same(hf.AutoModelForCausalLM.from_pretrained(str(tmp_path / "teacher")), teacher)


def test_a_trunk_comes_out_of_the_folder_of_a_head(tmp_path: Path) -> None:
    model = student(bert)
    model.save_pretrained(str(tmp_path))
    with pytest.warns(UserWarning, match="BertModel has no cls.predictions.bias.* left out"):
        trunk = hf.AutoModel.from_pretrained(str(tmp_path), add_pooling_layer=False)
    assert same(trunk, model.bert)
    trunk.save_pretrained(str(tmp_path / "trunk"))
    assert same(hf.AutoModel.from_pretrained(str(tmp_path / "trunk"), add_pooling_layer=False), trunk)
    with pytest.raises(lloydmax.CheckpointError, match="the file lacks .*classifier"):  # a head is never made at random
        hf.AutoModelForSequenceClassification.from_pretrained(str(tmp_path))


def test_an_encoder_comes_out_of_the_folder_of_the_whole(tmp_path: Path) -> None:
    model = student(t5)
    model.save_pretrained(str(tmp_path))
    with pytest.warns(UserWarning, match="T5EncoderModel has no decoder"):
        encoder = hf.T5EncoderModel.from_pretrained(str(tmp_path))
    assert same(encoder, model.encoder) and not hasattr(encoder, "decoder")
    assert encoder.encoder.embed_tokens.codebooks["weight"] is encoder.shared.codebooks["weight"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "needs bits, such as bits=3, or a recipe"),
        ({"bits": 3, "recipe": ALL_LAYERS}, "bits or a recipe, not both"),
        ({"bit": 3}, "no option 'bit'.*bits"),
        ({"bits": -1}, "bits must be a number above 0"),
        ({"bits": 3, "seed": -1}, "seed"),
    ],
)
def test_what_cannot_be_asked_is_told(tmp_path: Path, options: dict[str, Any], said: str) -> None:
    seeded(llama).save_pretrained(str(tmp_path))
    with pytest.raises(lloydmax.LloydmaxError, match=said):
        config = LloydmaxConfig(**options)
        hf.AutoModelForCausalLM.from_pretrained(str(tmp_path), quantization_config=config)


def test_what_cannot_be_saved_is_told(saved: tuple[Any, Path], tmp_path: Path) -> None:
    model, _ = saved
    with pytest.raises(lloydmax.IntegrationError, match="variant"):
        model.save_pretrained(str(tmp_path), variant="fp16")
    with pytest.raises(lloydmax.IntegrationError, match="state_dict is not that of the model"):
        model.save_pretrained(str(tmp_path), state_dict={"model.norm.weight": torch.ones(32)})
    model.save_pretrained(str(tmp_path), state_dict=model.state_dict(), is_main_process=False)
    assert list(tmp_path.iterdir()) == []
    model.save_pretrained(str(tmp_path), state_dict=model.state_dict())
    assert same(hf.AutoModelForCausalLM.from_pretrained(str(tmp_path)), model)


def test_importing_twice_is_possible() -> None:
    assert door.LloydmaxQuantizer is sys.modules["lloydmax.integrations.transformers.quantizer"].LloydmaxQuantizer
