"""Tables for people."""

import math
from collections.abc import Mapping

from rich.table import Table

import feedalign as fa
from feedalign_lab.comparison import Comparison, transfer_remark
from feedalign_lab.cost import CostRecord
from feedalign_lab.records import RuleSummary, Spread, spread

_MAX_ANGLE_COLUMNS = 5
_NOTHING = "-"
_CAPTION = (
    "test error: after the last epoch; angle: degrees between the rule's and backprop's delta at the end of training; "
    "time and memory: of one step, over backprop's"
)
_CHOSEN = "chosen epoch"


def comparison_table(comparison: Comparison) -> Table:
    """One row per rule: test error, angles at the end of training, cost.

    Args:
        comparison: A comparison, finished or not.

    Returns:
        The table, to be printed by rich.
    """
    plan = comparison.plan
    ending = " (interrupted: figures so far)" if comparison.status == "interrupted" else ""
    table = Table(
        title=f"{plan.data}, {plan.network}{transfer_remark(plan)}, {_counted(plan.schedule.epochs, 'epoch')}, "
        f"{_counted(plan.trials, 'trial')}{ending}",
        caption=_caption(comparison),
    )
    summaries = comparison.summaries()
    layers = list(dict.fromkeys(layer for summary in summaries for layer in _layers_with_angles(summary)))
    table.add_column("rule")
    table.add_column("rate", justify="right")
    table.add_column(f"test error ({comparison.error_unit})", justify="right", no_wrap=True)
    has_validation = comparison.dataset.num_validation > 0
    if has_validation:
        table.add_column(_CHOSEN, justify="right", no_wrap=True)
    for heading in _angle_headings(layers):
        table.add_column(heading, justify="right")
    table.add_column("time", justify="right")
    table.add_column("memory", justify="right")
    cost = {record.rule: record for record in comparison.cost}
    for summary in summaries:
        table.add_row(
            summary.rule,
            f"{plan.setting(summary.rule).learning_rate:g}",
            _error_cell(summary, comparison.error_unit),
            *([_chosen_cell(summary, comparison.error_unit)] if has_validation else []),
            *_angle_cells(summary, layers),
            *_cost_cells(cost.get(summary.rule)),
        )
    return table


def rules_table() -> Table:
    """All rules with what they need and what they are free of."""
    table = Table(title="learning rules")
    table.add_column("rule", no_wrap=True)
    table.add_column("what it does", ratio=1)
    for heading in ("waits for\nthe output", "reads forward\nweights", "unbiased"):
        table.add_column(heading, justify="center")
    table.add_column("paper")
    for rule in fa.ALL_RULES:
        facts = (rule.update_locked, rule.weight_transport, rule.unbiased)
        table.add_row(rule.name, first_sentence(rule.__doc__), *("yes" if fact else "no" for fact in facts), rule.paper)
    return table


def rule_facts() -> list[dict[str, str | bool]]:
    """The facts of `rules_table` for machines."""
    return [
        {
            "name": rule.name,
            "class": rule.__name__,
            "summary": first_sentence(rule.__doc__),
            "paper": rule.paper,
            "needs_targets": rule.needs_targets,
            "learns_feedback": rule.learns_feedback,
            "update_locked": rule.update_locked,
            "weight_transport": rule.weight_transport,
            "unbiased": rule.unbiased,
        }
        for rule in fa.ALL_RULES
    ]


def first_sentence(docstring: str | None) -> str:
    """The summary line of a docstring, as one line without code marks."""
    paragraph = (docstring or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split()).replace("`", "")


