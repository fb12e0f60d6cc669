"""What every learning rule is: a frozen dataclass of options, declared facts and pure functions of tensors."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from fnmatch import fnmatchcase
from types import MappingProxyType
from typing import ClassVar, Literal, Self, get_args

from torch import Tensor

from feedalign.errors import AttachError
from feedalign.feedback import Draw, KaimingUniform, Zeros
from feedalign.limits import UNLIMITED, Limits

Link = Literal["softmax", "sigmoid", "other"]
Positions = Literal["auto", "shared", "full"]
Distribution = Literal["normal", "rademacher"]


def refuse_unknown(rule: str, option: str, value: object, known: tuple[str, ...]) -> None:
    """Raise AttachError for an option's value that does not exist."""
    if value not in known:
        choices = ", ".join(repr(choice) for choice in known)
        raise AttachError(f"fa.{rule}({option}={value!r}): no such choice; give one of {choices}.")


@dataclass(frozen=True)
class Rule(ABC):
    """A learning rule: options as fields, facts as class attributes.

    Attributes:
        name: The rule's name on the command line and in tables.
        paper: Where the rule was published.
        signal: The teaching signal in a formula, for tables.
        needs_targets: The rule cannot work without `Handle.targets`.
        learns_feedback: The feedback matrices are trained.
        update_locked: Hidden layers must wait for the end of the forward pass.
        weight_transport: A hidden layer's update depends on the weights (or their signs) of layers above it.
        unbiased: The expected update is backprop's gradient.
    """

    name: ClassVar[str]
    paper: ClassVar[str]
    signal: ClassVar[str]
    needs_targets: ClassVar[bool] = False
    learns_feedback: ClassVar[bool] = False
    update_locked: ClassVar[bool] = True
    weight_transport: ClassVar[bool] = False
    unbiased: ClassVar[bool] = False


def rule_for(names: list[str], rules: Mapping[str, Rule]) -> Rule | None:
    """Return the rule of the first glob that matches any of the names; None if none does."""
    glob = glob_for(names, rules)
    return None if glob is None else rules[glob]


def glob_for(names: list[str], rules: Mapping[str, Rule]) -> str | None:
    """Return the first glob that matches any of the names."""
    return next((glob for glob in rules if any(fnmatchcase(name, glob) for name in names)), None)


@dataclass(frozen=True)
class PointRule(Rule):
    """A rule that cuts the graph at feedback points and sends each of them a signal made from the error.

    Attributes:
        reads_output: It needs the output beside the error.
    """

    reads_output: ClassVar[bool] = False

    def requirement(self, error: Tensor, output: Tensor | None) -> tuple[Tensor, str] | None:
        """Return what must hold of an error for the rule to be computed from it, or None if anything will do.

        Args:
            error: dL/dy at the output, `[..., C]`, with whatever scale the loss gave it.
            output: The tensor at which the error was taken, `[..., C]`; None for rules that do not declare
                `reads_output`.

        Returns:
            A bool scalar, and the sentence to raise if it is False.
        """
        del error, output
        return None

    def for_output(self, link: Link | None) -> Self:
        """Return the rule for a model whose output is made by `link` (None: it could not be told)."""
        del link
        return self


@dataclass(frozen=True)
class DirectRule(PointRule):
    """A rule that projects one vector, the same for all layers, straight onto each feedback point.

    Args:
        positions: How the error meets activations that have positions (time steps, tokens, pixels) beside
            features. `"shared"`: one matrix `[C, D]` serves every position, and an error without positions
            is repeated over them. `"full"`: positions count as features, `[C, positions * D]`. `"auto"`:
            positions that the error has are kept, a convolution's are features, a linear layer's are shared.
        gamma: For recurrent layers under an output with an error at every step: a step is taught by the sum over its
            own and all later errors, discounted by gamma for each step between, `g_t = (sum_{s>=t} gamma^(s-t) E_s) B`.
            1: all count alike, as when a sequence has one error; 0: each step has its own error alone.
        limits: What hardware does to the error on its way: few bits, noise, delay; see `Limits`.

    Attributes:
        default_draw: How feedback is drawn unless `attach(feedback=...)` says otherwise.
        streams: With `Handle.targets`, the signal exists before the output does.
        refused_limits: Limits that mean nothing for the rule, each with the reason.
    """

    positions: Positions = "auto"
    gamma: float = field(default=1.0, kw_only=True)
    limits: Limits = field(default=UNLIMITED, kw_only=True)

    def __post_init__(self) -> None:
        refuse_unknown(type(self).__name__, "positions", self.positions, get_args(Positions))
        gamma: object = self.gamma
        if not isinstance(gamma, (int, float)) or not 0 <= gamma <= 1:
            raise AttachError(
                f"fa.{type(self).__name__}(gamma={self.gamma!r}): the discount of later errors lies from 0 to 1."
            )
        limits: object = self.limits
        if not isinstance(limits, Limits):
            raise AttachError(f"fa.{type(self).__name__}(limits={limits!r}): give fa.Limits(...).")
        for name in limits.given():
            if name in self.refused_limits:
                raise AttachError(
                    f"fa.{type(self).__name__}(limits={limits!r}): {self.refused_limits[name]}; leave {name}= out."
                )

    def __repr__(self) -> str:
        """Options; limits only where there are any."""
        shown = [f.name for f in fields(self) if f.repr and (f.name != "limits" or self.limits != UNLIMITED)]
        return f"{type(self).__name__}({', '.join(f'{name}={getattr(self, name)!r}' for name in shown)})"

    default_draw: ClassVar[Draw] = KaimingUniform()
    streams: ClassVar[bool] = False
    refused_limits: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @abstractmethod
    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        """Return what every feedback matrix is multiplied with.

        Args:
            error: dL/dy at the output, `[..., C]`, with whatever scale the loss gave it.
            output: The tensor at which the error was taken, `[..., C]`; None for rules that do not declare
                `reads_output`.

        Returns:
            A tensor of the error's shape; the teaching signal of layer l is this times `feedback_l`.
        """


