"""Inputs that need nothing but packages: photographs, scenes with faces, printed text, speech, sentences, files."""

from __future__ import annotations

import ast
import functools
import io
import re
import shutil
import subprocess
import sysconfig
import textwrap
import wave
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from published.pictures import photographs
from scipy.signal import resample_poly
from torch import Tensor

from zoo.network import Missing, package

RATE = 16000
"""Samples of sound a second."""
VOICES = ("en-us", "en-gb", "en-gb-scotland", "de", "fr", "es", "it", "nl")
VARIANTS = ("m1", "f1", "m3", "f2", "m5", "f4", "croak", "m7")


@functools.cache
def pictures() -> list[Image.Image]:
    """Photographs of scikit-image, scikit-learn and, if installed, foolbox, in a fixed order."""
    from sklearn.datasets import load_sample_images

    found = photographs("RGB") + [Image.fromarray(picture) for picture in load_sample_images().images]
    try:
        folder = package("foolbox", "foolbox") / "data"
    except Missing:
        return found
    return found + [Image.open(path).convert("RGB") for path in sorted(folder.glob("imagenet_*.jpg"))]


def crops(count: int, size: tuple[int, int], test: bool, smallest: float = 0.35) -> Tensor:
    """Views of photographs: float32 ``(count, 3, *size)``, 0 to 1; those of the test are of other photographs.

    Args:
        count: how many.
        size: height and width.
        test: whether they are for the test.
        smallest: share of the largest view.
    """
    random, originals, made = np.random.default_rng(int(test)), pictures()[int(test) :: 2], []
    height, width = size
    for index in range(count):
        picture = originals[index % len(originals)]
        most = min(picture.width / width, picture.height / height)
        part = most * random.uniform(smallest, 1.0)
        wide, high = part * width, part * height
        left, top = random.uniform(0, picture.width - wide), random.uniform(0, picture.height - high)
        made.append(picture.resize((width, height), Image.Resampling.BICUBIC, (left, top, left + wide, top + high)))
    return as_tensor(made)


def as_tensor(made: list[Image.Image]) -> Tensor:
    """float32 ``(N, 3, height, width)``, 0 to 1."""
    arrays = np.stack([np.asarray(picture, np.float32) for picture in made])
    return torch.from_numpy(arrays).permute(0, 3, 1, 2).contiguous() / 255


@functools.cache
def faces() -> np.ndarray:
    """100 grey faces of scikit-image, 0 to 1: ``(100, 25, 25)``; the other 100 of ``(200, 25, 25)`` are none."""
    return np.load(package("skimage", "scikit-image") / "data" / "lfw_subset.npy").astype(np.float32)


def scenes(count: int, size: tuple[int, int], test: bool) -> Tensor:
    """Views of photographs with one to four faces in them: float32 ``(count, 3, *size)``, 0 to 1."""
    random, height, width = np.random.default_rng(10 + int(test)), *size
    ground, chosen = crops(count, size, test), faces()[:100][int(test) :: 2]
    for scene in ground:
        for _ in range(int(random.integers(1, 5))):
            side = int(random.uniform(0.12, 0.4) * min(size))
            left, top = int(random.integers(0, width - side)), int(random.integers(0, height - side))
            face = Image.fromarray((chosen[int(random.integers(len(chosen)))] * 255).astype(np.uint8))
            large = torch.from_numpy(np.asarray(face.resize((side, side), Image.Resampling.BICUBIC)) / 255).float()
            tint = torch.tensor([1.0, 0.85, 0.75])[:, None, None] if random.random() < 0.7 else torch.ones(3, 1, 1)
            scene[:, top : top + side, left : left + side] = large * tint
    return ground


@functools.cache
def texts() -> list[str]:
    """Sentences of the documentation of Python's own modules, in a fixed random order."""
    found: dict[str, None] = {}
    for path in sorted(Path(sysconfig.get_path("stdlib")).glob("*.py")):
        tree = ast.parse(path.read_text("utf-8", errors="replace"))
        for node in ast.walk(tree):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = " ".join((ast.get_docstring(node) or "").split())
                sentences = re.findall(r"[A-Z][a-z][^.>|{}\[\]=`*]{30,160}\.(?= |$)", text)
                found.update(dict.fromkeys(sentences))
    sentences = list(found)
    return [sentences[index] for index in np.random.default_rng(0).permutation(len(sentences))]


@functools.cache
def words() -> list[str]:
    """English words of 4 to 14 letters, those of :func:`texts`, in a fixed random order."""
    found = dict.fromkeys(word for text in texts() for word in re.findall(r"\b[a-z]{4,14}\b", text))
    names = sorted(found)
    return [names[index] for index in np.random.default_rng(1).permutation(len(names))]


