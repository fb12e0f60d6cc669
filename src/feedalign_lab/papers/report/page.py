"""The page: one HTML file with its own style and script, which asks nobody for anything."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files

from feedalign_lab.papers.cells import Paper
from feedalign_lab.papers.figures.drawing import Drawing, Source
from feedalign_lab.papers.printed import citation
from feedalign_lab.papers.report.curves import as_script, figure_data
from feedalign_lab.papers.report.pictures import Picture
from feedalign_lab.papers.report.table_parts import badge, name_of, summary_table, table_part
from feedalign_lab.papers.rows import WORDS, TableRows, Totals, joined

# The page itself forbids the browser to load anything.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:"
_MEANINGS = {
    "reproduced": "ours lies within the slack of the printed number, by the whole protocol",
    "better": "beyond the slack on the good side, by the whole protocol",
    "worse": "beyond the slack on the bad side, or a trial diverged, by the whole protocol",
    "incomplete": "fewer epochs or trials than the paper's protocol; what is lacking stands beside it",
    "not run": "no trial on file",
}
_HOLDS = {True: "holds", False: "does not hold", None: "cannot be told"}
_WHOSE: dict[Source, str] = {"paper": "the paper's", "ours": "ours"}


@dataclass(frozen=True)
class PaperPart:
    """A paper as the page shows it.

    Attributes:
        paper: The paper.
        tables: Its tables.
        pictures: Its figures.
        problems: What is on file for its figures and could not be used.
    """

    paper: Paper
    tables: tuple[TableRows, ...]
    pictures: tuple[Picture, ...] = ()
    problems: tuple[str, ...] = ()


def page(parts: Sequence[PaperPart]) -> str:
    """Compose the page; the same parts give the same page.

    Args:
        parts: The papers.

    Returns:
        HTML, in which everything that comes from elsewhere is escaped.
    """
    totals = joined(table.totals for part in parts for table in part.tables)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>feedalign: the papers, regenerated</title>
<style>
{_own_file("page.css")}</style>
</head>
<body>
<header>
<h1>The papers, regenerated</h1>
<p class="lead">{escape(_in_short(parts, totals))}</p>
{_bar(totals)}
{summary_table([table for part in parts for table in part.tables])}
{_legend()}
</header>
{_filters(totals)}
<main>
{"".join(map(_paper, parts))}
{_left_out(parts)}
</main>
<script>
{_own_file("chart.js")}
{_own_file("page.js")}</script>
</body>
</html>
"""


def _own_file(name: str) -> str:
    """A file that lies beside this one."""
    return (files(__package__) / name).read_text(encoding="utf-8")


def _in_short(parts: Sequence[PaperPart], totals: Totals) -> str:
    """The whole page in a sentence or two."""
    if not totals.num_cells:
        return "There are no tables to show."
    where = f"{totals.num_cells} printed numbers of {len(parts)} {'paper' if len(parts) == 1 else 'papers'}"
    if not totals.num_recorded:
        return f"{where}, none of which has been run yet."
    said = (
        f"{where}. Trials are on file for {totals.num_recorded}, for {totals.num_whole} by the whole protocol (the "
        "paper's, or ours where it names no epochs or trials)."
    )
    if not totals.num_whole:
        return said
    share = 100 * totals.num_good / totals.num_whole
    return f"{said} Of these {totals.num_whole}, {totals.num_good} ({share:.0f} %) are reproduced or better."


def _bar(totals: Totals) -> str:
    """The verdicts as parts of a bar; the filters have the numbers in words."""
    shares = [(word, totals.counts[word]) for word in WORDS if totals.counts[word]]
    inside = "".join(f'<span class="{name_of(word)}" style="flex-grow:{count}"></span>' for word, count in shares)
    return f'<div class="bar" role="img" aria-label="{escape(totals.sentence)}">{inside}</div>' if shares else ""


