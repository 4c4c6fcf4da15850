"""The page in a real headless Chromium: no errors, keyboard, layers, phone, dark, print."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import browser
import pytest
from report_runs import measured, plain
from selenium.webdriver import ActionChains, Chrome, Keys
from selenium.webdriver.common.by import By

pytest.importorskip("selenium", reason="the browser tests need selenium (extra test)")

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
    return [cell.text for cell in chrome.find_elements(By.CSS_SELECTOR, "tr[data-layer] td.word")]


def head(chrome: Chrome, name: str) -> object:
    return chrome.find_element(By.XPATH, f"//table[contains(@class,'sortable')]//th[.//button[text()='{name}']]")


@pytest.mark.parametrize("page", ["one", "two", "plain"])
@pytest.mark.parametrize(("width", "scheme"), [(1200, "light"), (1200, "dark"), (390, "light")])
def test_every_chart_is_drawn_within_the_screen(
    chrome: Chrome, pages: dict[str, Path], page: str, width: int, scheme: str
) -> None:
    browser.opened(chrome, pages[page], width, scheme)
    drawn = "return [...document.querySelectorAll('svg.drawing')].map(d => !d.checkVisibility() || d.clientWidth > 100)"
    charts = chrome.execute_script(drawn)
    assert charts and all(charts)
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
    for number in (0, 2):
        row = chrome.find_element(By.CSS_SELECTOR, f'tr[data-layer="{number}"]')
        chrome.execute_script("arguments[0].querySelector('button').focus()", row)
        ActionChains(chrome).send_keys(Keys.ENTER).perform()
        assert chosen.get_attribute("value") == str(number) and "chosen" in (row.get_attribute("class") or "")
        assert shown_layer(chrome, number)
        assert chrome.switch_to.active_element == chosen
    ActionChains(chrome).send_keys(Keys.ARROW_DOWN).perform()
    assert shown_layer(chrome, 3)


def test_one_line_of_the_sweep_is_lit(chrome: Chrome, pages: dict[str, Path]) -> None:
    browser.opened(chrome, pages["one"])
    lit = "return [...document.querySelectorAll('path.unit')].filter(p => +getComputedStyle(p).opacity > .5).length"
    assert chrome.execute_script(lit) == len(measured()[0].layers)
    chrome.find_element(By.ID, "unit").send_keys(measured()[0].layers[1].name)
    assert chrome.execute_script(lit) == 1


def test_who_cannot_see_the_page_is_told_what_is_on_it(chrome: Chrome, pages: dict[str, Path]) -> None:
    browser.opened(chrome, pages["two"])
    levels = chrome.execute_script("return [...document.querySelectorAll('h1,h2,h3,h4')].map(h => +h.tagName[1])")
    assert levels[0] == 1 and all(after <= before + 1 for before, after in pairwise(levels))
    images = [drawn for drawn in chrome.find_elements(By.CSS_SELECTOR, "svg.drawing") if drawn.is_displayed()]
    assert images and all(image.aria_role in ("img", "image") and image.accessible_name for image in images)
    said = "return [...document.querySelectorAll('svg.drawing')].every(d => d.querySelector('desc').textContent)"
    assert chrome.execute_script(said)
    charts = "return [...document.querySelectorAll('figure:not(.layer)')].every(f => f.querySelector('details table'))"
    assert chrome.execute_script(charts)
    ActionChains(chrome).send_keys(Keys.TAB).perform()
    assert chrome.switch_to.active_element.text == "Skip to the figures"


def test_without_scripts_all_layers_are_shown(chrome: Chrome, pages: dict[str, Path]) -> None:
    chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        chrome.get(pages["one"].as_uri())
        drawn = chrome.find_elements(By.CSS_SELECTOR, "figure.layer")
        assert len(drawn) == len(measured()[0].layers) and all(figure.is_displayed() for figure in drawn)
    finally:
        chrome.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


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


def shown_layer(chrome: Chrome, number: int) -> bool:
    """Whether the drawing of this layer, and no other, is to be seen, with its weights and centroids."""
    layer = measured()[0].layers[number]
    (figure,) = [one for one in chrome.find_elements(By.CSS_SELECTOR, "figure.layer") if one.is_displayed()]
    rules = figure.find_element(By.CSS_SELECTOR, "path.line").get_attribute("d") or ""
    return (
        figure.find_element(By.TAG_NAME, "h3").text == layer.name
        and f"{sum(layer.weights.counts):,} weights" in figure.text
        and rules.count("M") == len(layer.weights.centroids)
    )
