"""The training loop over chunks of text."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

import feedalign as fa
from feedalign_lab.checkpoints.keeper import Checkpoints
from feedalign_lab.checkpoints.place import Place
from feedalign_lab.checkpoints.resuming import Stateful, resume
from feedalign_lab.errors import DivergedError
from feedalign_lab.language.evaluation import mean_loss, perplexity
from feedalign_lab.language.learner import LanguageLearner, cross_entropy
from feedalign_lab.language.plan import LanguagePlan
from feedalign_lab.language.records import Evaluation, LanguageRun, Parts, PointAngle, Status
from feedalign_lab.language.tokens import Chunks
from feedalign_lab.running import dropout_stream, evaluating
from feedalign_lab.seeding import generator, stream_seed

_CHUNKS_FOR_ANGLES = 8

OnStep = Callable[[int, float], None]
"""Told the tokens of each step and its loss."""
OnEvaluation = Callable[[Evaluation], None]


@dataclass
class _State:
    """What training has come to."""

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    rate: float = 0.0
    losses: list[float] = field(default_factory=list)
    evaluations: list[Evaluation] = field(default_factory=list)
    best: dict[str, Any] | None = None

    def state(self) -> dict[str, Any]:
        """What `load_state` takes."""
        return {**vars(self), "evaluations": [asdict(evaluation) for evaluation in self.evaluations]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go to where another training had come."""
        evaluations = [Evaluation(**one) for one in state["evaluations"]]
        vars(self).update({name: state[name] for name in vars(self)}, evaluations=evaluations)


def train(
    learner: LanguageLearner,
    plan: LanguagePlan,
    rate: float,
    parts: Parts,
    on_step: OnStep | None = None,
    on_evaluation: OnEvaluation | None = None,
    checkpoints: Checkpoints | None = None,
) -> LanguageRun:
    """Train a learner, and leave it with the weights of its best evaluation.

    Ctrl-C ends the run early; what was evaluated before stays in the result. With checkpoints a run that was cut goes
    on as if it had not been, bit for bit.

    Args:
        learner: The learner; trained in place.
        plan: How long to train.
        rate: The learning rate it was made with, for the record.
        parts: The text.
        on_step: Called after each step.
        on_evaluation: Called with each evaluation as it is made.
        checkpoints: What the run is saved to and goes on from.

    Returns:
        The run, without sample.
    """
    state = _State()
    status: Status = "finished"
    message = ""
    try:
        _epochs(learner, plan, parts, state, on_step, on_evaluation, checkpoints)
    except KeyboardInterrupt:
        status, message = "interrupted", f"interrupted after {state.step} steps"
    except DivergedError as error:
        status, message = "diverged", f"{error} It happened in or behind step {state.step}."
    run = LanguageRun(learner.name, rate, status, message, tuple(state.evaluations))
    if state.best is None:
        return run
    learner.model.load_state_dict(state.best)
    try:
        test = perplexity(mean_loss(learner.model, parts.test.inputs, parts.test.targets))
        return replace(run, test_perplexity=test, angles=angles(learner, parts.validation))
    except KeyboardInterrupt:
        return replace(run, status="interrupted", message="interrupted while the trained model was measured")


def _epochs(
    learner: LanguageLearner,
    plan: LanguagePlan,
    parts: Parts,
    state: _State,
    on_step: OnStep | None,
    on_evaluation: OnEvaluation | None,
    checkpoints: Checkpoints | None,
) -> None:
    place = Place(generator(plan.seed, 0, "order"))
    device, num_chunks = parts.train.inputs.device, parts.train.inputs.shape[0]
    saved: dict[str, Stateful] = {"learner": learner, "place": place, "state": state}

    def batches(order: torch.Generator) -> Iterable[Tensor]:
        yield from torch.randperm(num_chunks, generator=order).to(device).split(plan.batch_size)

    def rest() -> None:
        if checkpoints is not None and checkpoints.is_due:
            content = {name: part.state() for name, part in saved.items()}
            checkpoints.save(f"after step {state.step} of {last}", content)

    with dropout_stream(stream_seed(plan.seed, 0, "dropout"), device) as saved["dropout"]:
        last = num_steps(plan, parts)
        if checkpoints is not None:
            resume(saved, checkpoints)
        ends = evaluated_after(-(-num_chunks // plan.batch_size), plan.evaluations)
        while state.step < last:
            for number, chosen in place.batches(batches, rest):
                _step(learner, parts.train, chosen, state, on_step)
                if number in ends or state.step == last:
                    _evaluate(learner, parts.validation, state, on_evaluation)
                if state.step == last:
                    return
            place.end()


def num_steps(plan: LanguagePlan, parts: Parts) -> int:
    """Return how many steps a run takes if nothing ends it early.

    Args:
        plan: How long to train.
        parts: The text.
    """
    of_epochs = plan.epochs * -(-parts.train.inputs.shape[0] // plan.batch_size)
    return of_epochs if plan.max_steps is None else min(of_epochs, plan.max_steps)


def evaluated_after(num_steps: int, evaluations: int) -> set[int]:
    """Return the numbers of the steps in an epoch that an evaluation follows: at even distances, the last included.

    Args:
        num_steps: Steps in an epoch.
        evaluations: Evaluations in it; no more than steps.
    """
    return {max(1, round(num_steps * part / evaluations)) for part in range(1, evaluations + 1)}


def _step(learner: LanguageLearner, train: Chunks, chosen: Tensor, state: _State, on_step: OnStep | None) -> None:
    # Before the step, behind which a schedule moves on.
    state.step, state.rate = state.step + 1, learner.rate
    start = time.perf_counter()
    loss = learner.step(train.inputs[chosen], train.targets[chosen])
    state.seconds += time.perf_counter() - start
    state.losses.append(loss)
    tokens = int(train.targets[chosen].numel())
    state.tokens += tokens
    if on_step is not None:
        on_step(tokens, loss)


def _evaluate(learner: LanguageLearner, part: Chunks, state: _State, on_evaluation: OnEvaluation | None) -> None:
    """Evaluate, keep the weights if they are the best so far, and let the schedule know."""
    found = perplexity(mean_loss(learner.model, part.inputs, part.targets))
    if not math.isfinite(found):
        raise learner.diverged(f"the validation perplexity is {found}")
    train_loss = sum(state.losses) / len(state.losses)
    state.losses.clear()
    evaluation = Evaluation(state.step, state.tokens, train_loss, found, state.rate, state.seconds)
    if all(found < earlier.validation_perplexity for earlier in state.evaluations):
        state.best = {name: value.detach().clone() for name, value in learner.model.state_dict().items()}
    state.evaluations.append(evaluation)
    learner.after_evaluation(found)
    if on_evaluation is not None:
        on_evaluation(evaluation)


def angles(learner: LanguageLearner, part: Chunks) -> tuple[PointAngle, ...]:
    """Angles between the rule's signals and backprop's, without dropout.

    Args:
        learner: The learner.
        part: Text to measure on; the first chunks of it are.

    Returns:
        An angle for each feedback point, in the order of the forward.
    """
    first = slice(_CHUNKS_FOR_ANGLES)
    with evaluating(learner.model), learner.kernels():
        found = fa.measure.alignment(learner.model, cross_entropy, (part.inputs[first], part.targets[first]))
    by_point = {layer.point: layer.signal for layer in found.layers if layer.point is not None}
    return tuple(PointAngle(point, degrees) for point, degrees in by_point.items())