def _counted(number: int, noun: str) -> str:
    """A number with its noun, in the plural where it needs one."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def left_out_sentence(left_out: Mapping[str, str]) -> str:
    """Which rules are not there and why; empty if none is missing."""
    rules = ", ".join(f"{rule} ({why})" for rule, why in left_out.items())
    return f"left out: {rules}" if rules else ""


def _caption(comparison: Comparison) -> str:
    """What the columns mean, and what a reader must know beside them."""
    decay = comparison.plan.schedule.lr_decay
    rate = "rate: of Adam" + (f", times {decay:g} after each epoch" if decay < 1 else "")
    lines = [
        f"{rate}; {_CAPTION}",
        _chosen_remark(comparison),
        _trivial_sentence(comparison),
        _features_remark(comparison),
        left_out_sentence(comparison.plan.left_out),
        _load_warning(comparison),
    ]
    return "\n".join(line for line in lines if line)


def _chosen_remark(comparison: Comparison) -> str:
    """What the column of the chosen epoch is."""
    if comparison.dataset.num_validation == 0:
        return ""
    return f"{_CHOSEN}: test error after each trial's epoch with the lowest validation error"


def _trivial_sentence(comparison: Comparison) -> str:
    """What would be reached without learning."""
    told = [f"{_spread_text(error, comparison.error_unit)} ({what})" for what, error in comparison.trivial.items()]
    return f"test error without learning: {', '.join(told)}"


def _features_remark(comparison: Comparison) -> str:
    """How well the networks did whose convolutions were transferred."""
    errors = [result.epochs[-1].test_error for result in comparison.features if result.epochs]
    if not errors:
        return ""
    epochs = _counted(comparison.plan.transfer_epochs or 0, "epoch")
    error = _spread_text(spread(errors), comparison.error_unit)
    return f"convolutions: of networks trained with backprop for {epochs} (their test error {error}), then frozen"


def _load_warning(comparison: Comparison) -> str:
    """A remark where other processes were in the way of the timing."""
    load, num_cpus = comparison.environment.get("load_average"), comparison.environment.get("num_cpus")
    if not comparison.cost or not isinstance(load, float) or not isinstance(num_cpus, int) or load < num_cpus:
        return ""
    return f"the machine was busy when the steps were timed (load {load:g} on {num_cpus} CPUs): do not trust the times"


def _error_cell(summary: RuleSummary, unit: str) -> str:
    """Mean and standard deviation, and how many trials did not make it."""
    lost = summary.num_trials - summary.num_finished
    note = f" ({lost} of {summary.num_trials} not finished)" if lost else ""
    if summary.test_error is None:
        return f"{_NOTHING}{note}"
    return f"{_spread_text(summary.test_error, unit)}{note}"


def _chosen_cell(summary: RuleSummary, unit: str) -> str:
    """Mean and standard deviation at the epochs that validation chose."""
    return _NOTHING if summary.test_error_chosen is None else _spread_text(summary.test_error_chosen, unit)


def _spread_text(error: Spread, unit: str) -> str:
    """Mean and standard deviation."""
    digits = 2 if unit == "%" else 4
    deviation = "" if math.isnan(error.std) else f" ± {error.std:.{digits}f}"
    return f"{error.mean:.{digits}f}{deviation}"


def _layers_with_angles(summary: RuleSummary) -> list[str]:
    """Layers at which there are deltas to compare: there are none at the steps of a recurrent layer."""
    return [layer for layer, angle in summary.angles.items() if not math.isnan(angle)]


def _angle_headings(layers: list[str]) -> list[str]:
    """A column per layer, or one for all where they are many."""
    if len(layers) > _MAX_ANGLE_COLUMNS:
        return [f"angle {layers[0]} … {layers[-1]}"]
    return [f"angle {layer}" for layer in layers]


def _angle_cells(summary: RuleSummary, layers: list[str]) -> list[str]:
    """Angles in whole columns, or all in one cell where they are many."""
    cells = [_angle(summary.angles.get(layer, math.nan)) for layer in layers]
    return [" ".join(cells)] if len(layers) > _MAX_ANGLE_COLUMNS else cells


def _angle(degrees: float) -> str:
    """Whole degrees would hide small differences, more than a tenth is noise."""
    return _NOTHING if math.isnan(degrees) else f"{degrees:.1f}"


def _cost_cells(record: CostRecord | None) -> tuple[str, str]:
    """Ratios to backprop."""
    if record is None:
        return _NOTHING, _NOTHING
    return f"{record.time_ratio:.2f}", f"{record.memory_ratio:.2f}"
