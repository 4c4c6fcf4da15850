"""Folders of sounds."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from lloydmax import DataError
from lloydmax.data import sound_files, unlabelled
from lloydmax.data.sound_files import sounds
from torch import nn

soundfile = pytest.importorskip("soundfile")


def net() -> nn.Module:
    return nn.Sequential(nn.Conv1d(1, 4, 9), nn.AdaptiveAvgPool1d(1), nn.Flatten())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    drawn = np.random.default_rng(0)
    for number in range(4):
        soundfile.write(tmp_path / f"{number}.wav", 0.1 * drawn.normal(size=(600 * (1 + number), 1 + number % 2)), 800)
    return tmp_path


def test_a_folder_is_read_in_one_length(folder: Path) -> None:
    source = unlabelled(folder, net())
    assert len(source) == 4 and source.describe() == f"4 sounds from {folder}, 3 s at 800 Hz"
    batch = source.first(4).args[0]
    assert batch.shape == (4, 1, 2400) and torch.equal(batch[0, 0, :600], batch[0, 0, 600:1200])
    assert sounds(folder, 800, 0.5, flat=True)[1].shape == (400,)


def test_the_folder_of_a_model_says_rate_and_scaling(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = net()
    model.name_or_path = str(tmp_path / "model")
    (tmp_path / "model").mkdir()
    file = tmp_path / "model" / "preprocessor_config.json"
    file.write_text(json.dumps({"sampling_rate": 800, "do_normalize": True}))
    first = unlabelled(folder, model).first(1).args[0]
    assert float(first.mean()) == pytest.approx(0, abs=1e-4) and float(first.var()) == pytest.approx(1, abs=1e-2)
    file.write_text(json.dumps({"sampling_rate": 16000}))
    monkeypatch.setattr(sound_files, "find_spec", lambda name: None)
    with pytest.raises(DataError, match=r"4 of the 4 sounds in .* another rate than 16,000 Hz\. soxr resamples: "):
        unlabelled(folder, model)


def tone(rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * 100 * np.arange(2 * rate) / rate)


def test_several_rates_are_asked_about_or_resampled(tmp_path: Path) -> None:
    for number, rate in enumerate((8000, 16000, 16000)):
        soundfile.write(tmp_path / f"{number}.wav", tone(rate), rate)
    with pytest.raises(DataError, match=r"several rates \(2 of 16,000 Hz, 1 of 8,000 Hz\).*--rate HZ"):
        unlabelled(tmp_path, net())
    pytest.importorskip("soxr")
    source = unlabelled(sounds(tmp_path, 8000, 1, flat=True), net())
    assert source.describe() == f"3 sounds from {tmp_path}, 1 s at 8,000 Hz (2 of other rates resampled)"
    batch = source.first(3).args[0]
    assert batch.shape == (3, 8000)
    assert float((batch - torch.from_numpy(tone(8000)[:8000])).abs()[:, 400:-400].max()) < 0.01


def test_no_more_of_a_long_sound_is_read_than_needed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[int] = []
    usual = soundfile.SoundFile.read
    monkeypatch.setattr(
        soundfile.SoundFile, "read", lambda self, frames, **more: read.append(frames) or usual(self, frames, **more)
    )
    assert sounds(folder, seconds=0.25)[3].shape == (1, 200) and read == [200]


def test_more_may_be_left_out(folder: Path) -> None:
    (folder / "8.wav").write_bytes(b"RIFF")
    (folder / "9.wav").write_bytes(b"RIFF")
    source = unlabelled(folder, net())
    with pytest.raises(DataError, match=r"--skip-bad 34%, skip_bad=0\.34 of lloydmax\.sounds"):
        list(source.batches(8))
    source = unlabelled(sounds(folder, skip_bad=0.34), net())
    with pytest.warns(UserWarning, match="2 of 6 samples left out"):
        assert sum(len(indices) for indices, _ in source.batches(8)) == 4


def test_what_is_no_sound(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "9.wav").write_bytes(b"RIFF")
    source = unlabelled(folder, net())
    with pytest.warns(UserWarning, match=r"9\.wav cannot be read as a sound"):
        assert sum(len(indices) for indices, _ in source.batches(8)) == 4
    (tmp_path / "none").mkdir()
    with pytest.raises(DataError, match="no sounds in"):
        sounds(tmp_path / "none")
    with pytest.raises(DataError, match="none of the 1 sounds"):
        (tmp_path / "none" / "1.wav").write_bytes(b"RIFF")
        unlabelled(tmp_path / "none", net())
    monkeypatch.setitem(__import__("sys").modules, "soundfile", None)
    with pytest.raises(DataError, match=r"pip install \"lloydmax\[sounds\]\""):
        sound_files._read(folder / "0.wav", 800, 9)
