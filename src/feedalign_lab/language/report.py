"""The table of a language-modelling comparison."""

import math

from rich.table import Table

from feedalign_lab.cost import CostRecord
from feedalign_lab.language.comparison import LanguageComparison
from feedalign_lab.language.records import LanguageRun

_NOTHING = "-"
_CAPTION = (
    "perplexity: of a token, the lowest on the validation part, and that of the same weights on the test part; word: "
    "that of a word of the test part, which does not depend on the vocabulary; token frequencies: what is reached "
    "without learning; angle: degrees between the rule's and backprop's signal at the first and the last "
    "feedback point; time and memory: of one step, over backprop's"
)


def language_table(comparison: LanguageComparison) -> Table:
    """One row per rule, at its best learning rate.

    Args:
        comparison: A comparison, finished or not.

    Returns:
        The table, to be printed by rich.
    """
    plan = comparison.plan
    size, ending = plan.size, " (interrupted: figures so far)" if comparison.status == "interrupted" else ""
    seen = max((run.evaluations[-1].tokens for run in comparison.runs if run.evaluations), default=0)
    share = seen / comparison.text.num_tokens["train"]
    table = Table(
        title=f"{plan.text}: {size.num_layers} layers, {size.num_heads} heads, width {size.width}, "
        f"{size.inner_width} inner units, {size.attention} attention, vocabulary of {comparison.text.vocab_size:,}; "
        f"{seen:,} tokens, {share:.2f} of the training part{ending}",
        caption=_CAPTION,
    )
    table.add_column("rule")
    for heading in ("rate", "validation\nperplexity", "test\nperplexity", "word", "angle,\nfirst", "angle,\nlast"):
        table.add_column(heading, justify="right")
    for heading in ("tokens/s", "time", "memory"):
        table.add_column(heading, justify="right")
    cost = {record.rule: record for record in comparison.cost}
    for name, run in comparison.best().items():
        table.add_row(
            name,
            f"{run.rate:g}",
            _number(run.best.validation_perplexity if run.best else None),
            _number(run.test_perplexity),
            _number(word_perplexity(comparison, run)),
            *_angle_cells(run),
            f"{run.tokens_per_second:,.0f}" if math.isfinite(run.tokens_per_second) else _NOTHING,
            *_cost_cells(cost.get(name)),
        )
    if comparison.trivial:
        found = (_number(comparison.trivial["validation"]), _number(comparison.trivial["test"]))
        table.add_row("token frequencies", _NOTHING, *found, *[_NOTHING] * 6)
    return table


def word_perplexity(comparison: LanguageComparison, run: LanguageRun) -> float | None:
    """Perplexity of a word of the test part, which does not depend on the vocabulary; None without one of a token.

    Args:
        comparison: The comparison, which knows the words.
        run: A run of it.

    Returns:
        The perplexity of a token to the power of tokens per word.
    """
    if run.test_perplexity is None or not math.isfinite(run.test_perplexity):
        return None
    tokens_per_word = comparison.text.num_tokens["test"] / comparison.text.num_words["test"]
    return math.exp(tokens_per_word * math.log(run.test_perplexity))


def _number(value: float | None) -> str:
    """A perplexity."""
    if value is None or not math.isfinite(value):
        return _NOTHING
    return f"{value:.1f}" if value < 10_000 else f"{value:.2g}"


def _angle_cells(run: LanguageRun) -> list[str]:
    """The angles at the first and the last point."""
    if not run.angles:
        return [_NOTHING, _NOTHING]
    ends = (run.angles[0].degrees, run.angles[-1].degrees)
    return [f"{degrees:.0f}" if math.isfinite(degrees) else _NOTHING for degrees in ends]


def _cost_cells(record: CostRecord | None) -> list[str]:
    """Time and memory over backprop's."""
    if record is None:
        return [_NOTHING, _NOTHING]
    return [f"{record.time_ratio:.2f}", f"{record.memory_ratio:.2f}"]
