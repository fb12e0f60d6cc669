"""Models on which a rule cannot work, and paths on which it would not act."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterable

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

from feedalign.assign import Candidate
from feedalign.blocks import layer_names
from feedalign.blueprint import Blueprint
from feedalign.errors import (
    AlreadyAttachedError,
    AttachError,
    CompiledModelError,
    UnsuitableModelError,
    WrappedModelError,
)
from feedalign.handle import ATTACHED
from feedalign.points import RECTIFIERS, SATURATING
from feedalign.ranks import is_in_pieces
from feedalign.recurrent.point import LayerSteps
from feedalign.remade import refuse_remade
from feedalign.rules.control import Backprop
from feedalign.rules.drtp import DRTP
from feedalign.store import CHILD_NAME, FeedbackStore, Held


def refuse_unattachable(model: object) -> None:
    """Raise if a model cannot take a rule as it stands.

    Args:
        model: What was given as the model.

    Raises:
        AttachError: It is no module, or one that a trainer will not train.
        AlreadyAttachedError: A rule is attached already.
        CompiledModelError: It, or a part of it, was compiled.
        WrappedModelError: It is wrapped for several devices.
    """
    if isinstance(model, type):
        raise AttachError(f"The model is the class {model.__name__}; give an instance of it, a torch.nn.Module.")
    if not isinstance(model, nn.Module):
        raise AttachError(f"The model is {type(model).__name__}; give a torch.nn.Module.")
    if any(isinstance(module, FeedbackStore) for module in model.modules()):
        raise AlreadyAttachedError(
            "A rule is attached to this model, or to a part of it, already; take it away first with handle.remove() "
            "(fa.handle_of(model) finds the handle). Different rules for different layers go into one attach: "
            "{'conv*': fa.Shallow(), 'fc*': fa.DFA()}."
        )
    _refuse_hooked(model)
    if hasattr(model, CHILD_NAME):
        raise AttachError(
            f"The model has an attribute {CHILD_NAME!r} of its own, the name under which feedback is registered; "
            "rename it."
        )
    if torch.is_inference_mode_enabled():
        raise AttachError(
            "attach() runs the model with gradients, which torch.inference_mode() forbids; call it outside."
        )
    if is_in_pieces(model):
        raise WrappedModelError(
            "The model, or a part of it, is sharded already: its parameters are pieces, which are put together only "
            "while it runs. Attach to the whole model first, on every rank, then call fully_shard."
        )
    if any(isinstance(module, (DataParallel, DistributedDataParallel)) for module in model.modules()):
        raise WrappedModelError(
            "The model, or a part of it, is wrapped in DataParallel or DistributedDataParallel; attach to the whole "
            "model inside, then wrap it, so that the feedback is sent to every rank."
        )
    if isinstance(model, torch.jit.ScriptModule):
        raise CompiledModelError("The model is TorchScript, which no hook can reach; attach to the Python module.")
    _refuse_compiled(model)
    refuse_remade(model)


def refuse_unkept(model: nn.Module, holds: Collection[Held]) -> None:
    """Raise if a model would lose what is registered on it.

    Args:
        model: The model.
        holds: What will be: `"buffers"`, `"parameters"`, both or nothing.

    Raises:
        AttachError: It is on the meta device, or its own `state_dict` leaves something out.
        WrappedModelError: It is a wrapper with the `state_dict` of the model inside.
    """
    if not holds:
        return
    reference = next((p for p in model.parameters() if p.is_floating_point()), None)
    if reference is not None and reference.is_meta:
        raise AttachError(
            "The model is on the meta device, where tensors have no values: the feedback would be lost with them. Give "
            "the model a device and weights first (to_empty, then its own initialization or a checkpoint), then attach."
        )
    if type(model).state_dict is not nn.Module.state_dict:
        _refuse_forgetful(model, holds)


def _refuse_forgetful(model: nn.Module, holds: Collection[Held]) -> None:
    """A state_dict of the model's own may leave out what is registered on the model."""
    stand_in = nn.Module()
    if "buffers" in holds:
        stand_in.register_buffer("any_buffers", torch.empty(0))
    if "parameters" in holds:
        stand_in.register_parameter("any_parameters", nn.Parameter(torch.empty(0)))
    model.add_module(CHILD_NAME, stand_in)
    try:
        kept = set(model.state_dict())
    finally:
        delattr(model, CHILD_NAME)
    missing = [kind for kind in sorted(holds) if not any(key.endswith(f"{CHILD_NAME}.any_{kind}") for key in kept)]
    if not missing:
        return
    kind = type(model).__name__
    if any(kept and kept == set(child.state_dict()) for child in model.children()):
        raise WrappedModelError(
            f"The model is a wrapper ({kind}) whose state_dict() leaves out what is registered on it, so that "
            "checkpoints would lose the feedback. Attach to the model inside, e.g. to wrapper.module."
        )
    raise AttachError(
        f"The model ({kind}) has a state_dict() of its own, which leaves out {' and '.join(missing)} registered on the "
        f"model, so that checkpoints would lose the feedback. Let it keep what lies under {CHILD_NAME + '.'!r}."
    )


