"""What ``--model`` may name."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from lloydmax.cli.models import ModelError, build, source_of, tokenizer_of
from torch import nn


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A stand-in for timm, which knows one network."""
    made = ModuleType("timm")
    made.is_model = lambda name: name == "tiny"  # type: ignore[attr-defined]
    made.list_models = lambda: ["tiny", "tinier_a", "tinier_b"]  # type: ignore[attr-defined]
    made.create_model = lambda name, num_classes=5: nn.Linear(3, num_classes)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", made)
    return made


def test_timm_makes_networks_by_their_names(timm: ModuleType) -> None:
    model = build("timm:tiny", None, {"num_classes": 7})
    assert isinstance(model, nn.Linear) and model.out_features == 7
    assert build("timm:create_model", None, {"name": "tiny"}).out_features == 5


def test_a_name_that_is_not_there_is_told_with_those_that_are(timm: ModuleType) -> None:
    with pytest.raises(ModelError, match="timm has no 'tinny'") as told:
        build("timm:tinny", None, {})
    assert "did you mean 'tiny'?" in str(told.value)
    with pytest.raises(ModelError, match="did you mean 'tinier_a', 'tinier_b'"):
        build("timm:tinier", None, {})
    with pytest.raises(ModelError, match="has no 'zzz'") as told:
        build("timm:zzz", None, {})
    assert "create_model" in str(told.value) and "__" not in str(told.value)
    with pytest.raises(ModelError, match="package.module:callable, here torch.nn:Flatten"):
        build("torch.nn.Flatten", None, {})
    with pytest.raises(ModelError, match="here timm:tiny, or file.py:callable"):
        build("hub/tiny", None, {})
    with pytest.raises(
        ModelError, match="those of a hub have to be downloaded first.*here torchvision.models:resnet18"
    ):
        build("https://example.org/models/resnet18", None, {})
    with pytest.raises(ModelError, match=re.escape("did you mean torch.nn:Flatten?")):
        build("torch:Flatten", None, {})


def test_a_file_of_code_builds_models_with_what_lies_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where its name is that of an installed module, and its folder has a colon."""
    folder = tmp_path / "my: nets"
    folder.mkdir()
    (folder / "beside_a_file.py").write_text("WIDTH = 7\n")
    (folder / "tables.py").write_text(
        "from beside_a_file import WIDTH\nfrom torch import nn\ndef net(): return nn.Linear(3, WIDTH)\n"
    )
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "modules", {**sys.modules})
    file = folder / "tables.py"
    assert build(f"{file}:net", None, {}).out_features == 7
    assert source_of(f"{file}:net") == str(file)
    for spec, said in (
        (f"{file}", f"say what in it builds the model: {file}:NAME"),
        (f"{file}:nets", "did you mean 'net'?"),
        (f"{folder / 'none.py'}:net", "No module named"),
    ):
        with pytest.raises(ModelError, match=re.escape(said)):
            build(spec, None, {})


def test_a_file_of_weights_is_no_model(tmp_path: Path) -> None:
    file = tmp_path / "best.pt"
    torch.save(nn.Linear(2, 2).state_dict(), file)
    with pytest.raises(ModelError, match="name what builds it, as package.module:callable or file.py:callable"):
        build(str(file), None, {})
    with pytest.raises(ModelError, match="cannot be read: there is no such file"):
        build("torch.nn:Identity", tmp_path / "nowhere.pt", {})


@pytest.mark.parametrize("code", ["def net(:", "import torch\nraise RuntimeError('no card')", "net = 1 / 0"])
def test_a_module_that_cannot_be_imported_is_told_in_one_line(code: str, tmp_path: Path) -> None:
    (tmp_path / "broken.py").write_text(code)
    with pytest.raises(ModelError, match=r"importing .*broken.py failed: \w+Error: ") as told:
        build(f"{tmp_path / 'broken.py'}:net", None, {})
    assert "\n" not in str(told.value)


def test_what_a_model_draws_is_the_same_each_time(timm: ModuleType) -> None:
    before = torch.get_rng_state()
    assert torch.equal(build("timm:tiny", None, {}).weight, build("timm:tiny", None, {}).weight)
    assert torch.equal(before, torch.get_rng_state())


def test_a_tokenizer_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine_of_texts.py").write_text(
        "def letters(text):\n    return [ord(letter) % 128 for letter in text]\n"
    )
    assert tokenizer_of("torch.nn:Linear", "mine_of_texts:letters")("ab") == [97, 98]
    for wrong in ("nowhere", "mine_of_texts:words", str(tmp_path)):
        with pytest.raises(ModelError, match="--tokenizer"):
            tokenizer_of("torch.nn:Linear", wrong)
    assert tokenizer_of("torch.nn:Linear") is None
