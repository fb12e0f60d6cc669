"""Conformance: every rule of the library passes, and rules that are broken on purpose are told what is wrong."""

from dataclasses import dataclass, field
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import feedalign as fa
from feedalign.perturber import Perturber
from feedalign.rules import DirectRule, EstimatingRule, LayerwiseRule, LearnedRule, WeightRule
from feedalign.rules.forward_gradient import SlopeRule
from feedalign.store import FeedbackStore
from feedalign.testing import check_rule


@pytest.mark.parametrize("rule", fa.ALL_RULES)
def test_every_rule_conforms(rule: type[fa.Rule]) -> None:
    check_rule(rule())


@pytest.mark.parametrize(
    "rule",
    [
        fa.NoisyBackprop(std=3.0),
        fa.FDFA(num_perturbations=2, distribution="rademacher"),
        fa.FDFA(update="ema"),
        fa.FDFA(update="ema", projects="new", rate=0.3, num_perturbations=2),
        fa.ActivityPerturbed("perturbed", distribution="rademacher", num_perturbations=2),
        fa.LocalGreedy(distribution="rademacher", num_perturbations=2),
        fa.WeightPerturbed("sample", distribution="rademacher"),
        fa.WeightPerturbed("sample", num_perturbations=2),
        fa.WeightPerturbed("batch", num_perturbations=2),
    ],
    ids=repr,
)
def test_every_option_conforms(rule: fa.Rule) -> None:
    check_rule(rule)


def sigmoid_loss(output: Tensor, labels: Tensor) -> Tensor:
    targets = F.one_hot(labels, output.shape[-1]).to(output.dtype)
    return F.binary_cross_entropy_with_logits(output, targets, reduction="sum") / len(labels)


@pytest.mark.parametrize(
    "rule", [fa.SignDFA(link="sigmoid"), fa.DRTP(link="sigmoid"), fa.LocalGreedy(link="sigmoid")], ids=repr
)
def test_rules_for_another_loss_conform_on_that_loss(rule: fa.Rule) -> None:
    check_rule(rule, loss=sigmoid_loss)


def test_options_are_checked_as_given() -> None:
    with pytest.raises(AssertionError, match=r"SignDFA.*'other'.*times the loss"):
        check_rule(fa.SignDFA(link="other"))


@dataclass(frozen=True)
class Direct(DirectRule):
    """DFA in other words, for its children to break."""

    name: ClassVar[str] = "direct"
    paper: ClassVar[str] = "none"
    signal: ClassVar[str] = "e B"

    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return error


@dataclass(frozen=True)
class Layerwise(LayerwiseRule):
    """FA in other words, for its children to break."""

    name: ClassVar[str] = "layerwise"
    paper: ClassVar[str] = "none"
    signal: ClassVar[str] = "delta R"

    def feedback_weight(self, weight: Tensor, drawn: Tensor | None) -> Tensor:
        return drawn


@dataclass(frozen=True)
class Learned(LearnedRule):
    """DKP in other words, for its children to break."""

    name: ClassVar[str] = "learned"
    paper: ClassVar[str] = "none"
    signal: ClassVar[str] = "e B"
    reads_activations: ClassVar[bool] = True

    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return error

    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        return error.T @ evidence


@dataclass(frozen=True)
class Estimating(EstimatingRule):
    """FDFA in other words, for its children to break."""

    name: ClassVar[str] = "estimating"
    paper: ClassVar[str] = "none"
    signal: ClassVar[str] = "e B"

    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return error

    def estimate(self, tangent: Tensor, perturbation: Tensor, num_terms: int) -> Tensor:
        return tangent.T @ perturbation / num_terms

    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        return feedback - evidence


@dataclass(frozen=True)
class Slope(SlopeRule):
    """FG-A in other words, for its children to break."""

    name: ClassVar[str] = "slope"
    paper: ClassVar[str] = "none"
    signal: ClassVar[str] = "d U"


@dataclass(frozen=True)
class Noise(WeightRule):
    """Noisy backprop in other words, for its children to break."""

    name: ClassVar[str] = "noise"
    paper: ClassVar[str] = "none"
    signal: ClassVar[str] = "exact gradient + xi"

    def update(self, slope: Tensor | None, direction: Tensor) -> Tensor:
        return direction[0]


