"""A function of stacked tensors as the flat list of operations it consists of, without what makes the list.

`torch.func` finds out anew at every call how each operation is to be done for all models at once and differentiated,
which takes longer than the operations of a small network themselves. Here this is done once, and what it came to is
kept.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental.proxy_tensor import make_fx

from feedalign_lab.lockstep.products import one_by_one, pays_alone, unmade

Traced = Callable[..., Sequence[Any]]
"""Gives tensors, or in the place of one what makes each matrix of it when it is asked for it by number."""
# Torch's annotations allow a graph's nodes to have anything at all for arguments.
_Node = Any

_aten = torch.ops.aten
# Give what they are given where the shape is the same.
_RESHAPING = {
    _aten.view.default,
    _aten._unsafe_view.default,
    _aten.expand.default,
    _aten.reshape.default,
    _aten.detach.default,
    _aten.alias.default,
}
_ACTIVATIONS = {_aten.tanh.default: "tanh", _aten.sigmoid.default: "sigmoid", _aten.relu.default: "relu"}
# The smallest logarithm that binary cross-entropy takes of a probability of zero, as in torch.
_SMALLEST_LOGARITHM = -100.0


def traced(function: Callable[..., Sequence[Tensor]], tensors: Sequence[Tensor], put_off: Sequence[int] = ()) -> Traced:
    """Write a function down for tensors of these shapes.

    Args:
        function: From tensors to a sequence of tensors; how it goes must not depend on their values.
        tensors: Its arguments.
        put_off: Places of results of which each matrix may be made when it is asked for.

    Returns:
        A function that does the same operations.
    """
    # Without values: torch refuses to take the loss of some.
    module = make_fx(function, tracing_mode="fake")(*tensors)
    for step in (_without_what_changes_nothing, _without_assertion, _one_by_one, _with_bias, _with_activation):
        for node in list(module.graph.nodes):
            step(node)
        module.graph.eliminate_dead_code()
    results: Any = module.graph.output_node().args[0]
    for place in put_off:
        _put_off(results[place])
    module.graph.lint()
    module.recompile()
    return module


def _without_what_changes_nothing(node: _Node) -> None:
    """Take out views of the whole, a transpose of a transpose, and factors of one."""
    source: _Node = node.args[0] if node.args else None
    if node.target in _RESHAPING:
        if _shape(source) == _shape(node):
            node.replace_all_uses_with(source)
    elif node.target is _aten.transpose.int:
        num = len(_shape(node))
        if source.target is node.target and {d % num for d in node.args[1:]} == {d % num for d in source.args[1:]}:
            node.replace_all_uses_with(source.args[0])
    elif node.target is _aten.mul.Scalar and node.args[1] == 1:
        node.replace_all_uses_with(source)


def _without_assertion(node: _Node) -> None:
    """Let a loss pass what is no number: torch's own would stop all trials on behalf of one."""
    if node.target is _aten.binary_cross_entropy.default:
        node.target = binary_cross_entropies


def _one_by_one(node: _Node) -> None:
    """Make a product of stacks matrix by matrix, where that pays."""
    if node.target is _aten.bmm.default and pays_alone(*(argument.meta["val"] for argument in node.args)):
        node.target = one_by_one


def _with_bias(node: _Node) -> None:
    """Make a product and the sum with a bias in one."""
    if node.target is not _aten.add.Tensor or len(node.args) != 2 or node.kwargs:
        return
    for product, bias in (node.args, node.args[::-1]):
        if not _is_made_for(product, node) or getattr(bias, "target", None) is not _aten.view.default:
            continue
        num, _, width = _shape(product)
        if _shape(bias) == (num, 1, width) and _shape(bias.args[0]) == (num, width):
            node.target, node.args = one_by_one, (*product.args, bias.args[0])
            return


def _with_activation(node: _Node) -> None:
    """Make a product, the sum with a bias and a non-linearity in one."""
    if node.target in _ACTIVATIONS and _is_made_for(node.args[0], node) and len(node.args[0].args) == 3:
        name = _ACTIVATIONS[node.target]
        node.target, node.args = one_by_one, (*node.args[0].args, name)


def _is_made_for(product: _Node, node: _Node) -> bool:
    """Whether something is a product that nothing but a node reads."""
    return getattr(product, "target", None) is one_by_one and list(product.users) == [node]


def _put_off(node: _Node) -> None:
    """Leave a product unmade that nothing but the result asks for."""
    if node.target is one_by_one and len(node.users) == 1 and len(node.args) == 2:
        node.target = unmade


def _shape(node: _Node) -> tuple[int, ...]:
    """Of the tensor that a node stood for when it was traced."""
    return tuple(node.meta["val"].shape)


def binary_cross_entropies(output: Tensor, targets: Tensor, weight: None = None, reduction: int = 0) -> Tensor:
    """Binary cross-entropy of every output, nan where the output is.

    Args:
        output: Probabilities.
        targets: Of the same shape.
        weight: None.
        reduction: 0.

    Returns:
        A tensor of the same shape.
    """
    del weight, reduction
    of_ones = output.log().clamp_(min=_SMALLEST_LOGARITHM)
    of_zeros = output.neg().log1p_().clamp_(min=_SMALLEST_LOGARITHM)
    return (targets - 1) * of_zeros - targets * of_ones