def _legend() -> str:
    """What the verdicts and columns mean."""
    meanings = "".join(f"<div><dt>{badge(word)}</dt><dd>{_MEANINGS[word]}</dd></div>" for word in WORDS)
    return f"""<details><summary>How to read the tables</summary><dl class="meanings">{meanings}</dl>
<p>The gap is ours minus the printed number; n is the number of finished trials. The slack is the larger of a tolerance,
fixed before the first run, and two standard errors of the gap. In the small scale beside each gap, the middle is the
printed number, the band is the slack, and the mark is ours. A row opens its learning curves, settings and environment.
The whole protocol is the paper's, or ours where it names no epochs or trials.</p></details>"""


def _filters(totals: Totals) -> str:
    """Which verdicts are shown; of no use without the script, which uncovers it."""
    boxes = "".join(
        f'<label><input type="checkbox" value="{word}" checked> {badge(word)} '
        f'<span class="count">{totals.counts[word]}</span></label>'
        for word in WORDS
    )
    return f"""<form id="filters" hidden aria-label="Filter"><fieldset><legend>Show</legend>{boxes}</fieldset>
<label class="find">Find <input type="search" placeholder="cell or rule"></label>
<output id="shown"></output></form>"""


def _paper(part: PaperPart) -> str:
    """A paper with its tables and figures."""
    name = escape(part.paper.name)
    tables = "".join(map(table_part, part.tables))
    figures = "".join(_figure(part.paper, picture) for picture in part.pictures)
    return f"""<section class="paper" id="{name}">
<h2>{name}</h2>
<p class="citation">{escape(citation(part.paper))}</p>
{tables}{figures}</section>
"""


def _figure(paper: Paper, picture: Picture) -> str:
    """A figure: the picture, what is claimed of it, and its numbers for the script to draw."""
    drawing, name = picture.drawing, escape(picture.name)
    # A table of the paper can have the same name.
    place = f"{escape(paper.name)}-figure-{name}"
    title = f": {escape(drawing.title)}" if drawing else ""
    image, caption = "", ""
    if picture.image:
        described = escape(drawing.title if drawing else picture.name)
        image = f'<img alt="{described}" src="data:image/png;base64,{picture.image}">'
    if drawing:
        label = f'<strong class="label">Reduced: {escape(drawing.label)}.</strong> ' if drawing.label else ""
        caption = f"<figcaption>{label}{escape(drawing.caption)}</figcaption>"
    return f"""<section class="figure" id="{place}">
<h3>{name}{title}</h3>
<figure>{image}{caption}</figure>
{_checks(drawing) if drawing else ""}{_values(drawing, place) if drawing else ""}</section>
"""


def _checks(drawing: Drawing) -> str:
    """What is stated of a figure, by whom, and what was measured."""
    if not drawing.checks:
        return ""
    heads = "".join(f'<th scope="col">{name}</th>' for name in ("Statement", "Whose", "Measured", "Here it"))
    lines = (
        f"<tr><td>{escape(check.claim)}</td><td>{_WHOSE[check.source]}</td><td>{escape(check.measured)}</td>"
        f"<td>{_HOLDS[check.holds]}{'' if check.holds is None else drawing.so_far}</td></tr>"
        for check in drawing.checks
    )
    return (
        f'<div class="wide" role="region" aria-label="Statements" tabindex="0"><table class="checks">'
        f"<thead><tr>{heads}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>\n"
    )


def _values(drawing: Drawing, place: str) -> str:
    """The numbers of a figure, where there are not too many to be drawn."""
    panels = figure_data(drawing)
    if not panels:
        return ""
    return f"""<details class="panels" data-from="data-{place}"><summary>Curves to read values off</summary></details>
<script type="application/json" id="data-{place}">{as_script(panels)}</script>
"""


def _left_out(parts: Sequence[PaperPart]) -> str:
    """Everything on file that could not be used."""
    problems = [problem for part in parts for table in part.tables for problem in table.problems]
    problems += [problem for part in parts for problem in part.problems]
    items = "".join(f"<li>{escape(problem)}</li>" for problem in problems)
    what = "One entry on file" if len(problems) == 1 else f"{len(problems)} entries on file"
    found = (
        f"<p>{what} could not be used, and nothing above counts them.</p><ul>{items}</ul>"
        if problems
        else "<p>Nothing: everything on file could be read.</p>"
    )
    return f'<section id="left-out"><h2>Left out</h2>{found}</section>'
