"""The page as text: what it says, what it leaves out, and that nothing in a record becomes markup."""

import json
import os
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from made_folders import HOSTILE, PIXEL, draw, fill, small_paper
from made_papers import cell, paper, protocol, record

from feedalign_lab.errors import OutputFolderError
from feedalign_lab.papers.cells import Paper, Published
from feedalign_lab.papers.report import write_report
from feedalign_lab.papers.store import Curve, TrialStore

_EMPTY = {"meta", "img", "input", "wbr"}


class Document(HTMLParser):
    """Tags that are balanced, the ids, and the text of scripts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.ids: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.data: dict[str, str] = {}
        self.feed(text)
        self.close()
        assert not self.stack, self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.tags.append((tag, found))
        if found.get("id"):
            self.ids.append(str(found["id"]))
        if tag not in _EMPTY:
            self.stack.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.stack and self.stack[-1] == "script":
            self.data[str(self.tags[-1][1].get("id"))] = data


def written(folder: Path, *papers: Paper) -> str:
    path = write_report(papers, TrialStore(folder), folder / "out" / "page.html")
    return path.read_text(encoding="utf-8")


def rows_in(text: str, table: str = "made-table1") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(Document(text).data[f"data-{table}"])
    return found


def test_the_page_shows_every_cell_with_its_verdict(tmp_path: Path) -> None:
    fill(TrialStore(tmp_path))
    text = written(tmp_path, small_paper())
    assert re.findall(r'data-verdict="([^"]*)"', text) == [
        "worse", "reproduced", "incomplete", "better", "not run", "not run",
    ]  # fmt: skip
    assert "A. Author &amp; B. Author (2020). A title." in text
    assert '10.1 <span class="std">± 0.1</span>' not in text
    assert '10.06 <span class="std">± 0.09</span>' in text
    assert "1 of 2 trials" in text
    assert "needs files of its own" in text
    assert "A note." in text
    assert (
        "6 printed numbers of 1 paper. Trials are on file for 4, for 3 by the whole protocol (the paper&#x27;s, or "
        "ours where it names no epochs or trials). "
        "Of these 3, 2 (67 %) are reproduced or better." in text
    )


def test_the_page_is_whole_and_asks_nobody(tmp_path: Path) -> None:
    fill(TrialStore(tmp_path))
    draw(tmp_path / "made")
    document = Document(written(tmp_path, small_paper()))
    assert len(document.ids) == len(set(document.ids))
    for tag, attributes in document.tags:
        assert tag not in {"link", "iframe", "object"}
        assert not str(attributes.get("src") or "data:").startswith(("http", "//"))
        if tag == "a":
            target = str(attributes["href"])
            assert target.startswith("#")
            assert target[1:] in document.ids


def test_the_same_records_give_the_same_page(tmp_path: Path) -> None:
    fill(TrialStore(tmp_path))
    assert written(tmp_path, small_paper()) == written(tmp_path, small_paper())


def test_a_page_without_papers_or_records(tmp_path: Path) -> None:
    assert "There are no tables to show." in written(tmp_path)
    text = written(tmp_path, small_paper())
    Document(text)
    assert "none of which has been run yet" in text
    assert rows_in(text)[0]["panels"] == []
    assert "Nothing: everything on file could be read." in text


def test_nothing_in_a_record_becomes_markup(tmp_path: Path) -> None:
    one = cell(HOSTILE, needs=HOSTILE)
    store = TrialStore(tmp_path)
    store.append(
        record(
            one,
            message=HOSTILE,
            metric=HOSTILE,
            environment={HOSTILE: HOSTILE},
            curve=Curve((1.0,) * 3, (1.0,) * 3, (1.0,) * 3, others={HOSTILE: (1.0,) * 3}, angles={"3": {HOSTILE: 1.0}}),
        )
    )
    store.append(record(cell(f"gone {HOSTILE}")))
    text = written(tmp_path, paper(one))
    assert "<img src=x" not in text
    assert "</script><script>" not in text
    (row,) = rows_in(text)
    assert row["trials"][0]["status"] == f"finished: {HOSTILE}"
    assert row["environment"] == [[HOSTILE, HOSTILE]]
    assert Document(text).tags.count(("script", {})) == 1


def test_what_no_encoding_has_does_not_stop_the_page(tmp_path: Path) -> None:
    one = cell()
    TrialStore(tmp_path).append(record(one, environment={"torch": "\ud800"}))
    TrialStore(tmp_path).append(record(cell("\ud800")))
    Document(written(tmp_path, paper(one)))


def test_what_could_not_be_read_is_named(tmp_path: Path) -> None:
    store = TrialStore(tmp_path)
    fill(store)
    with store.path("made", "table1").open("ab") as file:
        file.write(b'{"format": 99}\n\xff\xfe\n{"format": 1, "cell": "x"')
    (tmp_path / "made" / "fig3.png").write_bytes(b"no picture")
    (tmp_path / "made" / "fig4.json").write_text("{")
    (tmp_path / "made" / "fig5.json").write_text(draw(tmp_path / "made").to_json().replace('"It falls."', "7"))
    store.path("made", "table2").mkdir()
    text = written(tmp_path, small_paper())
    assert text.count("<li>") == 8  # seven of them, and the note of the table
    for said in ("line 8: written in format 99", "line 9: no whole", "line 10: no whole", "fig3.png is no PNG"):
        assert said in text
    for said in ("fig4.json is no figure", "fig5.json is no figure", "table2.jsonl cannot be read"):
        assert said in text
    assert "7 entries on file could not be used" in text
    assert 'id="made-figure-fig2"' in text


def test_curves_are_in_the_unit_of_the_table(tmp_path: Path) -> None:
    one = cell(metric="accuracy", published=Published(90.0))
    curve = Curve((3.0, 2.0, 1.0), (30.0, 20.0, 10.0), (0.5, 0.5, 1.0), validation=(40.0, 30.0, 20.0))
    TrialStore(tmp_path).append(record(one, curve=curve))
    (row,) = rows_in(written(tmp_path, paper(one)))
    assert [panel["title"] for panel in row["panels"]] == [
        "accuracy (%)", "loss in training", "accuracy on the validation part",
    ]  # fmt: skip
    assert row["panels"][0]["published"] == 90.0
    assert row["panels"][0]["series"][0]["y"] == [70.0, 80.0, 90.0]
    assert row["panels"][2]["series"][0]["y"] == [60.0, 70.0, 80.0]
    assert row["seconds"] == [[0.5, 1.0, 2.0]]
    assert row["trials"][0]["value"] == 90.0
    assert ["batch size", "32"] in row["settings"]
    assert row["environment"] == [["torch", "2.13.0"]]


def test_a_diverged_trial_and_what_is_no_number(tmp_path: Path) -> None:
    one = cell(protocol=protocol(trials=2))
    blown = Curve((1.0, float("nan")), (50.0, float("inf")), (1.0, 1.0), angles={"2": {"fc1": float("nan")}})
    store = TrialStore(tmp_path)
    store.append(record(one))
    store.append(record(one, 1, status="diverged", message="it grew", curve=blown))
    (row,) = rows_in(written(tmp_path, paper(one)))
    assert [trial["value"] for trial in row["trials"]] == [10.0, None]
    assert row["trials"][1]["status"] == "diverged: it grew"
    assert row["panels"][0]["series"][1] == {"name": "trial 1 (diverged)", "y": [50.0, None]}
    assert row["panels"][-1]["series"][1]["y"] == [None]


def test_a_figure_has_its_picture_claims_and_series(tmp_path: Path) -> None:
    draw(tmp_path / "made")
    text = written(tmp_path, small_paper())
    assert "data:image/png;base64,iVBOR" in text
    assert "Reduced: 20 of 100 epochs." in text
    assert "<td>It falls.</td><td>the paper's</td><td>from 1 to 0</td><td>holds so far</td>" in text
    assert "<td>It ends.</td><td>ours</td><td>at 0</td><td>does not hold so far</td>" in text
    assert "<td>cannot be told</td>" in text
    assert "The paper says" not in text
    (panel,) = json.loads(Document(text).data["data-made-figure-fig2"])
    assert (panel["yLog"], panel["guide"], len(panel["series"])) == (True, 0.5, 2)


def test_of_a_whole_protocol_nothing_is_only_so_far(tmp_path: Path) -> None:
    drawing = draw(tmp_path / "made")
    (tmp_path / "made" / "fig2.json").write_text(replace(drawing, label="").to_json())
    text = written(tmp_path, small_paper())
    assert "<td>holds</td>" in text
    assert "so far" not in text


def test_whose_a_statement_is_can_be_nothing_else(tmp_path: Path) -> None:
    draw(tmp_path / "made")
    path = tmp_path / "made" / "fig2.json"
    path.write_text(path.read_text().replace('"ours"', '"<b>"'))
    assert "fig2.json is no figure of a paper" in written(tmp_path, small_paper())


def test_places_on_a_map_stay_a_picture(tmp_path: Path) -> None:
    drawing = draw(tmp_path / "made")
    on_map = replace(drawing, panels=(replace(drawing.panels[0], is_map=True),))
    (tmp_path / "made" / "fig2.json").write_text(on_map.to_json())
    assert "data-made-figure-fig2" not in written(tmp_path, small_paper())


def test_figures_can_lie_elsewhere(tmp_path: Path) -> None:
    elsewhere = tmp_path / "figures" / "made"
    elsewhere.mkdir(parents=True)
    for name in ("fig10.png", "fig9.png"):
        (elsewhere / name).write_bytes(PIXEL)
    store = TrialStore(tmp_path / "records")
    text = write_report([small_paper()], store, tmp_path / "page.html", tmp_path / "figures").read_text()
    assert re.findall(r"<h3>(fig\d+)</h3>", text) == ["fig9", "fig10"]


def test_a_page_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputFolderError, match="taken cannot be written"):
        write_report([small_paper()], TrialStore(tmp_path), tmp_path / "taken")
    assert not list(tmp_path.glob(".taken*"))


def test_a_page_is_written_through_a_link(tmp_path: Path) -> None:
    page, link = tmp_path / "pages" / "page.html", tmp_path / "link.html"
    page.parent.mkdir()
    page.write_text("before")
    link.symlink_to(page)
    assert write_report([small_paper()], TrialStore(tmp_path), link) == link
    assert link.is_symlink()
    assert page.read_text().startswith("<!doctype html>")


def test_what_is_no_file_is_left_as_it_is(tmp_path: Path) -> None:
    pipe, link, round_ = (tmp_path / name for name in ("pipe", "link.html", "round"))
    os.mkfifo(pipe)
    link.symlink_to(pipe)
    round_.symlink_to(round_)
    for path in (pipe, link, round_):
        with pytest.raises(OutputFolderError, match=f"{path.name} cannot be written"):
            write_report([small_paper()], TrialStore(tmp_path), path)
    assert pipe.is_fifo()
    assert link.is_symlink()
    assert round_.is_symlink()
