"""What `check` finds: a row for each layer, sentences, and what to change, as a readable table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

Verdict = Literal["fine", "partly", "refused"]
Teacher = Literal["rule", "error", "backprop"]
UNUSED = "does not run on the example inputs"


@dataclass(frozen=True)
class LayerCheck:
    """One layer with trainable parameters.

    Attributes:
        layer: The layer's name.
        taught_by: `"rule"`: signals of the rule; `"error"`: it makes the output, where the error itself arrives;
            `"backprop"`: exact gradients that come from the output through other layers, around the rule. Several where
            several paths lead to it; empty where nothing teaches it.
        points: The feedback points whose signals reach it.
        through: Layers whose true weights these signals pass on some path: between two points gradients are exact.
        leaks: Layers whose true weights exact backprop passes on its way from the output.
        why: Where nothing teaches it, the reason; else empty.
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
    """

    points: tuple[str, ...] | None
    output: str | None
    leaks: tuple[str, ...]
    why: str

    @property
    def arguments(self) -> dict[str, Any]:
        """What to pass on: `fa.attach(model, rule, example_inputs=x, **suggestion.arguments)`."""
        given = {"points": None if self.points is None else list(self.points), "output": self.output}
        return {name: value for name, value in given.items() if value is not None}

    def __str__(self) -> str:
        arguments = ", ".join(f"{name}={value!r}" for name, value in self.arguments.items())
        return f"{arguments}: {self.why}"


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
        suggestions: What to give to `attach` instead, the shortest first.
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

    @property
    def ok(self) -> bool:
        """Whether the verdict is `"fine"`: nothing to mend."""
        return self.verdict == "fine"

    def layer(self, name: str) -> LayerCheck:
        """Return the row of one layer; KeyError if there is none."""
        return {row.layer: row for row in self.layers}[name]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        lines = [self.rule if self.output is None else f"{self.rule}, error taken at {self.output}"]
        lines.append(f"{self.verdict}: {self._summary()}")
        if self.assumed is not None:
            lines.append(f"with {_call(self.assumed)}:")
        if self.layers:
            lines += _table(self.layers)
        lines += [f"! {note}" for note in self.notes]
        lines += [f"> try {suggestion}" for suggestion in self.suggestions]
        return "\n".join(lines)

    def _summary(self) -> str:
        """The verdict in a sentence."""
        if self.refusal is not None:
            return f"attach raises {self.refusal}"
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


def _call(suggestion: Suggestion) -> str:
    return " and ".join(f"{name}={value!r}" for name, value in suggestion.arguments.items())


def _table(layers: Sequence[LayerCheck]) -> list[str]:
    head = ("layer", "taught by", "feedback points", "through the true weights of")
    body = [
        (row.layer, " + ".join(row.taught_by) or "nothing", short(row.points, 2) or "-", _weights(row))
        for row in layers
    ]
    widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
    cells = [[cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in [head, *body]]
    title, *lines = ["  ".join(line).rstrip() for line in cells]
    return [title, "-" * len(title), *lines]


def _weights(row: LayerCheck) -> str:
    parts = [short(row.through, 1)] if row.through else []
    parts += [f"backprop: {short(row.leaks, 1)}"] if row.leaks else []
    return "; ".join(parts) or row.why or "-"


def counted(number: int, what: str) -> str:
    """Return a number with its noun."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def short(names: Sequence[str], most: int = 3) -> str:
    """Return names with commas between them, the later ones as a number."""
    shown = ", ".join(names[:most])
    return f"{shown} and {len(names) - most} more" if len(names) > most else shown
