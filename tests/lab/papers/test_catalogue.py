"""The catalogue of the papers' tables: every cell can be trained, and is trained as its name says."""

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from feedalign_lab.domains import domain_of
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.graphs.settings import rule_setting
from feedalign_lab.language.command import plan_of
from feedalign_lab.language.options import LanguageOptions
from feedalign_lab.papers.as_printed import cells_of_row, published
from feedalign_lab.papers.catalogue import PAPER_NAMES, all_papers, paper_named
from feedalign_lab.papers.cells import FOLDER, METRICS, Protocol, Published
from feedalign_lab.papers.tolerances import tolerance_of

CELLS = {
    (paper.name, table.name, cell.name): cell
    for paper in all_papers()
    for table in paper.tables
    for cell in table.cells
}
TABLES = [(paper.name, table.name) for paper in all_papers() for table in paper.tables]


@pytest.mark.parametrize(("paper", "table"), TABLES)
def test_every_cell_can_be_planned_and_its_rule_can_learn_it(paper: str, table: str) -> None:
    for cell in paper_named(paper).table(table).cells:
        if cell.elsewhere:
            with pytest.raises(SettingError, match=r"is not trained by this command"):
                cell.plan()
            continue
        plan = cell.plan()
        case = domain_of(plan.data).case(plan.data, plan.network, is_transfer=plan.transfer_epochs is not None)
        assert case.lack(cell.rule) is None, cell.name
        assert plan.schedule.epochs == cell.protocol.epochs
        assert plan.trials == cell.protocol.trials
        assert cell.configuration()["rule"] == cell.rule


@pytest.mark.parametrize(("paper", "table"), TABLES)
def test_cells_are_in_range(paper: str, table: str) -> None:
    for cell in paper_named(paper).table(table).cells:
        protocol = cell.protocol
        assert cell.metric in METRICS, cell.name
        assert protocol.epochs >= 1, cell.name
        assert protocol.trials >= 1, cell.name
        assert protocol.source, cell.name
        assert cell.tolerance > 0, cell.name
        # Nobody has files at paths that a cell does not name.
        assert FOLDER not in cell.data or cell.needs or cell.elsewhere, cell.name
        assert protocol.reading != "last ten" or protocol.epochs >= 10, cell.name


def test_a_configuration_is_the_same_in_every_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cell = CELLS["dfa-scales", "a5", "chair/nerf/dfa"]
    monkeypatch.setenv("FEEDALIGN_DATA", str(tmp_path))
    assert cell.plan().data == f"nerf:{tmp_path}/nerf_synthetic/chair"
    assert str(tmp_path) not in str(cell.configuration())


@pytest.mark.parametrize(("paper", "table"), TABLES)
def test_tables_say_what_differs(paper: str, table: str) -> None:
    notes = paper_named(paper).table(table).notes
    assert 1 <= len(notes) <= 5
    assert all(note[0].isupper() and note.endswith(".") for note in notes)


def test_variants_of_drtp_are_what_they_are_called() -> None:
    for (paper, table, name), cell in CELLS.items():
        if paper != "drtp" or "errors" in table:
            continue
        plan, variant = cell.plan(), name.rsplit("/", 1)[1]
        assert plan.schedule.flip == (variant == "flip")
        dropout = 0.0 if variant == "flip" else float(variant.removeprefix("dropout-"))
        assert plan.setting(cell.rule).dropout == dropout
        assert plan.schedule.epochs == (100 if cell.data == "mnist" else 200)
        assert plan.schedule.batch_size == (60 if cell.data == "mnist" else 100)


@pytest.mark.parametrize("place", [("table3", "dfa"), ("a4", "shallow")])
def test_spline_on_citeseer_has_what_was_tuned_on_cora(place: tuple[str, str]) -> None:
    table, rule = place
    found = CELLS["dfa-scales", table, f"citeseer/spline/{rule}"].plan().setting(rule)
    on_cora = rule_setting("cora", "spline", rule)
    assert (found.learning_rate, found.weight_decay, found.dropout) == (
        on_cora.learning_rate,
        on_cora.weight_decay,
        on_cora.dropout,
    )


def test_the_transfer_and_it_alone_freezes_convolutions() -> None:
    transfers = {name for (_, _, name), cell in CELLS.items() if cell.protocol.transfer_epochs is not None}
    assert transfers == {f"cifar100/alexnet/{rule}/transfer" for rule in ("backprop", "dfa", "dkp", "fdfa")}


def test_commands_for_transformers_are_understood() -> None:
    """Table 5's rates: constant 5e-5, 1e-4 with plateaus, a factor of 1 with Noam's schedule."""
    rates = {"noam": 1.0, "constant": 5e-5, "plateau": 1e-4}
    for cell in paper_named("dfa-scales").table("table5").cells:
        words = shlex.split(cell.elsewhere.removeprefix("another command does: "))
        assert words[:2] == ["feedalign", "language"]
        options = tyro.cli(LanguageOptions, args=words[2:])
        plan = plan_of(options)
        (choice,) = plan.choices
        assert choice.rule == cell.rule
        assert plan.rates[choice.name] == (rates[options.schedule],)
        assert plan.epochs == cell.protocol.epochs
        assert options.beta2 == (0.98 if cell.name.endswith(("noam", "adam")) else 0.999)


def test_papers_are_found_by_name() -> None:
    assert tuple(paper.name for paper in all_papers()) == PAPER_NAMES
    assert paper_named("drtp").table("s1").name == "s1"
    with pytest.raises(UnknownNameError, match=r"Did you mean drtp\?"):
        paper_named("dtrp")


def test_numbers_are_read_as_printed() -> None:
    assert published("1.65 ± 0.06", 10) == Published(1.65, 0.06, 10)
    assert published("79.2") == Published(79.2)
    cells = cells_of_row("a", "mnist", "fc1-500", {"dfa": "1", "fg-a": "2"}, Protocol(1, 1, "last", "x"), variant="b")
    assert [(cell.name, cell.tolerance) for cell in cells] == [("a/dfa/b", 0.3), ("a/fg-a/b", 2.0)]


def test_a_tolerance_of_perplexity_grows_with_it() -> None:
    assert tolerance_of("wikitext103", "dfa", "perplexity", 50.0) == pytest.approx(5.0)


def test_the_catalogue_imports_nothing_heavy() -> None:
    """The command line lists papers without waiting for PyTorch Geometric or matplotlib."""
    heavy = ("torch_geometric", "matplotlib", "pandas", "sklearn", "scipy", "lightning")
    script = (
        "import sys; from feedalign_lab.papers.catalogue import all_papers; all_papers(); "
        f"print([name for name in {heavy!r} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
