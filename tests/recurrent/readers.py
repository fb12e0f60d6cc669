"""Models that read sequences through a recurrent module, and data for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import feedalign as fa
from attach.models import Seeded

# All sizes differ: 4 samples, 5 steps, 6 classes.
INPUTS, HIDDEN, CLASSES, VOCABULARY = 3, 7, 6, 8

KINDS: Mapping[str, Callable[..., nn.RNNBase]] = {
    "tanh": nn.RNN,
    "relu": partial(nn.RNN, nonlinearity="relu"),
    "GRU": nn.GRU,
    "LSTM": nn.LSTM,
    "GRU before": partial(fa.nn.GRU, reset="before"),
    "GRU before, own reset": partial(fa.nn.GRU, reset="before", reset_gate="feedback"),
    "tanh separate": partial(fa.nn.RNN, feedback="separate"),
    "GRU separate": partial(fa.nn.GRU, feedback="separate"),
    "LSTM separate": partial(fa.nn.LSTM, feedback="separate"),
    "GRU before separate": partial(fa.nn.GRU, reset="before", feedback="separate"),
}
SHARED = ("tanh", "relu", "GRU", "LSTM", "GRU before")


@dataclass(frozen=True)
class Case:
    """A model and what it is called with.

    Attributes:
        kind: Name of the recurrent module.
        options: Further options of it.
        below: What lies below it: "", "embedding" or "linear".
        readout: What the output layer reads: "last" step, "first and last" of two directions, "state" h_n, "cell" c_n,
            "mean" over steps, the "valid" last step, or all "steps".
        lengths: Lengths of the sequences if they are packed or, as `padded`, told to the handle.
        is_sorted: They are packed as they stand.
        has_states: The states before the first step are given.
        num_samples: N.
        num_steps: T.
    """

    kind: str = "GRU"
    options: Mapping[str, Any] = field(default_factory=dict)
    below: str = ""
    readout: str = "state"
    lengths: tuple[int, ...] | None = None
    is_sorted: bool = False
    has_states: bool = False
    num_samples: int = 4
    num_steps: int = 5

    @property
    def batch_first(self) -> bool:
        """As torch's, but here it is the default."""
        return bool(self.options.get("batch_first", True))

    @property
    def num_layers(self) -> int:
        return int(self.options.get("num_layers", 1))

    @property
    def num_directions(self) -> int:
        return 2 if self.options.get("bidirectional") else 1

    @property
    def num_states(self) -> int:
        return 2 if self.kind.startswith("LSTM") else 1

    def of(self, **changes: Any) -> Case:
        """The same with other options of the recurrent module, or other attributes."""
        own = {name: changes.pop(name) for name in list(changes) if name in Case.__dataclass_fields__}
        return replace(self, options={**self.options, **changes}, **own)

    def model(self, seed: int = 0) -> Reader:
        return Reader(seed, case=self).double()

    def inputs(self, seed: int = 1, num_samples: int | None = None, num_steps: int | None = None) -> tuple[Any, ...]:
        """What the model is called with: sequences, padded with NaN; lengths if they are packed; states if given."""
        draws = torch.Generator().manual_seed(seed)
        num, length = num_samples or self.num_samples, num_steps or self.num_steps
        if self.below == "embedding":
            x = torch.randint(VOCABULARY, (num, length), generator=draws)
        else:
            x = torch.randn(num, length, INPUTS, generator=draws, dtype=torch.float64)
        lengths = None if self.lengths is None else torch.tensor(self.lengths)
        if lengths is not None and x.is_floating_point():
            x = x.masked_fill(torch.arange(length)[None, :, None] >= lengths[:, None, None], torch.nan)
        states = [
            0.5 * torch.randn(self.num_layers * self.num_directions, num, HIDDEN, generator=draws, dtype=torch.float64)
            for _ in range(self.num_states)
        ]
        return (
            x if self.batch_first else x.transpose(0, 1).contiguous(),
            lengths,
            *(states if self.has_states else ()),
        )

    def targets(self, num_samples: int | None = None, num_steps: int | None = None) -> Tensor:
        """Class indices `[N]`, or one for each step, laid out as the output; -100 where there is no step."""
        draws, num, length = (
            torch.Generator().manual_seed(2),
            num_samples or self.num_samples,
            num_steps or self.num_steps,
        )
        if self.readout != "steps":
            return torch.randint(CLASSES, (num,), generator=draws)
        y = torch.randint(CLASSES, (num, length), generator=draws)
        if self.lengths is not None:
            y = y.masked_fill(torch.arange(length) >= torch.tensor(self.lengths)[:, None], -100)
        return y if self.batch_first else y.T.contiguous()


