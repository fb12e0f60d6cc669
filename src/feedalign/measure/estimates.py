"""Gradient estimates of a rule, many at once: one for each group of samples and each draw of its perturbations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd
from torch.utils._pytree import tree_flatten, tree_leaves, tree_map, tree_unflatten

from feedalign.errors import AttachError
from feedalign.handle import Handle, handle_of
from feedalign.measure.alignment import as_scalar, weights_of
from feedalign.measure.attached import attached
from feedalign.probe import Inputs, as_arguments, left_as_found

LossFunction = Callable[[Any, Any], Tensor]
Batch = tuple[Inputs, Any]

# Numbers in all gradients of one vectorised call: 256 MiB in single precision.
_MOST_NUMBERS = 2**26


def checked(model: nn.Module | Handle, loss_fn: LossFunction, batch: Batch, num_draws: int) -> tuple[nn.Module, Handle]:
    """Return the model and its handle, after a look at what a measurement was given.

    Args:
        model: A model with a rule attached, or its handle.
        loss_fn: `loss_fn(model(inputs), targets)`, a scalar.
        batch: Inputs and targets.
        num_draws: Draws of the perturbations.

    Returns:
        The model and the handle.

    Raises:
        AttachError: No rule is attached or it was removed, or an argument is of the wrong kind.
        WrappedModelError: The model is sharded.
    """
    model, handle = attached(model)
    pair: object = batch
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not callable(loss_fn):
        raise AttachError("Give (model, loss_fn, (inputs, targets)), where loss_fn(output, targets) is a scalar.")
    if num_draws < 2:
        raise AttachError(f"num_draws={num_draws}: give at least 2, for there is no variance of a single draw.")
    return model, handle


class Estimator:
    """Makes estimates of the gradients of a model's weights.

    Args:
        model: A model with a rule attached.
        loss_fn: `loss_fn(model(inputs), targets)`, a scalar.
        seed: Of the perturbations drawn for the measurement; the rule's own clock is left alone.
    """

    def __init__(self, model: nn.Module, loss_fn: LossFunction, seed: int) -> None:
        self.model, self.loss_fn, self.handle = model, loss_fn, handle_of(model)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.layers = weights_of(trained)
        self.prefix = next(n for n, module in model.named_modules() if module is self.handle.store)
        self.parameters = {name: p.detach() for name, p in model.named_parameters()}
        self.trained = {name: self.parameters[name] for name in trained}
        self.has_clock, self.seed, self.drawn = self.handle.store.has_clock, seed, 0

    @property
    def is_vectorised(self) -> bool:
        """Whether many estimates are made in one call; layers that keep a state or draw of their own forbid it."""
        stateful = any(isinstance(module, (_NormBase, _DropoutNd)) for module in self.model.modules())
        return not stateful and not self.handle.uses_dual_tensors

    def per_call(self) -> int:
        """How many estimates fit one vectorised call."""
        total = sum(p.numel() for p in self.parameters.values())
        return max(1, _MOST_NUMBERS // max(total, 1))

    def estimates(self, groups: Sequence[Batch], num_draws: int) -> dict[str, Tensor]:
        """Return estimates of each layer's weight gradient.

        Args:
            groups: Batches of one shape.
            num_draws: How many for each group.

        Returns:
            `[groups, draws, *weight.shape]` by layer.
        """
        counters = self._counters(len(groups) * num_draws)
        lanes = [(group, int(counter)) for group, counter in zip(_repeated(groups, num_draws), counters, strict=True)]
        if self.is_vectorised and len(lanes) > 1:
            flat = self._together(groups, num_draws, counters)
        else:
            alone = [self._alone(group, counter) for group, counter in lanes]
            flat = {layer: torch.stack([one[layer] for one in alone]) for layer in self.layers}
        return {layer: found.unflatten(0, (len(groups), num_draws)) for layer, found in flat.items()}

    def _counters(self, num: int) -> Tensor:
        first, self.drawn = self.drawn, self.drawn + num
        return torch.arange(first, first + num)

    def _buffers(self) -> dict[str, Tensor]:
        buffers = {name: buffer.clone() for name, buffer in self.model.named_buffers()}
        if self.has_clock:
            buffers[f"{self.prefix}.seed"] = torch.full_like(buffers[f"{self.prefix}.seed"], self.seed)
        return buffers

    def _clocked(self, buffers: dict[str, Tensor], counter: Tensor | int) -> dict[str, Tensor]:
        if not self.has_clock:
            return buffers
        name = f"{self.prefix}.counter"
        return {**buffers, name: buffers[name] * 0 + counter}

    def _loss(self, parameters: dict[str, Tensor], buffers: dict[str, Tensor], group: Batch) -> Tensor:
        args, kwargs = as_arguments(group[0])
        output = functional_call(self.model, {**parameters, **buffers}, args, dict(kwargs))
        return as_scalar(self.loss_fn(output, group[1]))

    def _together(self, groups: Sequence[Batch], num_draws: int, counters: Tensor) -> dict[str, Tensor]:
        buffers = self._buffers()

        def gradients(group: Batch, counter: Tensor) -> dict[str, Tensor]:
            at = self._clocked(buffers, counter)
            # What is frozen stays a constant: a rule refuses weights that begin to learn after it was attached.
            made = grad(lambda own: self._loss({**self.parameters, **own}, at, group))(self.trained)
            return {layer: made[name] for layer, name in self.layers.items()}

        with self._unchanged():
            if len(groups) == 1:
                found: dict[str, Tensor] = vmap(lambda counter: gradients(groups[0], counter))(counters)
                return found
            # What is no tensor, such as the missing targets of a model that makes its own loss, is one for all.
            leaves = [tree_flatten(group) for group in _repeated(groups, num_draws)]
            columns = list(zip(*(flat for flat, _ in leaves), strict=True))
            stacked = [torch.stack(column) if isinstance(column[0], Tensor) else column[0] for column in columns]
            dims = [0 if isinstance(column, Tensor) else None for column in stacked]
            shape = leaves[0][1]

            def of_lane(lane: list[Any], counter: Tensor) -> dict[str, Tensor]:
                return gradients(tree_unflatten(lane, shape), counter)

            together: dict[str, Tensor] = vmap(of_lane, in_dims=(dims, 0))(stacked, counters)
        return together

    def _alone(self, group: Batch, counter: int) -> dict[str, Tensor]:
        own = {name: p.detach().requires_grad_(name in self.layers.values()) for name, p in self.parameters.items()}
        wanted = [own[name] for name in self.layers.values()]
        with self._unchanged():
            made = torch.autograd.grad(
                self._loss(own, self._clocked(self._buffers(), counter), group), wanted, allow_unused=True
            )
        found: dict[str, Tensor] = {}
        gradients: tuple[Tensor | None, ...] = made
        for layer, gradient, weight in zip(self.layers, gradients, wanted, strict=True):
            found[layer] = torch.zeros_like(weight) if gradient is None else gradient
        return found

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        with left_as_found(self.model), torch.enable_grad(), self.handle.from_error():
            yield


def _repeated(groups: Sequence[Batch], num_draws: int) -> list[Batch]:
    return [group for group in groups for _ in range(num_draws)]


def split(batch: Batch, group_size: int) -> list[Batch]:
    """Cut a batch into groups of samples; the rest that fills no group is left out.

    Args:
        batch: Inputs and targets; every tensor in them has the samples first.
        group_size: Samples per group.

    Returns:
        The groups.

    Raises:
        AttachError: There is not one whole group, or the tensors have different numbers of samples.
    """
    pair = (batch[0], batch[1])
    sizes = {leaf.shape[0] for leaf in tree_leaves(pair) if isinstance(leaf, Tensor) and leaf.dim() > 0}
    if len(sizes) != 1:
        raise AttachError(f"The tensors of the batch have {sorted(sizes)} samples; every tensor is to have as many.")
    num_groups = sizes.pop() // group_size if group_size >= 1 else 0
    if num_groups < 1:
        raise AttachError(f"group_size={group_size} does not fit the batch; give at least 1 and at most its size.")

    def cut(start: int) -> Batch:
        at = slice(start * group_size, (start + 1) * group_size)
        cut_pair: Batch = tree_map(lambda leaf: leaf[at] if isinstance(leaf, Tensor) and leaf.dim() > 0 else leaf, pair)
        return cut_pair

    return [cut(start) for start in range(num_groups)]
