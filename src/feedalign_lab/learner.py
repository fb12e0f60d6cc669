"""A network with its rule attached, its loss and its optimizer: what training and timing both drive."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import feedalign as fa
from feedalign_lab.choices import make_rule
from feedalign_lab.data.dataset import Dataset, Task
from feedalign_lab.models import WeightInit, build_network
from feedalign_lab.seeding import generator, stream_seed

LossFunction = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class LearnerSpec:
    """Everything that decides a learner's first weights and its steps.

    Attributes:
        rule: Name of the rule.
        network: Name of the network.
        learning_rate: Step size of Adam.
        weight_init: How the forward weights start.
        dropout: Probability of dropping at the input of every fully connected layer.
        seed: Seed of the run.
        trial: Number of the trial; trials differ in weights and in feedback.
    """

    rule: str
    network: str
    learning_rate: float
    weight_init: WeightInit = "default"
    dropout: float = 0.0
    seed: int = 0
    trial: int = 0


@dataclass(frozen=True, eq=False)
class Learner:
    """A model under a rule, ready to train with an ordinary loop."""

    model: nn.Module
    handle: fa.Handle
    optimizer: torch.optim.Optimizer
    loss_function: LossFunction

    def update(self, loss: Tensor) -> None:
        """Make the gradients of a loss and take one step along them.

        Args:
            loss: Scalar loss of the model's latest output.
        """
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def step(self, x: Tensor, y: Tensor) -> None:
        """One whole step: output, loss, gradients, update.

        Args:
            x: Inputs [N, ...].
            y: Targets as the loss takes them, [N, C].
        """
        self.update(self.loss_function(self.model(x), y))


def loss_name(task: Task) -> str:
    """The loss's name in `torch.nn.functional`."""
    return "binary_cross_entropy" if task == "classification" else "mse_loss"


def loss_function_for(task: Task) -> LossFunction:
    """Binary cross-entropy of sigmoid outputs for classes, mean squared error for values."""
    function: LossFunction = getattr(functional, loss_name(task))
    return function


def make_learner(spec: LearnerSpec, dataset: Dataset) -> Learner:
    """Build the network, attach the rule and make the optimizer.

    Args:
        spec: What to build.
        dataset: Gives the shapes, the task and the device.

    Returns:
        The learner. Two calls with one spec give equal learners.
    """
    rule = make_rule(spec.rule, dataset.task)
    model = build_network(
        spec.network,
        dataset,
        seed=stream_seed(spec.seed, spec.trial, "weights"),
        dropout=spec.dropout,
        weight_init=spec.weight_init,
    )
    handle = fa.attach(
        model,
        rule,
        example_inputs=dataset.x_train[:2],
        generator=generator(spec.seed, spec.trial, "feedback"),
    )
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    # One fused kernel: the unfused loop over tensors costs as much as a third of a step on small networks.
    optimizer = torch.optim.Adam(trained, lr=spec.learning_rate, fused=True)
    return Learner(model, handle, optimizer, loss_function_for(dataset.task))