class Reader(Seeded):
    """A recurrent module between whatever lies below it and a linear output layer."""

    def build(self, case: Case) -> None:
        self.case = case
        size = INPUTS
        if case.below == "embedding":
            self.embedding = nn.Embedding(VOCABULARY, INPUTS)
        elif case.below == "linear":
            self.linear, size = nn.Linear(INPUTS, 2), 2
        self.rnn = KINDS[case.kind](size, HIDDEN, **{"batch_first": True, **case.options})
        is_wide = case.num_directions == 2 and case.readout != "last"
        self.head = nn.Linear(
            HIDDEN * (2 if is_wide or (case.readout == "last" and case.num_directions == 2) else 1), CLASSES
        )

    def forward(self, x: Tensor, lengths: Tensor | None = None, *states: Tensor) -> Tensor:
        case = self.case
        x = self.lowest(x)
        if lengths is not None:
            first = case.batch_first
            x = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=case.is_sorted)
        output, last = self.rnn(x, *(self._as_given(states) if states else ()))
        if lengths is not None:
            output = pad_packed_sequence(output, batch_first=case.batch_first)[0] if case.readout == "steps" else None
        return self.head(self.read(output, last))

    def _as_given(self, states: tuple[Tensor, ...]) -> tuple[Any]:
        return (states,) if len(states) > 1 else (states[0],)

    def lowest(self, x: Tensor) -> Tensor:
        """What lies below the recurrent module."""
        if self.case.below == "embedding":
            return self.embedding(x)
        return self.linear(x) if self.case.below == "linear" else x

    def read(self, output: Any, last: Any) -> Tensor:
        """What the output layer reads."""
        readout, time = self.case.readout, 1 if self.case.batch_first else 0
        if readout == "steps":
            return output
        if readout == "last":
            return output[:, -1] if time == 1 else output[-1]
        if readout == "mean":
            return output.mean(time)
        if readout == "first and last":
            return torch.cat([output.select(time, -1)[..., :HIDDEN], output.select(time, 0)[..., HIDDEN:]], -1)
        h, c = last if isinstance(last, tuple) else (last, None)
        of_layer = (h if readout == "state" else c)[-self.case.num_directions :]
        return torch.cat(list(of_layer), -1)


def cross_entropy(output: Tensor, targets: Tensor) -> Tensor:
    """Mean over all targets but those of -100."""
    return F.cross_entropy(output.reshape(-1, CLASSES), targets.reshape(-1))


def num_signals(rnn: nn.RNNBase) -> int:
    """How many teaching signals a state has."""
    if getattr(rnn, "feedback", "shared") == "separate":
        gates = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}[rnn.mode]
        return gates * (3 if rnn.bias else 2)
    return 2 if getattr(rnn, "reset_gate", "exact") == "feedback" else 1


def feedback_for(rnn: nn.RNNBase, name: str = "rnn", num_outputs: int = CLASSES) -> dict[str, Tensor]:
    """Matrices `[C, D]` for all layers, to give to `attach`."""
    draws = torch.Generator().manual_seed(3)
    width = num_signals(rnn) * (2 if rnn.bidirectional else 1) * rnn.hidden_size
    return {
        f"{name}.layer{layer}": torch.randn(num_outputs, width, generator=draws, dtype=torch.float64)
        for layer in range(rnn.num_layers)
    }
