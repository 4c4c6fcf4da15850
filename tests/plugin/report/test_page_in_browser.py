"""The page in a real headless Chromium: no errors, keyboard, layers, phone, dark, print."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import browser
import pytest
from report_runs import measured, plain
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By

pytest.importorskip("selenium", reason="the browser tests need selenium (extra test)")
pytest.importorskip("vl_convert", reason="the page needs vl-convert (extra report)")

pytestmark = pytest.mark.skipif(browser.missing() is not None, reason=str(browser.missing()))


@pytest.fixture(scope="module")
def chrome() -> Iterator[Chrome]:
    with browser.chromium() as started:
        yield started


@pytest.fixture(autouse=True)
def no_complaint(chrome: Chrome) -> Iterator[None]:
    """No test leaves an error or a warning in the console."""
    yield
    assert chrome.get_log("browser") == []


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    measured()[0].to_html(folder / "one.html", sweep=measured()[1])
    measured()[0].to_html(folder / "two.html", other=plain(), sweep=measured()[1].sweep)
    plain().to_html(folder / "plain.html")
    return {name: folder / f"{name}.html" for name in ("one", "two", "plain")}


def names(chrome: Chrome) -> list[str]:
    return [row.get_attribute("data-layer") or "" for row in chrome.find_elements(By.CSS_SELECTOR, "tr[data-layer]")]


def head(chrome: Chrome, name: str) -> object:
    return chrome.find_element(By.XPATH, f"//table[contains(@class,'sortable')]//th[.//button[text()='{name}']]")


@pytest.mark.parametrize("page", ["one", "two", "plain"])
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_every_chart_is_drawn_within_the_screen(
    chrome: Chrome, pages: dict[str, Path], page: str, width: int, scheme: str
) -> None:
    browser.opened(chrome, pages[page], width, scheme)
    charts = chrome.find_elements(By.CSS_SELECTOR, ".chart")
    assert charts and all(chart.find_elements(By.CSS_SELECTOR, "svg path") for chart in charts)
    assert chrome.execute_script("return document.documentElement.scrollWidth") <= width
    paper = chrome.execute_script("return getComputedStyle(document.body).backgroundColor")
    assert (sum(int(part) for part in paper[4:-1].split(",")) < 3 * 64) == (scheme == "dark")


def test_two_runs_fit_on_a_phone(chrome: Chrome, pages: dict[str, Path]) -> None:
    browser.opened(chrome, pages["two"], 390)
    table = "document.querySelector('.compared')"
    assert chrome.execute_script(f"return {table}.scrollWidth <= {table}.clientWidth")
    lines = f"return [...{table}.querySelectorAll('td')].every(cell => cell.offsetHeight < 64)"
    assert chrome.execute_script(lines)


def test_the_keyboard_sorts_the_layers(chrome: Chrome, pages: dict[str, Path]) -> None:
    browser.opened(chrome, pages["one"])
    forward = [layer.name for layer in measured()[0].layers]
    assert names(chrome) == forward
    cell = head(chrome, "bytes")
    chrome.execute_script("arguments[0].querySelector('button').focus()", cell)
    ActionChains(chrome).send_keys(Keys.ENTER).perform()
    largest = sorted(measured()[0].layers, key=lambda layer: -layer.bytes)
    assert names(chrome) == [layer.name for layer in largest]
    assert cell.get_attribute("aria-sort") == "descending"
    assert head(chrome, "#").get_attribute("aria-sort") == "none"
    ActionChains(chrome).send_keys(Keys.SPACE).perform()
    assert names(chrome) == [layer.name for layer in sorted(measured()[0].layers, key=lambda layer: layer.bytes)]
    assert cell.get_attribute("aria-sort") == "ascending"
    ActionChains(chrome).key_down(Keys.SHIFT).send_keys(Keys.TAB).key_up(Keys.SHIFT).send_keys(Keys.ENTER).perform()
    assert head(chrome, "bits").get_attribute("aria-sort") == "descending"


def test_a_layer_is_shown_by_its_name_and_by_the_list(chrome: Chrome, pages: dict[str, Path]) -> None:
    browser.opened(chrome, pages["one"])
    chosen = chrome.find_element(By.ID, "layer")
    note = chrome.find_element(By.ID, "histogram-0-note")
    for layer in (measured()[0].layers[0], measured()[0].layers[2]):
        before = shapes(chrome)
        row = chrome.find_element(By.CSS_SELECTOR, f'tr[data-layer="{layer.name}"]')
        chrome.execute_script("arguments[0].querySelector('button').focus()", row)
        ActionChains(chrome).send_keys(Keys.ENTER).perform()
        assert chosen.get_attribute("value") == layer.name and "chosen" in (row.get_attribute("class") or "")
        assert f"{sum(layer.weights.counts):,} weights" in note.text
        assert shapes(chrome) != before and rules(chrome) == len(layer.weights.centroids)
        assert chrome.switch_to.active_element == chosen
    ActionChains(chrome).send_keys(Keys.ARROW_DOWN).perform()
    assert chosen.get_attribute("value") == measured()[0].layers[3].name
    assert f"{sum(measured()[0].layers[3].weights.counts):,} weights" in note.text


def test_one_line_of_the_sweep_is_lit(chrome: Chrome, pages: dict[str, Path]) -> None:
    browser.opened(chrome, pages["one"])
    lit = (
        "return [...document.querySelectorAll('#damage .mark-line path')].filter(p => +p.getAttribute('opacity') > .5)"
    )
    assert len(chrome.execute_script(lit)) == len(measured()[0].layers)
    chrome.find_element(By.ID, "unit").send_keys(measured()[0].layers[1].name)
    assert len(chrome.execute_script(lit)) == 1


def test_the_theme_is_switched_and_kept(chrome: Chrome, pages: dict[str, Path]) -> None:
    browser.opened(chrome, pages["one"])
    try:
        chrome.find_element(By.ID, "theme").send_keys(Keys.ENTER)
        assert chrome.execute_script("return getComputedStyle(document.body).colorScheme") == "dark"
        browser.opened(chrome, pages["two"])
        assert chrome.execute_script("return getComputedStyle(document.body).colorScheme") == "dark"
    finally:
        chrome.execute_script("localStorage.clear()")


def test_many_layers_scroll_in_a_window_of_their_own_and_are_all_printed(
    chrome: Chrome, pages: dict[str, Path]
) -> None:
    browser.opened(chrome, pages["plain"])
    heights = "const t = document.querySelector('.long'); return [t.clientHeight, t.scrollHeight]"
    shown, whole = chrome.execute_script(heights)
    assert shown < whole
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    shown, whole = chrome.execute_script(heights)
    assert shown == whole
    assert not chrome.find_element(By.ID, "theme").is_displayed()
    chrome.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def shapes(chrome: Chrome) -> str:
    return chrome.execute_script("return document.querySelector('#histogram-0 svg').innerHTML")


def rules(chrome: Chrome) -> int:
    return len(chrome.find_elements(By.CSS_SELECTOR, "#histogram-0 .mark-rule.role-mark line"))
