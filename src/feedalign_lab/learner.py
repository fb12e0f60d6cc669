"""A network with its rule attached, its loss and its optimizer: what training and timing both drive."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

import feedalign as fa
from feedalign_lab.choices import make_rule
from feedalign_lab.data.dataset import Dataset, Task
from feedalign_lab.limits import parse_limits
from feedalign_lab.models import WeightInit, build_network, parse_network_name
from feedalign_lab.models.naming import Output
from feedalign_lab.models.transfer import Features, classifier_points, freeze_features
from feedalign_lab.optimizer import adam, clip_gradients, decay_rate, parameter_groups
from feedalign_lab.seeding import generator, stream_seed

LossFunction = Callable[[Tensor, Tensor], Tensor]

_LOSSES: dict[Output, str] = {"linear": "cross_entropy", "sigmoid": "binary_cross_entropy"}


@dataclass(frozen=True)
class LearnerSpec:
    """Everything that decides a learner's first weights and its steps.

    Attributes:
        rule: Name of the rule.
        network: Name of the network.
        learning_rate: Step size of Adam at the start.
        weight_init: How the forward weights start.
        feedback_learning_rate: Step size of Adam for learned feedback, the same in all epochs; None where there is
            none.
        weight_decay: Adam's `weight_decay` for the forward weights.
        feedback_decay: The same for learned feedback.
        dropout: Probability of dropping at the input of every fully connected layer.
        clip: Largest norm of the gradient of all weights together, at every step; None leaves it as it is.
        gamma: Discount of later steps' errors in a forecast, for rules that broadcast them; None: the rule's own.
        limits: Limits of hardware, as `parse_limits` takes them, for direct rules; None: none.
        seed: Seed of the run.
        trial: Number of the trial; trials differ in weights and in feedback.
    """

    rule: str
    network: str
    learning_rate: float
    weight_init: WeightInit = "default"
    feedback_learning_rate: float | None = None
    weight_decay: float = 0.0
    feedback_decay: float = 0.0
    dropout: float = 0.0
    clip: float | None = None
    gamma: float | None = None
    limits: str | None = None
    seed: int = 0
    trial: int = 0


@dataclass(frozen=True, eq=False)
class Learner:
    """A model under a rule, ready to train with an ordinary loop."""

    model: nn.Module
    handle: fa.Handle
    optimizer: torch.optim.Optimizer
    loss_function: LossFunction
    clip: float | None = None

    def decay_learning_rate(self, factor: float) -> None:
        """Multiply the learning rate, but for that of learned feedback.

        Args:
            factor: At most 1.
        """
        decay_rate(self.optimizer, factor)

    def update(self, loss: Tensor) -> None:
        """Make the gradients of a loss and take one step along them.

        Where the gradient of all weights together is longer than `clip`, it is shortened to that. Learned feedback
        has gradients of its own, which stay as they are.

        Args:
            loss: Scalar loss of the model's latest output.
        """
        self.optimizer.zero_grad()
        loss.backward()
        if self.clip is not None:
            clip_gradients(self.optimizer, self.clip)
        self.optimizer.step()

    def step(self, x: Tensor, y: Tensor) -> None:
        """One whole step: output, loss, gradients, update.

        Args:
            x: Inputs [N, ...].
            y: Targets as the loss takes them, [N, C].
        """
        self.update(self.loss_function(self.model(x), y))


def loss_name(network: str, task: Task) -> str:
    """The loss's name in `torch.nn.functional`: it goes with the output, and for values is the mean squared error."""
    return "mse_loss" if task != "classification" else _LOSSES[parse_network_name(network).output(task)]


def make_learner(spec: LearnerSpec, dataset: Dataset, features: Features | None = None) -> Learner:
    """Build the network, attach the rule and make the optimizer.

    Args:
        spec: What to build.
        dataset: Gives the shapes, the task and the device.
        features: Trained convolutions to freeze into the network, whose classifier then is drawn from a seed of its
            own and alone receives teaching signals; None: the whole network learns.

    Returns:
        The learner. Two calls with the same arguments give equal learners.
    """
    limits = parse_limits(spec.limits)
    rule = limits.on(make_rule(spec.rule, dataset.task, spec.gamma))
    model = build_network(
        spec.network,
        dataset,
        seed=stream_seed(spec.seed, spec.trial, "weights" if features is None else "classifier"),
        dropout=spec.dropout,
        weight_init=spec.weight_init,
    )
    if features is not None:
        freeze_features(model, features)
    handle = fa.attach(
        model,
        rule,
        example_inputs=dataset.x_train[:2],
        points=None if features is None else classifier_points(model),
        feedback=limits.draw(rule),
        generator=generator(spec.seed, spec.trial, "feedback"),
    )
    loss_function: LossFunction = getattr(functional, loss_name(spec.network, dataset.task))
    optimizer = adam(spec, parameter_groups(spec, handle))
    return Learner(model, handle, optimizer, loss_function, spec.clip)
