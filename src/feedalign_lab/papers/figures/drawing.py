"""What a figure shows, as data: panels of series, and what the paper claims of them beside what was measured."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from feedalign_lab.environment import Environment
from feedalign_lab.errors import CorruptFileError
from feedalign_lab.results import to_json

DRAWING_FORMAT = 2

Style = Literal["line", "points", "dots", "fit"]
Scale = Literal["linear", "log"]
Source = Literal["paper", "ours"]


@dataclass(frozen=True)
class Series:
    """Numbers against numbers.

    Attributes:
        name: As the legend has it.
        x: One number per place.
        mean: Over trials, or what else `n` counts.
        std: Standard deviation over the same; nan for a single one.
        n: How many each mean is of; the smallest where places differ.
        rule: Name of the rule, by which it has its color; empty where the place among the series decides.
        style: "line" with a band of one standard deviation, "points" with bars of one, "dots" for many
            points, or "fit", a thin line.
    """

    name: str
    x: tuple[float, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...] = ()
    n: int = 1
    rule: str = ""
    style: Style = "line"

    @property
    def last(self) -> tuple[float, float]:
        """The last mean, and its standard error; nan where there is none."""
        if not self.mean:
            return math.nan, math.nan
        spread = self.std[-1] if self.std else math.nan
        return self.mean[-1], spread / math.sqrt(self.n) if self.n > 1 else math.nan


@dataclass(frozen=True)
class Panel:
    """One pair of axes.

    Attributes:
        title: Heading.
        x_label: With its unit.
        y_label: With its unit.
        series: What is drawn.
        x_scale: Of the axis.
        y_scale: Of the axis.
        guide: Height of a thin horizontal line; None for none.
        x_range: Ends of the x axis; None fits it to the series.
        is_ordered: Whether the series follow one another, as moments of a training do, and are colored accordingly.
        is_map: Whether x and y mean nothing but near and far, so that axes have no numbers.
    """

    title: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    guide: float | None = None
    x_range: tuple[float, float] | None = None
    is_ordered: bool = False
    is_map: bool = False

    def find(self, name: str) -> Series | None:
        """The series of a name; None where there is none, or nothing in it."""
        return next((series for series in self.series if series.name == name and series.mean), None)


@dataclass(frozen=True)
class Check:
    """A statement on the figure, and what was measured of it.

    Attributes:
        claim: The statement, in a sentence.
        measured: The number that speaks for or against it, in words, with what counts as holding.
        holds: Whether it holds here; None where that cannot be told: too few trials, or series that are not there.
        value: The number itself; nan where there is none.
        source: Who states it: the paper, or we beside it, as a control or where the paper's words need more.
    """

    claim: str
    measured: str
    holds: bool | None
    value: float = math.nan
    source: Source = "paper"


@dataclass(frozen=True)
class Drawing:
    """A figure.

    Attributes:
        paper: Name of the paper.
        figure: Name of the figure.
        title: Heading.
        caption: What is drawn, and what differs from the paper.
        label: What the run lacks of the paper's protocol, such as "20 of 500 epochs"; empty for a whole one.
        panels: The axes, in reading order.
        checks: The claims.
        environment: Versions, commit, device of the process that drew it.
        epochs: Passes over the training data; None in files of format 1.
        trials: Runs, or what else was averaged over; None in files of format 1.
        format: Of the file.
    """

    paper: str
    figure: str
    title: str
    caption: str
    label: str
    panels: tuple[Panel, ...]
    checks: tuple[Check, ...] = ()
    environment: Environment = field(default_factory=dict)
    epochs: int | None = None
    trials: int | None = None
    format: int = DRAWING_FORMAT

    def panel(self, title: str) -> Panel:
        """The panel of a title."""
        return next(panel for panel in self.panels if panel.title == title)

    @property
    def so_far(self) -> str:
        """What is said behind whether a statement holds: that this is a run of less than the paper's protocol."""
        return " so far" if self.label else ""

    def to_json(self) -> str:
        """As text; what is no number is null."""
        return to_json(asdict(self))


def read_drawing(path: Path) -> Drawing:
    """Read what a figure left on file.

    Args:
        path: A JSON file.

    Returns:
        The drawing.

    Raises:
        CorruptFileError: It is none, or of a newer format.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        number = found["format"]
        if not isinstance(number, int) or number > DRAWING_FORMAT:
            raise CorruptFileError(
                f"{path} is a figure in format {number}, and this feedalign reads up to {DRAWING_FORMAT}: update it, "
                "or draw the figure anew."
            )
        panels = tuple(_panel(panel) for panel in found.pop("panels"))
        checks = tuple(Check(**{**check, "value": _number(check["value"])}) for check in found.pop("checks"))
        return Drawing(panels=panels, checks=checks, **found)
    except CorruptFileError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError, OverflowError) as error:
        raise CorruptFileError(f"{path} is no figure of a paper ({error}): draw it anew.") from error


def _panel(found: Mapping[str, Any]) -> Panel:
    series = tuple(
        Series(**{**one, **{name: _numbers(one[name]) for name in ("x", "mean", "std")}}) for one in found["series"]
    )
    for one in series:
        if len(one.x) != len(one.mean) or len(one.std) not in {0, len(one.mean)}:
            raise ValueError(f"the numbers of {one.name} in {found['title']} are not as many as its places")
    x_range = None if found["x_range"] is None else tuple(found["x_range"])
    return Panel(**{**found, "series": series, "x_range": x_range})


def _numbers(values: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(map(_number, values))


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)
