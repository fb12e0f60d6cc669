"""How a rule's signals of single samples lie to backprop's, as Launay et al. 2020 measure it."""

from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack

import torch
from torch import Tensor, nn

import feedalign as fa
from feedalign_lab.running import evaluating


def sample_cosines(
    model: nn.Module, loss_function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> dict[str, Tensor]:
    """Compare the signals at each feedback point, sample by sample; gradients and the model's mode stay as they were.

    Args:
        model: A network with a rule attached that sends signals to feedback points.
        loss_function: Of logits and labels.
        x: Categories [N, F].
        y: Labels [N, 1].

    Returns:
        By feedback point, the cosine of the angle between the rule's signal and backprop's, [N]; 0 where one of them is
        zero. Points at which the rule sends no signals are left out: all of them under one that perturbs weights.

    Source: Launay et al. 2020, appendix A and table A.1, which has the mean and the standard deviation of these.
    """
    handle = fa.handle_of(model)
    points = list(dict.fromkeys(handle.points.values()))
    with evaluating(model):
        ruled = _signals(model, loss_function, x, y, points, ExitStack())
        exact = _signals(model, loss_function, x, y, points, handle.suspended())
    return {
        point: torch.cosine_similarity(ruled[point].flatten(1), exact[point].flatten(1))
        for point in points
        if point in ruled and point in exact
    }


def _signals(
    model: nn.Module,
    loss_function: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    y: Tensor,
    points: list[str],
    mode: AbstractContextManager[object],
) -> dict[str, Tensor]:
    """What arrives at the output of each point in one backward."""
    modules = dict(model.named_modules())
    keepers = {point: _Keeper() for point in points}
    # Before the rule's own hooks, which hand detached copies on.
    hooks = [modules[point].register_forward_hook(keeper, prepend=True) for point, keeper in keepers.items()]
    try:
        with mode:
            loss = loss_function(model(x), y)
            torch.autograd.grad(loss, [p for p in model.parameters() if p.requires_grad], allow_unused=True)
    finally:
        for hook in hooks:
            hook.remove()
    return {point: keeper.signal for point, keeper in keepers.items() if keeper.signal is not None}


class _Keeper:
    """Forward hook that keeps the gradient at a module's output."""

    def __init__(self) -> None:
        self.signal: Tensor | None = None

    def __call__(self, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        del module, args
        # Rules that perturb weights run the model without a graph.
        if output.requires_grad:
            output.register_hook(self._keep)

    def _keep(self, grad: Tensor) -> None:
        self.signal = grad.detach()
