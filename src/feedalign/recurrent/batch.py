"""From what a recurrent module is called with to rows, and back to what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from feedalign.errors import SequenceError
from feedalign.recurrent.steps import Steps

States = tuple[Tensor, ...]


@dataclass(frozen=True)
class Places:
    """Where the rows of packed sequences stand in the padded `[N, T, ...]`, samples in the user's order.

    Attributes:
        samples: Sample of each row, `[R]`.
        times: Step of each row, `[R]`.
        lengths: `[N]`.
        valid: `[N, T]`, True where there is a row.
    """

    samples: Tensor
    times: Tensor
    lengths: Tensor
    valid: Tensor


@dataclass(frozen=True)
class Form:
    """How rows `[R, F]` and padded sequences `[N, T, F]` become each other.

    Attributes:
        steps: How the rows lie.
        places: Where they stand in the padded form; None where all sequences have one length.
    """

    steps: Steps
    places: Places | None

    def pad(self, rows: Tensor) -> Tensor:
        """Return rows `[R, F]` as `[N, T, F]`, zero where there is none."""
        if self.places is None:
            return rows.view(self.steps.num_steps, self.steps.num_samples, rows.shape[-1]).transpose(0, 1)
        padded = rows.new_zeros(self.steps.num_samples, self.steps.num_steps, rows.shape[-1])
        return padded.index_put((self.places.samples, self.places.times), rows)

    def unpad(self, padded: Tensor) -> Tensor:
        """Return `[N, T, F]` as rows `[R, F]`."""
        if self.places is None:
            return padded.transpose(0, 1).reshape(self.steps.num_rows, padded.shape[-1])
        return padded[self.places.samples, self.places.times]

    def first(self, padded: Tensor) -> Tensor:
        """Return what every step of `[N, T, F]` holds, where all hold the same, as `[N, F]` in the order of rows."""
        same = padded[:, 0]
        return same if self.places is None else same.index_select(0, self.places.samples[: self.steps.num_samples])

    def last(self, padded: Tensor, hidden_size: int) -> Tensor:
        """Return what lies at the last step of each direction, `[D, N, H]`, samples in the user's order.

        Args:
            padded: States of a layer, `[N, T, D * H]`.
            hidden_size: H.
        """
        forward, *backward = padded.split(hidden_size, -1)
        if self.places is None:
            final = forward[:, -1]
        else:
            samples = torch.arange(padded.shape[0], device=padded.device)
            final = forward[samples, self.places.lengths - 1]
        return torch.stack([final, *[other[:, 0] for other in backward]])


@dataclass(frozen=True)
class Batch:
    """One call of a recurrent module.

    Attributes:
        sequence: The input, time-major, `[T, N, I]` or the rows `[R, I]` of a packed one, with the graph it came with.
        form: How its rows lie.
        states: The states before the first step, each `[layers * directions, N, H]`, in the order of the rows.
        packed: The packed sequence that was given, if one was.
        batch_first: Layout of an input that was not packed.
        is_batched: Whether the input had a size for samples.
    """

    sequence: Tensor
    form: Form
    states: States
    packed: PackedSequence | None
    batch_first: bool
    is_batched: bool

    @property
    def rows(self) -> Tensor:
        """The input, `[R, I]`; a copy where samples come first."""
        return self.sequence.reshape(self.form.steps.num_rows, self.sequence.shape[-1])

    def to_user(self, states: Tensor) -> Tensor:
        """Return states `[layers * directions, N, H]` of sorted samples as the module returns them."""
        if self.packed is not None and self.packed.unsorted_indices is not None:
            states = states.index_select(1, self.packed.unsorted_indices)
        return self.as_given(states)

    def as_given(self, states: Tensor) -> Tensor:
        """Take the size for samples away again if the input had none."""
        return states if self.is_batched else states.squeeze(1)

    def output(self, padded: Tensor) -> Tensor | PackedSequence:
        """Return the states of the last layer, `[N, T, F]`, in the form of the input."""
        if self.packed is not None:
            given = self.packed
            return PackedSequence(
                self.form.unpad(padded), given.batch_sizes, given.sorted_indices, given.unsorted_indices
            )
        laid = padded if self.batch_first else padded.transpose(0, 1)
        return laid if self.is_batched else laid.squeeze(0 if self.batch_first else 1)


def read(module: nn.RNNBase, given: Tensor | PackedSequence, hx: Any, name: str) -> Batch:
    """Check and lay out what a recurrent module is called with, as torch does.

    Args:
        module: The module.
        given: The input, `[T, N, I]`, `[N, T, I]`, `[T, I]` or packed.
        hx: The initial state, a pair for an LSTM; None for zeros.
        name: The module's name, for messages.

    Returns:
        The batch.

    Raises:
        SequenceError: The input has no steps or no sizes that fit.
    """
    packed = given if isinstance(given, PackedSequence) else None
    rows = given if packed is None else packed.data
    assert isinstance(rows, Tensor)
    if packed is None and rows.dim() not in (2, 3):
        raise SequenceError(
            f"The input of {name!r} has shape {tuple(rows.shape)}; give [N, T, features] with batch_first=True, else "
            "[T, N, features], [T, features] for one sequence, or a PackedSequence."
        )
    is_batched = packed is not None or rows.dim() == 3
    if not is_batched:
        rows = rows.unsqueeze(0 if module.batch_first else 1)
    states = _states(module, rows, hx, packed, is_batched)
    if packed is not None:
        steps = Steps(tuple(packed.batch_sizes.tolist()))
        return Batch(rows, Form(steps, _places(packed)), states, packed, module.batch_first, is_batched)
    time_first = rows.transpose(0, 1) if module.batch_first else rows
    num_steps, num_samples = time_first.shape[:2]
    if num_steps == 0:
        raise SequenceError(
            f"The sequences given to {name!r} have no steps (input of shape {tuple(rows.shape)}); leave empty "
            "sequences out."
        )
    form = Form(Steps.even(num_steps, num_samples), None)
    return Batch(time_first, form, states, None, module.batch_first, is_batched)


def _states(module: nn.RNNBase, rows: Tensor, hx: Any, packed: PackedSequence | None, is_batched: bool) -> States:
    """The initial states, checked by torch's own check, in the order of the rows."""
    sizes = None if packed is None else packed.batch_sizes
    num = 2 if isinstance(module, nn.LSTM) else 1
    if hx is None:
        # The state of a half-precision forward under autocast is that of the input, as torch's is.
        zeros = rows.new_zeros(module.get_expected_hidden_size(rows, sizes))
        states: States = (zeros,) * num
    else:
        states = tuple(hx) if num == 2 else (hx,)
        if not is_batched:
            states = tuple(state.unsqueeze(1) if state.dim() == 2 else state for state in states)
    module.check_forward_args(rows, states if num == 2 else states[0], sizes)  # type: ignore[arg-type]
    if packed is None or packed.sorted_indices is None or hx is None:
        return states
    return tuple(state.index_select(1, packed.sorted_indices) for state in states)


