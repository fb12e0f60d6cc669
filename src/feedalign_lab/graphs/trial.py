"""What training on a whole graph has in common, whatever is told of it."""

import math
from abc import abstractmethod
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign.rules import DirectRule
from feedalign_lab.choices import make_rule
from feedalign_lab.divergence import diverged, first_non_finite
from feedalign_lab.graphs.networks import Network, build
from feedalign_lab.graphs.node_alignment import node_alignment, write_node_alignment
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.optimizer import adam, parameter_groups
from feedalign_lab.running import evaluating
from feedalign_lab.seeding import generator, stream_seed
from feedalign_lab.task import ResultFile, Trial

_FEEDBACK = "launay2020"


class GraphTrial(Trial):
    """A network on a graph; an epoch is one step on the whole of it.

    Args:
        spec: Rule, rates and seeds.
        inputs: What the network is called with.
        num_outputs: C.

    Attributes:
        task: Whether outputs stand for classes, by which rules read errors.
    """

    model: Network
    task: Literal["classification", "regression"] = "classification"

    def __init__(self, spec: LearnerSpec, inputs: tuple[Tensor, ...], num_outputs: int) -> None:
        seed = stream_seed(spec.seed, spec.trial, "weights")
        network = build(spec.network, inputs[0].shape[1], num_outputs, dropout=spec.dropout, seed=seed)
        if spec.rule == "fg-w":
            # It differentiates forward through the first layer's weight, which torch cannot where features are sparse.
            inputs = (inputs[0].to_dense(), *inputs[1:])
        self.spec, self.inputs, self.model = spec, inputs, network.to(inputs[0].device)
        rule = make_rule(spec.rule, self.task)
        has_fixed_feedback = isinstance(rule, DirectRule) and not rule.learns_feedback
        self.handle = fa.attach(
            self.model,
            rule,
            example_inputs=inputs,
            feedback=_FEEDBACK if has_fixed_feedback else None,
            generator=generator(spec.seed, spec.trial, "feedback"),
            strict=not isinstance(rule, (fa.Backprop, fa.NoisyBackprop)),
        )
        self.optimizer = make_optimizer(spec, self.handle, self.model)

    @abstractmethod
    def loss(self, output: Tensor, number: int) -> Tensor:
        """Return the training loss.

        Args:
            output: What the network gives.
            number: Of the epoch; 0 for a loss that is the same at every call.

        Returns:
            A scalar.
        """

    def measured_loss(self, output: Tensor) -> Tensor:
        """Return the loss whose gradients are compared with backprop's: over all that is known of the graph."""
        return self.loss(output, 0)

    def train_epoch(self, number: int) -> float:
        """Take one step on the whole graph.

        Args:
            number: Of the epoch, from 1.

        Returns:
            The loss before the step.

        Raises:
            DivergedError: The loss, a parameter or a gradient is not finite.
        """
        loss = self.loss(self.model(*self.inputs), number)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise diverged(self, self.spec.rule, f"the loss ({value})", f"epoch {number}")
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        if first_non_finite(self.model) is not None:
            raise diverged(self, self.spec.rule, "a parameter or gradient", f"the end of epoch {number}")
        return value

    @torch.no_grad()
    def untrained_loss(self) -> float:
        """Return the loss of the network as it is, without dropout."""
        return float(self.loss(self.output(), 0))

    @torch.no_grad()
    def output(self) -> Tensor:
        """Return what the network gives without dropout: a row per node."""
        with evaluating(self.model):
            output: Tensor = self.model(*self.inputs)
        return output

    @torch.no_grad()
    def hidden(self) -> Tensor:
        """Return the last hidden activation of every node, without dropout."""
        found: list[Tensor] = []

        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            del module, args
            found.append(output)

        hook = self.model.get_submodule(self.model.hidden).register_forward_hook(keep, prepend=True)
        try:
            self.output()
        finally:
            hook.remove()
        return found[0]

    def alignment(self) -> tuple[fa.measure.LayerAlignment, ...]:
        """Return the angles to backprop, over all nodes or edges at hand and without dropout."""

        def loss(output: Tensor, targets: None) -> Tensor:
            del targets
            return self.measured_loss(output)

        with evaluating(self.model):
            return fa.measure.alignment(self.model, loss, (self.inputs, None)).layers

    def step(self) -> object:
        """Take a whole step and give the gradients back."""
        loss = self.loss(self.model(*self.inputs), 0)
        loss.backward()
        self.optimizer.step()
        self.optimizer.zero_grad()
        return loss.detach()

    def results(self) -> Sequence[ResultFile]:
        """Return the alignment of every hidden layer, node by node in mean and deviation."""
        rows = node_alignment(self.model, self.handle, self.measured_loss, self.inputs)
        return [("alignment.json", partial(write_node_alignment, rows))] if rows else []


def make_optimizer(spec: LearnerSpec, handle: fa.Handle, network: Network) -> torch.optim.Adam:
    """Make Adam over what the rule teaches; decay acts on the first layer alone where the network says so.

    Args:
        spec: Rates and decays.
        handle: The rule's.
        network: The network.

    Returns:
        The optimizer.
    """
    model, *feedback = parameter_groups(spec, handle)
    groups = [model]
    if not network.decays_all:
        first = {id(parameter) for parameter in network.first_layer.parameters()}
        decayed = [parameter for parameter in model["params"] if id(parameter) in first]
        rest = [parameter for parameter in model["params"] if id(parameter) not in first]
        groups = [{**model, "params": decayed}, {**model, "params": rest, "weight_decay": 0.0}]
    return adam(spec, [group for group in [*groups, *feedback] if group["params"]])
