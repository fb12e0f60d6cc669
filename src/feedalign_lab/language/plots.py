"""Perplexities and angles as PNG images."""

import math
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from feedalign_lab.language.records import LanguageRun
from feedalign_lab.plots import as_png, line_style

_MILLION = 1e6


def draw_perplexities(runs: Sequence[LanguageRun], title: str) -> bytes:
    """Validation perplexity over the tokens seen, a line per run.

    Args:
        runs: The runs to draw, in the order of the legend.
        title: Heading of the image.

    Returns:
        The PNG image.
    """
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    for number, run in enumerate(runs):
        known = [one for one in run.evaluations if math.isfinite(one.validation_perplexity)]
        axes.plot(
            [one.tokens / _MILLION for one in known],
            [one.validation_perplexity for one in known],
            label=run.rule,
            marker="o" if len(known) == 1 else None,
            **line_style(number),
        )
    axes.set(xlabel="tokens (millions)", ylabel="validation perplexity", title=title, yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize="small")
    return as_png(figure)


def draw_angles(runs: Sequence[LanguageRun]) -> bytes | None:
    """Angle between the rule's and backprop's signal at each feedback point, a line per run.

    Args:
        runs: The runs to draw, in the order of the legend.

    Returns:
        The PNG image; None where no run has an angle.
    """
    drawn = [(number, run) for number, run in enumerate(runs) if any(math.isfinite(a.degrees) for a in run.angles)]
    if not drawn:
        return None
    figure = Figure(figsize=(7.0, 4.6), layout="constrained")
    axes = figure.add_subplot()
    axes.axhline(90, color="#bbbbbb", linewidth=0.8)
    for number, run in drawn:
        depths = [(place + 1) / len(run.angles) for place in range(len(run.angles))]
        axes.plot(depths, [a.degrees for a in run.angles], label=run.rule, marker=".", **line_style(number))
    axes.set(
        xlabel="depth of the feedback point (1: the last)",
        ylabel="angle to backprop (degrees)",
        title="signals at the best evaluation",
    )
    axes.set_ylim(-3, max(105.0, axes.get_ylim()[1]))
    axes.legend(fontsize="small")
    return as_png(figure)
