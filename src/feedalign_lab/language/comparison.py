"""One Transformer on one text under several rules, and what comes of it."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch

from feedalign_lab.checkpoints.keeper import CheckpointFolder, Checkpoints
from feedalign_lab.cost import CostRecord, measure_cost
from feedalign_lab.environment import Environment, describe_environment
from feedalign_lab.language.choices import BASELINE, RuleChoice, parse_choices
from feedalign_lab.language.evaluation import loss_by_counts, perplexity, token_counts
from feedalign_lab.language.learner import LanguageLearner, make_learner
from feedalign_lab.language.plan import LanguagePlan
from feedalign_lab.language.plots import draw_angles, draw_perplexities
from feedalign_lab.language.records import LanguageRun, Parts, best_runs, language_run
from feedalign_lab.language.sampling import continue_text
from feedalign_lab.language.saved import save_transformer, weights_name
from feedalign_lab.language.sources import PART_NAMES
from feedalign_lab.language.tokens import Tokens, chunks, decode
from feedalign_lab.language.training import OnEvaluation, OnStep, num_steps, train
from feedalign_lab.results import ANGLES_NAME, CURVES_NAME, SAMPLES_NAME, TOKENIZER_NAME, ResultsFolder
from feedalign_lab.seeding import generator

_RESULTS_FORMAT = 1
_PROMPT_TOKENS = 16


class Watcher(NamedTuple):
    """What is told of a run while it trains."""

    on_step: OnStep
    on_evaluation: OnEvaluation


Watch = Callable[[str, float, int], Watcher]
"""Told the rule, learning rate and steps of each run before it starts."""


@dataclass(frozen=True)
class TextFacts:
    """What a text consists of.

    Attributes:
        source: Where it was read and how it was split, in words.
        vocab_size: Number of tokens there are.
        num_tokens: Tokens of each part.
        num_words: Words of each part.
        notes: What the user should be told.
    """

    source: str
    vocab_size: int
    num_tokens: dict[str, int]
    num_words: dict[str, int]
    notes: tuple[str, ...]


@dataclass
class LanguageComparison:
    """A comparison under way or done; everything in it can be read at any time.

    Attributes:
        plan: What is trained.
        text: What the text consists of.
        num_parameters: Numbers in the model's weights.
        environment: Versions and machine.
        status: "running", "finished" or "interrupted".
        cost: Step time and memory per rule.
        prompt: What samples go on with.
        trivial: Perplexities of a token by nothing but the frequencies of tokens in the training part, by part.
        runs: Results so far.
        files: What was written.
    """

    plan: LanguagePlan
    text: TextFacts
    num_parameters: int
    environment: Environment
    status: Literal["running", "finished", "interrupted"] = "running"
    cost: tuple[CostRecord, ...] = ()
    prompt: str = ""
    trivial: dict[str, float] = field(default_factory=dict)
    runs: list[LanguageRun] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def best(self) -> dict[str, LanguageRun]:
        """For each rule, in the order of the plan, the run at its best rate."""
        found = best_runs(self.runs)
        return {choice.name: found[choice.name] for choice in self.plan.choices if choice.name in found}

    def to_dict(self) -> dict[str, Any]:
        """Everything, as nested containers for a JSON file."""
        return {
            "format": _RESULTS_FORMAT,
            "command": "language",
            "status": self.status,
            "config": config_of(self.plan),
            "text": self.text,
            "num_parameters": self.num_parameters,
            "environment": self.environment,
            "cost": self.cost,
            "prompt": self.prompt,
            "trivial": self.trivial,
            "best": self.best(),
            "runs": self.runs,
        }


def config_of(plan: LanguagePlan) -> dict[str, Any]:
    """What `results.json` has as `config`.

    Args:
        plan: What is trained.
    """
    return asdict(plan) | {"rules": [choice.name for choice in plan.choices]}


def run_language(
    plan: LanguagePlan,
    tokens: Tokens,
    source: str,
    folder: ResultsFolder,
    watch: Watch,
    *,
    device: torch.device,
    prompt: torch.Tensor | None = None,
    checkpoints: CheckpointFolder | None = None,
) -> LanguageComparison:
    """Measure the cost of the rules, train each at each rate, and write results as they come.

    Ctrl-C ends the comparison early; what was done is kept, written and marked as interrupted. With checkpoints, a
    comparison that was cut goes on: rules and rates that were done are taken as they are.

    Args:
        plan: What to train.
        tokens: The text.
        source: Where the text comes from, in words.
        folder: Where results go.
        watch: Told of every run, step and evaluation.
        device: Where to train.
        prompt: The plan's prompt as tokens; None takes some from the middle of the validation part.
        checkpoints: What each rule and rate is saved to and goes on from.

    Returns:
        The comparison.
    """
    parts = cut(tokens, plan.size.context, device)
    comparison = _start(plan, tokens, source, device)
    # From the middle, since texts begin with titles.
    middle = parts.validation.inputs.shape[0] // 2
    prompt = (parts.validation.inputs[middle, :_PROMPT_TOKENS] if prompt is None else prompt).to(device)
    comparison.prompt = decode(tokens.tokenizer, prompt)
    counts = token_counts(parts.train.targets, tokens.vocab_size)
    comparison.trivial = {
        "validation": perplexity(loss_by_counts(counts, parts.validation.targets)),
        "test": perplexity(loss_by_counts(counts, parts.test.targets)),
    }
    try:
        comparison.cost = _measure_cost(plan, tokens.vocab_size, parts, device)
        # Not before: what cannot be trained leaves nothing behind, and older results as they are.
        if checkpoints is None or not checkpoints.is_begun():
            folder.remove(weights_name("*"), CURVES_NAME, ANGLES_NAME, SAMPLES_NAME)
        comparison.files.append(folder.write_bytes(TOKENIZER_NAME, tokens.tokenizer.to_str(pretty=True).encode()))
        for choice in plan.choices:
            for rate in plan.rates[choice.name]:
                of_run = None if checkpoints is None else checkpoints.of(f"{choice.name}-{rate!r}")
                _run(comparison, choice, rate, parts, tokens, folder, watch, device, prompt, of_run)
        comparison.status = "finished"
    except KeyboardInterrupt:
        comparison.status = "interrupted"
    if checkpoints is not None:
        comparison.environment["resumed"] = checkpoints.resumed()
    _write(comparison, folder)
    if checkpoints is not None and comparison.status == "finished":
        checkpoints.remove()
    return comparison


def cut(tokens: Tokens, length: int, device: torch.device) -> Parts:
    """Cut the parts of a text into chunks.

    Args:
        tokens: The text.
        length: Tokens in a chunk.
        device: Where they are to be.

    Returns:
        The chunks.

    Raises:
        TextError: A part is shorter than a chunk.
    """
    made = [chunks(tokens.part(name), length, name) for name in PART_NAMES]
    return Parts(*(one._replace(inputs=one.inputs.to(device), targets=one.targets.to(device)) for one in made))


def _start(plan: LanguagePlan, tokens: Tokens, source: str, device: torch.device) -> LanguageComparison:
    """An empty comparison, once every rule is known to suit the model."""
    for choice in plan.choices:
        learner = make_learner(plan, choice, plan.rates[choice.name][0], tokens.vocab_size, device)
        learner.handle.remove()
    facts = TextFacts(
        source,
        tokens.vocab_size,
        {name: int(tokens.part(name).numel()) for name in PART_NAMES},
        {name: tokens.num_words[name] for name in PART_NAMES},
        tokens.notes,
    )
    num_parameters = sum(parameter.numel() for parameter in learner.model.parameters())
    return LanguageComparison(plan, facts, num_parameters, describe_environment(device))


def _measure_cost(plan: LanguagePlan, vocab_size: int, parts: Parts, device: torch.device) -> tuple[CostRecord, ...]:
    """Cost of backprop and the plan's rules, on models of their own, all on one batch."""
    chosen = slice(plan.batch_size)
    inputs, targets = parts.train.inputs[chosen], parts.train.targets[chosen]
    baseline = parse_choices(BASELINE)[0]
    learners = {
        # Without a learning rate all rules are timed at the same weights, however many steps the timing takes.
        choice.name: make_learner(plan, choice, 0.0, vocab_size, device)
        for choice in dict.fromkeys([baseline, *plan.choices])
    }

    def step_of(learner: LanguageLearner) -> Callable[[], object]:
        def step() -> None:
            learner.step(inputs, targets)
            # Freed at the start of the next step, gradients would not have been allocated in the measurement.
            learner.optimizer.zero_grad()

        return step

    return measure_cost({name: step_of(learner) for name, learner in learners.items()}, BASELINE, device)


