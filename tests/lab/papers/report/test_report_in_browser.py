"""The page in a real browser, opened from disk."""

import json
import math
import random
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
from browser import BROWSER, DRIVER, Browser, a_browser
from made_folders import HOSTILE, draw, fill, small_paper
from made_papers import cell, paper, protocol, record

from feedalign_lab.papers.cells import Paper, Table
from feedalign_lab.papers.report import write_report
from feedalign_lab.papers.store import Curve, TrialStore

pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="there is no chromium with its chromedriver")

RIGHT, END, ESCAPE, TAB, ENTER = "\ue014", "\ue010", "\ue00c", "\ue004", "\ue007"
NAMES = """return [...document.querySelectorAll('#made-table1 tbody[data-row]')].filter((body) => !body.hidden)
    .map((body) => body.querySelector('.name').textContent.slice(-1)).join('')"""
SORT = "document.querySelectorAll('#made-table1 thead button')[arguments[0]].click()"
SORTED = "return [...document.querySelectorAll('#made-table1 thead th')].map((head) => head.ariaSort)"
OPEN = "document.querySelector(`#made-table1 tbody[data-row='${arguments[0]}'] .name`).click()"
READOUT = "return document.querySelector('.readout').textContent"
NUM_WIDE = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"


@pytest.fixture(scope="module")
def started(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with a_browser(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture
def browser(started: Browser) -> Iterator[Browser]:
    """The browser, with the size of a screen at first, and no complaint at the end."""
    started.resize(1200)
    started.complaints()
    yield started
    assert started.complaints() == []


@pytest.fixture
def shown(browser: Browser, tmp_path: Path) -> Browser:
    """The browser on the page of a small paper."""
    fill(TrialStore(tmp_path))
    draw(tmp_path / "made")
    browser.open(write_report([small_paper()], TrialStore(tmp_path), tmp_path / "page.html"))
    return browser


def test_columns_sort_and_what_is_unknown_stands_last(shown: Browser) -> None:
    assert shown.run(NAMES) == "cadbe"
    shown.run(SORT, 2)
    assert shown.run(NAMES) == "dacbe"
    assert shown.run(SORTED) == ["none", "none", "ascending", *["none"] * 4]
    shown.run(SORT, 2)
    assert shown.run(NAMES) == "bcade"
    assert shown.run(SORTED)[2] == "descending"
    shown.run(SORT, 2)
    assert shown.run(NAMES) == "cadbe"
    shown.run(SORT, 0)
    assert shown.run(NAMES) == "abcde"
    shown.run(SORT, 6)
    assert shown.run(NAMES) == "abcde"
    assert shown.run(SORTED) == [*["none"] * 6, "ascending"]


def test_sorting_works_from_the_keyboard(shown: Browser) -> None:
    shown.run("document.querySelector('#made-table1 thead button').focus()")
    shown.press(ENTER)
    assert shown.run(NAMES) == "abcde"
    shown.press(TAB, ENTER)
    assert shown.run(NAMES) == "deacb"


def test_rows_are_filtered_by_verdict_and_text(shown: Browser) -> None:
    tick = "document.querySelector(`#filters input[value='${arguments[0]}']`).click()"
    output = "return document.querySelector('#filters output').textContent"
    assert shown.run(output) == "6 cells"
    shown.run(tick, "not run")
    assert shown.run(NAMES) == "cadb"
    assert shown.run("return document.getElementById('made-table2').hidden")
    assert shown.run(output) == "4 of 6 cells"
    shown.run("const find = document.querySelector('#filters input[type=search]'); find.focus()")
    shown.press(*"8/b")
    assert shown.run(NAMES) == "b"
    shown.run(tick, "better")
    assert shown.run(NAMES) == ""
    assert shown.run(output) == "0 of 6 cells"


def test_a_row_opens_its_curves_settings_and_trials(shown: Browser) -> None:
    shown.run(OPEN, 1)
    assert shown.run("return document.querySelectorAll('.opened polyline').length") == 2
    assert "published 10 ± slack 0.5" in shown.run("return document.querySelector('.opened svg').textContent")
    opened = shown.run("return document.querySelector('.opened').innerText")
    for said in ("batch size", "learning rate", "2.13.0", "finished", "10.125", "fixed before the first run"):
        assert said in opened
    assert shown.run("return document.querySelector('.name[aria-expanded=true]').textContent") == "fc1-8/a"
    shown.run(SORT, 0)
    assert shown.run("return document.querySelector('.opened').previousSibling.textContent").startswith("fc1-8/a")
    shown.run(OPEN, 1)
    assert shown.run("return document.querySelectorAll('.opened').length") == 0


def test_a_row_opens_at_a_click_anywhere_and_without_trials(shown: Browser) -> None:
    place = shown.run(
        "const cell = document.querySelector(\"#made-table1 tbody[data-row='4'] .verdict\");"
        "cell.scrollIntoView({block: 'center'}); const box = cell.getBoundingClientRect();"
        "return [box.x + 5, box.y + 5]"
    )
    shown.drag(*place, *place)
    assert "No trial is on file" in shown.run("return document.querySelector('.opened').innerText")


def test_curves_are_read_off_by_keyboard(shown: Browser) -> None:
    shown.run(OPEN, 1)
    shown.run("document.querySelector('.opened svg').focus()")
    shown.press(RIGHT)
    assert shown.run(READOUT) == "epoch 1: mean 40 · trial 0: 40 · trial 1: 40"
    shown.press(END)
    assert shown.run(READOUT) == "epoch 3: mean 10.063 · trial 0: 10 · trial 1: 10.125"
    shown.press(ESCAPE)
    assert "arrow keys" in shown.run(READOUT)


def test_curves_can_be_looked_at_closer_and_on_a_logarithmic_axis(shown: Browser) -> None:
    shown.run("document.querySelector('details.panels').open = true")
    ticks = "return [...document.querySelectorAll('.figure .chart text')].map((text) => text.textContent)"
    ends = "return document.querySelector('.figure polyline').getAttribute('points').split(' ').length"
    shown.run("document.querySelector('.figure .chart').scrollIntoView({block: 'center'})")
    assert shown.run(ends) == 20
    assert "0.05" in shown.run(ticks)  # the figure's own axis is logarithmic
    shown.run("document.querySelectorAll('.figure .controls input')[1].click()")
    assert "0.05" not in shown.run(ticks)
    x, y, width, height = shown.run(
        "const box = document.querySelector('.figure svg').getBoundingClientRect();"
        "return [box.x, box.y, box.width, box.height]"
    )
    shown.drag(x + width * 0.4, y + height / 2, x + width * 0.7, y + height / 2)
    assert 4 <= shown.run(ends) <= 9
    assert "drtp: " in shown.run("return document.querySelector('.figure .readout').textContent")
    shown.run("document.querySelector('.figure .controls button').click()")
    assert shown.run(ends) == 20


def test_a_link_opens_its_table(shown: Browser) -> None:
    isopen = "return document.getElementById('made-table2').open"
    assert not shown.run(isopen)
    shown.run("document.querySelector('.summary a[href=\"#made-table2\"]').click()")
    assert shown.run("return new Promise((done) => setTimeout(() => done(location.hash), 100))") == "#made-table2"
    assert shown.run(isopen)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1400])