def _places(packed: PackedSequence) -> Places:
    sizes, device = packed.batch_sizes, packed.data.device
    num_steps, num_samples = len(sizes), int(sizes[0])
    lengths = (sizes.unsqueeze(0) > torch.arange(num_samples).unsqueeze(1)).sum(1)
    in_step = torch.arange(num_samples).expand(num_steps, -1)
    reached = in_step < sizes.unsqueeze(1)
    times, samples = reached.nonzero(as_tuple=True)
    samples = samples.to(device)
    lengths = lengths.to(device)
    if packed.sorted_indices is not None:
        samples = packed.sorted_indices[samples]
        assert packed.unsorted_indices is not None
        lengths = lengths.index_select(0, packed.unsorted_indices)
    valid = torch.arange(num_steps, device=device) < lengths.unsqueeze(1)
    return Places(samples, times.to(device), lengths, valid)


def valid_steps(given: Tensor | None, batch: Batch, name: str) -> Tensor | None:
    """Return which steps count.

    Args:
        given: `[N]` lengths or `[N, T]` mask of the user's, if any.
        batch: The call.
        name: The module's name, for messages.

    Returns:
        `[N, T]`, or None where all count.

    Raises:
        SequenceError: What is given does not fit, or the input is packed and has lengths of its own.
    """
    places = batch.form.places
    if given is None:
        return None if places is None else places.valid
    if places is not None:
        raise SequenceError(
            f"The sequences given to {name!r} are packed and so have lengths; leave handle.lengths out."
        )
    num_steps, num_samples = batch.form.steps.num_steps, batch.form.steps.num_samples
    wanted = (num_samples,) if given.dim() == 1 else (num_samples, num_steps)
    longest = int(given.max()) if given.dim() == 1 and given.numel() else 0
    if tuple(given.shape) != wanted or longest > num_steps:
        found = f"a mask {tuple(given.shape)}" if given.dim() == 2 else f"{len(given)} lengths up to {longest}"
        raise SequenceError(
            f"handle.lengths was given {found}; the sequences given to {name!r} are {num_samples} of {num_steps} "
            "steps: give their lengths [N], or a mask [N, T]."
        )
    given = given.to(batch.sequence.device)
    if given.dim() == 2:
        return given
    return torch.arange(num_steps, device=given.device) < given.unsqueeze(1)


def as_lengths(lengths: object, is_recurrent: bool) -> Tensor:
    """Check lengths, or a mask, as a user gives them.

    Args:
        lengths: As given to `Handle.lengths`.
        is_recurrent: Whether a recurrent layer is taught at all.

    Returns:
        The lengths `[N]` or mask `[N, T]`.

    Raises:
        SequenceError: They are neither, or there is no layer for them.
    """
    if not is_recurrent:
        raise SequenceError("handle.lengths is for recurrent layers, and the rule teaches none in this model.")
    is_mask = isinstance(lengths, Tensor) and lengths.dtype == torch.bool and lengths.dim() == 2
    is_count = isinstance(lengths, Tensor) and lengths.dim() == 1 and not lengths.is_floating_point()
    if not isinstance(lengths, Tensor) or not (is_mask or (is_count and lengths.dtype != torch.bool)):
        found = f"{lengths.dtype} {tuple(lengths.shape)}" if isinstance(lengths, Tensor) else type(lengths).__name__
        raise SequenceError(f"handle.lengths was given {found}; give integers [N] or a mask [N, T] of torch.bool.")
    if lengths.numel() and int(lengths.min()) < (0 if is_mask else 1):
        raise SequenceError("handle.lengths was given a length below 1; leave empty sequences out of the batch.")
    return lengths.detach()