@functools.cache
def fonts() -> list[Path]:
    """Latin TrueType fonts of matplotlib."""
    folder = package("matplotlib", "matplotlib") / "mpl-data" / "fonts" / "ttf"
    return sorted(path for path in folder.glob("*.ttf") if path.stem.startswith(("DejaVuSans", "DejaVuSerif")))


def lines(count: int, size: tuple[int, int], test: bool) -> Tensor:
    """Printed words, a line each: float32 ``(count, 3, *size)``, 0 to 1."""
    random, (height, width), made = np.random.default_rng(20 + int(test)), size, []
    sentences = texts()[int(test) :: 2]
    for index in range(count):
        picture = _paper(random, size)
        font = ImageFont.truetype(
            str(fonts()[int(random.integers(len(fonts())))]), int(height * random.uniform(0.5, 0.75))
        )
        text = ""
        for word in sentences[index].split():
            if font.getlength(f"{text} {word}") > width - 12:
                break
            text = f"{text} {word}".strip()
        _write(picture, random, (int(random.integers(2, 8)), height // 2), text, font, "lm")
        made.append(picture)
    return as_tensor(made)


def pages(count: int, size: tuple[int, int], test: bool) -> Tensor:
    """Pages with printed sentences: float32 ``(count, 3, *size)``, 0 to 1."""
    random, (height, width), made = np.random.default_rng(30 + int(test)), size, []
    sentences = texts()[int(test) :: 2]
    for _ in range(count):
        picture, top = _paper(random, size), int(random.integers(4, 40))
        while top < height - 30:
            letters = int(random.uniform(10, 26))
            font = ImageFont.truetype(str(fonts()[int(random.integers(len(fonts())))]), letters)
            text = sentences[int(random.integers(len(sentences)))]
            for line in textwrap.wrap(text, int(width / letters * 1.5))[: int(random.integers(1, 4))]:
                _write(picture, random, (int(random.integers(4, 30)), top), line, font, "lt")
                top += int(letters * 1.4)
            top += int(random.integers(4, 50))
        made.append(picture)
    return as_tensor(made)


def _paper(random: np.random.Generator, size: tuple[int, int]) -> Image.Image:
    shade = random.uniform(170, 255, 3)
    grain = random.normal(0, random.uniform(0, 8), (*size, 3))
    return Image.fromarray((shade + grain).clip(0, 255).astype(np.uint8))


def _write(
    picture: Image.Image,
    random: np.random.Generator,
    place: tuple[int, int],
    text: str,
    font: ImageFont.FreeTypeFont,
    anchor: str,
) -> None:
    ink = tuple(int(value) for value in random.uniform(0, 90, 3))
    ImageDraw.Draw(picture).text(place, text, fill=ink, font=font, anchor=anchor)


def speech(count: int, seconds: float, test: bool) -> Tensor:
    """Sentences that espeak-ng speaks, 64 voices in turn: float32 ``(count, seconds * RATE)``, -1 to 1."""
    sentences, length, made = texts()[int(test) :: 2], int(seconds * RATE), []
    for index in range(count):
        voice = VOICES[index % len(VOICES)] + "+" + VARIANTS[index // len(VOICES) % len(VARIANTS)]
        sound, place = np.zeros(0, np.float32), index
        while len(sound) < length:
            sound = np.concatenate([sound, spoken(sentences[place % len(sentences)], voice, 140 + 7 * (index % 9))])
            place += count
        made.append(sound[:length])
    return torch.from_numpy(np.stack(made))


@functools.cache
def spoken(text: str, voice: str, speed: int) -> np.ndarray:
    """float32, -1 to 1, :data:`RATE` samples a second."""
    program = shutil.which("espeak-ng")
    if program is None:
        raise Missing("run: apt install espeak-ng")
    command = [program, "-v", voice, "-s", str(speed), "--stdout", text]
    done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    with wave.open(io.BytesIO(done.stdout)) as file:
        rate = file.getframerate()
    values = np.frombuffer(done.stdout[44:], np.int16).astype(np.float32) / 32768
    return resample_poly(values, RATE, rate).astype(np.float32)


def files() -> Iterator[Path]:
    """Files of many kinds, 12 of each at most, from Python's library and the installed packages."""
    folder, seen = Path(sysconfig.get_path("purelib")), dict[str, int]()
    for path in sorted(folder.rglob("*"), key=lambda path: (path.name, str(path))):
        kind = path.suffix.lower()
        if 2 <= len(kind) <= 6 and seen.get(kind, 0) < 12 and path.is_file() and path.stat().st_size >= 64:
            seen[kind] = seen.get(kind, 0) + 1
            yield path
