"""Labels on the command line: folders of classes, files of class numbers, pictures that cannot be read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from lloydmax import DataError
from lloydmax.cli.inputs import class_numbers, labels_of
from lloydmax_command import main
from PIL import Image

MODEL = ["--model", "conftest:SmallNet"]
IMAGES = ["--image-size", "12", "--mean", "0.5,0.5,0.5", "--std", "0.5,0.5,0.5"]


def folders(root: Path, *names: str) -> list[Path]:
    """Two pictures in a folder of each name."""
    files = []
    for name in names:
        (root / name).mkdir(parents=True, exist_ok=True)
        for number in range(2):
            files.append(root / name / f"{number}.png")
            Image.new("RGB", (16, 16), (90 * number, 10, len(files))).save(files[-1])
    return sorted(files)


def run(*arguments: object, status: int = 0) -> Result:
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == status, result.output
    return result


def test_classes_are_counted_as_torchvision_counts_folders(tmp_path: Path) -> None:
    files = folders(tmp_path, "b", "a", "d")
    (tmp_path / "c").mkdir()
    (tmp_path / ".hidden").mkdir()
    with pytest.warns(UserWarning, match="no picture in c; all 4 folders count"):
        assert class_numbers(tmp_path, files).tolist() == [0, 0, 1, 1, 3, 3]


def test_numbers_as_names_are_told(tmp_path: Path) -> None:
    files = folders(tmp_path / "few", "0", "1", "9")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert class_numbers(tmp_path / "few", files).tolist() == [0, 0, 1, 1, 2, 2]
    files = folders(tmp_path / "many", "2", "10", "9")
    with pytest.warns(UserWarning, match=r"as text \(10, 2, 9 ...\), as torchvision .* leading zeros"):
        assert class_numbers(tmp_path / "many", files).tolist() == [0, 0, 1, 1, 2, 2]


def test_pictures_outside_of_every_class_are_refused(tmp_path: Path) -> None:
    files = folders(tmp_path, "a", ".")
    with pytest.raises(DataError, match=r"2 pictures lie in .* itself.*0\.png, 1\.png"):
        class_numbers(tmp_path, files)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0.5, 1.0]), "whole and from 0, not 0.5 to 1.0"),
        (np.array([0, -1]), "whole and from 0"),
        (np.array(["a", "b"]), "no class numbers"),
        (np.array([0, 1, 2]), "has 3 labels, the data 2 inputs"),
        (np.array([np.nan, 1.0]), "whole and from 0"),
    ],
)
def test_files_of_labels_are_checked(tmp_path: Path, labels: np.ndarray, words: str) -> None:
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(DataError, match=words), np.errstate(invalid="ignore"):
        labels_of(str(tmp_path / "labels.npy"), "data", [0, 0])
    (tmp_path / "labels.npy").write_bytes(b"")
    with pytest.raises(DataError, match=r"not a \.npy file"):
        labels_of(str(tmp_path / "labels.npy"), "data", [0, 0])


def test_evaluation_leaves_out_what_cannot_be_read(tmp_path: Path) -> None:
    folders(tmp_path / "photos", "a", "b", "c")
    (tmp_path / "recipe.yaml").write_text("quantize: [{layers: all, centroids: 4}]")
    out, data = tmp_path / "m.safetensors", ["--data", tmp_path / "photos", *IMAGES]
    run("compress", *MODEL, "--recipe", tmp_path / "recipe.yaml", "--out", out, "--quiet")
    (tmp_path / "photos/b/1.png").write_bytes(b"")
    with pytest.warns(UserWarning, match=r"1 of 6 samples left out.*1\.png: the file is empty"):
        found = json.loads(run("evaluate", *MODEL, "--student", out, *data, "--labels", "folders", "--json").stdout)
    assert found["left_out"] == 1 and round(5 * found["accuracy_original"], 6).is_integer()
    folders(tmp_path / "photos", "d", "e", "f")
    with pytest.warns(UserWarning, match="1 of 12"):
        wrong = run("evaluate", *MODEL, "--student", out, *data, "--labels", "folders", status=2)
    assert "class 5 is not one of the 5 that the model tells apart" in wrong.output
