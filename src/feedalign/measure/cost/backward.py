"""What a backward multiplies: for each operand that has a gradient, as much as the forward did."""

from __future__ import annotations

from collections.abc import Mapping

from torch.autograd.graph import Node

from feedalign.measure.cost.movement import Movement, reading, writing
from feedalign.measure.cost.products import Operand as Place
from feedalign.measure.cost.recording import Product


def forward_movement(product: Product) -> Movement:
    """Return what a product moves in the forward: operands in, result out."""
    moved = writing("activations", product.out_bytes)
    for operand in product.operands.values():
        moved += reading("activations" if operand.parameter is None else "weights", operand.num_bytes)
    return moved


def backward_of(product: Product, reached: Mapping[int, Node]) -> tuple[int, Movement]:
    """Return the products that a backward makes of one of the forward, and what they move.

    Args:
        product: Of the forward.
        reached: The graph nodes that the backward passes, by number.

    Returns:
        MACs and movement; nothing where the backward does not come.
    """
    node = reached.get(-1 if product.sequence is None else product.sequence)
    if node is None or not _is_of(node, product):
        return 0, Movement()
    macs, moved = product.made_again, Movement()
    for term in product.terms:
        for own, other in ((term.left, term.right), (term.right, term.left)):
            if own is None or _has_gradient(node, own):
                macs += term.along(own)
                moved += _of_gradient(product, own, other)
    return macs, moved


def _is_of(node: Node, product: Product) -> bool:
    """Whether a node is that of a product, not of an operation without a node that ran just before."""
    return node.name().lower().startswith(product.name.replace("_", "").lower())


def _has_gradient(node: Node, edge: int) -> bool:
    return edge < len(node.next_functions) and node.next_functions[edge][0] is not None


def _of_gradient(product: Product, own: Place, other: Place) -> Movement:
    """The error and the other operand in, the gradient out."""
    moved = reading("errors", product.out_bytes)
    if other is not None:
        met = product.operands[other]
        moved += reading("activations" if met.parameter is None else "weights", met.num_bytes)
    if own is not None:
        of = product.operands[own]
        moved += writing("errors" if of.parameter is None else "weights", of.num_bytes)
    return moved
