"""What a measured cost is, and how it is shown."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from feedalign.measure.by_layer import ByLayer
from feedalign.measure.cost.movement import KINDS, Movement


@dataclass(frozen=True)
class Kept:
    """A tensor that is kept until the error arrives.

    Attributes:
        what: Which: the operation that keeps it, and what it is to that operation; `input`: the model's own.
        shape: Its shape.
        num_bytes: Memory that is held for it.
    """

    what: str
    shape: tuple[int, ...]
    num_bytes: int


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs in one step.

    Attributes:
        layer: The layer's name; for products outside of layers that of the module that makes them.
        rule: Name of the rule that teaches it; None where the error or backprop's gradient does.
        forward: MACs of the forward.
        backward: MACs of the backward: gradients of weights and, where the graph is not cut, of inputs.
        feedback: MACs that make its teaching signal and learn its feedback.
        perturbation: MACs that carry tangents through it; `tangents` in the table.
        kept: What must be kept until the error arrives.
        feedback_bytes: Memory of its feedback.
        moved: What its step moves.
        not_counted: Operations whose products nobody counted here.
    """

    layer: str
    rule: str | None
    forward: int
    backward: int
    feedback: int
    perturbation: int
    kept: tuple[Kept, ...]
    feedback_bytes: int
    moved: Movement
    not_counted: tuple[str, ...]

    @property
    def macs(self) -> int:
        """All of its MACs."""
        return self.forward + self.backward + self.feedback + self.perturbation

    @property
    def kept_bytes(self) -> int:
        """Memory of what is kept."""
        return sum(kept.num_bytes for kept in self.kept)


@dataclass(frozen=True)
class Cost(ByLayer[LayerCost]):
    """What a step costs, layer by layer in the order of the forward.

    Attributes:
        layers: The layers.
        backprop: MACs of backprop's step on the same model and inputs.
    """

    layers: tuple[LayerCost, ...]
    backprop: int

    @property
    def forward(self) -> int:
        """MACs of the forward."""
        return sum(row.forward for row in self.layers)

    @property
    def backward(self) -> int:
        """MACs of the backward."""
        return sum(row.backward for row in self.layers)

    @property
    def feedback(self) -> int:
        """MACs that make teaching signals and learn feedback."""
        return sum(row.feedback for row in self.layers)

    @property
    def perturbation(self) -> int:
        """MACs that carry tangents."""
        return sum(row.perturbation for row in self.layers)

    @property
    def macs(self) -> int:
        """MACs of the step; two floating-point operations each."""
        return sum(row.macs for row in self.layers)

    @property
    def limit(self) -> float:
        """Operations of the step over those of backprop's: its time over backprop's if all took the same time.

        NaN where there is nothing to multiply. With anything in `not_counted` both counts are too low, and the ratio is
        that of what was counted: it may err to either side.
        """
        return self.macs / self.backprop if self.backprop else float("nan")

    @property
    def kept_bytes(self) -> int:
        """Memory of all that is kept until the error arrives."""
        return sum(row.kept_bytes for row in self.layers)

    @property
    def feedback_bytes(self) -> int:
        """Memory of feedback."""
        return sum(row.feedback_bytes for row in self.layers)

    @property
    def moved(self) -> Movement:
        """What the step moves."""
        return sum((row.moved for row in self.layers), Movement())

    @property
    def not_counted(self) -> tuple[str, ...]:
        """Operations whose products nobody counted: with any, the counts are too low."""
        return tuple(dict.fromkeys(name for row in self.layers for name in row.not_counted))

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, sums and the limit included."""
        sums = ("forward", "backward", "feedback", "perturbation", "macs", "limit", "kept_bytes", "feedback_bytes")
        totals = {name: getattr(self, name) for name in sums}
        return {**self.to_dict(), **totals, "moved": {**vars(self.moved), "total": self.moved.total}}

    def __str__(self) -> str:
        head = ("layer", "rule", "forward", "backward", "feedback", "tangents", "kept", "feedback held", "moved")
        lines = [head, *(_cells(row.layer or "(model)", row.rule or "-", row) for row in self.layers)]
        lines.append(_cells("total", "", self))
        widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
        table = [
            "  ".join(cell.ljust(width) if place < 2 else cell.rjust(width) for place, (cell, width) in pairs).rstrip()
            for pairs in (list(enumerate(zip(line, widths, strict=True))) for line in lines)
        ]
        return "\n".join([*table, "", *self._notes()])

    def _notes(self) -> list[str]:
        moved = self.moved
        parts = [f"{kind} {as_bytes(moved.read(kind))} in, {as_bytes(moved.written(kind))} out" for kind in KINDS]
        notes = [
            f"MACs of one step; {self._limit_in_words()} of backprop's {as_count(self.backprop)}{_mark(self)}",
            f"moved: {'; '.join(parts)}",
        ]
        notes += [
            f"not counted in {row.layer or '(model)'}: {', '.join(row.not_counted)}"
            for row in self.layers
            if row.not_counted
        ]
        return notes

    def _limit_in_words(self) -> str:
        if not self.backprop:
            return "-"
        return f"{'about ' if self.not_counted else ''}{self.limit:.3f}"


def _mark(row: LayerCost | Cost) -> str:
    """What stands behind counts that are too low."""
    return " + ?" if row.not_counted else ""


def _cells(name: str, rule: str, row: LayerCost | Cost) -> tuple[str, ...]:
    counts = (as_count(macs) for macs in (row.forward, row.backward, row.feedback, row.perturbation))
    sizes = (as_bytes(size) for size in (row.kept_bytes, row.feedback_bytes, row.moved.total))
    return name, rule, *(count + _mark(row) for count in counts), *sizes


def as_count(count: int) -> str:
    """Return a count in three figures: `1.23 M`."""
    return _in_steps(count, 1000, ("", " k", " M", " G", " T", " P"))


def as_bytes(size: int) -> str:
    """Return a size in three figures: `1.23 MiB`."""
    return _in_steps(size, 1024, (" B", " KiB", " MiB", " GiB", " TiB"))


def _in_steps(amount: int, base: int, units: tuple[str, ...]) -> str:
    scaled, place = float(amount), 0
    while scaled >= 999.5 and place + 1 < len(units):
        scaled, place = scaled / base, place + 1
    return f"{scaled:.3g}{units[place]}" if place else f"{amount}{units[0]}"