def _run(
    comparison: LanguageComparison,
    choice: RuleChoice,
    rate: float,
    parts: Parts,
    tokens: Tokens,
    folder: ResultsFolder,
    watch: Watch,
    device: torch.device,
    prompt: torch.Tensor,
    checkpoints: Checkpoints | None,
) -> None:
    """Train one rule at one rate, let it write, and file the result."""
    plan = comparison.plan
    if checkpoints is not None and (done := checkpoints.ended()) is not None:
        comparison.runs.append(language_run(done))
        if comparison.best()[choice.name] is comparison.runs[-1] and (folder.path / weights_name(choice.name)).exists():
            comparison.files.append(folder.path / weights_name(choice.name))
        return
    learner = make_learner(plan, choice, rate, tokens.vocab_size, device)
    run = train(learner, plan, rate, parts, *watch(choice.name, rate, num_steps(plan, parts)), checkpoints)
    # Before it writes, so that Ctrl-C leaves it there.
    comparison.runs.append(run)
    if run.evaluations:
        run = comparison.runs[-1] = replace(run, sample=_sample(learner, tokens, plan, prompt))
    _write(comparison, folder)
    if run.evaluations and comparison.best()[run.rule] is run:
        learner.handle.remove()
        path = folder.write(weights_name(run.rule), partial(save_transformer, learner.model))
        comparison.files += [path] if path not in comparison.files else []
    if run.status == "interrupted":
        raise KeyboardInterrupt
    if checkpoints is not None:
        checkpoints.end(asdict(run))


