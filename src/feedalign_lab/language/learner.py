"""A Transformer under a rule, with its optimizer and schedule."""

import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

import feedalign as fa
from feedalign_lab.errors import DivergedError
from feedalign_lab.language.choices import RuleChoice
from feedalign_lab.language.plan import LanguagePlan, Optimization
from feedalign_lab.language.transformer import Transformer, points_of
from feedalign_lab.seeding import generator, stream_seed

# Those of the paper: its reduction where perplexity is flat, and Adam's epsilon in its code.
_PLATEAU_FACTOR, _PLATEAU_PATIENCE = 0.2, 1
_EPSILON = 1e-9
_FEEDBACK = "launay2020"


@dataclass(eq=False)
class LanguageLearner:
    """A model under a rule, ready for an ordinary loop.

    Attributes:
        choice: The rule and its points.
        asked_rate: Learning rate at the start, or the factor of Noam's.
        model: The Transformer.
        handle: The rule's.
        optimizer: Adam or RAdam.
        clip: Largest norm of the gradient of all weights together; None leaves it as it is.
        after_step: To be called after every step.
        after_evaluation: To be called with every validation perplexity.
        schedule: What the two move, if anything.
    """

    choice: RuleChoice
    asked_rate: float
    model: Transformer
    handle: fa.Handle
    optimizer: torch.optim.Optimizer
    clip: float | None
    after_step: Callable[[], None]
    after_evaluation: Callable[[float], None]
    schedule: LRScheduler | None = None

    def state(self) -> dict[str, Any]:
        """All that training has changed, in tensors, numbers, text and containers of them; not copied."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": None if self.schedule is None else self.schedule.state_dict(),
            "backwards": self.handle._circuit.plan.num_backwards,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Become what another learner of the same plan was.

        Args:
            state: Its `state`.
        """
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.schedule is not None:
            self.schedule.load_state_dict(state["schedule"])
        self.handle._circuit.plan.num_backwards = state["backwards"]

    @property
    def name(self) -> str:
        """The rule and its points, for sentences."""
        return self.choice.name

    def diverged(self, what: str) -> DivergedError:
        """Return the error of a run that blew up.

        Args:
            what: What is not finite, in words.
        """
        return DivergedError(f"{self.name}: {what}; try a learning rate (--lr) below {self.asked_rate:g}.")

    def kernels(self) -> AbstractContextManager[None]:
        """Return a context in which attention has what the rule needs: fused, it takes no tangents along."""
        return _kernels_for(self.choice)

    @cached_property
    def weights(self) -> list[nn.Parameter]:
        """The model's own parameters, without feedback that a rule learns."""
        learned = {id(parameter) for parameter in self.handle.store.parameters()}
        return [parameter for parameter in self.model.parameters() if id(parameter) not in learned]

    @property
    def rate(self) -> float:
        """The learning rate as it is now."""
        return float(self.optimizer.param_groups[0]["lr"])

    def step(self, inputs: Tensor, targets: Tensor) -> float:
        """Take one step: output, loss, gradients, update.

        Args:
            inputs: Token numbers, `[N, T]`.
            targets: The token behind each of them, `[N, T]`.

        Returns:
            Mean cross-entropy of a token, in nats, before the step.

        Raises:
            DivergedError: It is not finite; no step is taken then.
        """
        self.optimizer.zero_grad()
        with self.kernels():
            loss = cross_entropy(self.model(inputs), targets)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise self.diverged(f"the loss is {value}")
        loss.backward()
        if self.clip is not None:
            nn.utils.clip_grad_norm_(self.weights, self.clip)
        self.optimizer.step()
        self.after_step()
        return value


def cross_entropy(logits: Tensor, targets: Tensor) -> Tensor:
    """Mean cross-entropy of a token, in nats.

    Args:
        logits: `[N, T, vocabulary]`.
        targets: Token numbers, `[N, T]`.

    Returns:
        A scalar.
    """
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


def make_learner(
    plan: LanguagePlan, choice: RuleChoice, rate: float, vocab_size: int, device: torch.device
) -> LanguageLearner:
    """Build the Transformer, attach the rule and make the optimizer.

    Args:
        plan: What is trained.
        choice: The rule and its points.
        rate: Learning rate, or the factor of Noam's.
        vocab_size: Number of tokens.
        device: Where to train.

    Returns:
        The learner. All rules of a plan start from the same weights.
    """
    # Drawn on the CPU whatever the device, so that a seed means the same weights everywhere.
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(stream_seed(plan.seed, 0, "weights"))
        model = Transformer(plan.size, vocab_size).to(device)
    points = None if choice.placement is None else points_of(choice.placement, plan.size.num_layers)
    with _kernels_for(choice):
        handle = fa.attach(
            model,
            choice.make(),
            example_inputs=torch.zeros(2, plan.size.context, dtype=torch.long, device=device),
            points=points,
            output=None if points is None else plan.error_at,
            feedback=_FEEDBACK if choice.has_feedback else None,
            generator=generator(plan.seed, 0, "feedback"),
        )
    optimizer = _optimizer(model, plan.optimization, rate)
    schedule = _schedule(optimizer, plan.optimization, plan.size.width)
    return LanguageLearner(choice, rate, model, handle, optimizer, plan.optimization.clip, *schedule)


def _kernels_for(choice: RuleChoice) -> AbstractContextManager[None]:
    return sdpa_kernel(SDPBackend.MATH) if choice.sends_tangents else nullcontext()


def _optimizer(model: nn.Module, settings: Optimization, rate: float) -> torch.optim.Optimizer:
    betas = (settings.beta1, settings.beta2)
    if settings.optimizer == "radam":
        return torch.optim.RAdam(model.parameters(), lr=rate, betas=betas, eps=_EPSILON)
    return torch.optim.Adam(model.parameters(), lr=rate, betas=betas, eps=_EPSILON, fused=True)


def _schedule(
    optimizer: torch.optim.Optimizer, settings: Optimization, width: int
) -> tuple[Callable[[], None], Callable[[float], None], LRScheduler | None]:
    """What to call after each step, and after each evaluation, and what the two move."""
    if settings.schedule == "plateau":
        plateau = ReduceLROnPlateau(optimizer, factor=_PLATEAU_FACTOR, patience=_PLATEAU_PATIENCE)
        return lambda: None, plateau.step, plateau
    if settings.schedule == "noam":
        noam = LambdaLR(optimizer, lambda step: noam_rate(step + 1, width, settings.warmup))
        return noam.step, lambda _: None, noam
    return lambda: None, lambda _: None, None


def noam_rate(step: int, width: int, warmup: int) -> float:
    """Return the learning rate of a step: Vaswani et al. (2017), equation 3.

    Args:
        step: Number of the step, from 1.
        width: Numbers per position.
        warmup: Steps over which the rate grows.
    """
    return float(width**-0.5 * min(step**-0.5, step * warmup**-1.5))