def test_the_page_fits_its_window(shown: Browser, width: int, scheme: str) -> None:
    shown.resize(width, scheme=scheme)
    for row in range(5):
        shown.run(OPEN, row)
    shown.run("document.querySelector('details.panels').open = true")
    assert shown.run(NUM_WIDE) == 0
    assert shown.run("return document.querySelector('#made-table1 .verdict').getBoundingClientRect().right") <= width
    color = shown.run("return getComputedStyle(document.body).backgroundColor")
    assert color == {"light": "rgb(251, 251, 249)", "dark": "rgb(22, 23, 26)"}[scheme]


def test_text_can_be_read_in_either_scheme(shown: Browser) -> None:
    contrast = """
      const light = (color) => { const [r, g, b] = color.match(/[0-9.]+/g).map((part) => {
          const share = part / 255; return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4; });
        return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
      const behind = (element) => { for (let at = element; at; at = at.parentElement) {
          const color = getComputedStyle(at).backgroundColor; if (color !== 'rgba(0, 0, 0, 0)') return color; } };
      const seen = [...document.querySelectorAll('body *')].filter((element) => element.offsetParent &&
        [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
      return seen.map((element) => { const pair = [light(getComputedStyle(element).color), light(behind(element))];
          return [(Math.max(...pair) + 0.05) / (Math.min(...pair) + 0.05), element.outerHTML.slice(0, 90)]; })
        .sort((a, b) => a[0] - b[0])[0];"""
    for scheme in ("light", "dark"):
        shown.resize(1200, scheme=scheme)
        shown.run(OPEN, 1)
        worst, where = shown.run(contrast)
        assert worst >= 4.5, (scheme, where)


def test_what_is_hostile_is_shown_and_not_run(browser: Browser, tmp_path: Path) -> None:
    one = cell(HOSTILE)
    store = TrialStore(tmp_path)
    store.append(record(one, message=HOSTILE, environment={HOSTILE: HOSTILE}))
    with store.path("made", "table1").open("ab") as file:
        file.write(b'\xff{"format": 1, "cell": "<b>')
    browser.open(write_report([paper(one)], store, tmp_path / "page.html"))
    browser.run(OPEN, 0)
    assert browser.run("return document.title") == "feedalign: the papers, regenerated"
    assert HOSTILE in browser.run("return document.querySelector('.opened').innerText")
    assert "line 2" in browser.run("return document.getElementById('left-out').innerText")


def test_a_page_without_anything(browser: Browser, tmp_path: Path) -> None:
    browser.open(write_report([], TrialStore(tmp_path), tmp_path / "page.html"))
    assert "There are no tables to show." in browser.run("return document.body.innerText")


def test_four_hundred_cells(browser: Browser, tmp_path: Path) -> None:
    rng = random.Random(0)
    long = protocol(epochs=50)
    cells = tuple(cell(f"row{place}/dfa", network=f"fc1-{place + 1}", protocol=long) for place in range(400))
    store = TrialStore(tmp_path)
    path = store.path("made", "table1")
    path.parent.mkdir()
    with path.open("w") as file:
        for one in cells:
            fall = tuple(10 + 80 * math.exp(-epoch / 10) + rng.random() for epoch in range(50))
            file.write(json.dumps(asdict(record(one, test=fall, curve=Curve(fall, fall, fall)))) + "\n")
    made = Paper("made", "A. Author", 2020, "A title", (Table("table1", "Many", "%", cells),))
    browser.open(write_report([made], store, tmp_path / "page.html"))
    browser.run(SORT, 2)
    ours = browser.run(
        "return [...document.querySelectorAll('tbody[data-row]')].map((b) => b.rows[0].cells[2].innerText)"
    )
    assert len(ours) == 400
    assert ours == sorted(ours, key=float)
    for row in range(0, 400, 40):
        browser.run(OPEN, row)
    assert browser.run("return document.querySelectorAll('.opened polyline').length") == 10
