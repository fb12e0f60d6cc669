from dataclasses import replace

import pytest

from feedalign_lab.domains import domain_of
from feedalign_lab.errors import UnknownNameError
from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.figures import Drawing, Figure, Panel, Series, figure_named, figures_of
from feedalign_lab.papers.figures.checks import NOT_THERE
from feedalign_lab.papers.figures.curves import Curves
from feedalign_lab.papers.figures.densities import CENTERS, ERRORS, Densities, FinalDensities
from feedalign_lab.papers.figures.scatters import Scatters

EXPECTED = {
    "rnn-dfa": ["fig2"],
    "drtp": ["fig2", "fig3", "s4", "s5", "s6", "theorem"],
    "dirdfa": ["fig3", "fig4"],
    "dfa-scales": ["fig2", "fig-a2"],
    "fdfa": ["fig3", "fig4", "fig5", "fig6", "fig7", "fig8"],
}
FIGURES = [figure for paper in EXPECTED for figure in figures_of(paper)]


def cells_of(figure: Figure) -> tuple[Cell, ...]:
    recipe = figure.recipe
    if isinstance(recipe, Curves | Scatters):
        return recipe.cells
    if isinstance(recipe, Densities):
        return tuple(cell for _, cell in recipe.cells)
    if isinstance(recipe, FinalDensities):
        return tuple(cell for _, _, cells in recipe.parts for _, cell in cells)
    return ()


def made_up(figure: Figure) -> Drawing:
    """The figure with two numbers in every series."""
    recipe, y = figure.recipe, (2.0, 1.0)

    def series(name: str) -> Series:
        return Series(name, (1.0, 2.0), y)

    if isinstance(recipe, Curves):
        panels = [Panel(p.title, p.x, p.y_label, tuple(series(line.name) for line in p.lines)) for p in recipe.panels]
    else:
        density = Series("", CENTERS, (0.5,) * len(CENTERS))
        titles = recipe.cells if isinstance(recipe, Densities) else ()
        panels = [Panel(title, "", "", (density,)) for title, _ in titles] + [Panel(ERRORS, "", "", ())]
        for title, _, cells in recipe.parts if isinstance(recipe, FinalDensities) else ():
            panels.append(Panel(title, "", "", tuple(replace(density, name=name) for name, _ in cells)))
    return Drawing(figure.paper, figure.name, "", "", "", tuple(panels))


@pytest.mark.parametrize("paper", EXPECTED)
def test_every_paper_has_its_figures(paper: str) -> None:
    assert [figure.name for figure in figures_of(paper)] == EXPECTED[paper]
    assert all(figure.paper == paper for figure in figures_of(paper))


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: f"{figure.paper}-{figure.name}")
def test_every_cell_can_be_trained_and_every_line_has_one(figure: Figure) -> None:
    cells = cells_of(figure)
    assert len({(cell.name, cell.data) for cell in cells}) == len(cells)
    for cell in cells:
        assert cell.plan().trials == figure.whole.trials
        assert cell.configuration()["epochs"] == cell.protocol.epochs <= figure.whole.epochs
        assert domain_of(cell.data).case(cell.data, cell.network).lack(cell.rule) is None
    if isinstance(figure.recipe, Curves):
        lines = {line.cell for panel in figure.recipe.panels for line in panel.lines}
        assert lines == {cell.name for cell in cells}
    usual = figure.usual or figure.whole
    assert usual.epochs <= figure.whole.epochs
    assert usual.trials <= figure.whole.trials


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: f"{figure.paper}-{figure.name}")
def test_every_claim_speaks_of_what_is_drawn(figure: Figure) -> None:
    if not isinstance(figure.recipe, Curves | Densities | FinalDensities):
        return
    for check in figure.checks:
        found = check(made_up(figure))
        assert found.claim.endswith(".")
        assert found.measured != NOT_THERE, found.claim


def test_names_that_do_not_exist() -> None:
    with pytest.raises(UnknownNameError, match=r"There is no figure of drtp called 'fig22'\. Did you mean fig2"):
        figure_named("drtp", "fig22")
    with pytest.raises(UnknownNameError, match="There is no paper called 'dtrp'"):
        figures_of("dtrp")
