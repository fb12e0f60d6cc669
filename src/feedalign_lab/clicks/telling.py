"""What a log turned out to be, in sentences."""

import math
from collections.abc import Sequence
from pathlib import Path

from feedalign_lab.clicks.inference import NUM_ROWS_LOOKED_AT
from feedalign_lab.clicks.log import ClickLog
from feedalign_lab.clicks.schema import KINDS, FieldKind

_KINDS_IN_WORDS: dict[FieldKind, str] = {
    "categorical": "categorical",
    "log": "counts by their logarithm (log)",
    "quantiles": "numbers by their rank (quantiles)",
}
_MOST_NAMES = 40
# Four digits of an AUC mean something below this.
_LARGEST_ERROR = 0.01


def how_read(log: ClickLog, schema_path: Path | None) -> Sequence[str]:
    """How many rows there are, and what each field was taken for.

    Args:
        log: The log.
        schema_path: Where a schema of the user's would be looked for; None where there can be none.

    Returns:
        Sentences.
    """
    counts = {name: part.num_rows for name, part in log.parts.items()}
    total, clicks = sum(counts.values()), sum(part.num_clicks for part in log.parts.values())
    lines = [
        f"{log.name}: {total:,} rows, {100 * clicks / total:.1f} % of them clicks: {counts['train']:,} to train, "
        f"{counts['validation']:,} to validate, {counts['test']:,} to test.",
        "Fields: " + "; ".join(_of_kind(log, kind) for kind in KINDS if _names(log, kind)) + ".",
    ]
    if log.schema.is_guessed:
        lines.append(
            f"Their kinds are guessed from the first rows, at most {NUM_ROWS_LOOKED_AT:,}; {schema_path} would say "
            "otherwise."
        )
    return lines


def _names(log: ClickLog, kind: FieldKind) -> list[str]:
    return [field.name for field in log.schema.fields if field.kind == kind]


def _of_kind(log: ClickLog, kind: FieldKind) -> str:
    """The fields of a kind."""
    names = _names(log, kind)
    others = f" and {len(names) - _MOST_NAMES} others" if len(names) > _MOST_NAMES else ""
    return f"{_KINDS_IN_WORDS[kind]}: {', '.join(names[:_MOST_NAMES])}{others}"


def what_to_know(log: ClickLog) -> Sequence[str]:
    """What must be known beside an AUC.

    Args:
        log: The log.

    Returns:
        Sentences, in lower case at the beginning: lines of a table's caption.
    """
    test = log.parts["test"]
    others = test.num_rows - test.num_clicks
    # Of the statistic of Mann and Whitney where predictions tell nothing: (m + n + 1) / (12 m n).
    error = math.sqrt((test.num_rows + 1) / (12 * test.num_clicks * others))
    remarks = []
    if log.bayes_auc is not None:
        remarks.append(
            f"{log.bayes_auc:.4f} is the best possible AUC: that of the true probabilities, on average over draws of "
            "the clicks of the test rows"
        )
    if error > _LARGEST_ERROR:
        remarks.append(
            f"{test.num_rows:,} test rows, {test.num_clicks:,} of them clicks: by chance alone, an AUC on them is off "
            f"by about {error:.2f} (a standard error, at 0.5)"
        )
    if log.name.startswith("criteo:"):
        remarks.append(
            "the rates of criteo: are by default the paper's, for a log of 46 million rows; this log has "
            f"{log.parts['train'].num_rows:,} to train on, for which they may be far too small: `feedalign tune` "
            "searches others"
        )
    return remarks
