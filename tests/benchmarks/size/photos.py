"""Photographs for ImageNet networks, from packages: unlabelled ones for recovery and for testing, and labelled ones.

Debian's tuxpaint-stamps-default (cut-outs of photographs, shown on white), gcompris-qt-data,
plasma-workspace-wallpapers, lomiri-wallpapers-16.04, mate-backgrounds and ukui-wallpapers, and the Python packages
scikit-image and foolbox, whichever are installed. A picture whose file name contains the name of an ImageNet class is
labelled; all labelled ones are for testing. The split is by original picture: all its crops and sizes are on one side.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image
from published.pictures import MissingPictures, photographs

from size import qtresources

SIDE = 224
RECOVERY, TEST, VIEWS = 2000, 600, 4
"""Pictures for recovery, unlabelled pictures of the test, and views of each labelled original."""
AREA, LABELLED_AREA = 0.15, 0.5
"""Smallest share of the picture in a crop: of an unlabelled one, and of one whose label must stay true."""
TEST_SHARE = 0.3
"""Of the unlabelled originals."""
LARGEST = 8.0
"""Times as many crops of a large picture as of a small one."""
SMALLEST = 160
"""Pixels of the shorter side."""
STAMPS = Path("/usr/share/tuxpaint/stamps")
RESOURCES = Path("/usr/share/gcompris-qt/rcc")
WALLPAPERS, BACKGROUNDS = Path("/usr/share/wallpapers"), Path("/usr/share/backgrounds")
PARTS = ("paintings", "babyshapes", "leftright", "lang", "louis-braille")
"""Resource files of pieces of pictures, and of drawings."""
DRAWN = {"cartoon", "symbols", "toys"}
"""Folders of stamps that are no photographs."""
SYNONYMS = {
    "orca": "killer whale",
    "panda": "giant panda",
    "polar bear": "ice bear",
    "dromedary": "arabian camel",
    "camel": "arabian camel",
    "camels": "arabian camel",
    "chimp": "chimpanzee",
    "wildboar": "wild boar",
    "rooster": "cock",
    "firetruck": "fire engine",
    "garbagetruck": "garbage truck",
    "meerkats": "meerkat",
    "red panda": "lesser panda",
    "chamaeleon": "african chameleon",
    "chameleon": "african chameleon",
    "long nosed monkey": "proboscis monkey",
    "nubian ibex": "ibex",
    "screw driver": "screwdriver",
    "slot": "castle",
    "wheel tractor": "",
}
"""Words of a file name -> class that they are another name of; none where the class of that name is another thing."""
NO_CLASS = {"crane", "maillot", "kite", "mouse", "bow", "nail", "hay", "goldfish"}
"""Names that two classes have, or whose class is not what files of that name show."""


@dataclass(frozen=True)
class Original:
    """One picture before cropping.

    Attributes:
        name: identifies it, and is searched for the name of a class.
        read: gives it, RGB.
        label: class, where it is known otherwise.
    """

    name: str
    read: Callable[[], Image.Image]
    label: int | None = None

    @cached_property
    def picture(self) -> Image.Image:
        """RGB."""
        return self.read()


def originals() -> list[Original]:
    """Every picture that is installed, one for each group of sizes of the same picture, in a fixed order.

    Raises:
        MissingPictures: there are next to none.
    """
    found, seen = [], set()
    for original in (*_foolbox(), *_stamps(), *_resources(), *_wallpapers(), *_skimage()):
        looks = fingerprint(original.picture)
        if min(original.picture.size) >= SMALLEST and looks not in seen:
            seen.add(looks)
            found.append(original)
    if len(found) < 100:
        packages = (
            "tuxpaint-stamps-default gcompris-qt-data plasma-workspace-wallpapers mate-backgrounds ukui-wallpapers"
        )
        raise MissingPictures(f"photographs: run: apt install {packages}")
    return found


def fingerprint(picture: Image.Image) -> bytes:
    """The signs of the differences between neighbours at 9 x 8, which survive scaling and coding."""
    grey = np.asarray(picture.convert("L").resize((9, 8), Image.Resampling.BOX)).astype(int)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes()


def class_of(name: str, classes: dict[str, int]) -> int | None:
    """The class whose name the words of a file name contain, the longest name first; ``classes`` in lower case."""
    stem = re.sub(r"([a-z])([A-Z])", r"\1 \2", Path(name).stem)
    text = f" {' '.join(re.findall('[a-z]+', stem.lower()))} "
    names = {**classes, **{other: classes.get(proper, -1) for other, proper in SYNONYMS.items()}}
    held = [known for known in names if f" {known} " in text and known not in NO_CLASS]
    if not held:
        return None
    label = names[max(held, key=len)]
    return label if label >= 0 else None


def imagenet_classes() -> dict[str, int]:
    """Lower-case name -> index."""
    from torchvision.models import MobileNet_V2_Weights

    names = MobileNet_V2_Weights.IMAGENET1K_V1.meta["categories"]
    return {name.lower(): index for index, name in enumerate(names)}


def views(original: Original, count: int, area: float = AREA) -> Iterator[np.ndarray]:
    """The centre, then random square crops of ``area`` to all of it, half of them mirrored: uint8 ``(3, 224, 224)``."""
    random = np.random.default_rng(int.from_bytes(hashlib.sha256(original.name.encode()).digest()[:8]))
    picture = original.picture
    width, height = picture.size
    for index in range(count):
        side = int(min(picture.size) * (np.sqrt(random.uniform(area, 1.0)) if index else 1.0))
        left, top = ((width - side) // 2, (height - side) // 2)
        if index:
            left, top = int(random.integers(0, width - side + 1)), int(random.integers(0, height - side + 1))
        box = (left, top, left + side, top + side)
        crop = np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BICUBIC, box=box)).transpose(2, 0, 1)
        yield crop[:, :, ::-1] if index and random.random() < 0.5 else crop


def crops(pictures: list[Original], total: int) -> np.ndarray:
    """Views of all pictures, more of the larger ones: uint8 ``(total, 3, 224, 224)``."""
    weights = np.array([min(LARGEST, (min(p.picture.size) / SIDE) ** 1.5) for p in pictures]).clip(min=1.0)
    edges = np.floor(np.cumsum(weights) / weights.sum() * total + 1e-9).astype(int)
    counts = np.diff(edges, prepend=0)
    return np.stack([crop for picture, count in zip(pictures, counts, strict=True) for crop in views(picture, count)])


def split(folder: Path) -> dict[str, np.ndarray]:
    """``recovery``, ``test`` and ``labelled`` uint8 ``(N, 3, 224, 224)``, ``labels`` int64; kept in ``folder``."""
    names = ("recovery", "test", "labelled", "labels")
    paths = {name: folder / f"{name}.npy" for name in names}
    if not all(path.exists() for path in paths.values()):
        folder.mkdir(parents=True, exist_ok=True)
        for name, array in made().items():
            with paths[name].with_suffix(".part").open("wb") as file:
                np.save(file, array)
            paths[name].with_suffix(".part").replace(paths[name])
    return {name: np.load(path, mmap_mode="r") for name, path in paths.items()}


def made() -> dict[str, np.ndarray]:
    """What :func:`split` keeps."""
    classes = imagenet_classes()
    recovery: list[Original] = []
    test: list[Original] = []
    labelled: list[tuple[Original, int]] = []
    for original in originals():
        label = original.label if original.label is not None else class_of(original.name, classes)
        draw = int.from_bytes(hashlib.sha256(original.name.encode()).digest()[:4]) / 2**32
        if label is not None:
            labelled.append((original, label))
        else:
            (test if draw < TEST_SHARE else recovery).append(original)
    return {
        "recovery": crops(recovery, RECOVERY),
        "test": crops(test, TEST),
        "labelled": np.stack([view for picture, _ in labelled for view in views(picture, VIEWS, LABELLED_AREA)]),
        "labels": np.repeat(np.array([label for _, label in labelled], dtype=np.int64), VIEWS),
    }


def _opened(source: Path | bytes) -> Image.Image:
    """RGB, on white where it is transparent; a cut-out is padded to a square."""
    picture: Image.Image = Image.open(source if isinstance(source, Path) else io.BytesIO(source))
    if picture.mode in ("RGB", "L", "CMYK"):
        return picture.convert("RGB")
    picture = picture.convert("RGBA")
    if picture.getchannel("A").getextrema()[0] == 255:
        return picture.convert("RGB")
    size = int(1.1 * max(picture.size))
    ground = Image.new("RGBA", (size, size), (255, 255, 255, 255))
    ground.alpha_composite(picture, ((size - picture.width) // 2, (size - picture.height) // 2))
    return ground.convert("RGB")


def _stamps() -> Iterator[Original]:
    for path in sorted(STAMPS.rglob("*.png")):
        if not DRAWN & set(path.relative_to(STAMPS).parts) and not path.stem.endswith("_mirror"):
            yield Original(str(path.relative_to(STAMPS)), partial(_opened, path))


def _resources() -> Iterator[Original]:
    for path in sorted(RESOURCES.glob("*.rcc")):
        for name, content in qtresources.files(path) if path.stem not in PARTS else ():
            if Path(name).suffix in (".webp", ".jpg", ".png"):
                yield Original(f"{path.stem}/{Path(name).name}", partial(_opened, content))


def _wallpapers() -> Iterator[Original]:
    """The largest file of each wallpaper, which is a folder, and of each background, whose name may tell its size."""
    for folder in sorted(WALLPAPERS.glob("*")):
        yield from _largest(folder.rglob("images/*"))
    by_name: dict[str, list[Path]] = {}
    for path in sorted(BACKGROUNDS.rglob("*")):
        by_name.setdefault(re.sub(r"_\d+x\d+$", "", path.stem), []).append(path)
    for paths in by_name.values():
        yield from _largest(paths)


def _largest(paths: Iterable[Path]) -> Iterator[Original]:
    pictures = sorted((path for path in paths if path.suffix in (".jpg", ".png")), key=lambda path: path.stat().st_size)
    if pictures:
        yield Original("/".join(pictures[-1].parts[3:]), partial(_opened, pictures[-1]))


def _skimage() -> Iterator[Original]:
    for index, picture in enumerate(photographs("RGB")):
        yield Original(f"skimage/{index}", partial(Image.Image.copy, picture))


def _foolbox() -> Iterator[Original]:
    found = find_spec("foolbox")
    folder = Path(found.origin).parent / "data" if found is not None and found.origin else Path("none")
    for path in sorted(folder.glob("imagenet_*.jpg")):
        yield Original(f"foolbox/{path.stem}", partial(_opened, path), int(path.stem.rsplit("_", 1)[1]))
