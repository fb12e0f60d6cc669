"""Tables for people."""

import math
from collections.abc import Mapping

from rich.table import Table

import feedalign as fa
from feedalign_lab.comparison_files import Comparison, transfer_remark
from feedalign_lab.cost import CostRecord
from feedalign_lab.papers.setting import UNTUNED
from feedalign_lab.plan import Plan
from feedalign_lab.records import RuleSummary, Spread, spread
from feedalign_lab.task import Metric

_MAX_ANGLE_COLUMNS = 5
_MOST_LETTERS_OF_LAYERS = 36
_NOTHING = "-"
_ANGLES = "angle: degrees between the rule's and backprop's delta at the end of training"
_COST = "time and memory: of one step, over backprop's"
_CHOSEN = "chosen epoch"


def comparison_table(comparison: Comparison) -> Table:
    """One row per rule: metrics on the test part, angles at the end of training, cost.

    Args:
        comparison: A comparison, finished or not.

    Returns:
        The table, to be printed by rich.
    """
    plan = comparison.plan
    ending = f", {plan.limits}" if plan.limits else ""
    ending += " (interrupted: figures so far)" if comparison.status == "interrupted" else ""
    table = Table(
        title=f"{plan.data}, {plan.network}{transfer_remark(plan)}, {_counted(plan.schedule.epochs, 'epoch')}, "
        f"{_counted(plan.trials, 'trial')}{ending}",
    )
    summaries = comparison.summaries()
    layers = list(dict.fromkeys(layer for summary in summaries for layer in _layers_with_angles(summary)))
    table.caption = _caption(comparison, layers)
    table.add_column("rule")
    table.add_column("rate", justify="right")
    metric, has_validation = comparison.metric, comparison.has_validation
    for other in (metric, *comparison.task.others):
        name = f"test {metric.heading}" if other is metric else other.heading
        for heading in [name, f"{other.name},\n{_CHOSEN}"] if has_validation else [name]:
            table.add_column(heading, justify="right", no_wrap=other is metric)
    for heading in _angle_headings(layers):
        table.add_column(heading, justify="right")
    for heading in ("time", "memory") if comparison.cost else ():
        table.add_column(heading, justify="right")
    cost = {record.rule: record for record in comparison.cost}
    for summary in summaries:
        table.add_row(
            summary.rule,
            f"{plan.setting(summary.rule).learning_rate:g}",
            *_score_cells(summary, metric, has_validation=has_validation),
            *(cell for other in comparison.task.others for cell in _other_cells(summary, other, has_validation)),
            *_angle_cells(summary, layers),
            *(_cost_cells(cost.get(summary.rule)) if cost else ()),
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


def weights_remark(comparison: Comparison) -> str:
    """Which epoch's weights were saved, to be put behind the name of their file.

    Args:
        comparison: A training, done.
    """
    is_chosen = comparison.task.judged_at == "chosen" and comparison.has_validation
    ending = " and a part of the next" if comparison.status == "interrupted" and not is_chosen else ""
    return f": weights after epoch {comparison.weights_epoch}, the {'chosen' if is_chosen else 'last'} one{ending}"


def _caption(comparison: Comparison, layers: list[str]) -> str:
    """What the columns mean, and what a reader must know beside them."""
    decay = comparison.plan.schedule.lr_decay
    rate = "rate: of Adam" + (f", times {decay:g} after each epoch" if decay < 1 else "")
    angles, cost = [_ANGLES] if layers else [], [_COST] if comparison.cost else []
    lines = [
        "; ".join([f"{rate}; test {comparison.metric.name}: after the last epoch", *angles, *cost]),
        _legend(layers),
        _chosen_remark(comparison),
        _trivial_sentence(comparison),
        *comparison.task.remarks(),
        _features_remark(comparison),
        _untuned_remark(comparison.plan),
        left_out_sentence(comparison.plan.left_out),
        _load_warning(comparison),
    ]
    return "\n".join(line for line in lines if line)


def _chosen_remark(comparison: Comparison) -> str:
    """What the column of the chosen epoch is."""
    if not comparison.has_validation:
        return ""
    metric = comparison.metric
    return (
        f"{_CHOSEN}: test {metric.name} after each trial's epoch with the "
        f"{'lowest' if metric.better == 'lower' else 'highest'} validation {metric.name}"
    )


def _trivial_sentence(comparison: Comparison) -> str:
    """What would be reached without learning."""
    metric = comparison.metric
    told = [f"{_spread_text(score, metric)} ({what})" for what, score in comparison.trivial.items()]
    return f"test {metric.name} without learning: {', '.join(told)}" if told else ""


def _features_remark(comparison: Comparison) -> str:
    """How well the networks did whose convolutions were transferred."""
    metric = comparison.metric
    scores = [result.epochs[-1].test_score for result in comparison.features if result.epochs]
    if not scores:
        return ""
    epochs = _counted(comparison.plan.transfer_epochs or 0, "epoch")
    score = _spread_text(spread(scores), metric)
    return (
        f"convolutions: of networks trained with backprop for {epochs} (their test {metric.name} {score}), then frozen"
    )


def _untuned_remark(plan: Plan) -> str:
    """Which rules train at borrowed rates, so that a poor score may be the rate's."""
    if plan.learning_rate is not None:
        return ""
    rules = [rule for rule in plan.rules if plan.setting(rule).source.startswith(UNTUNED)]
    return f"rates of {', '.join(rules)} are not tuned for this: feedalign tune searches them" if rules else ""


def _load_warning(comparison: Comparison) -> str:
    """A remark where other processes were in the way of the timing."""
    load, num_cpus = comparison.environment.get("load_average"), comparison.environment.get("num_cpus")
    if not comparison.cost or not isinstance(load, float) or not isinstance(num_cpus, int) or load < num_cpus:
        return ""
    return f"the machine was busy when the steps were timed (load {load:g} on {num_cpus} CPUs): do not trust the times"


def _score_cells(summary: RuleSummary, metric: Metric, *, has_validation: bool) -> list[str]:
    """Mean and standard deviation, how many trials did not make it, and the same at the chosen epochs."""
    lost = summary.num_trials - summary.num_finished
    note = f" ({lost} of {summary.num_trials} not finished)" if lost else ""
    cells = [f"{_cell(summary.test_score, metric)}{note}"]
    return [*cells, _cell(summary.test_score_chosen, metric)] if has_validation else cells


def _other_cells(summary: RuleSummary, metric: Metric, has_validation: bool) -> list[str]:
    """The same of a further metric."""
    cells = [_cell(summary.other_scores.get(metric.name), metric)]
    return [*cells, _cell(summary.other_scores_chosen.get(metric.name), metric)] if has_validation else cells


def _cell(score: Spread | None, metric: Metric) -> str:
    """Mean and standard deviation, if there are any."""
    return _NOTHING if score is None else _spread_text(score, metric)


def _spread_text(score: Spread, metric: Metric) -> str:
    """Mean and standard deviation."""
    deviation = "" if math.isnan(score.std) else f" ± {score.std:.{metric.digits}f}"
    return f"{score.mean:.{metric.digits}f}{deviation}"


def _layers_with_angles(summary: RuleSummary) -> list[str]:
    """Layers at which there are deltas to compare: there are none at the steps of a recurrent layer."""
    return [layer for layer, angle in summary.angles.items() if not math.isnan(angle)]


def _angle_headings(layers: list[str]) -> list[str]:
    """A column per layer, or one for all where they are many; layers have numbers where their names are long."""
    if len(layers) > _MAX_ANGLE_COLUMNS:
        return [f"angles 1 … {len(layers)}"]
    if _legend(layers):
        return [f"angle {number}" for number in range(1, len(layers) + 1)]
    return [f"angle {layer}" for layer in layers]


def _legend(layers: list[str]) -> str:
    """Which layers the numbers in the headings stand for; empty where the headings have the names."""
    if len(layers) <= _MAX_ANGLE_COLUMNS and len("".join(layers)) <= _MOST_LETTERS_OF_LAYERS:
        return ""
    return "layers: " + ", ".join(f"{number}={layer}" for number, layer in enumerate(layers, start=1))


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
