"""One forward on the example inputs: which modules fire, in which order, and which parameters each one reaches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.func import functional_call

from feedalign.errors import ExampleInputsError, FeedalignError, OutputError
from feedalign.linear_like import feature_axis
from feedalign.nested import named_tensors
from feedalign.placement import FeatureAxis, Signature
from feedalign.points import makes_predictions, near
from feedalign.transforms import refuse_reentrant_checkpointing

Inputs = Tensor | Sequence[Any] | Mapping[str, Any]


@dataclass(eq=False)
class Call:
    """One call of one module.

    Attributes:
        module: The module's name.
        index: Counts the calls of the same module within the forward.
        signature: Shape and feature axis of what it returned; None unless that is a tensor.
        node: Graph node of the first tensor that it returned.
        inputs: The tensors among its positional arguments.
        input_nodes: Their graph nodes.
        sources: Graph nodes of all tensors that it was given, also by keyword and within tuples, lists and mappings.
        results: Graph nodes of all tensors that it returned, but those that it was given.
        output: What it returned.
    """

    module: str
    index: int
    signature: Signature | None
    node: Node | None
    inputs: tuple[Tensor, ...]
    input_nodes: tuple[Node | None, ...]
    sources: tuple[Node, ...]
    results: tuple[Node, ...]
    output: object


@dataclass
class Probe:
    """What the forward on the example inputs showed.

    Attributes:
        calls: All module calls, in the order in which they ended.
        output: The model's return value.
        parameters: Names by the identity of each parameter that requires a gradient.
        without_grad: Modules that ran without gradients, as under `torch.no_grad()`.
        runs_over_children: The model's forward ran over its children and met one that was added.
    """

    calls: list[Call] = field(default_factory=list)
    output: object = None
    parameters: dict[int, str] = field(default_factory=dict)
    without_grad: set[str] = field(default_factory=set)
    runs_over_children: bool = False

    def calls_of(self, name: str) -> list[Call]:
        """Return the calls of one module, in order."""
        return [call for call in self.calls if call.module == name]


def run(model: nn.Module, example_inputs: Inputs) -> Probe:
    """Run the model once on the example inputs, in training mode and with gradients, and leave it as it was.

    Buffers are swapped for copies, random states put back, hooks taken away again.

    Args:
        model: The model.
        example_inputs: A tensor, a sequence of positional arguments, or a mapping of keyword arguments.

    Returns:
        What the forward showed.

    Raises:
        ExampleInputsError: The inputs are missing, or the forward fails on them.
    """
    args, kwargs = as_arguments(example_inputs)
    if any(isinstance(p, nn.parameter.UninitializedParameter) for p in model.parameters()):
        raise ExampleInputsError(
            "The model has lazy layers without sizes yet; run it once on example inputs, then attach."
        )
    bystander = _Bystander()
    model.add_module(_BYSTANDER, bystander)
    try:
        probe = _forward(model, args, kwargs)
    except ExampleInputsError:
        if not bystander.met:
            raise
    finally:
        delattr(model, _BYSTANDER)
    if bystander.met:
        probe = _forward(model, args, kwargs)
        probe.runs_over_children = True
    return probe


_BYSTANDER = "feedalign_bystander"


class _Bystander(nn.Module):
    """A child that a forward meets only if it runs over all children."""

    met = False

    def forward(self, activation: Tensor) -> Tensor:
        self.met = True
        return activation


def _forward(model: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Probe:
    probe = Probe(parameters={id(p): name for name, p in model.named_parameters() if p.requires_grad})
    axis_of: dict[int, FeatureAxis] = {}
    handles = [
        module.register_forward_hook(_Recorder(probe, name, axis_of), with_kwargs=True)
        for name, module in model.named_modules()
        if name and not isinstance(module, _Bystander)
    ]
    try:
        with left_as_found(model), torch.enable_grad(), training(model):
            buffers = {name: buffer.clone() for name, buffer in model.named_buffers()}
            probe.output = functional_call(model, buffers, args, dict(kwargs))
    except FeedalignError:
        raise
    except Exception as error:
        raise ExampleInputsError(
            f"The model does not run on the example inputs ({type(error).__name__}: {error}). Give inputs as in "
            "training: a tensor, a tuple of positional arguments or a dict of keyword arguments, on the model's device "
            "and at least two samples where batch normalization needs them."
        ) from error
    finally:
        for handle in handles:
            handle.remove()
    return probe


class _Recorder:
    """Forward hook that notes a call; the graph node at this very moment, before anything acts in place."""

    def __init__(self, probe: Probe, name: str, axis_of: dict[int, FeatureAxis]) -> None:
        self.probe, self.name, self.axis_of = probe, name, axis_of

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
        axis = feature_axis(module)
        if axis is not None:
            self.axis_of[0] = axis
        if not torch.is_grad_enabled():
            refuse_reentrant_checkpointing(self.name)
            self.probe.without_grad.add(self.name)
            return
        tensors = tuple(arg for arg in args if isinstance(arg, Tensor))
        sources, signature = _nodes_of([args, kwargs]), None
        if isinstance(output, Tensor):
            signature = Signature(tuple(output.shape), self.axis_of.get(0, "unknown"))
        self.probe.calls.append(
            Call(
                module=self.name,
                index=len(self.probe.calls_of(self.name)),
                signature=signature,
                node=next((tensor.grad_fn for tensor in _tensors_of(output)), None),
                inputs=tensors,
                input_nodes=tuple(tensor.grad_fn for tensor in tensors),
                sources=sources,
                results=tuple(node for node in _nodes_of(output) if not any(node is given for given in sources)),
                output=output,
            )
        )


def _nodes_of(values: object) -> tuple[Node, ...]:
    nodes = [tensor.grad_fn for _, tensor in named_tensors(values)]
    return tuple(node for node in nodes if node is not None)


def _tensors_of(output: object) -> list[Tensor]:
    """The tensors that a module returned, alone or in a tuple."""
    items = output if isinstance(output, (tuple, list)) else [output]
    return [item for item in items if isinstance(item, Tensor)]


def as_arguments(inputs: Inputs | None) -> tuple[tuple[Any, ...], Mapping[str, Any]]:
    """Turn inputs as a user gives them into positional and keyword arguments.

    Args:
        inputs: A tensor, a sequence of positional arguments, or a mapping of keyword arguments.

    Returns:
        Positional and keyword arguments.

    Raises:
        ExampleInputsError: The inputs are of none of these kinds.
    """
    if isinstance(inputs, Tensor):
        return (inputs,), {}
    if isinstance(inputs, Mapping):
        return (), inputs
    if isinstance(inputs, Sequence) and not isinstance(inputs, str) and len(inputs) > 0:
        return tuple(inputs), {}
    raise ExampleInputsError(
        f"example_inputs is {type(inputs).__name__}; give what the model is called with: a tensor, a tuple of "
        "positional arguments or a dict of keyword arguments. Shapes of feedback and the order of layers are read "
        "from it."
    )


@contextmanager
def left_as_found(model: nn.Module) -> Iterator[None]:
    """Put the random states of the CPU and of the model's devices back at the end."""
    devices = {p.device for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=[device.index or 0 for device in devices]):
        yield


