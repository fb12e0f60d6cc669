"""The page of claims: all of them, once, each with something to look at that exists and says what the page says."""

import ast
import importlib
import json
import re
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from feedalign_lab.errors import CorruptFileError
from feedalign_lab.papers.catalogue import all_papers, paper_named
from feedalign_lab.papers.figures import figures_of, read_drawing
from feedalign_lab.papers.figures.drawing import Check, Drawing
from feedalign_lab.papers.rows import WHOLE, read_rows
from feedalign_lab.papers.store import Curve, TrialRecord, TrialStore

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
RECORDS = DOCS / "records"
MODULES = ("claims_tables", "claims_evidence", "tables")
PAPERS = ("rnn-dfa", "drtp", "dirdfa", "dfa-scales", "fdfa")


@pytest.fixture
def claims_tables(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    monkeypatch.syspath_prepend(str(DOCS))
    yield importlib.import_module("claims_tables")
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def claims(claims_tables: ModuleType) -> list[Any]:
    return list(claims_tables.load(DOCS / "claims.toml"))


@lru_cache
def names_in(path: str) -> frozenset[str]:
    """Names of the tests that a file has at its top level."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef))


@lru_cache
def anchors_of(path: str) -> frozenset[str]:
    """What the headings of a page are linked by."""
    headings = re.findall(r"^#{1,3} (.+)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings)


def fault(item: str) -> str:
    """What is wrong with a piece of evidence; nothing where it exists."""
    path, _, part = item.partition("::" if item.startswith("tests/") else "#")
    if not (ROOT / path).is_file():
        return f"{item}: there is no {path}"
    if path.startswith("tests/"):
        return "" if part.startswith("test_") and part in names_in(path) else f"{item}: there is no such test"
    if path.endswith(".md"):
        return "" if not part or part in anchors_of(path) else f"{item}: there is no such heading"
    return "" if path.startswith("docs/records/") else f"{item}: neither test nor page nor record"


def test_every_claim_is_there_once_in_order_and_in_one_part_of_the_page(
    claims: list[Any], claims_tables: ModuleType
) -> None:
    numbers = list(range(1, claims_tables.NUM_CLAIMS + 1))
    assert [claim.number for claim in claims] == numbers
    assert [number for part in claims_tables.SECTIONS.values() for number in part] == numbers
    assert len({claim.text for claim in claims}) == len(numbers)


def test_verdicts_papers_and_what_each_verdict_needs(claims: list[Any], claims_tables: ModuleType) -> None:
    for claim in claims:
        assert claim.verdict in claims_tables.VERDICTS, claim
        assert claim.papers, claim
        assert set(claim.papers) <= set(PAPERS), claim
        if claim.verdict == "shown":
            assert claim.evidence, claim
            assert any(item.startswith("tests/") for item in claim.evidence) or claim.measured, claim
            assert all(one.is_whole(RECORDS) and one.holds for one in (*claim.figures, *claim.rankings)), claim
        elif claim.verdict == "to run":
            assert claim.runs, claim
        else:
            assert claim.note, claim
        if claim.verdict == "contradicted":
            against = [one for one in (*claim.figures, *claim.rankings) if one.is_whole(RECORDS) and not one.holds]
            assert claim.measured or against, claim


def test_all_evidence_exists(claims: list[Any]) -> None:
    faults = [f"{claim.number}: {fault(item)}" for claim in claims for item in claim.evidence if fault(item)]
    assert faults == []
    assert all(len(claim.evidence) == len(set(claim.evidence)) for claim in claims)


@pytest.mark.parametrize(
    "item",
    [
        "tests/rules/test_dfa.py",
        "tests/rules/test_dfa.py::test_it_is_always_right",
        "tests/rules/test_nothing.py::test_it",
        "docs/rules.md#no-such-heading",
        "docs/records/nothing.json",
        "pyproject.toml",
    ],
)
def test_evidence_that_does_not_exist_is_noticed(item: str) -> None:
    assert fault(item)


def test_records_say_what_the_claims_say_they_do(claims: list[Any]) -> None:
    wrong = [
        (claim.number, order)
        for claim in claims
        for order in claim.measured
        if order.found(RECORDS) != order.holds or not (len(order.places) > 1 or order.below is not None)
    ]
    assert wrong == []


def test_figures_and_trials_say_what_the_claims_say_they_do(claims: list[Any]) -> None:
    wrong = [
        (claim.number, one)
        for claim in claims
        for one in (*claim.figures, *claim.rankings)
        if one.found(RECORDS) is not one.holds or one.paper not in claim.papers
    ]
    assert wrong == []
    assert all(len(ranking.cells) > 1 for claim in claims for ranking in claim.rankings)


def test_what_figures_and_trials_say_is_in_records_that_are_named(claims: list[Any]) -> None:
    for claim in claims:
        files = {f"{one.paper}/{one.figure}.json" for one in claim.figures}
        files |= {f"{one.paper}/{cell.split()[0]}.jsonl" for one in claim.rankings for cell in one.cells}
        assert {f"docs/records/papers/{file}" for file in files} <= set(claim.evidence), claim


def test_what_is_still_to_run_is_not_all_on_file_by_the_full_protocol(claims: list[Any]) -> None:
    for claim in claims:
        if claim.verdict == "to run":
            assert not all(is_on_file(*run.split()) for run in claim.runs), claim


def is_on_file(paper: str, name: str) -> bool:
    """Whether a table, as far as its data are at hand, or a figure was run by the whole protocol."""
    if name in {figure.name for figure in figures_of(paper)}:
        path = RECORDS / "papers" / paper / f"{name}.json"
        return path.is_file() and not read_drawing(path).label
    found = paper_named(paper)
    rows = read_rows(found, found.table(name), TrialStore(RECORDS / "papers")).rows
    return all(row.verdict.word in WHOLE for row in rows if not (row.cell.needs or row.cell.elsewhere))


def test_runs_are_tables_and_figures_that_there_are(claims: list[Any]) -> None:
    known = {
        paper.name: {*(table.name for table in paper.tables), *(figure.name for figure in figures_of(paper.name))}
        for paper in all_papers()
    }
    assert set(known) == set(PAPERS)
    for claim in claims:
        for run in claim.runs:
            paper, name = run.split()
            assert name in known[paper], claim
            assert paper in claim.papers, claim


def test_notes_have_no_measured_numbers(claims: list[Any]) -> None:
    """They come from records; a percentage, a plus-minus or three digits behind a point would be one."""
    typed = [claim.number for claim in claims if re.search(r"\d\s?%|±|\d\.\d{2}", claim.note)]
    assert typed == []


def record(score: dict[str, float | None], better: str, **angles: list[float]) -> dict[str, Any]:
    summary = [
        {
            "rule": rule,
            "num_trials": 3,
            "num_finished": 0 if mean is None else 2,
            "test_score": None if mean is None else {"mean": mean, "std": 0.25},
            "angles": dict(enumerate(angles.get(rule, []))),
        }
        for rule, mean in score.items()
    ]
    return {
        "format": 2,
        "config": {"data": "digits", "network": "fc2-20", "schedule": {"epochs": 3}, "trials": 3},
        "metric": {"name": "error", "unit": "%", "better": better, "digits": 1},
        "judged_at": None,
        "summary": summary,
    }


def places(*rules: str) -> tuple[str, ...]:
    return tuple(f"digits/fc2-20/{rule}" for rule in rules)


@pytest.mark.parametrize(("better", "order"), [("lower", ("dfa", "drtp")), ("higher", ("drtp", "dfa"))])
def test_an_order_is_that_of_the_metric(
    claims_tables: ModuleType, tmp_path: Path, better: str, order: tuple[str, str]
) -> None:
    made = record({"dfa": 2.0, "drtp": 3.0, "dkp": None}, better)
    (tmp_path / "digits.json").write_text(json.dumps({"runs": [made]}))
    assert claims_tables.Order("digits", places(*order)).found(tmp_path)
    assert not claims_tables.Order("digits", places(*order[::-1])).found(tmp_path)
    assert not claims_tables.Order("digits", places("dfa", "dfa")).found(tmp_path)
    assert claims_tables.Order("digits", places("drtp", "dkp")).found(tmp_path)
    assert not claims_tables.Order("digits", places("dkp", "drtp")).found(tmp_path)
    told = claims_tables.Order("digits", places("dfa", "dkp")).told(tmp_path)
    where, numbers = told.rsplit(": ", 1)
    assert where.endswith("`digits` on `fc2-20`, 3 epochs, 3 trials")
    assert numbers == "dfa 2.0 ± 0.2 (1 of 3 not finished), dkp (no trial finished); error (%)"


def test_angles_are_compared_layer_by_layer(claims_tables: ModuleType, tmp_path: Path) -> None:
    made = record({"dfa": 2.0, "fdfa": 1.0}, "lower", dfa=[40, 60], fdfa=[20, 30])
    (tmp_path / "digits.json").write_text(json.dumps(made))
    assert claims_tables.Order("digits", places("fdfa", "dfa"), of="angle").found(tmp_path)
    assert not claims_tables.Order("digits", places("dfa", "fdfa"), of="angle").found(tmp_path)
    assert claims_tables.Order("digits", places("dfa"), of="angle", below=61).found(tmp_path)
    assert not claims_tables.Order("digits", places("dfa"), of="angle", below=59).found(tmp_path)
    with pytest.raises(ValueError, match="no drtp on digits and fc2-20"):
        claims_tables.Order("digits", places("drtp"), of="angle", below=59).found(tmp_path)


@pytest.mark.parametrize(("holds", "word"), [(True, "holds"), (False, "does not hold"), (None, "cannot be told")])
@pytest.mark.parametrize("label", ["", "1 of 5 epochs"])
def test_a_figure_says_whether_a_check_holds_and_by_which_protocol(
    claims_tables: ModuleType, tmp_path: Path, holds: bool | None, word: str, label: str
) -> None:
    drawing = Drawing("drtp", "fig2", "Losses", "", label, (), (Check("It works.", "2 of 3 do", holds),))
    path = tmp_path / "papers" / "drtp" / "fig2.json"
    path.parent.mkdir(parents=True)
    path.write_text(drawing.to_json())
    drawn = claims_tables.Drawn("drtp", "fig2", "It works.")
    assert drawn.found(tmp_path) is holds
    assert drawn.is_whole(tmp_path) is (not label)
    extent = label or "whole protocol"
    assert drawn.told(tmp_path) == f"[drtp `fig2`](papers.md#figures), {extent}: *It works.* 2 of 3 do: **{word}**"
    bare = claims_tables.Drawn("drtp", "fig2")
    assert bare.found(tmp_path)
    assert bare.told(tmp_path).endswith(": Losses")
    with pytest.raises(ValueError, match="fig2 of drtp has no check 'It rains'"):
        claims_tables.Drawn("drtp", "fig2", "It rains").found(tmp_path)
    with pytest.raises(CorruptFileError):
        claims_tables.Drawn("drtp", "fig3").found(tmp_path)


def put_on_file(records: Path, name: str, errors: list[float], epochs: int | None = None) -> None:
    """Trials of a cell of fdfa b6, one for each error, with as many epochs as its protocol has or fewer."""
    cell = next(cell for cell in paper_named("fdfa").table("b6").cells if cell.name == name)
    length = epochs or cell.protocol.epochs
    for trial, error in enumerate(errors):
        curve = Curve(train_loss=(1.0,) * length, test=(error,) * length, seconds=(1.0,) * length)
        configuration = cell.configuration(length)
        TrialStore(records / "papers").append(
            TrialRecord("fdfa", "b6", name, configuration, trial, "finished", "", "error", curve, {})
        )


def test_cells_are_ranked_by_the_trials_on_file(claims_tables: ModuleType, tmp_path: Path) -> None:
    put_on_file(tmp_path, "mnist/mlp1-800/dfa", [4.0] * 10)
    put_on_file(tmp_path, "mnist/mlp1-800/dkp", [2.0, 4.0] * 5)
    put_on_file(tmp_path, "mnist/mlp1-800/fdfa", [1.0, 2.0], epochs=3)
    dfa, dkp, fdfa, fa = (f"b6 mnist/mlp1-800/{rule}" for rule in ("dfa", "dkp", "fdfa", "fg-a"))
    assert claims_tables.Ranking("fdfa", (fdfa, dkp, dfa)).found(tmp_path)
    assert not claims_tables.Ranking("fdfa", (dfa, dkp)).found(tmp_path)
    assert not claims_tables.Ranking("fdfa", (dfa, dfa)).found(tmp_path)
    assert claims_tables.Ranking("fdfa", (dkp, dfa)).is_whole(tmp_path)
    assert not claims_tables.Ranking("fdfa", (fdfa, dfa)).is_whole(tmp_path)
    assert claims_tables.Ranking("fdfa", (fdfa, dfa)).told(tmp_path) == (
        "[fdfa](papers.md#what-is-on-file), 3 of 100 epochs, 2 of 10 trials; whole protocol: "
        "`b6`: mnist/mlp1-800/fdfa 98.50 ± 0.71, mnist/mlp1-800/dfa 96.00 ± 0.00; accuracy"
    )
    with pytest.raises(ValueError, match="no trial on file of fdfa b6 mnist/mlp1-800/fg-a"):
        claims_tables.Ranking("fdfa", (dfa, fa)).found(tmp_path)


def test_tests_of_one_file_stand_together_in_words(claims_tables: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "claims.toml").write_text(
        '[[claim]]\nnumber = 1\npapers = ["drtp"]\ntext = "It | works."\nverdict = "shown"\nruns = ["drtp s1"]\n'
        'evidence = ["tests/a.py::test_it_works", "docs/rules.md#a-b", "tests/a.py::test_it_does"]\nnote = "Well."\n'
    )
    line = claims_tables.render("rules", tmp_path, RECORDS).splitlines()[-1]
    assert line == (
        "| 1 | It \\| works. | drtp | **shown** | Well.<br>`tests/a.py`: it works; it does<br>"
        "[rules.md#a-b](rules.md#a-b)<br>`feedalign papers run drtp s1` |"
    )


def test_a_part_of_the_page_that_there_is_not_is_refused(claims_tables: ModuleType) -> None:
    with pytest.raises(ValueError, match="rules, models"):
        claims_tables.render("nothing", DOCS, RECORDS)