def _refuse_hooked(model: nn.Module) -> None:
    """A part of an attached model holds no feedback; its hooks tell, or, under a rule without any, the whole model."""
    hooks = [h for m in model.modules() for h in [*m._forward_hooks.values(), *m._forward_pre_hooks.values()]]
    is_hooked = any(type(getattr(hook, "__self__", hook)).__module__.startswith("feedalign.") for hook in hooks)
    if is_hooked or any(model in set(whole.modules()) for whole in ATTACHED):
        raise AlreadyAttachedError(
            "The model is a part of one to which a rule is attached already; take that rule away first with its "
            "handle.remove(). Different rules for different layers go into one attach: "
            "{'conv*': fa.Shallow(), 'fc*': fa.DFA()}."
        )


def _refuse_compiled(model: nn.Module) -> None:
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    wrapper = getattr(dynamo, "OptimizedModule", ()) if dynamo is not None else ()
    for module in model.modules():
        if isinstance(module, wrapper) or getattr(module, "_compiled_call_impl", None) is not None:
            raise CompiledModelError(
                "The model, or a part of it, is compiled already, and compiled code would skip the rule. Attach "
                "first, then compile: fa.attach(model, ...); model = torch.compile(model)."
            )


def refuse_dead(model: nn.Module, candidates: Iterable[Candidate]) -> None:
    """Raise UnsuitableModelError for rectifiers behind layers of zeros: a fixed point of every feedback rule."""
    modules = dict(model.named_modules())
    parameters = dict(model.named_parameters())
    for candidate in candidates:
        module = modules[candidate.call.module]
        is_rectifier = not module.saturates if isinstance(module, LayerSteps) else isinstance(module, RECTIFIERS)
        if isinstance(candidate.rule, Backprop) or not is_rectifier:
            continue
        taught = [parameters[name] for name in candidate.block.direct]
        # Tensors on the meta device have no values yet.
        matrices = [p for p in taught if p.dim() > 1 and not p.is_meta]
        if matrices and not any(bool(p.any()) for p in taught if not p.is_meta):
            raise UnsuitableModelError(
                f"{', '.join(layer_names(candidate.block.direct))} starts at zero before the rectifier "
                f"{candidate.call.module!r}, whose slope at zero is zero: no weight would ever move. Start from random "
                "weights or use a saturating activation such as nn.Tanh."
            )


def refuse_unbounded(model: nn.Module, candidates: Iterable[Candidate]) -> None:
    """Raise UnsuitableModelError for DRTP at activations that never saturate."""
    modules = dict(model.named_modules())
    for candidate in candidates:
        module = modules[candidate.call.module]
        saturates = module.saturates if isinstance(module, LayerSteps) else isinstance(module, SATURATING)
        if not isinstance(candidate.rule, DRTP) or candidate.rule.allow_unbounded or saturates:
            continue
        raise UnsuitableModelError(
            f"DRTP at {candidate.call.module!r} ({type(module).__name__}): its signal never fades, and only an "
            "activation that saturates stops the weights from growing without bound. Use nn.Tanh or nn.Sigmoid, or "
            "insist with fa.DRTP(allow_unbounded=True)."
        )


def mend(plan: Blueprint) -> str:
    """Return the sentence that says how to close a leak."""
    if not any(candidate.cuts for candidate in plan.candidates):
        return (
            "Layers other than nn.Linear, nn.Conv1d/2d/3d, Transformers' Conv1D and PyTorch Geometric's Linear send "
            "errors down through their true weights, and layer-wise rules have no feedback for them; a direct rule "
            "such as fa.DFA() cuts there."
        )
    return (
        "Add feedback points behind them: points= replaces the default points, so list these too, e.g. "
        "points=[torch.nn.ReLU, 'block1', 'block2']."
    )


def leaks(plan: Blueprint) -> dict[str, tuple[str, ...]]:
    """Return the layers that exact backprop reaches from the output around the rules, and through which weights.

    Args:
        plan: The model read, its rules assigned.

    Returns:
        For each such layer the layers whose true weights lie on the way; nothing if no rule cuts or gates.
    """
    if not plan.gated and not any(candidate.cuts for candidate in plan.candidates):
        return {}
    by_backprop = {n for c in plan.candidates if isinstance(c.rule, Backprop) for n in layer_names(c.block.parameters)}
    return {layer: via for layer, via in plan.output_block.via.items() if layer not in by_backprop}
