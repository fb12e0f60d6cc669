"""What `check` finds: a row for each layer, sentences, and what to change, as a readable table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from feedalign.assign import Rules
from feedalign.rules.base import Rule

Verdict = Literal["fine", "partly", "refused"]
Teacher = Literal["rule", "error", "backprop"]
UNUSED = "does not run on the example inputs"
_WIDEST_TABLE = 120
# How many points a cell names, and whether it names layers; the first that is narrow enough.
_MOST_IN_CELLS = ((2, True), (1, True), (1, False))
_NARROWEST_COLUMN = 18
_INDENT = "  "


@dataclass(frozen=True)
class LayerCheck:
    """One layer with trainable parameters.

    Attributes:
        layer: The layer's name.
        taught_by: `"rule"`: signals of the rule; `"error"`: it makes the output, where the error itself arrives, or
            stands behind it; `"backprop"`: exact gradients that come from the output through other layers, around the
            rule. Several where several paths lead to it; empty where nothing teaches it.
        points: The feedback points whose signals reach it.
        through: Layers whose true weights these signals pass on some path: between two points gradients are exact.
        leaks: Layers whose true weights exact backprop passes on its way from the output.
        why: Where nothing teaches it, the reason; where it stands behind the output, this; else empty.
    """

    layer: str
    taught_by: tuple[Teacher, ...]
    points: tuple[str, ...] = ()
    through: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()
    why: str = ""


@dataclass(frozen=True)
class Suggestion:
    """Arguments for `attach` that work better; they were tried on the model.

    Attributes:
        points: What to give as `points=`; None: leave it as it is.
        output: What to give as `output=`; None: leave it as it is.
        leaks: Layers that exact backprop would still reach.
        why: What it changes.
        rule: What to give as the rule; None: leave it as it is.
    """

    points: tuple[str, ...] | None
    output: str | None
    leaks: tuple[str, ...]
    why: str
    rule: Rules | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """What to pass on: `fa.attach(model, suggestion.rule or rule, example_inputs=x, **suggestion.arguments)`."""
        given = {"points": None if self.points is None else list(self.points), "output": self.output}
        return {name: value for name, value in given.items() if value is not None}

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON; the rule is Python source, or None."""
        plain = asdict(replace(self, rule=None))
        return {**plain, "rule": None if self.rule is None else source_of(self.rule)}

    @property
    def call(self) -> str:
        """The arguments as they are written in a call of `attach`."""
        rule = [] if self.rule is None else [f"rule={source_of(self.rule)}"]
        return ", ".join(rule + [f"{name}={value!r}" for name, value in self.arguments.items()])

    def __str__(self) -> str:
        return f"{self.call}: {self.why}"


@dataclass(frozen=True)
class Check:
    """What `attach` would make of a model; `str()` of it is a table with sentences.

    Attributes:
        rule: The rule or rules.
        verdict: `"fine"`: all layers that run below the output are taught as the rule means to, which under `Backprop`
            is by exact gradients and under `Shallow` not at all. `"partly"`: exact backprop reaches layers around the
            rule, or nothing teaches them. `"refused"`: `attach` raises.
        refusal: The error that `attach` raises, as `"OutputError: sentence"`; None where it raises none.
        output: Where the error is taken; None where that could not be told.
        assumed: If `attach` raises, the suggestion that all the rest is about; None: there is no rest, or it is about
            the arguments as given.
        points: The feedback points, as `Handle.describe()` names them.
        layers: One row per layer, in the order of the forward.
        notes: Sentences on what the table cannot show.
        suggestions: What to give to `attach` instead, the best first: what leaves least to exact backprop, and among
            these the shortest.
        num_feedback: How many numbers all feedback would hold together; 0 where `attach` raises without a way out.
        feedback_bytes: What they would take up in the model's own dtype.
    """

    rule: str
    verdict: Verdict
    refusal: str | None = None
    output: str | None = None
    assumed: Suggestion | None = None
    points: tuple[str, ...] = ()
    layers: tuple[LayerCheck, ...] = ()
    notes: tuple[str, ...] = ()
    suggestions: tuple[Suggestion, ...] = ()
    num_feedback: int = 0
    feedback_bytes: int = 0

    @property
    def ok(self) -> bool:
        """Whether the verdict is `"fine"`: nothing to mend."""
        return self.verdict == "fine"

    def layer(self, name: str) -> LayerCheck:
        """Return the row of one layer; KeyError if there is none."""
        return {row.layer: row for row in self.layers}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        plain = asdict(replace(self, assumed=None, suggestions=()))
        assumed = None if self.assumed is None else self.assumed.to_dict()
        suggestions = [suggestion.to_dict() for suggestion in self.suggestions]
        return {"ok": self.ok, **plain, "assumed": assumed, "suggestions": suggestions}

    def __str__(self) -> str:
        refusal = None if self.refusal is None else f"attach raises {self.refusal}"
        lines = [self.rule if self.output is None else f"{self.rule}, error taken at {self.output}"]
        lines.append(f"{self.verdict}: {refusal or self._summary()}")
        if self.assumed is not None:
            lines.append(f"with {self.assumed.call}: {self._summary()}")
        if self.layers:
            lines += _table(self.layers)
        lines += [f"! {note}" for note in self.notes]
        lines += [f"> try {suggestion}" for suggestion in self.suggestions]
        return "\n".join(lines)

    def _summary(self) -> str:
        """What the table shows, in a sentence."""
        if not self.layers:
            return "no layer is trainable"
        total = f"of {counted(len(self.layers), 'layer')}"
        num_leaking = sum(bool(row.leaks) for row in self.layers)
        untaught = [row for row in self.layers if not row.taught_by]
        unsent = [row for row in untaught if row.points]
        unused = [row for row in untaught if row.why == UNUSED]
        num_left = len(untaught) - len(unsent) - len(unused)
        found = [f"exact backprop reaches {num_leaking} {total} around the rule"] if num_leaking else []
        found += [f"nothing teaches {num_left} {total}"] if num_left else []
        found += [f"the rule sends no signal to {len(unsent)} {total}, on purpose"] if unsent else []
        found += [f"{len(unused)} {total} {'does' if len(unused) == 1 else 'do'} not run"] if unused else []
        below = {teacher for row in self.layers for teacher in row.taught_by} - {"error"}
        means = "exact gradients teach" if below == {"backprop"} else "the rule teaches"
        return "; ".join(found) or f"{means} every layer below the output"


