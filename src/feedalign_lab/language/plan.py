"""What is asked of a language-modelling run, checked before anything is read."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.language.choices import RuleChoice, lack
from feedalign_lab.language.transformer import ErrorAt, TransformerSize

OptimizerName = Literal["adam", "radam"]
ScheduleName = Literal["constant", "plateau", "noam"]

WARMUP = 4000
"""Steps over which Noam's rate grows (Vaswani et al., 2017)."""


@dataclass(frozen=True)
class Optimization:
    """How weights are updated, whatever the rule.

    Attributes:
        optimizer: "adam", or "radam", which needs no warm-up.
        beta1: Decay of the mean of gradients.
        beta2: Decay of the mean of squared gradients.
        schedule: "constant"; "plateau", times 0.2 after two evaluations in a row that are no better than the best; or
            "noam", `width^-0.5 min(step^-0.5, step warmup^-1.5)`.
        warmup: Steps over which the rate of "noam" grows.
        clip: Largest norm of the gradient of all weights together; None leaves it as it is.
    """

    optimizer: OptimizerName = "adam"
    beta1: float = 0.9
    beta2: float = 0.999
    schedule: ScheduleName = "constant"
    warmup: int = WARMUP
    clip: float | None = None

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.optimizer not in get_args(OptimizerName):
            raise UnknownNameError("optimizer", self.optimizer, get_args(OptimizerName))
        if self.schedule not in get_args(ScheduleName):
            raise UnknownNameError("schedule", self.schedule, get_args(ScheduleName))
        for name, beta in (("beta1", self.beta1), ("beta2", self.beta2)):
            if not 0 <= beta < 1:
                raise SettingError(f"{name}, the decay of a mean of gradients, must be at least 0 and below 1: {beta}.")
        if self.warmup < 1:
            raise SettingError(f"The warm-up must have at least 1 step, not {self.warmup}.")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise SettingError(f"The norm to clip at must be above 0 (inf leaves gradients as they are): {self.clip}.")


@dataclass(frozen=True)
class Sampling:
    """What models are to write.

    Attributes:
        prompt: Text to go on with; None takes some from the middle of the validation part.
        num_tokens: Tokens to write; 0 for none.
        temperature: What logits are divided by.
    """

    prompt: str | None = None
    num_tokens: int = 64
    temperature: float = 0.8

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if not 0 < self.temperature < math.inf:
            raise SettingError(f"The temperature must be above 0 and finite, not {self.temperature}.")
        if self.num_tokens < 0:
            raise SettingError(f"The number of tokens to write must not be negative, but is {self.num_tokens}.")


@dataclass(frozen=True)
class LanguagePlan:
    """What to train.

    Attributes:
        text: Name of a text, or path of a file or folder.
        choices: The rules and where they act.
        size: How large the Transformer is.
        optimization: How weights are updated.
        rates: Learning rates to try, by the name of the choice; with the schedule "noam" factors of its rate. The one
            with the lowest validation perplexity counts.
        vocab_size: Tokens to learn from the text.
        tokenizer: Path of a tokenizer to use instead; None learns one.
        lowercase: Whether text is put in lower case before it is cut into tokens.
        error_at: Where the error is taken: before the vocabulary projection ("hidden") or after it ("logits").
        batch_size: Chunks of text per step.
        epochs: Passes over the training part.
        max_steps: Steps after which training ends even within an epoch; None for all epochs.
        evaluations: Evaluations on the validation part in each epoch, at even distances.
        seed: Seed of weights, feedback, order and samples.
        sampling: What the trained models are to write.
    """

    text: str
    choices: tuple[RuleChoice, ...]
    size: TransformerSize
    optimization: Optimization
    rates: Mapping[str, tuple[float, ...]]
    vocab_size: int
    tokenizer: str | None = None
    lowercase: bool = False
    error_at: ErrorAt = "hidden"
    batch_size: int = 16
    epochs: int = 1
    max_steps: int | None = None
    evaluations: int = 1
    seed: int = 0
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        """Refuse values out of range."""
        if self.error_at not in get_args(ErrorAt):
            raise UnknownNameError("place of the error", self.error_at, get_args(ErrorAt))
        for choice in self.choices:
            if (need := lack(choice.rule, self.error_at)) is not None:
                raise SettingError(f"{choice.name} {need}: choose other rules, such as dfa-macro.")
            if not all(0 < rate < math.inf for rate in self.rates[choice.name]):
                raise SettingError(f"Learning rates must be above 0 and finite: {self.rates[choice.name]}.")
        for what, value in (
            ("chunks per step", self.batch_size),
            ("epochs", self.epochs),
            ("steps", 1 if self.max_steps is None else self.max_steps),
            ("evaluations in each epoch", self.evaluations),
        ):
            if value < 1:
                raise SettingError(f"The number of {what} must be at least 1, not {value}.")
        if self.seed < 0:
            raise SettingError(f"The seed must not be negative, but is {self.seed}.")
