"""Folders of transformers on the command line."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import lloydmax
import pytest
import torch
from click.testing import CliRunner, Result
from lloydmax_command import main

hf = pytest.importorskip("transformers")

import lloydmax.integrations.transformers  # noqa: E402
from hf_models import ALL_LAYERS, bert_sentences, llama, model_folder, same, seeded, student  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore:.*looks untrained", "ignore:.*layers, all or")
TEXT = "a line of letters.\n\nanother line, of other letters.\n" * 40


def _run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, a recipe, a text, and what the command made of them."""
    place = tmp_path_factory.mktemp("cli")
    model_folder(place / "model")
    (place / "model" / "model.onnx").write_bytes(b"once more")
    (place / "model" / "notes").mkdir()
    (place / "model" / "notes" / "more.txt").write_text("kept")
    lloydmax.Recipe.load(ALL_LAYERS).save(place / "recipe.yaml")
    (place / "corpus.txt").write_text(TEXT)
    given = ("--model", place / "model", "--data", place / "corpus.txt", "--quiet")
    result = _run("compress", *given, "--recipe", place / "recipe.yaml", "--out", place / "out")
    assert result.exit_code == 0, result.output
    return place


def test_a_folder_becomes_one_that_from_pretrained_takes(place: Path) -> None:
    model = hf.AutoModelForCausalLM.from_pretrained(str(place / "out"))
    assert same(model, student())
    assert hf.AutoTokenizer.from_pretrained(str(place / "out"))("abc")["input_ids"] == [4, 5, 6]
    original, made = place / "model", place / "out"
    for name in ("tokenizer.json", "tokenizer_config.json", "generation_config.json", "notes/more.txt"):
        assert (made / name).read_bytes() == (original / name).read_bytes()
    assert not (made / "model.safetensors").exists() and not (made / "model.onnx").exists()
    config = json.loads((made / "config.json").read_text())
    assert config.pop("quantization_config")["quant_method"] == "lloydmax"
    del config["transformers_weights"]
    assert config == json.loads((original / "config.json").read_text())


def test_the_folder_is_inspected_and_verified(place: Path) -> None:
    for command in ("inspect", "verify"):
        assert _run(command, place / "out").exit_code == 0


@pytest.mark.slow
def test_the_folders_report_is_shown(place: Path, tmp_path: Path) -> None:
    assert _run("report", place / "out", "--out", tmp_path / "page.html").exit_code == 0
    assert (tmp_path / "page.html").stat().st_size > 1000