def source_of(rule: Rules) -> str:
    """Return Python source that makes a rule or a mixture, without what is as by default."""
    if isinstance(rule, Mapping):
        return "{" + ", ".join(f"{glob!r}: {source_of(one)}" for glob, one in rule.items()) + "}"
    return f"fa.{type(rule).__name__}({', '.join(_options(rule))})"


def _options(rule: Rule) -> list[str]:
    options = {option.name: (getattr(rule, option.name), option.default) for option in fields(rule)}
    return [f"{name}={value!r}" for name, (value, default) in options.items() if value != default]


def _table(layers: Sequence[LayerCheck]) -> list[str]:
    head = ("layer", "taught by", "feedback points", "through the true weights of")
    gaps = 2 * (len(head) - 1)
    several = [[_cells(row, num, has_names=named) for row in layers] for num, named in _MOST_IN_CELLS]
    fitting = [rows for rows in several if sum(_widths([head, *rows])) + gaps <= _WIDEST_TABLE]
    body = (fitting or several[-1:])[0]
    widths = _widths([head, *body])
    for columns in (slice(2, None), slice(0, None)):
        while sum(widths) + gaps > _WIDEST_TABLE and max(widths[columns]) > _NARROWEST_COLUMN:
            widest = max(widths[columns])
            widths[widths.index(widest, columns.start)] -= 1
    lines = [line for row in body for line in _in_columns(row, widths)]
    title = "  ".join(map(str.ljust, head, widths)).rstrip()
    return [title, "-" * len(title), *lines]


def _cells(row: LayerCheck, num_points: int, *, has_names: bool) -> tuple[str, ...]:
    taught_by = " + ".join(row.taught_by) or "nothing"
    return row.layer, taught_by, short(row.points, num_points) or "-", _weights(row, has_names=has_names)


def _widths(lines: Sequence[tuple[str, ...]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*lines, strict=True)]


def _in_columns(cells: Sequence[str], widths: Sequence[int]) -> list[str]:
    """One row of a table, over as many lines as its longest cell needs."""
    parts = [_wrapped(cell, width) for cell, width in zip(cells, widths, strict=True)]
    height = max(map(len, parts))
    rows = zip(*[[*part, *[""] * (height - len(part))] for part in parts], strict=True)
    return ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text at blanks, and within names behind dots; what follows is indented."""
    lines = [""]
    for word in re.findall(r"\S+ *", text):
        pieces = [word] if len(word.rstrip()) <= width - len(_INDENT) else re.findall(r"[^.]+\.?|\.", word)
        for piece in pieces:
            if lines[-1].strip() and len((lines[-1] + piece).rstrip()) > width:
                lines.append(_INDENT)
            lines[-1] += piece
    return [line.rstrip() for line in lines]


def _weights(row: LayerCheck, *, has_names: bool) -> str:
    def shown(layers: Sequence[str]) -> str:
        return short(layers, 1) if has_names else counted(len(layers), "layer")

    parts = [shown(row.through)] if row.through else []
    parts += [f"backprop: {shown(row.leaks)}"] if row.leaks else []
    return "; ".join(parts) or row.why or "-"


def counted(number: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def short(names: Sequence[str], most: int = 3) -> str:
    """Return names with commas between them, the later ones as a number."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
