"""What runs in every forward of an attached model: taps are collected, cut, and handed to the broadcast node."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node

from feedalign.broadcast import Delivery, Plan, broadcast
from feedalign.delivery import Site, held_by, plan_for, to_points
from feedalign.errors import PointNotFiredError, WrappedModelError
from feedalign.faults import (
    refuse_aliases,
    refuse_alone,
    refuse_changed,
    refuse_further_call,
    refuse_missing,
    refuse_recomputation,
    refuse_thawed,
    refuse_untaught,
    version_of,
)
from feedalign.late import LateGradients
from feedalign.perturber import Perturber
from feedalign.placement import FeatureAxis
from feedalign.ranks import Shards, refuse_traced, refuse_untold
from feedalign.receivers import DirectReceiver, Receiver, WeightReceiver
from feedalign.store import FeedbackStore
from feedalign.streaming import Stream
from feedalign.tangents import CallKey
from feedalign.transforms import inside_backward, refuse_export, refuse_reentrant_checkpointing
from feedalign.untrained import FeedbackWatch

# Counts the calls of the output's module, under a name that no module can have.
OUTPUT = "<output>"


class Circuit:
    """State and steps of the forward, shared by all hooks.

    Args:
        model: The attached model.
        store: Where feedback is held.
        sites: The feedback points, in the order in which they fire.
        silent: Calls of point modules that are no feedback points.
        gated: Names of the layers with layer-wise feedback.
        can_stream: Each streaming point has a part of the graph to itself, which can be freed at once.
        weights: Receivers of rules that send parameters something of their own.
        perturber: Perturbs the forward; None for rules without perturbations.
        error_axis: Where the features of the output are.
        watch: Looks after the optimizer.
        late: Keeps gradients until they are due; None where none is late.
        unlearned: Names of parameters that no signal reaches, since a rule cuts there and sends none.
    """

    def __init__(
        self,
        model: nn.Module,
        store: FeedbackStore,
        sites: Sequence[Site],
        *,
        silent: frozenset[tuple[str, int]],
        gated: Sequence[str],
        can_stream: bool,
        weights: Sequence[WeightReceiver],
        perturber: Perturber | None,
        error_axis: FeatureAxis,
        watch: FeedbackWatch,
        late: LateGradients | None = None,
        unlearned: Sequence[str] = (),
    ) -> None:
        self.model, self.store = model, store
        self.sites, self.silent, self.gated = tuple(sites), silent, tuple(gated)
        self.by_call = {(site.module, site.index): site for site in sites}
        self.read = frozenset(s.key for s in sites if s.receiver is not None and s.receiver.reads_activation)
        self.can_stream = can_stream
        self.frozen = frozenset(name for name, p in model.named_parameters() if not p.requires_grad)
        self.weights, self.perturber, self.watch = tuple(weights), perturber, watch
        self.unlearned, self.shards, self.late = tuple(unlearned), Shards(model, store), late
        num = 1 if perturber is None else perturber.num_perturbations
        self.plan = plan_for(sites, weights, error_axis, num)
        self.plan_beside_stream = plan_for([s for s in sites if not s.streams], weights, error_axis, num)
        self.stream: Stream | None = None
        self.enabled = True
        self.has_looked = False
        self.fired: tuple[str, ...] | None = None
        self.awaited: tuple[Plan, int] | None = None
        self.coming_lengths: Tensor | None = None
        self.lengths: Tensor | None = None
        # By module and name, looked up at each use: loading a checkpoint may put other objects in their place.
        self.owners = {site.key: [_owner(model, name) for name in site.parameters] for site in sites}
        self.weight_owners = [_owner(model, receiver.point) for receiver in weights]
        self._forget()

    def _forget(self) -> None:
        self.is_open = False
        self.has_begun = False
        self.delivered = False
        self.taps: dict[str, Tensor] = {}
        self.versions: dict[str, int] = {}
        self.aliases: list[tuple[str, Node]] = []
        self.counts: dict[str, int] = {}
        self.sources: dict[str, Tensor] = {}
        self.valid: dict[CallKey, Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles carry no tensors of a running forward."""
        copied = {
            **self.__dict__,
            "is_open": False,
            "has_begun": False,
            "taps": {},
            "aliases": [],
            "counts": {},
            "sources": {},
            "valid": {},
            "lengths": None,
            "coming_lengths": None,
        }
        if self.stream is not None:
            copied["stream"] = Stream(self.stream.num_outputs)
        return copied

    @property
    def listening(self) -> bool:
        """Whether hooks act: not without gradients, and not while exact backprop is being measured."""
        return self.enabled and torch.is_grad_enabled()

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """Let the model run as if no rule were attached."""
        was_enabled, self.enabled = self.enabled, False
        try:
            with self.nothing_late():
                yield
        finally:
            self.enabled = was_enabled

    @contextmanager
    def nothing_late(self) -> Iterator[None]:
        """Let gradients arrive at once, and those under way wait."""
        late, self.late = self.late, None
        was_paused = late is not None and late.is_paused
        if late is not None:
            late.is_paused = True
        try:
            yield
        finally:
            if late is not None:
                late.is_paused = was_paused
            self.late = late

    def open(self, model: nn.Module, args: tuple[Any, ...]) -> None:
        """Forward pre-hook of the model."""
        if "_is_replica" in model.__dict__:
            raise WrappedModelError(
                "DataParallel runs copies of the model in threads, which an attached rule cannot follow; use "
                "DistributedDataParallel."
            )
        if not self.listening:
            return
        refuse_export()
        if self.late is not None:
            self.late.refuse(model)
        # A trainer may run another method in the place of forward, which then calls the model: that is one forward.
        is_nested = self.is_open and not self.counts
        # Always: what runs outside of a forward, as in evaluation, leaves something behind too.
        self._forget()
        has_lengths = self.coming_lengths is not None or (self.lengths is not None and not is_nested)
        if has_lengths and not inside_backward():
            # Activation checkpointing, which runs parts again in the backward, finds those of its forward.
            self.lengths, self.coming_lengths = self.coming_lengths, None
        if torch.compiler.is_compiling():
            refuse_traced(model)
        else:
            self._look_around()
        self.is_open = True
        if not is_nested:
            self.store.step()
        if self.perturber is not None:
            self.perturber.begin(args)

    def _look_around(self) -> None:
        """Refuse what only eager code can tell: surroundings that changed, in which the rule would not act."""
        if self.frozen:
            refuse_thawed(self.model, self.frozen)
        if self.store.has_clock:
            refuse_recomputation()
        self.shards.look()
        if self.shards.parts:
            self.shards.refuse(streams=self.stream is not None, weights=self.weights)
        if self.unlearned:
            refuse_untold(self.model, self.unlearned)
        if not self.watch.is_over:
            self.watch.look()

    def begin_stream(self) -> None:
        """Look whether there are targets, where they are first needed: a trainer's step may give them on its way."""
        if self.stream is not None and not self.has_begun:
            self.stream.begin()
            self.has_begun = True

    @property
    def is_unanswered(self) -> bool:
        """Whether no error has come back through the node since the latest forward with gradients."""
        return self.awaited is not None and self.awaited[0].num_backwards == self.awaited[1]

    def count(self, module: str) -> int:
        """Note that a module fired; return how often it had before in this forward."""
        before = self.counts.get(module, 0)
        self.counts[module] = before + 1
        return before

    def arrive(self, module: str, activation: Tensor) -> Tensor | None:
        """Take the tap of a feedback point and hand a detached activation downstream.

        Args:
            module: The point's module.
            activation: What it returned.

        Returns:
            The detached activation, or None to leave it as it is.

        Raises:
            OutsideForwardError: The module was called on its own, with gradients.
            PointNotFiredError: It fired more often than on the example inputs.
        """
        if not self.listening:
            self.refuse_hidden(module)
            return None
        if not self.is_open or (self.stream is not None and inside_backward()):
            refuse_alone(module)
            return activation.detach()
        if self.stream is not None:
            self.begin_stream()
        index = self.count(module)
        site = self.by_call.get((module, index))
        if site is None:
            if (module, index) in self.silent:
                return None
            refuse_further_call(module, index)
        onward = activation.detach()
        if self.perturber is not None:
            activation, onward = self.perturber.pass_point(site.call, activation)
        if self.stream is not None and site.streams:
            self._teach_now(self.stream, site, activation)
        elif site.receiver is not None:
            self._collect(site, site.receiver, activation)
        return onward

    def _collect(self, site: Site, receiver: Receiver, activation: Tensor) -> None:
        """Keep the tap of a point until the output is there."""
        receiver.check(activation.shape)
        if not activation.requires_grad:
            refuse_untaught(self.model, site.label, site.parameters)
        if self.shards.parts:
            self.shards.gather_for(activation)
        self.taps[site.key] = activation
        if site.key in self.read:
            self.versions[site.key] = version_of(activation)

    def note_alias(self, module: str, activation: Tensor) -> None:
        """Note a point that works in place: whoever still holds what it was given holds its activation, uncut."""
        if not self.has_looked and not torch.compiler.is_compiling() and activation.grad_fn is not None:
            self.aliases.append((module, activation.grad_fn))

    def refuse_hidden(self, module: str) -> None:
        """Raise if a module of a running forward with gradients is hidden from the rule by checkpointing."""
        if self.is_open and self.enabled and not torch.compiler.is_compiling():
            refuse_reentrant_checkpointing(module)

    def _teach_now(self, stream: Stream, site: Site, activation: Tensor) -> None:
        assert isinstance(site.receiver, DirectReceiver)
        site.receiver.check(activation.shape)
        if not activation.requires_grad:
            refuse_untaught(self.model, site.label, site.parameters)
        else:
            held = held_by(self.store, site)
            clock = self.store.clock() if site.receiver.rule.limits.draws else None
            stream.teach(site.receiver, activation, held[0] if held else None, self.valid.get(site.call), clock)
            stream.note(self.taught(site))

    def taught(self, site: Site) -> list[nn.Parameter]:
        """Return the parameters that a feedback point teaches, as they are now."""
        found = [module._parameters.get(name) for module, name in self.owners[site.key]]
        return [parameter for parameter in found if parameter is not None]

    def deliver(self, output: Tensor) -> Tensor | None:
        """Send the output through the broadcast node.

        Args:
            output: The tensor at which the error is taken.

        Returns:
            The output as the root of all signals, or None to leave it as it is.

        Raises:
            PointNotFiredError: A feedback point or gated layer did not fire in this forward.
        """
        if not self.listening or not self.is_open or self.delivered:
            return None
        if self.stream is not None:
            self.begin_stream()
        self.fired = tuple(self.counts)
        refuse_missing([site.label for site in self.sites if self.counts.get(site.module, 0) <= site.index])
        if self.aliases:
            refuse_aliases(output, self.aliases)
            self.has_looked = True
        if self.versions:
            refuse_changed(self.taps, self.versions)
        taps, self.taps = self.taps, {}
        self.delivered = True
        if self.late is not None:
            self.late.expect(self.model)
        plan = self.plan if self.stream is None else self.plan_beside_stream
        tangent = None
        if self.perturber is not None:
            output, tangent = self.perturber.reach_output(output)
        if plan.receivers:
            deliveries = self._deliveries(taps, tuple(output.shape), tangent)
            at_output = None if self.perturber is None else self.perturber.at_output
            output = broadcast(plan, output, deliveries, tangent, at_output)
        # Compiled backwards count none.
        counts = output.requires_grad and bool(plan.receivers) and not torch.compiler.is_compiling()
        self.awaited = (plan, plan.num_backwards) if counts else None
        if self.perturber is not None:
            self.perturber.end()
        if self.stream is not None:
            self.stream.end(output)
        return output

    def _deliveries(self, taps: dict[str, Tensor], output: tuple[int, ...], tangent: Tensor | None) -> list[Delivery]:
        live = [site for site in self.sites if site.key in taps]
        for site in live:
            assert site.receiver is not None
            site.receiver.check_output(output, tuple(taps[site.key].shape))
        learns = self.model.training
        deliveries = to_points(live, taps, self.store, self.shards, self.perturber, tangent, self.valid, learns=learns)
        for receiver, (module, name) in zip(self.weights, self.weight_owners, strict=True):
            parameter = module._parameters[name]
            assert parameter is not None
            assert self.perturber is not None
            deliveries.append(Delivery(parameter, (), (self.perturber.directions[receiver.point],)))
        return deliveries

    def close(self, model: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Forward hook of the model: the output must have been delivered by now, and all layers must have run."""
        del model, args, output
        if not self.listening or not self.is_open:
            return
        if not self.delivered:
            raise PointNotFiredError(
                "The module named as output= did not fire in this forward, so no error can reach the hidden layers."
            )
        # Not at the output: layers that make another result of the model's run behind it.
        self.fired = tuple(self.counts)
        refuse_missing([name for name in self.gated if name not in self.counts])

    def finish(self, model: nn.Module, args: tuple[Any, ...], output: object) -> None:
        """Forward hook of the model that runs even if the forward raised: nothing half-collected stays behind."""
        del model, args, output
        if not self.is_open:
            return
        if self.perturber is not None:
            self.perturber.end()
        self._forget()


def _owner(model: nn.Module, parameter: str) -> tuple[nn.Module, str]:
    module, _, name = parameter.rpartition(".")
    return model.get_submodule(module), name