def _sample(learner: LanguageLearner, tokens: Tokens, plan: LanguagePlan, prompt: torch.Tensor) -> str:
    """What the model writes behind the prompt."""
    if plan.sampling.num_tokens == 0:
        return ""
    drawn = continue_text(
        learner.model,
        prompt,
        plan.sampling.num_tokens,
        generator=generator(plan.seed, 0, "samples"),
        temperature=plan.sampling.temperature,
    )
    return decode(tokens.tokenizer, drawn)


def _write(comparison: LanguageComparison, folder: ResultsFolder) -> None:
    """Write everything there is so far."""
    runs = list(comparison.best().values())
    files = [folder.write_results(comparison.to_dict())]
    if any(run.evaluations for run in runs):
        title = f"{comparison.plan.text}, {comparison.plan.size.num_layers} layers"
        files.append(folder.write_bytes(CURVES_NAME, draw_perplexities(runs, title)))
    if angles := draw_angles(runs):
        files.append(folder.write_bytes(ANGLES_NAME, angles))
    if samples := _samples_text(comparison):
        files.append(folder.write_bytes(SAMPLES_NAME, samples.encode()))
    comparison.files += [path for path in files if path not in comparison.files]


def _samples_text(comparison: LanguageComparison) -> str:
    """What each rule's model wrote, for people."""
    written = [
        f"== {run.rule}, learning rate {run.rate:g}\n\n{comparison.prompt}|{run.sample}\n"
        for run in comparison.best().values()
        if run.sample
    ]
    return "\n".join(written)