@contextmanager
def training(model: nn.Module) -> Iterator[None]:
    """Run in training mode and give each module its own mode back; a model in training keeps its frozen parts."""
    if model.training:
        yield
        return
    modes = {module: module.training for module in model.modules()}
    model.train()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass(frozen=True)
class OutputSite:
    """Where the error is taken.

    Attributes:
        module: The module's name; "" is the model itself.
        index: Which of the module's calls.
        before: The error is taken at the module's input: it turns the last layer's output into a prediction.
        signature: Shape and feature axis of that tensor.
        node: Its graph node.
        order: How many module calls came before it.
        link: `"softmax"`, `"sigmoid"` or None where the last module does not tell.
    """

    module: str
    index: int
    before: bool
    signature: Signature
    node: Node | None
    order: int
    link: type[nn.Module] | None


def find_output(model: nn.Module, probe: Probe, output: str | None) -> OutputSite:
    """Settle where the error is taken.

    Args:
        model: The model.
        probe: What the forward showed.
        output: The name of the module that makes the output, or None for what the model returns.

    Returns:
        The site; at the input of a softmax, sigmoid or other non-linearity that stands last, as in the papers
        (`E = dJ/dA_L`).

    Raises:
        OutputError: The output is not one tensor, or the named module does not exist, fire once or return one.
    """
    if output is None:
        return _returned_output(model, probe)
    modules = dict(model.named_modules())
    if output not in modules:
        raise OutputError(f"output={output!r} names no module of the model. {near(output, [n for n in modules if n])}")
    calls = probe.calls_of(output)
    if len(calls) != 1:
        raise OutputError(
            f"output={output!r} fired {len(calls)} times on the example inputs; the error is taken at a module that "
            "fires exactly once in a forward."
        )
    if calls[0].signature is None:
        kind = type(calls[0].output).__name__
        raise OutputError(
            f"output={output!r} returns {kind}, not a tensor; name the module inside or behind it whose output is the "
            "tensor."
        )
    return _site_of(model, probe, calls[0], calls[0].signature)


def _returned_output(model: nn.Module, probe: Probe) -> OutputSite:
    returned = probe.output
    if not isinstance(returned, Tensor):
        raise OutputError(
            f"The model returns {type(returned).__name__}, not a tensor; name the module whose output the loss is "
            'computed from, e.g. fa.attach(model, rule, example_inputs=..., output="lm_head").'
        )
    if returned.dim() == 0:
        raise OutputError(
            "The model returns a single number, most likely its loss; name the module whose output the loss is "
            "computed from with output=."
        )
    makers = [call for call in probe.calls if call.output is returned]
    modules = dict(model.named_modules())
    if makers and makers[0].signature is not None and makes_predictions(modules[makers[0].module]):
        return _site_of(model, probe, makers[0], makers[0].signature)
    axis = makers[0].signature.axis if makers and makers[0].signature else probe_axis(probe)
    return OutputSite("", 0, False, Signature(tuple(returned.shape), axis), returned.grad_fn, len(probe.calls), None)


def probe_axis(probe: Probe) -> FeatureAxis:
    """Return the feature axis of the last module call that has one."""
    known = [call.signature.axis for call in probe.calls if call.signature is not None]
    return known[-1] if known else "last"


def _site_of(model: nn.Module, probe: Probe, call: Call, signature: Signature) -> OutputSite:
    module = model.get_submodule(call.module)
    order = probe.calls.index(call)
    if makes_predictions(module) and len(call.inputs) == 1:
        before = Signature(tuple(call.inputs[0].shape), signature.axis)
        return OutputSite(call.module, call.index, True, before, call.input_nodes[0], order, type(module))
    return OutputSite(call.module, call.index, False, signature, call.node, order, None)
