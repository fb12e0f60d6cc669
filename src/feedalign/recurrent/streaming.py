"""Streaming through a recurrent layer: it learns part by part while it runs, and keeps nothing of the sequence."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from feedalign.delivery import Site, held_by
from feedalign.errors import StreamingError
from feedalign.receivers import Receiver
from feedalign.recurrent.batch import Batch, Form, valid_steps
from feedalign.recurrent.receiver import StepReceiver
from feedalign.recurrent.steps import Steps
from feedalign.recurrent.unkept import UnkeptOutput
from feedalign.streaming import Stream
from feedalign.transforms import inside_backward, keeps_apart

if TYPE_CHECKING:
    from feedalign.circuit import Circuit
    from feedalign.recurrent.stepwise import StepwiseForward

# Rows (steps x samples) and steps of a part at most: enough for products to run at full speed, little to hold.
ROWS_OF_A_PART = 1536
STEPS_OF_A_PART = 64


def streams_in_parts(forward: StepwiseForward, circuit: Circuit, batch: Batch) -> bool:
    """Whether a call can learn part by part: all its layers stream, run in one direction and have even lengths.

    Others stream layer by layer, each with its whole sequence.
    """
    if circuit.stream is None or not circuit.is_open or inside_backward():
        return False
    if forward.num_directions > 1 or batch.form.places is not None or keeps_apart():
        return False
    sites = [circuit.by_call.get(forward.call(layer)) for layer in range(forward.module.num_layers)]
    return all(site is not None and site.streams and _goes_by_steps(site.receiver) for site in sites)


def _goes_by_steps(receiver: Receiver | None) -> bool:
    # Noise is drawn for a sequence as a whole.
    return isinstance(receiver, StepReceiver) and receiver.placement.layout != "full" and not receiver.rule.limits.noise


def stream_through(forward: StepwiseForward, circuit: Circuit, batch: Batch) -> Any:
    """Run a call part by part; each layer's gradients of a part are made at once and its graph is freed.

    Args:
        forward: The module.
        circuit: The running part of the rule.
        batch: The call.

    Returns:
        What the module returns; of the output sequence only the end is kept.
    """
    circuit.begin_stream()
    stream, steps = circuit.stream, batch.form.steps
    assert stream is not None
    layers = range(forward.module.num_layers)
    valid = valid_steps(circuit.lengths, batch, forward.name)
    lesson = [_Lesson(circuit, circuit.by_call[forward.call(layer)], stream, batch, valid) for layer in layers]
    states = [forward.initial(layer, batch.states) for layer in layers]
    of_input = torch.empty_like(batch.sequence) if batch.sequence.requires_grad else None
    # A sequence that dropout made cannot be made again, and a single one is little.
    keeps, kept = not batch.is_batched or (forward.module.dropout > 0 and len(layers) > 1), []
    length = min(STEPS_OF_A_PART, max(1, ROWS_OF_A_PART // max(steps.num_samples, 1)))
    for first in range(0, steps.num_steps, length):
        num = min(length, steps.num_steps - first)
        form = Form(Steps.even(num, steps.num_samples), None)
        part = batch.sequence[first : first + num].detach()
        rows = source = part.flatten(0, 1).requires_grad_(of_input is not None)
        counts = None if valid is None else valid[:, first : first + num]
        for layer in layers:
            rows = rows if layer == 0 else forward.between(rows)
            made, *others = forward.apply(layer, form, states[layer], rows, counts)
            states[layer] = tuple(others[: forward.cell.num_states])
            lesson[layer].teach(made, first)
            rows = form.unpad(made.detach()[..., : forward.module.hidden_size])
        if keeps:
            kept.append(rows)
        if of_input is not None:
            assert source.grad is not None
            of_input[first : first + num] = source.grad.view_as(part)
    if of_input is not None:
        torch.autograd.backward(batch.sequence, of_input)
    for taught in lesson:
        taught.end()
    ends = [batch.as_given(torch.cat(kind)) for kind in zip(*states, strict=True)]
    output = (
        batch.output(batch.form.pad(torch.cat(kept)))
        if keeps
        else UnkeptOutput(states[-1][0][0], steps.num_steps, batch.batch_first, _Rerun(forward, batch))
    )
    return output, tuple(ends) if len(ends) > 1 else ends[0]


class _Lesson:
    """What one layer is taught in one forward.

    Args:
        circuit: The running part of the rule.
        site: The layer's feedback point.
        stream: Holds the targets.
        batch: The call.
        valid: Which steps count, `[N, T]`; None: all.
    """

    def __init__(self, circuit: Circuit, site: Site, stream: Stream, batch: Batch, valid: Tensor | None) -> None:
        assert isinstance(site.receiver, StepReceiver)
        self.circuit, self.site, self.stream, self.receiver = circuit, site, stream, site.receiver
        held = held_by(circuit.store, site)
        self.feedback = held[0].detach() if held else None
        steps = batch.form.steps
        shape = (steps.num_samples, steps.num_steps, self.receiver.placement.num_features)
        self.sums = stream.sums(self.receiver, shape, batch.sequence.dtype, valid) if self.receiver.sums_steps else ()

    def teach(self, states: Tensor, first: int) -> None:
        """Differentiate a part that begins at step `first`."""
        if not states.requires_grad:
            return
        with torch.no_grad():
            if self.sums:
                sums = tuple(summed[:, first : first + states.shape[1]] for summed in self.sums)
                signal = self.receiver.project(sums, self.feedback, states.shape, states.dtype)
            else:
                signal = self.stream.signal(self.receiver, states, self.feedback)
        torch.autograd.backward(states, signal)

    def end(self) -> None:
        """Note what was made."""
        self.circuit.count(self.site.module)
        self.stream.note(self.circuit.taught(self.site))


class _Rerun:
    """Runs the layers again without learning, for who asks for more than the end."""

    def __init__(self, forward: StepwiseForward, batch: Batch) -> None:
        self.forward, self.batch = forward, replace(batch, sequence=batch.sequence.detach())
        self.mark = self._mark()

    def _mark(self) -> Tensor:
        """Sums of the weights: fused optimizers change values without counting a version on."""
        layers = range(self.forward.module.num_layers)
        weights = [weight for layer in layers for weight in self.forward.weights(layer) if weight is not None]
        return torch.stack([weight.detach().sum() for weight in weights])

    def __call__(self) -> Tensor:
        """Run again."""
        if not torch.equal(self._mark(), self.mark):
            raise StreamingError(
                f"The output sequence of {self.forward.name!r} is asked for after its weights have changed; a "
                "streaming layer keeps its last step only and runs again for others. Read it before the optimizer."
            )
        rows = self.batch.rows
        with torch.no_grad():
            for layer in range(self.forward.module.num_layers):
                initial = self.forward.initial(layer, self.batch.states)
                states = self.forward.apply(layer, self.batch.form, initial, rows, None)[0]
                states = states[..., : self.forward.module.hidden_size]
                rows = self.batch.form.unpad(states)
            found = self.batch.output(states)
        assert isinstance(found, Tensor)
        return found
