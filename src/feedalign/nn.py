"""Recurrent layers in the place of torch's, which say how a rule is to teach them."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.nn.utils.rnn import PackedSequence

from feedalign.errors import AttachError
from feedalign.recurrent.cell import Weights
from feedalign.recurrent.gru_reset_before import ResetBeforeGRU, unrolled
from feedalign.recurrent.steps import Steps
from feedalign.rules.base import refuse_unknown
from feedalign.transforms import inside_transform

__all__ = ["GRU", "LSTM", "RNN"]

Feedback = Literal["shared", "separate"]
Reset = Literal["before", "after"]
ResetGate = Literal["exact", "feedback"]

_CELL = ResetBeforeGRU()


class RNN(nn.RNN):
    """`torch.nn.RNN`, with the choice of its feedback; it runs as that does, attached or not.

    Args:
        args: As `torch.nn.RNN`.
        feedback: `"shared"`: while a rule is attached, one feedback matrix serves all parameters of a layer.
            `"separate"`: `weight_ih`, `weight_hh` and the biases each have their own.
        kwargs: As `torch.nn.RNN`.

    Raises:
        AttachError: An option has a value that does not exist.

    Source: "Direct Feedback Alignment for Recurrent Neural Networks", Eqs. 3-5; separate feedback: Fig. 1.
    """

    def __init__(self, *args: Any, feedback: Feedback = "shared", **kwargs: Any) -> None:
        refuse_unknown("nn.RNN", "feedback", feedback, get_args(Feedback))
        super().__init__(*args, **kwargs)
        self.feedback = feedback

    def extra_repr(self) -> str:
        """Tell the options beside torch's."""
        return f"{super().extra_repr()}, feedback={self.feedback!r}"


class LSTM(nn.LSTM):
    """`torch.nn.LSTM`, with the choice of its feedback; it runs as that does, attached or not.

    Args:
        args: As `torch.nn.LSTM`.
        feedback: `"shared"`: while a rule is attached, one feedback matrix serves all parameters of a layer.
            `"separate"`: `weight_ih`, `weight_hh` and the biases of each gate have their own.
        kwargs: As `torch.nn.LSTM`.

    Raises:
        AttachError: An option has a value that does not exist.
    """

    def __init__(self, *args: Any, feedback: Feedback = "shared", **kwargs: Any) -> None:
        refuse_unknown("nn.LSTM", "feedback", feedback, get_args(Feedback))
        super().__init__(*args, **kwargs)
        self.feedback = feedback

    def extra_repr(self) -> str:
        """Tell the options beside torch's."""
        return f"{super().extra_repr()}, feedback={self.feedback!r}"