@pytest.mark.parametrize("rule", [Direct(), Layerwise(), Learned(), Estimating(), Slope(), Noise()], ids=repr)
def test_a_rule_that_someone_else_wrote_conforms(rule: fa.Rule) -> None:
    check_rule(rule)


@dataclass(frozen=True)
class ForgetsTheLossScale(Direct):
    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return error.sign()


@dataclass(frozen=True)
class SumsOverTheBatch(Direct):
    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return error * len(error)


@dataclass(frozen=True)
class DrawsFromTheGlobalState(Direct):
    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return error * torch.rand(())


@dataclass(frozen=True)
class ReturnsOneColumn(Direct):
    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return error[..., :1]


@dataclass(frozen=True)
class ReturnsFloat32(Direct):
    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return error.float()


@dataclass(frozen=True)
class ReturnsNothing(Direct):
    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return None


@dataclass(frozen=True)
class ChangesTheError(Direct):
    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        return error.mul_(2)


@dataclass(frozen=True)
class CountsItsCalls(Direct):
    calls: ClassVar[list[int]] = []

    def broadcast(self, error: Tensor, output: Tensor | None) -> Tensor:
        self.calls.append(1)
        return error * len(self.calls)


@dataclass(frozen=True)
class GivesUp(Direct):
    def for_output(self, link: str | None) -> "GivesUp":
        raise ValueError("no output for me")


@dataclass(frozen=True)
class StreamsAnotherSignal(Direct):
    streams: ClassVar[bool] = True
    update_locked: ClassVar[bool] = False


@dataclass(frozen=True)
class StreamsWhileLocked(Direct):
    streams: ClassVar[bool] = True


@dataclass(frozen=True)
class HasNoName(Direct):
    name: ClassVar[str] = ""


@dataclass(frozen=True)
class IsPerhapsUnbiased(Direct):
    unbiased: ClassVar[bool] = "perhaps"


@dataclass(frozen=True)
class SaysThatItLearnsFeedback(Direct):
    learns_feedback: ClassVar[bool] = True


class IsNoDataclass(Direct):
    pass


@dataclass(frozen=True)
class HasNoHash(Direct):
    sizes: list[int] = field(default_factory=list)


@dataclass(frozen=True)
class TransposesItsFeedback(Layerwise):
    def feedback_weight(self, weight: Tensor, drawn: Tensor | None) -> Tensor:
        return drawn.transpose(0, 1)


@dataclass(frozen=True)
class ChangesTheWeight(Layerwise):
    def feedback_weight(self, weight: Tensor, drawn: Tensor | None) -> Tensor:
        return weight.add_(drawn)


@dataclass(frozen=True)
class LearnsWithoutLearning(Learned):
    learns_feedback: ClassVar[bool] = False


@dataclass(frozen=True)
class LearnsFromTheSquare(Learned):
    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        return (error * error.abs()).T @ evidence


@dataclass(frozen=True)
class LearnsFromTheSign(Learned):
    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        return error.sign().T @ evidence


@dataclass(frozen=True)
class LearnsFromASum(Learned):
    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        return len(error) * error.T @ evidence


@dataclass(frozen=True)
class LearnsTheTranspose(Learned):
    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        return evidence.T @ error


@dataclass(frozen=True)
class LearnsByItself(Learned):
    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        feedback.sub_(error.T @ evidence)
        return torch.zeros_like(feedback)


@dataclass(frozen=True)
class EstimatesASum(Estimating):
    def estimate(self, tangent: Tensor, perturbation: Tensor, num_terms: int) -> Tensor:
        return tangent.T @ perturbation


@dataclass(frozen=True)
class EstimatesTheTranspose(Estimating):
    def estimate(self, tangent: Tensor, perturbation: Tensor, num_terms: int) -> Tensor:
        return perturbation.T @ tangent / num_terms


@dataclass(frozen=True)
class EstimatesInPlace(Estimating):
    def estimate(self, tangent: Tensor, perturbation: Tensor, num_terms: int) -> Tensor:
        return tangent.div_(num_terms).T @ perturbation


