"""What teaches each layer, as a table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """One layer.

    Attributes:
        layer: The layer's name.
        point: The feedback point that teaches it, `"output"`, or `"-"`.
        signal: What arrives there.
        feedback: Shape of the feedback and how it was drawn, or `"-"`.
        fired: Whether the point fired in the last forward with gradients; None before the first one.
        uncut: Exact backprop reaches the layer from the output through another layer's weights.
        through: Layers whose true weights the signal passes on some path to this one.
        is_direct: On some path the signal passes none.
    """

    layer: str
    point: str
    signal: str
    feedback: str
    fired: bool | None
    uncut: bool = False
    through: tuple[str, ...] = ()
    is_direct: bool = True


@dataclass(frozen=True)
class Description:
    """What teaches each layer; `str()` of it is a table.

    Attributes:
        rule: The rule or rules.
        output: Where the error is taken.
        rows: One row per layer, in the order of the forward.
        notes: Sentences on what the table cannot show: paths that no point cuts, points left out.
    """

    rule: str
    output: str
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        head = ("layer", "feedback point", "signal", "feedback", "fired")
        marks = {None: "-", True: "yes", False: "NO"}
        body = [(row.layer, row.point, row.signal, row.feedback, marks[row.fired]) for row in self.rows]
        widths = [max(len(line[i]) for line in [head, *body]) for i in range(len(head))]
        lines = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in body
        ]
        title = "  ".join(cell.ljust(width) for cell, width in zip(head, widths, strict=True)).rstrip()
        return "\n".join(
            [
                f"{self.rule}, error taken at {self.output}",
                title,
                "-" * len(title),
                *lines,
                *(f"! {n}" for n in self.notes),
            ]
        )