@dataclass(frozen=True, repr=False)
class LearnedRule(DirectRule):
    """A direct rule that trains its feedback, in the same backward: each matrix receives a gradient.

    Attributes:
        reads_activations: The gradient is made from the activations at the feedback point.
    """

    learns_feedback: ClassVar[bool] = True
    default_draw: ClassVar[Draw] = Zeros()
    reads_activations: ClassVar[bool] = False

    @abstractmethod
    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        """Return the gradient of one feedback matrix.

        Args:
            feedback: The matrix, `[C, D]`.
            error: What the rule broadcasts, `[R, C]`, one row per sample (and position, where one matrix serves all).
            evidence: What was gathered in the forward: for rules that read activations these, `[R, D]`; for rules
                that perturb, the estimate of the Jacobian, `[C, D]`.

        Returns:
            The gradient, `[C, D]`.
        """


@dataclass(frozen=True)
class Perturbing(Rule):
    """What rules that perturb the forward have in common.

    Args:
        distribution: `"normal"`, N(0, 1), or `"rademacher"`, -1 and 1 at equal odds.
        num_perturbations: Directions per step, K; estimates are averaged over them.
    """

    distribution: Distribution = field(default="normal", kw_only=True)
    num_perturbations: int = field(default=1, kw_only=True)

    def __post_init__(self) -> None:
        refuse_unknown(type(self).__name__, "distribution", self.distribution, get_args(Distribution))
        num: object = self.num_perturbations
        if not isinstance(num, int) or num < 1:
            raise AttachError(
                f"fa.{type(self).__name__}(num_perturbations={self.num_perturbations!r}): give a whole number of at "
                "least 1; without a perturbation there is no estimate."
            )


@dataclass(frozen=True, repr=False)
class EstimatingRule(Perturbing, LearnedRule):
    """A rule that learns its feedback from an estimate made of perturbations and the tangent of the output."""

    __repr__ = DirectRule.__repr__

    def __post_init__(self) -> None:
        LearnedRule.__post_init__(self)
        Perturbing.__post_init__(self)

    @property
    def keeps_average(self) -> bool:
        """Whether the feedback moves in the forward, by `averaged`, instead of having a gradient for an optimizer."""
        return False

    @property
    def projects_average(self) -> bool:
        """Whether a step's signals are made with the feedback that this step's forward has moved."""
        return False

    @abstractmethod
    def estimate(self, tangent: Tensor, perturbation: Tensor, num_terms: int) -> Tensor:
        """Return the evidence for one feedback matrix.

        Args:
            tangent: Tangent of the output, `[R, C]`, a row per perturbation, sample (and position).
            perturbation: What the activation was perturbed by, `[R, D]`.
            num_terms: Over how many products of the two a mean goes.

        Returns:
            `[C, D]`.
        """

    def averaged(self, feedback: Tensor, estimate: Tensor) -> Tensor:
        """Return the feedback moved towards an estimate, `[C, D]`, for rules that keep an average."""
        del estimate
        return feedback


@dataclass(frozen=True)
class WeightRule(Rule):
    """A rule that sends every trainable parameter a vector of its own; it cuts nothing at feedback points."""

    @abstractmethod
    def update(self, slope: Tensor | None, direction: Tensor) -> Tensor:
        """Return what one parameter's gradient receives.

        Args:
            slope: Directional derivative of each sample's share of the loss, `[K, N]`; None for rules without tangents.
            direction: What was drawn for the parameter, `[K, *shape]` or `[K, N, *shape]`.

        Returns:
            A tensor of the parameter's shape.
        """


@dataclass(frozen=True)
class LayerwiseRule(Rule):
    """A rule that sends the error back layer by layer through feedback weights instead of the forward ones."""

    # What `attach` draws for each layer: a fixed weight, one that changes at every forward, or none.
    default_draw: ClassVar[Draw] = KaimingUniform()
    draws_feedback: ClassVar[bool] = True
    redraws: ClassVar[bool] = False

    @abstractmethod
    def feedback_weight(self, weight: Tensor, drawn: Tensor | None) -> Tensor:
        """Return what stands for the layer's weight in the product that makes its input gradient.

        Args:
            weight: The forward weight, `[out, in, ...]`, detached.
            drawn: What was drawn for this layer, of the same shape; None for rules that draw nothing.

        Returns:
            The feedback weight, of the weight's shape.
        """
