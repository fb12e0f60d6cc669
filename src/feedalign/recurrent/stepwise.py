"""The forward that stands in for a recurrent module's own while a rule teaches it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.nn.utils.rnn import PackedSequence

from feedalign.recurrent.batch import Batch, Form, read, valid_steps
from feedalign.recurrent.local_steps import Layer, LocalSteps
from feedalign.recurrent.point import LayerSteps, layer_name
from feedalign.recurrent.streaming import stream_through, streams_in_parts
from feedalign.recurrent.support import cell_of, channels_of, untaught_state
from feedalign.recurrent.tangents import with_tangent
from feedalign.tangents.carrier import CallKey
from feedalign.transforms import runs_eagerly

if TYPE_CHECKING:
    from feedalign.circuit import Circuit


class StepwiseForward:
    """Runs the layers one by one, each behind its feedback point; set as `forward` of the very module.

    Without gradients, or with the rule suspended, the module's own forward runs.

    Args:
        module: The recurrent module.
        name: Its name.

    Attributes:
        points: Names of its feedback points, from the first layer to the last.
        circuit: The running part of the rule; None while the model is being read.
        state_nodes: Graph nodes of the initial states given while it is read.
        sequence_nodes: Graph nodes of the output sequences it returned while it is read.
    """

    def __init__(self, module: nn.RNNBase, name: str) -> None:
        self.module, self.name = module, name
        self.cell, self.channels = cell_of(module, name), channels_of(module)
        self.num_directions = 2 if module.bidirectional else 1
        self.circuit: Circuit | None = None
        self.points = [layer_name(name, layer) for layer in range(module.num_layers)]
        self.forget_nodes()
        saturates = getattr(module, "nonlinearity", "tanh") == "tanh"
        for layer in range(module.num_layers):
            module.add_module(layer_name("", layer), LayerSteps(module, saturates))
        module.forward = self

    def remove(self) -> None:
        """Give the module its own forward back."""
        if self.module.__dict__.get("forward") is self:
            del self.module.forward
        for layer in range(self.module.num_layers):
            self.module._modules.pop(layer_name("", layer), None)

    def forget_nodes(self) -> None:
        """Forget the graph of an earlier reading, whose nodes are none of a new one's."""
        self.state_nodes: list[Node] = []
        self.sequence_nodes: list[Node] = []

    # Dynamo does not trace torch's recurrent modules either; it would try the parts of this one, in vain.
    @runs_eagerly
    def __call__(self, input: Tensor | PackedSequence, hx: Any = None) -> Any:
        """Run the module; arguments and return value are its own."""
        circuit = self.circuit
        if not torch.is_grad_enabled() or (circuit is not None and not circuit.enabled):
            if circuit is not None:
                circuit.refuse_hidden(self.name)
            return type(self.module).forward(self.module, input, hx)
        self.module._update_flat_weights()
        batch = read(self.module, input, hx, self.name)
        self._look_at_state(batch)
        if circuit is not None and streams_in_parts(self, circuit, batch):
            return stream_through(self, circuit, batch)
        valid = None if circuit is None else valid_steps(circuit.lengths, batch, self.name)
        rows, lasts, cells = batch.rows, [], []
        for layer in range(self.module.num_layers):
            states, *others = self._taught(layer, batch, rows, valid)
            # From what flows on, which may carry a tangent.
            lasts.append(batch.form.last(states, self.module.hidden_size))
            cells.append(others)
            if layer + 1 < self.module.num_layers:
                rows = self.between(batch.form.unpad(states))
        ends = [batch.as_given(torch.cat(lasts))]
        ends += [batch.to_user(torch.cat(ended)) for ended in zip(*cells, strict=True)]
        if circuit is None:
            # A node of its own, by which it can be told whether the sequence is used or its end alone.
            states = states.view_as(states)
            self.sequence_nodes += [] if states.grad_fn is None else [states.grad_fn]
        return batch.output(states), tuple(ends) if len(ends) > 1 else ends[0]

    def _look_at_state(self, batch: Batch) -> None:
        """A state that something trainable makes must have come through a cut; while reading, none is cut yet."""
        graded = [state for state in batch.states if state.requires_grad]
        if self.circuit is None:
            self.state_nodes += [state.grad_fn for state in graded if state.grad_fn is not None]
            graded = [state for state in graded if state.grad_fn is None]
        if graded:
            raise untaught_state(self.name)

    def _taught(self, layer: int, batch: Batch, rows: Tensor, valid: Tensor | None) -> tuple[Tensor, ...]:
        """States of a layer as they flow on from its feedback point, `[N, T, D * H]`, and its other last states."""
        circuit, initial = self.circuit, self.initial(layer, batch.states)
        if circuit is not None and valid is not None:
            circuit.valid[self.call(layer)] = valid
        if circuit is None or circuit.perturber is None or not circuit.is_open:
            made = self.apply(layer, batch.form, initial, rows, valid)
        else:
            made = with_tangent(self, circuit.perturber, layer, batch.form, initial, rows, valid)
        width = self.num_directions * self.module.hidden_size
        states: Tensor = self.module._modules[layer_name("", layer)](made[0])[..., :width]  # type: ignore[misc]
        return states, *made[2 : 1 + self.cell.num_states]

    def call(self, layer: int) -> CallKey:
        """Name of a layer's feedback point, and which call of it comes next."""
        point = self.points[layer]
        return point, 0 if self.circuit is None else self.circuit.counts.get(point, 0)

    def apply(
        self, layer: int, form: Form, initial: tuple[Tensor, ...], rows: Tensor, valid: Tensor | None
    ) -> tuple[Tensor, ...]:
        """Run one layer: its states `[N, T, channels * D * H]`, its last states, and what its backward keeps."""
        plan = Layer(self.cell, self.num_directions, self.channels, form)
        made: tuple[Tensor, ...] = LocalSteps.apply(plan, valid, rows, *initial, *self.weights(layer))  # type: ignore[no-untyped-call]
        return made

    def weights(self, layer: int) -> list[Tensor | None]:
        """Return the parameters of one layer, those of the second direction behind those of the first."""
        directions = ("", "_reverse")[: self.num_directions]
        kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        # Looked up at each use: a checkpoint, a parametrization or functional_call may have put others there.
        return [getattr(self.module, f"{kind}_l{layer}{end}", None) for end in directions for kind in kinds]

    def initial(self, layer: int, states: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        """Return the states before a layer's first step, each `[D, N, H]`, constants."""
        own = slice(layer * self.num_directions, (layer + 1) * self.num_directions)
        return tuple(state[own].detach() for state in states)

    def between(self, rows: Tensor) -> Tensor:
        """Return what the next layer reads: the states, with dropout as torch has it between layers."""
        if self.module.dropout == 0:
            return rows
        return nn.functional.dropout(rows, self.module.dropout, self.module.training)
