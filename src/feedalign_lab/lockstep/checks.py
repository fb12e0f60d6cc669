"""When one of several trials has diverged: what `divergence` says of it by itself, asked where there is cause."""

import copy
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from feedalign.measure import LayerAlignment
from feedalign.rules.base import PointRule
from feedalign_lab.divergence import checked_alignment, checked_step, diverged
from feedalign_lab.errors import DivergedError
from feedalign_lab.learner import Learner, LearnerSpec, LossFunction
from feedalign_lab.tensors import TensorTrial


class Checks:
    """Looks at trials one by one, on copies of their models, where the numbers of the stack give cause.

    A rule that reads targets from the error looks at the error's form at the 1st, 2nd, 4th, 8th ... backward; many
    models at once cannot be looked at so, and their copies are.
    """

    def __init__(self, trial: TensorTrial, loss_function: LossFunction) -> None:
        """Keep a copy of a model that has run backward never yet.

        Args:
            trial: One of the trials.
            loss_function: From outputs and targets to a loss.
        """
        self._unused = copy.deepcopy(trial.model)
        self._loss_function = loss_function
        self._has_form = any(
            isinstance(rule, PointRule) and type(rule).requirement is not PointRule.requirement
            for rule in trial.handle.rules
        )
        self.num_backwards = 0

    def is_due(self) -> bool:
        """Count one more backward, and tell whether the rule would look at its error."""
        self.num_backwards += 1
        return self._has_form and self.num_backwards & (self.num_backwards - 1) == 0

    def alignment(self, trial: TensorTrial, spec: LearnerSpec, epoch: int) -> tuple[LayerAlignment, ...]:
        """Angles of one trial, whose rule looks at the error where it would after as many backwards of its own.

        Args:
            trial: The trial.
            spec: What it was made from.
            epoch: Number of the epoch, for the sentence.

        Raises:
            DivergedError: The targets can no longer be read from the error.
        """
        # The stack's backwards are not counted by the models that take part in it.
        trial.handle._circuit.plan.num_backwards = self.num_backwards
        return checked_alignment(trial, spec.rule, epoch)

    def found(
        self, trial: TensorTrial, spec: LearnerSpec, x: Tensor, y: Tensor, when: str, seen: Sequence[float]
    ) -> DivergedError | None:
        """What a step of one trial by itself ends with.

        Args:
            trial: The trial, before the step.
            spec: What it was made from.
            x: Its inputs [N, ...].
            y: Its targets [N, C].
            when: Where in the training this is, for the sentence.
            seen: The sum of its outputs and its loss, as the stack has them.

        Returns:
            The divergence; None if it goes on.
        """
        probe = self.probe(trial.model)
        optimizer = torch.optim.SGD(probe.parameters(), lr=trial.optimizer.defaults["lr"])
        learner = Learner(probe, trial.handle, optimizer, self._loss_function)
        try:
            checked_step(learner, spec.rule, x, y, when)
        except DivergedError as error:
            return error
        if all(map(math.isfinite, seen)):
            return None
        # On the edge: rounding went another way in the stack.
        return diverged(trial, spec.rule, "the output" if not math.isfinite(seen[0]) else "the loss", when)

    def probe(self, model: nn.Module) -> nn.Module:
        """A copy of a model, with a rule that has seen no error yet."""
        probe = copy.deepcopy(self._unused)
        probe.load_state_dict(model.state_dict())
        return probe

    def taught(self, trial: TensorTrial, x: Tensor, y: Tensor) -> list[str]:
        """Names of the parameters that a backward of one trial gives a gradient.

        Args:
            trial: The trial.
            x: Inputs [N, ...].
            y: Targets [N, C].
        """
        probe = self.probe(trial.model)
        output = probe(x)
        if bool(torch.isfinite(output).all()):
            self._loss_function(output, y).backward()
        else:
            # Any loss finds out as well which layers an error reaches.
            output.sum().backward()
        return [name for name, parameter in probe.named_parameters() if parameter.grad is not None]
