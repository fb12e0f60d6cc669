"""Markdown of the training under limits of hardware."""

from __future__ import annotations

import statistics
from collections.abc import Callable

from tables import Record, counted, table

_WORDS = {
    "error-bits": "bits of the error",
    "error-ternary": "ternary error, threshold",
    "feedback-bits": "bits of the feedback",
    "feedback-density": "share of feedback that is not zero",
    "noise": "noise over the signal's rms",
    "delay": "steps late",
}
_EXTRA = {"error-scale=row": "range of each sample", "error-rounding=stochastic": "rounded at random"}


def limits(record: Record) -> str:
    """Render the accuracies under every limit, a line for each limit and rule."""
    lines: dict[tuple[str, str], list[str]] = {}
    for point in record["points"]:
        if point["limits"]:
            first, _, extra = point["limits"].partition(",")
            name, _, value = first.partition("=")
            words = f"{_WORDS[name]}, {_EXTRA[extra]}" if extra else _WORDS[name]
            lines.setdefault((words, _who(point, record)), []).append(f"{value}: {_accuracy(point)}")
    free = ", ".join(f"{_who(point, record)} {_accuracy(point)}" for point in record["points"] if not point["limits"])
    config = record["config"]
    ways = [[words, who, " · ".join(cells)] for (words, who), cells in lines.items()]
    return (
        f"{table(['limit', 'rule', 'test accuracy in percent, by strength'], ways)}\n\n"
        f"Without limits: {free}. {config['data']}, {config['network']}, {counted(config['epochs'], 'epoch')}; mean "
        f"and standard deviation of {counted(config['trials'], 'seed')} after the last epoch. Rates are those that the "
        f"rules have without limits. PyTorch {record['environment']['torch']} on a CPU."
    )


def _who(point: Record, record: Record) -> str:
    network = point["network"]
    return f"`{point['rule']}`" + ("" if network == record["config"]["network"] else f" on {network}")


def _accuracy(point: Record) -> str:
    found = [accuracy for accuracy in point["accuracy"] if accuracy is not None]
    gone = len(point["accuracy"]) - len(found)
    lost = f" ({gone} diverged)" if gone else ""
    if not found:
        return "diverged"
    spread = f" ± {statistics.stdev(found):.1f}" if len(found) > 1 else ""
    return f"{statistics.mean(found):.1f}{spread}{lost}"


FROM_RECORDS: dict[str, Callable[[Record], str]] = {"limits": limits}