@dataclass(frozen=True)
class LearnsFromTheErrorToo(Estimating):
    def feedback_gradient(self, feedback: Tensor, error: Tensor, evidence: Tensor) -> Tensor:
        return feedback - evidence * error.abs().max() ** 2


@dataclass(frozen=True)
class ForgetsToMoveItsAverage(Estimating):
    @property
    def keeps_average(self) -> bool:
        return True


@dataclass(frozen=True)
class AveragesInPlace(ForgetsToMoveItsAverage):
    def averaged(self, feedback: Tensor, estimate: Tensor) -> Tensor:
        return feedback.lerp_(estimate, 0.5)


@dataclass(frozen=True)
class ForgetsTheSizeOfTheSlope(Slope):
    def teach(self, slope: Tensor, perturbation: Tensor) -> Tensor:
        return super().teach(slope.sign(), perturbation)


@dataclass(frozen=True)
class SharesTheSlopeOfTheBatch(Slope):
    def teach(self, slope: Tensor, perturbation: Tensor) -> Tensor:
        return super().teach(slope.mean(-1, keepdim=True).expand_as(slope), perturbation)


@dataclass(frozen=True)
class DrawsAnotherDirection(Slope):
    def teach(self, slope: Tensor, perturbation: Tensor) -> Tensor:
        return super().teach(slope, torch.randn_like(perturbation))


@dataclass(frozen=True)
class KeepsTheDirectionsApart(Slope):
    def teach(self, slope: Tensor, perturbation: Tensor) -> Tensor:
        return super().teach(slope, perturbation)[None]


@dataclass(frozen=True)
class AveragesOverSamples(fa.WeightPerturbed):
    def update(self, slope: Tensor | None, direction: Tensor) -> Tensor:
        return super().update(slope / slope.shape[-1], direction)


@dataclass(frozen=True)
class AddsTheDirection(fa.WeightPerturbed):
    def update(self, slope: Tensor | None, direction: Tensor) -> Tensor:
        return super().update(slope, direction) + direction[0]


@dataclass(frozen=True)
class ChangesTheSlope(fa.WeightPerturbed):
    def update(self, slope: Tensor | None, direction: Tensor) -> Tensor:
        return super().update(slope.mul_(2), direction)


@dataclass(frozen=True)
class AddsANumber(Noise):
    def update(self, slope: Tensor | None, direction: Tensor) -> Tensor:
        return direction.mean()


@dataclass(frozen=True)
class AddsNothingFinite(Noise):
    def update(self, slope: Tensor | None, direction: Tensor) -> Tensor:
        return direction[0].clamp(max=0).log() if direction.dim() == 2 else direction[0]


@dataclass(frozen=True)
class HasHeadsForTheSum(fa.LocalGreedy):
    def local_error(self, targets: Tensor, scale: Tensor, local_output: Tensor) -> Tensor:
        return len(targets) * super().local_error(targets, scale, local_output)


