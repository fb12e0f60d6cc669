"""One training step, and one evaluation, of a whole stack of models."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from feedalign_lab.learner import LossFunction
from feedalign_lab.lockstep.stack import Stack
from feedalign_lab.lockstep.tracing import Traced, traced
from feedalign_lab.optimizer import clip_gradients
from feedalign_lab.running import evaluating

_State = dict[str, Tensor]


class Steps:
    """Gradients and outputs of the models of a stack, each by a list of operations for every shape of batch."""

    def __init__(self, stack: Stack, loss_function: LossFunction, clip: float | None) -> None:
        """Trace nothing yet.

        Args:
            stack: The models.
            loss_function: From outputs and targets of one model to its mean loss.
            clip: Largest norm of the gradient of each model's weights; None leaves it.
        """
        self.stack, self._loss_function, self._clip = stack, loss_function, clip
        self._gradients: dict[torch.Size, Traced] = {}
        self._outputs: dict[torch.Size, Traced] = {}
        self._changing: tuple[str, ...] = ()
        self._made: Sequence[Any] = ()

    def look(self, x: Tensor, y: Tensor) -> list[list[float]]:
        """Run all models forward and back, and change none of them yet.

        Args:
            x: Inputs [K, N, ...].
            y: Targets [K, N, C].

        Returns:
            Of each model the sum of the outputs and the loss.
        """
        stack = self.stack
        tensors = (x, y, *stack.parameters.values(), *stack.constants.values())
        if x.shape not in self._gradients:
            places = range(1, 1 + len(stack.parameters))
            self._gradients[x.shape] = traced(self._gradients_of_all, tensors, places)
        seen, *self._made = self._gradients[x.shape](*tensors)
        found: list[list[float]] = seen.tolist()
        return found

    def take(self, *, keeps_gradients: bool) -> None:
        """Move all models along the gradients of the latest look.

        Args:
            keeps_gradients: The parameters hold them afterwards.
        """
        names = list(self.stack.parameters)
        made, changed = self._made[: len(names)], self._made[len(names) :]
        self._made = ()
        for name, value in zip(self._changing, changed, strict=True):
            self.stack.constants[name].copy_(value)
        for optimizer, places in self.stack.optimizers:
            for place in places:
                for parameter, gradient in zip(self.stack.own[place], made, strict=True):
                    # Fused Adam takes the numbers in the order in which they stand in memory.
                    parameter.grad = gradient[place].contiguous()
                if self._clip is not None:
                    clip_gradients(self.stack.trials[place].optimizer, self._clip)
            optimizer.step()
            if not keeps_gradients:
                optimizer.zero_grad()

    def outputs(self, x: Tensor) -> Tensor:
        """Outputs of all models in evaluation.

        Args:
            x: Inputs [K, N, ...].

        Returns:
            [K, N, C].
        """
        stack = self.stack
        tensors = (x, *stack.parameters.values(), *stack.constants.values())
        with torch.no_grad():
            if x.shape not in self._outputs:
                with evaluating(stack.trials[0].model):
                    self._outputs[x.shape] = traced(self._outputs_of_all, tensors)
            outputs: Tensor = self._outputs[x.shape](*tensors)[0]
        return outputs

    def _gradients_of_all(self, x: Tensor, y: Tensor, *held: Tensor) -> list[Tensor]:
        """What to look at, gradients in the order of the parameters, and what else a forward changes."""

        def of_one(parameters: _State, constants: _State, x: Tensor, y: Tensor) -> tuple[Tensor, tuple[Tensor, _State]]:
            state = {**parameters, **constants}
            output = functional_call(model, state, (x,))
            loss = self._loss_function(output, y)
            # Where the forward put another tensor in the place of a buffer, `functional_call` has noted it.
            changed = {name: state[name] for name in constants if state[name] is not constants[name]}
            return loss, (torch.stack([output.detach().sum(), loss.detach()]), changed)

        model = self.stack.trials[0].model
        gradients, (seen, changed) = vmap(grad(of_one, has_aux=True))(*self._named(held), x, y)
        self._changing = tuple(changed)
        return [seen, *gradients.values(), *changed.values()]

    def _outputs_of_all(self, x: Tensor, *held: Tensor) -> list[Tensor]:
        model = self.stack.trials[0].model
        parameters, constants = self._named(held)
        return [vmap(lambda p, c, x: functional_call(model, {**p, **c}, (x,)))(parameters, constants, x)]

    def _named(self, held: Sequence[Tensor]) -> tuple[_State, _State]:
        """Parameters and constants by name."""
        names = [*self.stack.parameters, *self.stack.constants]
        named = dict(zip(names, held, strict=True))
        num_trained = len(self.stack.parameters)
        return {n: named[n] for n in names[:num_trained]}, {n: named[n] for n in names[num_trained:]}
