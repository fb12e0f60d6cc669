"""What to compare: everything that a run is asked for, checked before anything is loaded."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from feedalign.rules import DirectRule, LearnedRule
from feedalign_lab.choices import Learnable, make_rule, rule_class
from feedalign_lab.data.dataset import Inputs
from feedalign_lab.domains import domain_of
from feedalign_lab.errors import SettingError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.limits import parse_limits
from feedalign_lab.papers.setting import RuleSetting
from feedalign_lab.training import Schedule

BASELINE = "backprop"


@dataclass(frozen=True)
class Plan:
    """What to compare.

    Attributes:
        data: Name of the data set.
        network: Name of the network.
        rules: Names of the rules.
        trials: Runs per rule, at least 1; they differ in weights, feedback and order of the data.
        schedule: Epochs, batch size, augmentation and decay of the learning rate.
        inputs: How the inputs are scaled: "own", as is usual for the data set, or "symmetric", to [-1, 1].
        schedule_source: Where batch size, decay and scaling come from, in words.
        learning_rate: Step size for every rule; None takes each rule's own from the settings.
        feedback_learning_rate: Step size of learned feedback; None takes each rule's own.
        weight_decay: Adam's `weight_decay` for the forward weights; None takes each rule's own.
        dropout: Probability of dropping, at the input of every fully connected layer or where else the network drops;
            None takes each rule's own.
        clip: Largest norm of the gradient of all weights together, above 0; None leaves it as it is.
        gamma: Discount of later steps' errors in a forecast, from 0 to 1; None takes each rule's own.
        limits: Limits of hardware, as `parse_limits` takes them, for the direct rules; None: none.
        seed: Seed of everything, not negative.
        transfer_epochs: Passes over the training data in which backprop trains the whole network of each trial, before
            its convolutions are frozen and every rule trains a fresh classifier on them; None: every rule trains the
            whole network.
        left_out: Rules that were asked for among all the others and cannot learn this, with the reason.
    """

    data: str
    network: str
    rules: tuple[str, ...]
    trials: int
    schedule: Schedule
    inputs: Inputs = "own"
    schedule_source: str = "given for this run"
    learning_rate: float | None = None
    feedback_learning_rate: float | None = None
    weight_decay: float | None = None
    dropout: float | None = None
    clip: float | None = None
    gamma: float | None = None
    limits: str | None = None
    seed: int = 0
    transfer_epochs: int | None = None
    left_out: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.trials < 1:
            raise SettingError(f"The number of trials must be at least 1, not {self.trials}.")
        if self.seed < 0:
            raise SettingError(f"The seed must not be negative, but is {self.seed}.")
        _refuse_rate("learning rate", self.learning_rate)
        if self.clip is not None and not 0 < self.clip < float("inf"):
            raise SettingError(f"The norm to clip at must be above 0 (inf leaves gradients as they are): {self.clip}.")
        _refuse_rate("feedback's learning rate", self.feedback_learning_rate)
        if self.weight_decay is not None and not 0 <= self.weight_decay < float("inf"):
            raise SettingError(f"The weight decay must be at least 0 and finite, not {self.weight_decay}.")
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise SettingError(f"The dropout must be at least 0 and below 1, not {self.dropout}.")
        learners = [rule for rule in self.rules if issubclass(rule_class(rule), LearnedRule)]
        if self.feedback_learning_rate is not None and not learners:
            raise SettingError(
                f"A learning rate for feedback is given, but of {', '.join(self.rules)} none learns feedback: leave "
                "--feedback-lr out, or add dkp or fdfa."
            )
        if self.transfer_epochs is not None and self.transfer_epochs < 1:
            raise SettingError(f"The number of epochs before the transfer must be at least 1: {self.transfer_epochs}.")
        # Refuses a network without convolutions to transfer.
        is_transfer = self.transfer_epochs is not None
        case = domain_of(self.data).case(self.data, self.network, is_transfer=is_transfer)
        if self.gamma is not None:
            self._check_gamma(case, self.gamma)
        if self.limits is not None:
            self._check_limits(self.limits)

    def setting(self, rule: str) -> RuleSetting:
        """Rates, decays and start of the weights for one rule."""
        setting = domain_of(self.data).rule_setting(self.data, self.network, rule)
        learns_feedback = setting.feedback_learning_rate is not None
        asked = {
            "learning_rate": ("rate", self.learning_rate),
            "feedback_learning_rate": ("feedback's rate", self.feedback_learning_rate if learns_feedback else None),
            "gamma": ("gamma", self.gamma if setting.gamma is not None else None),
            "weight_decay": ("weight decay", self.weight_decay),
            "dropout": ("dropout", self.dropout),
        }
        given: dict[str, Any] = {field: value for field, (_, value) in asked.items() if value is not None}
        if not given:
            return setting
        # A rule without learned feedback, gamma, decay and dropout has nothing but its rate.
        has_more = learns_feedback or setting.gamma is not None or "learning_rate" not in given
        has_more |= any(getattr(setting, field) and field not in given for field in ("weight_decay", "dropout"))
        kept = f"{setting.source}; " if has_more else ""
        words = ", ".join(asked[field][0] for field in given)
        return replace(setting, **given, source=f"{kept}given for this run: {words}")

    def _check_gamma(self, case: Learnable, gamma: float) -> None:
        """Refuse a discount out of range, or one that nothing would read."""
        if not 0 <= gamma <= 1:
            raise SettingError(f"Gamma, the discount of later steps' errors, must lie from 0 to 1, not {gamma}.")
        if not case.is_forecast or not any(issubclass(rule_class(rule), DirectRule) for rule in self.rules):
            raise SettingError(
                "Gamma discounts later steps' errors where there is one at every step and a rule that broadcasts it: "
                "leave --gamma out, or take --data mackey-glass and a rule such as dfa."
            )

    def _check_limits(self, text: str) -> None:
        """Refuse limits that mean nothing, or that no rule would have."""
        limits = parse_limits(text)
        if not limits.text:
            raise SettingError("--limits names no limit: give some, as in noise=0.1, or leave it out.")
        if not any(issubclass(rule_class(rule), DirectRule) for rule in self.rules):
            raise SettingError(
                f"--limits {text} is for rules that project the error, and of {', '.join(self.rules)} none does: leave "
                "it out, or add a rule such as dfa."
            )
        for rule in self.rules:
            limits.on(make_rule(rule, "classification"))

    def spec(self, rule: str, trial: int) -> LearnerSpec:
        """What one trial of one rule starts from."""
        return self._spec(rule, trial, self.setting(rule))

    def transfer_spec(self, trial: int) -> LearnerSpec:
        """What the backprop that trains a trial's convolutions starts from, at the rate of its own setting."""
        setting = domain_of(self.data).rule_setting(self.data, self.network, BASELINE)
        if self.weight_decay is not None:
            setting = replace(setting, weight_decay=self.weight_decay)
        if self.dropout is not None:
            setting = replace(setting, dropout=self.dropout)
        return self._spec(BASELINE, trial, setting)

    def transfer_schedule(self) -> Schedule:
        """How the convolutions are trained: as everything is, for a number of epochs of its own."""
        return replace(self.schedule, epochs=self.transfer_epochs or self.schedule.epochs)

    def num_epochs(self) -> int:
        """Epochs of all trials of all rules, and of the convolutions that are transferred."""
        return self.trials * (len(self.rules) * self.schedule.epochs + (self.transfer_epochs or 0))

    def _spec(self, rule: str, trial: int, setting: RuleSetting) -> LearnerSpec:
        return LearnerSpec(
            rule=rule,
            network=self.network,
            learning_rate=setting.learning_rate,
            weight_init=setting.weight_init,
            feedback_learning_rate=setting.feedback_learning_rate,
            weight_decay=setting.weight_decay,
            feedback_decay=setting.feedback_decay,
            dropout=setting.dropout,
            clip=self.clip,
            gamma=setting.gamma,
            limits=self.limits,
            seed=self.seed,
            trial=trial,
        )


def _refuse_rate(what: str, rate: float | None) -> None:
    """Refuse a rate that no step can be taken at."""
    if rate is not None and not 0 < rate < float("inf"):
        raise SettingError(f"The {what} must be above 0 and finite, not {rate}.")