@pytest.mark.parametrize(
    ("rule", "sentence"),
    [
        (ForgetsTheLossScale(), "times the loss does not give"),
        (SumsOverTheBatch(), "a factor of 1/N is lost or added"),
        (DrawsFromTheGlobalState(), "draws from the global random state"),
        (ReturnsOneColumn(), r"returns shape \(4, 1\)"),
        (ReturnsFloat32(), "returns torch.float32"),
        (ReturnsNothing(), "returns NoneType, not a tensor"),
        (ChangesTheError(), "changes its arguments"),
        (CountsItsCalls(), "other numbers for the same arguments"),
        (GivesUp(), "raised ValueError: no output for me"),
        (StreamsAnotherSignal(), "streaming gives other gradients"),
        (StreamsWhileLocked(), "streams and that its updates are locked"),
        (HasNoName(), "does not declare 'name'"),
        (IsPerhapsUnbiased(), "declares unbiased = 'perhaps'"),
        (SaysThatItLearnsFeedback(), "declares learns_feedback = True"),
        (IsNoDataclass(), "no @dataclass"),
        (HasNoHash(), "unhashable"),
        (TransposesItsFeedback(), "feedback_weight returns shape"),
        (ChangesTheWeight(), "feedback_weight changes its arguments"),
        (LearnsWithoutLearning(), "declares learns_feedback = False"),
        (LearnsFromTheSquare(), "times the loss does not give"),
        (LearnsFromTheSign(), "times the loss does not give"),
        (EstimatesASum(), "a factor of 1/N is lost or added"),
        (EstimatesTheTranspose(), r"estimate returns shape \(5, 3\)"),
        (EstimatesInPlace(), "estimate changes its arguments"),
        (LearnsFromTheErrorToo(), "times the loss does not give"),
        (ForgetsToMoveItsAverage(), "declares learns_feedback = True"),
        (AveragesInPlace(), "averaged changes its arguments"),
        (LearnsFromASum(), "a factor of 1/N is lost or added"),
        (LearnsTheTranspose(), r"feedback_gradient returns shape \(5, 3\)"),
        (LearnsByItself(), "feedback_gradient changes its arguments"),
        (ForgetsTheSizeOfTheSlope(), "times the loss does not give"),
        (SharesTheSlopeOfTheBatch(), "a factor of 1/N is lost or added"),
        (DrawsAnotherDirection(), "teach draws from the global random state"),
        (KeepsTheDirectionsApart(), r"teach returns shape \(1, 4, 5\)"),
        (AveragesOverSamples(), "a factor of 1/N is lost or added"),
        (AddsTheDirection(), "times the loss does not give"),
        (ChangesTheSlope(), "update changes its arguments"),
        (AddsANumber(), r"update returns shape \(\)"),
        (AddsNothingFinite(), "is not finite"),
        (HasHeadsForTheSum(), "a factor of 1/N is lost or added"),
        (fa.DFA, "no feedalign.Rule"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, fa.Rule) else "",
)
def test_a_broken_rule_is_told_what_is_wrong(rule: fa.Rule, sentence: str) -> None:
    with pytest.raises(AssertionError, match=sentence):
        check_rule(rule)


def test_a_library_that_forgets_to_remove_its_feedback_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fa.Handle, "remove", lambda self: None)
    with pytest.raises(AssertionError, match="removing leaves"):
        check_rule(fa.DFA())


def test_an_output_layer_that_is_not_exact_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from feedalign.broadcast import Broadcast

    original = Broadcast.backward

    def scaled(ctx: object, error: Tensor) -> tuple[Tensor | None, ...]:
        return original(ctx, 1.001 * error)

    monkeypatch.setattr(Broadcast, "backward", staticmethod(scaled))
    with pytest.raises(AssertionError, match="output layer's gradient is not exact"):
        check_rule(fa.DFA())


def test_feedback_that_does_not_travel_with_the_state_dict_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        FeedbackStore, "keep", lambda self, key, feedback: self.register_buffer(key, feedback, persistent=False)
    )
    with pytest.raises(AssertionError, match="after load_state_dict"):
        check_rule(fa.DFA())


def test_a_clock_that_does_not_travel_with_the_state_dict_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(self: FeedbackStore, seed: int) -> None:
        self.has_clock = True
        self.register_buffer("seed", torch.tensor(seed))
        self.register_buffer("counter", torch.tensor(0), persistent=False)

    monkeypatch.setattr(FeedbackStore, "start_clock", start)
    with pytest.raises(AssertionError, match="after load_state_dict"):
        check_rule(fa.ActivityPerturbed())


def test_perturbations_from_the_global_random_state_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "feedalign.perturber.perturbations",
        lambda likes, num, *place: [torch.randn(num, *like.shape, dtype=like.dtype) for like in likes],
    )
    with pytest.raises(AssertionError, match="a step draws from the global random state"):
        check_rule(fa.WeightPerturbed())


def test_a_perturbation_that_reaches_the_output_itself_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    original = Perturber.reach_output

    def added(self: Perturber, output: Tensor) -> tuple[Tensor, Tensor | None]:
        output, tangent = original(self, output)
        return output + 1e-9 * tangent, tangent

    monkeypatch.setattr(Perturber, "reach_output", added)
    with pytest.raises(AssertionError, match="changes the model's output in training"):
        check_rule(fa.ActivityPerturbed())
