"""Counting what one training step costs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import nn

from feedalign.errors import AttachError
from feedalign.handle import Handle
from feedalign.measure.attached import attached_or_plain
from feedalign.measure.cost.account import Account
from feedalign.measure.cost.recording import record
from feedalign.measure.cost.report import Cost
from feedalign.probe import Inputs, left_as_found


def cost(model: nn.Module | Handle, example_inputs: Inputs) -> Cost:
    """Count what one training step costs under the attached rule: products, kept tensors, feedback and data moved.

    Products are multiplications with an addition each (MACs), read off two forwards: what the plain model multiplies;
    which operands have gradients in the graph that the rule leaves; where tangents flow; and the products that the
    rule's own functions make, run once on zeros. So a rule of your own is counted as the built-in ones are. Under::

        backprop                 forward F; backward F for the weights and F' for the inputs of all layers but the first
        direct feedback          F; F for the weights; R C D_l of each signal `E B_l`, R rows of errors
        learned direct feedback  the same, and as much again for the gradient of B_l or the estimate `T_l = D^T V_l`
        layer-wise feedback      as backprop, with the products of F' counted as feedback
        forward gradients        F; F for the weights under FG-A, none under FG-W; the tangents: once more each product
                                 for every operand that has one, and for each of the K perturbations

    with F `= N D_l D_{l+1}` for a linear layer. Elementwise work, normalization, look-ups in embeddings, drawing,
    the loss and the optimizer have no products and count no MACs; masked positions of attention count as the others.
    Activation checkpointing runs parts twice and is counted once; the forward is that of the plain model, also where a
    rule's own makes something again.

    *Kept* is what the graph holds between the forward and the arrival of the error, beside parameters, buffers and
    feedback. Where the rule streams (after `handle.targets(...)`) hidden layers keep nothing. Under `Limits(delay=d)`
    the gradients under way are kept as well, d of them for each weight that is taught late. Other limits count nothing,
    as they are elementwise, and a converted matrix moves as the one that is held; noise keeps the few bytes that its
    numbers are drawn from. Sparse feedback is held, multiplied and counted as dense.

    *Moved* is a model, not a measurement: every operand of every product is read once from memory and every result
    written once; what is elementwise happens on the way and moves nothing; the update reads weight and gradient and
    writes the weight, for biases and learned feedback too, which is all that biases move; a delay writes each new
    gradient to where it waits, and reads the one that is due; an optimizer's state is left out. Caches and fused
    kernels make it less on a real machine.

    Nothing is trained: gradients, buffers, the rule's clock, its averages and the random state stay as they are.

    Args:
        model: A model with a rule attached to it or to a part of it, its handle, or a plain model, which is counted as
            backprop.
        example_inputs: As for `attach`: a tensor, a tuple or a dict; as many samples as a step has.

    Returns:
        The costs, layer by layer. `print` shows a table, `as_dict()` is plain data, `limit` is the step's operations
        over backprop's.

    Raises:
        AttachError: The model is no module, its rule was removed, or nothing that it returns has a graph.
        WrappedModelError: The model is sharded.

    Source: Frenkel et al. 2021, section 3, and Bacho & Chu 2022, section IV-F.

    Differs from the papers: Frenkel et al. count DRTP's weight updates as about one forward, classes neglected and the
    rate inside B; here they are exactly the products of the weight gradients, the output layer's and the projection
    included (the projection is none in streaming, where a row of B is picked). Bacho & Chu say that Directional DFA
    doubles the forward's products; here the first layer carries no tangent, so that it is a little less, and the
    estimates of the feedback are counted beside it. Both compare memory accesses in words, without numbers.
    """
    model, handle = attached_or_plain(model)
    store = None if handle is None else handle.store
    with _as_found(model, handle), torch.compiler.set_stance("force_eager"):
        with nullcontext() if handle is None else handle.suspended():
            plain = record(model, example_inputs, store)
        if not plain.outputs and any(p.requires_grad for p in model.parameters()):
            raise AttachError(
                "Nothing in what the model returned has a graph, so that no backward could be counted: return tensors, "
                "alone or in tuples, lists, mappings or dataclasses, that are not detached."
            )
        ruled = plain
        if handle is not None:
            with handle.from_error():
                ruled = record(model, example_inputs, store)
        return Account(model, handle, plain, ruled).close()


@contextmanager
def _as_found(model: nn.Module, handle: Handle | None) -> Iterator[None]:
    """Give the random state, and what the handle remembers of the last forward, back."""
    circuit = None if handle is None else handle._circuit
    names = ("fired", "awaited", "lengths", "coming_lengths")
    before = {name: getattr(circuit, name) for name in names if circuit is not None}
    with left_as_found(model):
        try:
            yield
        finally:
            for name, value in before.items():
                setattr(circuit, name, value)
