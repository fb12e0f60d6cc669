"""What a forward with tangents multiplies beside the plain one: where perturbations enter, and where they flow."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.autograd.graph import Node

from feedalign.measure.cost.movement import Movement, reading, writing
from feedalign.measure.cost.products import storage_of
from feedalign.measure.cost.recording import Product, Recording, reached_from
from feedalign.perturber import Perturber
from feedalign.recurrent.point import LayerSteps
from feedalign.tangents import CallKey


@dataclass(frozen=True)
class Entries:
    """Where tangents begin.

    Attributes:
        num_perturbations: K.
        calls: Calls whose activation is perturbed, and the perturbation goes on to the output.
        parameters: Perturbed parameters.
        states: Names of recurrent matrices that multiply perturbed states.
    """

    num_perturbations: int
    calls: frozenset[CallKey]
    parameters: frozenset[str]
    states: frozenset[str]

    @staticmethod
    def of(perturber: Perturber, model: nn.Module, prefix: str) -> Entries | None:
        """Return where the perturbations of a rule enter; None where no tangent travels.

        Args:
            perturber: Of the rule.
            model: The model.
            prefix: What stands before the names that the perturber knows.
        """
        if perturber.carrier is None or not perturber.travels:
            return None
        calls = frozenset((prefix + name, index) for name, index in frozenset(perturber.points) - perturber.local)
        parameters = frozenset(prefix + name for name in perturber.parameters)
        modules = dict(model.named_modules())
        states = set()
        for name, _ in calls:
            if isinstance(modules.get(name), LayerSteps):
                owner, _, layer = name.rpartition(".")
                number = layer.removeprefix("layer")
                states |= {f"{owner}.weight_hh_l{number}{end}".lstrip(".") for end in ("", "_reverse")}
        return Entries(perturber.num_perturbations, calls, parameters, frozenset(states))


def tangent_work(plain: Recording, entries: Entries) -> dict[str, tuple[int, Movement]]:
    """Return the products that carry tangents, by row.

    Each product of the plain forward is made once more for every operand that has a tangent and every perturbation:
    `d(xW) = dx W + x dW`.

    Args:
        plain: The forward without the rule.
        entries: Where tangents begin.

    Returns:
        MACs and movement by row; rows that no tangent passes are left out.
    """
    nodes = reached_from(plain.outputs)
    carrying = _carrying(plain, entries, nodes)
    found: dict[str, tuple[int, Movement]] = {}
    for product in plain.products:
        node = nodes.get(-1 if product.sequence is None else product.sequence)
        if node is None:
            continue
        for term in product.terms:
            for own, other in ((term.left, term.right), (term.right, term.left)):
                if _carries(product, node, own, carrying, entries):
                    macs, moved = found.get(product.row, (0, Movement()))
                    more = _moved(product, own, other, entries.num_perturbations)
                    found[product.row] = macs + entries.num_perturbations * term.along(own), moved + more
    return found


def _carrying(plain: Recording, entries: Entries, nodes: dict[int, Node]) -> set[int]:
    """Identities of the nodes whose results have a tangent, leaves among them."""
    found = {id(node) for call in entries.calls for node in plain.calls.get(call, ())}
    by_number = {product.sequence: product for product in plain.products}
    # Nodes are numbered as they are made, so that those below come first.
    for number in sorted(nodes):
        node = nodes[number]
        children = [child for child, _ in node.next_functions if child is not None]
        perturbed = {id(c) for c in children if _name(c, plain) in entries.parameters}
        found |= perturbed
        product = by_number.get(number)
        # The state that comes of a recurrent matrix is perturbed, and with it what the next step multiplies.
        is_state = product is not None and any(o.parameter in entries.states for o in product.operands.values())
        if is_state or any(id(child) in found for child in children):
            found.add(id(node))
    return found


def _name(node: Node, plain: Recording) -> str:
    """Name of the parameter that is a leaf of the graph; none for other nodes."""
    variable = getattr(node, "variable", None)
    return "" if variable is None else plain.parameters.get(storage_of(variable), "")


def _carries(product: Product, node: Node, own: int | None, carrying: set[int], entries: Entries) -> bool:
    """Whether an operand has a tangent."""
    if own is None:
        # Made inside of what came in: scores of queries and keys, a fused layer's states.
        return id(node) in carrying
    parameter = product.operands[own].parameter
    if parameter is not None:
        return parameter in entries.parameters
    child = node.next_functions[own][0] if own < len(node.next_functions) else None
    return child is not None and id(child) in carrying


def _moved(product: Product, own: int | None, other: int | None, num: int) -> Movement:
    """The tangents and the other operand in, the tangents of the result out."""
    moved = writing("activations", num * product.out_bytes)
    if own is not None:
        of = product.operands[own]
        moved += reading("activations" if of.parameter is None else "weights", num * of.num_bytes)
    if other is not None:
        met = product.operands[other]
        moved += reading("activations" if met.parameter is None else "weights", met.num_bytes)
    return moved
