"""Adding up what two forwards of a model show, layer by layer."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.autograd.graph import Node

from feedalign.blocks import layer_of
from feedalign.delivery import held_by
from feedalign.handle import Handle
from feedalign.measure.attached import points_in, prefix_in
from feedalign.measure.cost import signals
from feedalign.measure.cost.backward import backward_of, forward_movement
from feedalign.measure.cost.kept import kept_by, operation_of
from feedalign.measure.cost.movement import Kind, Movement, reading, writing
from feedalign.measure.cost.products import num_bytes, storage_of
from feedalign.measure.cost.recording import Recording, leaves_of, reached_from
from feedalign.measure.cost.report import Cost, Kept, LayerCost
from feedalign.measure.cost.tangents import Entries, tangent_work
from feedalign.rules.base import LayerwiseRule
from feedalign.store import CHILD_NAME, key_of


@dataclass
class Row:
    """One layer while it is being added up."""

    forward: int = 0
    backward: int = 0
    feedback: int = 0
    perturbation: int = 0
    feedback_bytes: int = 0
    rule: str | None = None
    moved: Movement = field(default_factory=Movement)
    kept: list[Kept] = field(default_factory=list)
    not_counted: dict[str, None] = field(default_factory=dict)


class Account:
    """Adds up what the recordings of a model's forwards show.

    Args:
        model: The model.
        handle: Of its rule, if any.
        plain: The forward without the rule.
        ruled: The forward with it.
    """

    def __init__(self, model: nn.Module, handle: Handle | None, plain: Recording, ruled: Recording) -> None:
        self.model, self.handle, self.plain, self.ruled = model, handle, plain, ruled
        # A rule has the names of the model that it was attached to, which may be a part of this one.
        self.prefix = "" if handle is None else prefix_in(model, handle)
        self.reached = reached_from(ruled.outputs)
        self.rows: dict[str, Row] = {name: Row() for _, name in plain.rows}
        self.layers = _layers(plain)
        self.owners: dict[int, str] = {}
        sites = () if handle is None or not handle.is_streaming else handle._circuit.sites
        self.streaming = frozenset(site.label for site in sites if site.streams)

    def close(self) -> Cost:
        """Add everything up."""
        backprop = reached_from(self.plain.outputs)
        total = sum(p.macs + backward_of(p, backprop)[0] for p in self.plain.products)
        for product in self.plain.products:
            self._add(product.row, "forward", (product.macs, forward_movement(product)))
        for product in self.ruled.products:
            self._add(product.row, "backward", backward_of(product, self.reached))
        for node in self.reached.values():
            self._add_node(node)
        self._add_tangents()
        self._add_feedback_held()
        self._add_updates()
        self._add_kept()
        self._add_uncounted()
        return Cost(tuple(self._closed(name, row) for name, row in self.rows.items()), total)

    def _add(self, row: str, part: str, work: signals.Work) -> None:
        macs, moved = work
        if macs or moved.total:
            held = self.rows.setdefault(row, Row())
            setattr(held, part, getattr(held, part) + macs)
            held.moved += moved

    def _add_node(self, node: Node) -> None:
        """What the rule's own nodes multiply."""
        if signals.is_broadcast(node):
            for taught in signals.of_broadcast(node, self.ruled, self.streaming):
                rows = self._rows_of(taught.receiver.point)
                self._add(rows[-1], "feedback", (taught.macs, taught.moved))
                for row in rows:
                    self.rows.setdefault(row, Row()).rule = taught.receiver.rule.name
                self.owners |= {storage_of(kept): rows[-1] for kept in taught.kept}
            return
        row = self.ruled.row_of(node)
        gate, steps = signals.of_gate(node, self.ruled), signals.of_steps(node, self.ruled)
        if gate is not None:
            self._add(row, "feedback", gate)
            self.rows[row].rule = self._layerwise()
        if steps is not None:
            self._add(row, "backward", steps)
        if signals.is_foreign(node):
            self.rows.setdefault(row, Row()).not_counted[f"the backward of {operation_of(node)}"] = None

    def _layerwise(self) -> str | None:
        rules = () if self.handle is None else self.handle.rules
        return next((rule.name for rule in rules if isinstance(rule, LayerwiseRule)), None)

    def _rows_of(self, point: str) -> list[str]:
        """The layers that a receiver teaches: those that read their signal at the point, or a parameter's own."""
        assert self.handle is not None
        point = self.prefix + point
        if point in self.layers:
            return [self.layers[point]]
        taught = {layer for layer, label in points_in(self.model, self.handle).items() if label == point}
        return [row for row in self.rows if row in taught] or [self._row_around(point.partition("#")[0])]

    def _row_around(self, module: str) -> str:
        """The row of a module or of one that it is in: a recurrent module has a point for each layer."""
        name = module
        while name and name not in self.rows:
            name = name.rpartition(".")[0]
        return name or module

    def _add_tangents(self) -> None:
        perturber = None if self.handle is None else self.handle._circuit.perturber
        entries = None if perturber is None else Entries.of(perturber, self.model, self.prefix)
        if entries is not None:
            for row, work in tangent_work(self.plain, entries).items():
                self._add(row, "perturbation", work)

    def _add_feedback_held(self) -> None:
        """Memory of feedback, where it is held."""
        if self.handle is None:
            return
        seen: set[int] = set()
        gated = self.handle._circuit.gated
        held = {site.label: held_by(self.handle.store, site) for site in self.handle._circuit.sites}
        found = [(self._rows_of(label)[-1], tensor) for label, tensors in held.items() for tensor in tensors]
        found += [(self.prefix + name, tensor) for name in gated if (tensor := self._gate_weight(name)) is not None]
        for row, tensor in found:
            if storage_of(tensor) not in seen:
                seen.add(storage_of(tensor))
                self.rows.setdefault(row, Row()).feedback_bytes += num_bytes(tensor)

    def _gate_weight(self, layer: str) -> Tensor | None:
        """What was drawn for a layer with layer-wise feedback; None for rules that draw nothing that stays."""
        assert self.handle is not None
        key = key_of(layer, set())
        return self.handle.store.feedback(key) if key in self.handle.store._buffers else None

    def _add_updates(self) -> None:
        """Weight and gradient in, weight out, for all that the step gives a gradient.

        A late gradient is written to where it waits as well, and read from there.
        """
        late = {storage_of(parameter) for parameter in self._late().values()}
        for leaf in leaves_of(self.reached.values()):
            name, size, waits = self.ruled.parameters.get(storage_of(leaf)), num_bytes(leaf), storage_of(leaf) in late
            if name is not None:
                self._add(self.layers[name], "forward", (0, _update("weights", size, waits)))
            elif storage_of(leaf) in self.ruled.feedback:
                self._add(self._holder_of(leaf), "forward", (0, _update("feedback", size, waits)))

    def _holder_of(self, leaf: Tensor) -> str:
        assert self.handle is not None
        for site in self.handle._circuit.sites:
            if any(storage_of(leaf) == storage_of(held) for held in held_by(self.handle.store, site)):
                return self._rows_of(site.label)[-1]
        return CHILD_NAME

    def _add_kept(self) -> None:
        waiting = self._waiting()
        for row, kept in kept_by(waiting, self.ruled, self.owners).items():
            self.rows.setdefault(row, Row()).kept += kept
        self._add_under_way()

    def _add_under_way(self) -> None:
        """Gradients that a delay holds back from one step to a later one."""
        for key, parameter in self._late().items():
            assert self.handle is not None
            waiting = self.handle.store.feedback(key)
            row = self.layers.get(self.ruled.parameters.get(storage_of(parameter), "")) or self._holder_of(parameter)
            kept = Kept("gradients under way", tuple(waiting.shape), num_bytes(waiting))
            self.rows.setdefault(row, Row()).kept.append(kept)

    def _late(self) -> dict[str, Tensor]:
        """Parameters whose gradients arrive late, by the names in the store of what is under way."""
        late = None if self.handle is None else self.handle._circuit.late
        if self.handle is None or late is None:
            return {}
        return {key: self.handle.model.get_parameter(name) for name, (key, _) in late.keys.items()}

    def _waiting(self) -> Iterable[Node]:
        """Nodes that wait for the error: all, but those whose gradients are made in the forward."""
        barred = [
            edge
            for node in self.reached.values()
            if signals.is_broadcast(node)
            for edge in signals.edges_of(node, self.streaming)
        ]
        nodes = reached_from(self.ruled.outputs, barred).values()
        # Where all signals exist before the output does, there is no node that waits for the error.
        return [node for node in nodes if not (signals.is_broadcast(node) and signals.all_at(node, self.streaming))]

    def _add_uncounted(self) -> None:
        for recording in (self.plain, self.ruled):
            for row, names in recording.uncounted.items():
                self.rows.setdefault(row, Row()).not_counted |= names

    def _closed(self, name: str, row: Row) -> LayerCost:
        return LayerCost(
            name,
            row.rule,
            row.forward,
            row.backward,
            row.feedback,
            row.perturbation,
            tuple(row.kept),
            row.feedback_bytes,
            row.moved,
            tuple(row.not_counted),
        )


def _update(kind: Kind, size: int, waits: bool) -> Movement:
    return reading(kind, (2 + waits) * size) + writing(kind, (1 + waits) * size)


def _layers(plain: Recording) -> dict[str, str]:
    """The row of each parameter: that of its layer; where a module runs none of its layers, the module's own."""
    rows = {name for _, name in plain.rows}
    used = {o.parameter: p.row for p in plain.products for o in p.operands.values() if o.parameter is not None}
    of_layer = {layer_of(name): row for name, row in used.items()}
    layers = {name: layer_of(name) for name in plain.parameters.values()}
    return {name: layer if layer in rows else of_layer.get(layer, layer) for name, layer in layers.items()}