class GRU(nn.GRU):
    """`torch.nn.GRU`, with the choice of its cell and its feedback.

    With `reset="after"` it runs as `torch.nn.GRU` does. With `reset="before"` it is the cell of the paper, where the
    reset gate acts on the state before the matrix product: `n = tanh(x W_in^T + b_in + (r * h) W_hn^T + b_hn)`. All
    else is as in torch, parameters and their names included. Without a rule, backprop goes through time, exactly.

    Args:
        args: As `torch.nn.GRU`.
        feedback: `"shared"`: while a rule is attached, one feedback matrix serves all parameters of a layer.
            `"separate"`: `weight_ih`, `weight_hh` and the biases of each gate have their own.
        reset: Where the reset gate acts, `"before"` or `"after"` the matrix product.
        reset_gate: How the reset gate of `reset="before"` is taught while a rule is attached. `"exact"`: by the
            gradient of its step, which goes through W_hn transposed: weight transport inside the cell. `"feedback"`:
            by a feedback matrix of its own, whose signal stands for the gradient of `r * h`; nothing is transported.
            With `feedback="separate"` it has its own in any case.
        kwargs: As `torch.nn.GRU`.

    Raises:
        AttachError: An option has a value that does not exist, or `reset_gate="feedback"` where torch's cell runs.

    Source: "Direct Feedback Alignment for Recurrent Neural Networks", Section 4 and Appendix A.
    """

    def __init__(
        self,
        *args: Any,
        feedback: Feedback = "shared",
        reset: Reset = "after",
        reset_gate: ResetGate = "exact",
        **kwargs: Any,
    ) -> None:
        refuse_unknown("nn.GRU", "feedback", feedback, get_args(Feedback))
        refuse_unknown("nn.GRU", "reset", reset, get_args(Reset))
        refuse_unknown("nn.GRU", "reset_gate", reset_gate, get_args(ResetGate))
        if reset == "after" and reset_gate == "feedback":
            raise AttachError(
                "fa.nn.GRU(reset='after', reset_gate='feedback'): torch's cell teaches its reset gate without any "
                "transposed weight, so there is nothing that feedback could replace. Leave reset_gate out, or take the "
                "paper's cell with reset='before'."
            )
        super().__init__(*args, **kwargs)
        self.feedback, self.reset, self.reset_gate = feedback, reset, reset_gate

    def extra_repr(self) -> str:
        """Tell the options beside torch's."""
        own = f"{super().extra_repr()}, feedback={self.feedback!r}, reset={self.reset!r}"
        return own if self.reset == "after" else f"{own}, reset_gate={self.reset_gate!r}"

    def forward(self, input: Any, hx: Tensor | None = None) -> Any:
        """Run over sequences; arguments and return values are those of `torch.nn.GRU`.

        Args:
            input: `[T, N, I]`, `[N, T, I]` with `batch_first`, `[T, I]` or a PackedSequence.
            hx: The states before the first step, `[layers * directions, N, H]`; None for zeros.

        Returns:
            The states of the last layer at every step, in the form of the input; and the last states of every layer.
        """
        if self.reset == "after":
            return super().forward(input, hx)
        if _is_refused(input, hx, self.batch_first):
            super().forward(input, hx)  # raises, in torch's own words
        if isinstance(input, PackedSequence):
            return self._run_packed(input, hx)
        is_batched, batch_dim = input.dim() == 3, 0 if self.batch_first else 1
        if not is_batched:
            input = input.unsqueeze(batch_dim)
            hx = None if hx is None else hx.unsqueeze(1)
        hx = self._states(input, hx, None)
        time_first = input.transpose(0, 1) if self.batch_first else input
        steps = Steps.even(*time_first.shape[:2])
        rows, final = self._run(time_first.flatten(0, 1), hx, steps)
        output = rows.unflatten(0, time_first.shape[:2])
        output = output.transpose(0, 1) if self.batch_first else output
        return (output, final) if is_batched else (output.squeeze(batch_dim), final.squeeze(1))

    def _states(self, rows: Tensor, hx: Tensor | None, sizes: Tensor | None) -> Tensor:
        """The states before the first step, `[layers * directions, N, H]`, with the checks that torch has."""
        self._update_flat_weights()
        if hx is None:
            hx = rows.new_zeros(self.get_expected_hidden_size(rows, sizes))
        self.check_forward_args(rows, hx, sizes)
        return hx

    def _run_packed(self, packed: PackedSequence, hx: Tensor | None) -> tuple[PackedSequence, Tensor]:
        rows, sizes, order, back = packed
        hx = self._states(rows, None if hx is None else self.permute_hidden(hx, order), sizes)
        output, final = self._run(rows, hx, Steps(tuple(sizes.tolist())))
        return PackedSequence(output, sizes, order, back), self.permute_hidden(final, back)

    def _run(self, rows: Tensor, states: Tensor, steps: Steps) -> tuple[Tensor, Tensor]:
        """All layers: the last one's states `[R, D * H]`, and the last states of each."""
        num_directions = 2 if self.bidirectional else 1
        with_graph, finals = self._needs_graph(rows, states), []
        for layer in range(self.num_layers):
            if layer and self.dropout:
                rows = F.dropout(rows, self.dropout, self.training)
            own = slice(layer * num_directions, (layer + 1) * num_directions)
            weights = [_weights(parameters) for parameters in self.all_weights[own]]
            if with_graph:
                ran = [unrolled(rows, states[own][d], of, steps, d == 1) for d, of in enumerate(weights)]
                rows = torch.cat([output for output, _, _ in ran], -1)
                finals += [final for _, final, _ in ran]
            else:
                done = _CELL.run(rows, (states[own],), tuple(weights), steps)
                rows = done.output
                finals += list(done.final[0])
        return rows, torch.stack(finals)

    def _needs_graph(self, rows: Tensor, states: Tensor) -> bool:
        """Whether anything may ask for a derivative."""
        if inside_transform() or forward_ad._current_level >= 0:
            return True
        return torch.is_grad_enabled() and any(of.requires_grad for of in (rows, states, *self.parameters()))


def _weights(parameters: list[nn.Parameter]) -> Weights:
    ih, hh, *biases = parameters
    return Weights(ih, hh, *(biases or (None, None)))


def _is_refused(given: Any, hx: Tensor | None, batch_first: bool) -> bool:
    """Whether torch's forward refuses an input for its number of sizes, or because it has no steps."""
    if isinstance(given, PackedSequence):
        return False
    if given.dim() not in {2, 3} or (hx is not None and hx.dim() != given.dim()):
        return True
    return bool(given.shape[1 if given.dim() == 3 and batch_first else 0] == 0)
