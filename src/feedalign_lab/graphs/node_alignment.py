"""How well the signals that single nodes receive agree with backprop's."""

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional

import feedalign as fa
from feedalign_lab.running import evaluating


@dataclass(frozen=True)
class NodeAlignment:
    """Cosines between a rule's teaching signals and backprop's at one feedback point, over nodes.

    Attributes:
        point: Name of the feedback point.
        mean: Mean over nodes.
        std: Standard deviation over nodes.
        num_nodes: Nodes at which neither signal is zero.
    """

    point: str
    mean: float
    std: float
    num_nodes: int


def node_alignment(
    model: nn.Module, handle: fa.Handle, loss: Callable[[Tensor], Tensor], inputs: tuple[Tensor, ...]
) -> tuple[NodeAlignment, ...]:
    """Compare signals node by node, without dropout; gradients of parameters are left as they were.

    Args:
        model: The network, which gives a row per node.
        handle: Its rule's.
        loss: From what the network gives to a scalar.
        inputs: What the network is called with.

    Returns:
        A row for each feedback point at which any two signals can be compared, in the order of the forward.

    Source: Launay et al. 2020, appendix A and Table A.2.
    """
    points = [name for name, _ in model.named_modules() if name in set(handle.points.values())]
    with evaluating(model):
        ruled = signals(model, points, loss, inputs)
        with handle.suspended():
            exact = signals(model, points, loss, inputs)
    rows = []
    for point in points:
        if point not in ruled or point not in exact:
            continue
        given, wanted = ruled[point].double(), exact[point].double()
        both = (given != 0).any(1) & (wanted != 0).any(1)
        if bool(both.any()):
            cosines = functional.cosine_similarity(given[both], wanted[both], dim=1)
            rows.append(NodeAlignment(point, float(cosines.mean()), float(cosines.std(correction=0)), len(cosines)))
    return tuple(rows)


def signals(
    model: nn.Module, points: Sequence[str], loss: Callable[[Tensor], Tensor], inputs: tuple[Tensor, ...]
) -> dict[str, Tensor]:
    """Take the loss back to feedback points; gradients of parameters are left as they were.

    Args:
        model: The network, as it is: in training, it drops out.
        points: Names of the modules at whose outputs to read.
        loss: From what the network gives to a scalar.
        inputs: What the network is called with.

    Returns:
        The gradient at the output of each point that one reaches, `[N, D]`.
    """
    found: dict[str, Tensor] = {}

    def keeper(point: str) -> Callable[[nn.Module, object, Tensor], None]:
        def keep(module: nn.Module, args: object, output: Tensor) -> None:
            del module, args
            if output.requires_grad:
                output.register_hook(lambda gradient: found.__setitem__(point, gradient.detach()))

        return keep

    hooks = [model.get_submodule(point).register_forward_hook(keeper(point), prepend=True) for point in points]
    try:
        with torch.enable_grad():
            parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
            torch.autograd.grad(loss(model(*inputs)), parameters, allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def write_node_alignment(rows: Sequence[NodeAlignment], path: Path) -> None:
    """Write the rows as JSON.

    Args:
        rows: What to write.
        path: The file.
    """
    path.write_text(json.dumps([asdict(row) for row in rows], indent=2) + "\n", encoding="utf-8")
