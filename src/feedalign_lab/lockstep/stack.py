"""Several models of one kind as stacked tensors: what they hold, and one optimizer for all of them."""

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn

from feedalign_lab.tensors import TensorTrial

# Bytes of the gradients that are held at once. Freed memory below it stays with the process; above, the system takes
# it back and hands it out again page by page, which takes longer than the arithmetic.
_GRADIENT_BYTES = 2**24


class Stack:
    """What the models of several trials hold, stacked; what each model holds itself is a view of that.

    So a step of the stack is a step of every model, and each of them can be tested, measured and looked at by itself.

    Attributes:
        trials: The trials.
        parameters: Those that are trained, [K, ...] each, by name.
        constants: All else that the models hold.
        own: The trained parameters of each model, in the order of `parameters`.
        optimizers: Each with the places of the trials that it moves.
    """

    def __init__(self, trials: Sequence[TensorTrial], trained: Sequence[str]) -> None:
        """Stack the models.

        Args:
            trials: At least one, all of the same network and rule.
            trained: Names of the parameters that are.
        """
        self.trials = list(trials)
        held = {name: _stacked([_held(trial.model)[name] for trial in trials]) for name in _held(trials[0].model)}
        self.parameters = {name: held[name] for name in trained}
        self.constants = {name: tensor for name, tensor in held.items() if name not in self.parameters}
        self.own = [[dict(trial.model.named_parameters())[name] for name in trained] for trial in trials]
        self.optimizers = list(self._optimizers())

    def __len__(self) -> int:
        """How many models there are."""
        return len(self.trials)

    def without(self, places: Sequence[int]) -> "Stack":
        """The stack of the other models, whose optimizer goes on as if they had been alone."""
        self.hand_back()
        return Stack([trial for place, trial in enumerate(self.trials) if place not in places], list(self.parameters))

    def hand_back(self) -> None:
        """Let the optimizer of each trial be what it would be now if it had moved the trial by itself."""
        for joined, places in self.optimizers:
            for own in (self.trials[place].optimizer for place in places):
                for group, together in zip(own.param_groups, joined.param_groups, strict=True):
                    group["lr"] = together["lr"]
                    own.state.update({p: joined.state[p] for p in group["params"] if p in joined.state})

    def _optimizers(self) -> Iterator[tuple[torch.optim.Adam, range]]:
        """Adam over as many trials at once as have their gradients held at once.

        Yields:
            An optimizer, and the places of its trials.
        """
        size = sum(tensor[0].numel() * tensor.element_size() for tensor in self.parameters.values())
        num_at_once = max(1, _GRADIENT_BYTES // max(size, 1)) if self._is_on_cpu() else len(self)
        for first in range(0, len(self), num_at_once):
            places = range(first, min(first + num_at_once, len(self)))
            yield _joined([self.trials[place].optimizer for place in places]), places

    def _is_on_cpu(self) -> bool:
        return next(iter(self.parameters.values())).device.type == "cpu"


def _joined(optimizers: Sequence[torch.optim.Optimizer]) -> torch.optim.Adam:
    """One Adam that does what several would, from where they are."""
    together = zip(*(optimizer.param_groups for optimizer in optimizers), strict=True)
    groups = [{**same[0], "params": [p for group in same for p in group["params"]]} for same in together]
    joined = torch.optim.Adam(groups, lr=optimizers[0].defaults["lr"], fused=True)
    for optimizer in optimizers:
        joined.state.update(optimizer.state)
    return joined


def _held(model: nn.Module) -> Mapping[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _stacked(tensors: Sequence[Tensor]) -> Tensor:
    """A stack of tensors that then are views of it."""
    stacked = torch.stack([tensor.detach() for tensor in tensors])
    for tensor, view in zip(tensors, stacked.unbind(), strict=True):
        tensor.data = view
    return stacked