def test_evaluate_takes_folders_and_texts(place: Path) -> None:
    given = ("--model", place / "model", "--student", place / "out", "--data", place / "corpus.txt")
    result = _run("evaluate", *given, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert 0 <= found["agreement"] <= 1 and found["tokens"] > 100
    assert found["perplexity_original"] == pytest.approx(_perplexity(seeded(llama), place), rel=1e-3)
    assert found["perplexity"] == pytest.approx(_perplexity(student(), place), rel=1e-3)
    assert found["perplexity"] != found["perplexity_original"]


def _perplexity(model: Any, place: Path) -> float:
    """The usual way: one stream of tokens in sequences of 256, each token from those before it."""
    tokenizer = hf.AutoTokenizer.from_pretrained(str(place / "model"))
    stream = [*tokenizer((place / "corpus.txt").read_text())["input_ids"], tokenizer.eos_token_id]
    rows = torch.tensor(stream[: len(stream) // 256 * 256]).view(-1, 256)
    with torch.no_grad():
        return float(torch.exp(model(input_ids=rows, labels=rows).loss))


def test_a_file_is_written_where_its_name_says_so(place: Path, tmp_path: Path) -> None:
    out = tmp_path / "model.safetensors"
    given = ("--model", place / "model", "--recipe", place / "recipe.yaml", "--quiet")
    assert _run("compress", *given, "--out", out).exit_code == 0
    assert same(lloydmax.load(out, seeded(llama)), student())


def test_a_folder_without_a_tokenizer_is_asked_for_one(place: Path, tmp_path: Path) -> None:
    """transformers makes one of the model's kind, to which all words are the same."""
    bert = hf.BertConfig(
        vocab_size=64, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    hf.BertForSequenceClassification(bert).save_pretrained(tmp_path / "bert")
    given = ("--model", tmp_path / "bert", "--recipe", place / "recipe.yaml", "--data", place / "corpus.txt", "--quiet")
    refused = _run("compress", *given, "--out", tmp_path / "out")
    assert refused.exit_code == 2 and "--tokenizer FOLDER" in refused.output and not (tmp_path / "out").exists()
    taken = _run("compress", *given, "--out", tmp_path / "out", "--tokenizer", place / "model")
    assert taken.exit_code == 0, taken.output


@pytest.mark.parametrize(
    ("out", "said"), [("full", "is not empty"), ("file", "is a file"), ("none/where/closed", "Permission|no file")]
)
def test_a_folder_that_cannot_be_made_is_refused_before_the_work(
    place: Path, tmp_path: Path, out: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thing").touch()
    (tmp_path / "file").touch()
    if out.startswith("none"):
        monkeypatch.setattr("lloydmax.runtime.files._closed", lambda folder: f"no file can be made in {folder}")
    monkeypatch.setattr("lloydmax.cli.commands.build_model", lambda *given: pytest.fail("work was done"))
    given = ("--model", place / "model", "--recipe", place / "recipe.yaml")
    result = _run("compress", *given, "--out", tmp_path / out)
    assert result.exit_code == 2 and len(result.output.strip().splitlines()) == 1, result.output
    assert re.search(said, result.output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "full"]


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (None, "is not the folder of a model"),
        ("{", "is not JSON"),
        ("[]", "names neither"),
        ('{"architectures": ["NoSuchModel"]}', "transformers has no 'NoSuchModel'"),
        ('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}', "cannot be opened"),
        ('{"architecture": "resnet18"}', "timm"),
    ],
)
def test_folders_that_hold_no_model_are_told(place: Path, tmp_path: Path, config: str | None, said: str) -> None:
    (tmp_path / "odd").mkdir()
    if config is not None:
        (tmp_path / "odd" / "config.json").write_text(config)
    given = ("--model", tmp_path / "odd", "--recipe", place / "recipe.yaml")
    result = _run("compress", *given, "--out", tmp_path / "out")
    assert result.exit_code == 2 and said in result.output, result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_sentence_transformers_may_keep_the_model_in_a_folder_of_its_own(place: Path, tmp_path: Path) -> None:
    sentences = pytest.importorskip("sentence_transformers")
    bert_sentences(tmp_path / "flat")
    inner = tmp_path / "model" / "0_Transformer"
    shutil.copytree(tmp_path / "flat", inner, ignore=shutil.ignore_patterns("1_*", "modules.json"))
    shutil.copytree(tmp_path / "flat" / "1_Pooling", tmp_path / "model" / "1_Pooling")
    parts = json.loads((tmp_path / "flat" / "modules.json").read_text())
    (tmp_path / "model" / "modules.json").write_text(json.dumps([{**parts[0], "path": "0_Transformer"}, parts[1]]))
    for original in ("flat", "model"):
        given = ("--model", tmp_path / original, "--recipe", place / "recipe.yaml", "--quiet")
        assert _run("compress", *given, "--out", tmp_path / f"{original}-out").exit_code == 0
        model = sentences.SentenceTransformer(str(tmp_path / f"{original}-out"), device="cpu")
        assert lloydmax.codebooks(model)
        assert model.encode(["abc", "b"]).shape == (2, 32)


def test_a_compressed_folder_is_no_original(place: Path, tmp_path: Path) -> None:
    given = ("--model", place / "out", "--recipe", place / "recipe.yaml")
    result = _run("compress", *given, "--out", tmp_path / "out")
    assert result.exit_code == 2 and "holds a compressed model" in result.output
