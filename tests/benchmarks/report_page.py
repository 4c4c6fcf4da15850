"""The picture of the report page in the README: the demo's report in a headless Chromium.

python tests/benchmarks/report_page.py

It needs the extras ``report`` and ``test``, Chromium and its driver. It runs ``lloydmax demo``,
which takes a minute or two on one thread, and writes the first two sections as ``plots/report_page.png``.
"""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

import browser
from lloydmax import demo
from PIL import Image

sys.path.insert(0, str(Path(__file__).parents[1]))

PICTURE = Path(__file__).parent / "plots" / "report_page.png"
WIDTH = 1120
END = "return Math.floor(document.querySelectorAll('section')[2].getBoundingClientRect().top + scrollY) - 1"
"""Where the third section begins."""


def main() -> None:
    """Write the picture."""
    if (problem := browser.missing()) is not None:
        sys.exit(problem)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        report = demo.run(folder).report
        report.to_html(folder / "report.html")
        with browser.chromium() as chrome:
            browser.opened(chrome, folder / "report.html", WIDTH)
            png = browser.screenshot(chrome, chrome.execute_script(END))
    PICTURE.parent.mkdir(exist_ok=True)
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(PICTURE, optimize=True)
    print(f"{PICTURE.name}: {PICTURE.stat().st_size:,} bytes, {picture.width} x {picture.height}")


if __name__ == "__main__":
    main()
