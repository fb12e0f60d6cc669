"""Which recurrent modules can be taught step by step, and by which cell they run."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from feedalign import nn as own
from feedalign.errors import AmbiguousShapeError, AttachError, UnsuitableModelError, UntaughtLayerError
from feedalign.recurrent.cell import Cell
from feedalign.recurrent.gru import GRU
from feedalign.recurrent.gru_reset_before import ResetBeforeGRU
from feedalign.recurrent.local_steps import Channels
from feedalign.recurrent.lstm import LSTM
from feedalign.recurrent.rnn import ReluRNN, TanhRNN
from feedalign.rules.base import DirectRule, Perturbing, rule_for
from feedalign.rules.control import Backprop

if TYPE_CHECKING:
    from feedalign.blocks import Graph
    from feedalign.blueprint import Blueprint

_KNOWN = (nn.RNN.forward, nn.GRU.forward, nn.LSTM.forward, own.RNN.forward, own.GRU.forward, own.LSTM.forward)


def cell_of(module: nn.RNNBase, name: str) -> Cell:
    """Return the cell that a recurrent module runs.

    Args:
        module: The module.
        name: Its name, for messages.

    Returns:
        The cell.

    Raises:
        UnsuitableModelError: It has projections or a forward of its own.
    """
    if module.proj_size:
        raise UnsuitableModelError(
            f"{name!r} is an LSTM with projections (proj_size={module.proj_size}), whose states cannot be taught step "
            "by step. Use proj_size=0 and an nn.Linear behind it, or leave it on exact backprop through time with a "
            "mixture of rules: {" + f"{name!r}" + ": fa.Backprop(), '*': ...}."
        )
    before = getattr(module, "reset", "after") == "before"
    known = type(module).forward in _KNOWN and "forward" not in module.__dict__
    cell: Cell | None = None
    if known and isinstance(module, nn.LSTM):
        cell = LSTM()
    elif known and isinstance(module, nn.GRU):
        cell = ResetBeforeGRU() if before else GRU()
    elif known and isinstance(module, nn.RNN):
        cell = TanhRNN() if module.nonlinearity == "tanh" else ReluRNN()
    if cell is None:
        raise UnsuitableModelError(
            f"{name!r} is {type(module).__name__}, a recurrent module with a forward of its own, whose steps cannot be "
            "told apart. nn.RNN, nn.GRU, nn.LSTM and those of fa.nn can be taught step by step; leave this one on "
            "exact backprop through time with a mixture of rules: {" + f"{name!r}" + ": fa.Backprop(), '*': ...}."
        )
    return cell


def channels_of(module: nn.RNNBase) -> Channels:
    """Return which teaching signals a module of `fa.nn` asks for; those of torch.nn share one."""
    if getattr(module, "feedback", "shared") == "separate":
        return "separate"
    has_own = getattr(module, "reset", "after") == "before" and getattr(module, "reset_gate", "exact") == "feedback"
    return "reset gate" if has_own else "shared"


def take_back_uncut(plan: Blueprint) -> bool:
    """Give recurrent modules at which no rule cuts their own forward back: unused ones, and those behind the output.

    Args:
        plan: The model read; its list of recurrent modules shrinks.

    Returns:
        Whether there were any, so that the model is to be read again.
    """
    cut = {candidate.call.module for candidate in plan.candidates if candidate.cuts}
    uncut = [forward for forward in plan.recurrent if not cut.intersection(forward.points)]
    for forward in uncut:
        forward.remove()
        plan.recurrent.remove(forward)
    return bool(uncut)


def refuse_separate_tangents(plan: Blueprint) -> None:
    """Raise UnsuitableModelError for a rule that perturbs states which have several teaching signals each."""
    several = {point for forward in plan.recurrent if forward.channels != "shared" for point in forward.points}
    for candidate in plan.candidates:
        if candidate.call.module in several and isinstance(candidate.rule, Perturbing):
            raise UnsuitableModelError(
                f"{type(candidate.rule).__name__} perturbs each state once, and {candidate.call.module!r} has several "
                'teaching signals for each. Use feedback="shared" and reset_gate="exact" there.'
            )


def untaught_state(name: str) -> UntaughtLayerError:
    """Return the error for an initial state that something trainable makes."""
    return UntaughtLayerError(
        f"The initial state given to {name!r} carries a gradient, and each step is differentiated with its previous "
        "state held constant, so nothing would teach what makes it. Put a feedback point there, batch first, e.g. "
        "hx = self.point(torch.tanh(self.init(z))).unsqueeze(0) with self.point = fa.FeedbackPoint(), or detach() it."
    )


def refuse_untaught_states(plan: Blueprint, graph: Graph) -> None:
    """Raise UntaughtLayerError where an initial state leads to parameters without passing a cut."""
    cuts = [c.call.node for c in plan.candidates if c.cuts and c.call.node is not None]
    for forward in plan.recurrent:
        for node in forward.state_nodes:
            if not any(node is cut for cut in cuts) and graph.block(node, cuts).parameters:
                raise untaught_state(forward.name)
        forward.state_nodes = []


def refuse_unread_sequences(plan: Blueprint) -> None:
    """Raise AmbiguousShapeError where errors of single steps meet a sequence of which only the end is used.

    The encoder of an encoder-decoder is of this kind: its steps and those of the output are not the same steps, even
    where there are as many.
    """
    blocks = [*(candidate.block for candidate in plan.candidates), plan.output_block]
    met = {id(node) for block in blocks for node in block.nodes}
    for forward in plan.recurrent:
        nodes, forward.sequence_nodes = forward.sequence_nodes, []
        taught = any(c.call.module in forward.points and isinstance(c.rule, DirectRule) for c in plan.candidates)
        if taught and nodes and len(plan.site.signature.shape) > 2 and not met.intersection(map(id, nodes)):
            raise AmbiguousShapeError(
                f"The output has shape {plan.site.signature.shape}, an error at every step, and of {forward.name!r} "
                "only the last state is used, as of an encoder: its steps are not those of the output. Leave it "
                f"untrained with a mixture of rules, {{{forward.name!r}: fa.Shallow(), '*': ...}}, or use its output "
                "sequence."
            )


def refuse_half_cut(plan: Blueprint) -> None:
    """Raise AttachError for a recurrent module of which some layers are cut and other trainable ones are not."""
    cut = {candidate.call.module for candidate in plan.candidates if candidate.cuts}
    for forward in plan.recurrent:
        for layer, point in enumerate(forward.points):
            trains = any(w is not None and w.requires_grad for w in forward.weights(layer))
            if trains and point not in cut:
                raise AttachError(
                    f"{forward.name!r} runs step by step, and its layer {point!r} has no feedback point of its own, so "
                    "that neither the rule nor backprop through time would teach it. Give all its layers a rule that "
                    f"cuts, or none: name {forward.name!r} as a whole in points= and in mixtures of rules."
                )


def refuse_loops(plan: Blueprint) -> None:
    """Raise UnsuitableModelError for a cell that a loop of the model's own calls, with no cut between its steps."""
    blocks = [*(candidate.block for candidate in plan.candidates if candidate.cuts), plan.output_block]
    for name, module in plan.model.named_modules():
        if not isinstance(module, nn.RNNCellBase) or not any(candidate.cuts for candidate in plan.candidates):
            continue
        if isinstance(rule_for([name], plan.rules), Backprop):
            continue
        calls = {id(call.node) for call in plan.probe.calls_of(name)}
        if any(len(calls.intersection(map(id, block.nodes))) > 1 for block in blocks):
            kind = type(module).__name__
            raise UnsuitableModelError(
                f"{name!r} is an nn.{kind} that the model calls step by step, and through such a loop backprop through "
                f"time stays exact. Use nn.{kind.removesuffix('Cell')}, whose steps a rule can teach; or cut the loop "
                "with a fa.FeedbackPoint() on the state after each call (the same number of calls in every forward); "
                f"or say that this is meant, with a mixture of rules: {{{name!r}: fa.Backprop(), '*': ...}}."
            )
