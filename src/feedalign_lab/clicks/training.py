"""One rule on one network, trained on batches of a click log."""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import feedalign as fa
from feedalign.rules.base import Rule
from feedalign.rules.control import Backprop
from feedalign_lab.checkpoints.place import Place
from feedalign_lab.choices import rule_class
from feedalign_lab.clicks.batches import first_rows, shuffled_batches
from feedalign_lab.clicks.cosines import sample_cosines
from feedalign_lab.clicks.evaluation import measure
from feedalign_lab.clicks.log import ClickLog
from feedalign_lab.clicks.networks import build_network, rules_for
from feedalign_lab.divergence import diverged, first_non_finite
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.optimizer import adam, clip_gradients, decay_rate, parameter_groups
from feedalign_lab.running import evaluating
from feedalign_lab.seeding import generator, stream_seed
from feedalign_lab.task import ResultFile, Scores, Trial
from feedalign_lab.training import Schedule

LOG_LOSS = "log loss"

_ROWS_OF_ALIGNMENT = 512
_FEEDBACK_OF_PAPER = "launay2020"
# They read targets from the error, which at logits has the form of a sigmoid's.
_WITH_LINKS: Mapping[str, Rule] = {
    "sign-dfa": fa.SignDFA(link="sigmoid"),
    "lg-fg-a": fa.LocalGreedy(link="sigmoid"),
}


class ClickTrial(Trial):
    """A network for click logs under a rule.

    Args:
        spec: What to build.
        log: What to train on.
        schedule: Batch size and decay of the learning rate.
        device: Where to train.

    Raises:
        AttachError: The rule cannot teach the network.
    """

    def __init__(self, spec: LearnerSpec, log: ClickLog, schedule: Schedule, device: torch.device) -> None:
        self._spec, self._log, self._schedule, self._device = spec, log, schedule, device
        self._train = log.parts["train"]
        self._batch_size = min(schedule.batch_size or self._train.num_rows, self._train.num_rows)
        self._place = Place(generator(spec.seed, spec.trial, "order"))
        self._fixed = first_rows(self._train, _ROWS_OF_ALIGNMENT, device)
        self.model = build_network(
            spec.network,
            log.num_categories,
            len(log.sizes),
            seed=stream_seed(spec.seed, spec.trial, "weights"),
            dropout=spec.dropout,
        ).to(device)
        self.handle = attach(self.model, spec.rule, self._fixed[0][:2], generator(spec.seed, spec.trial, "feedback"))
        self.optimizer = adam(spec, parameter_groups(spec, self.handle))

    def train_epoch(self, number: int) -> float:
        """See `Trial`."""
        for step, (x, y) in self._place.batches(self._batches, self.rest):
            self._place.add(self._step(x, y, f"step {step} of epoch {number}"), len(y))
            self.tell(f"epoch {number}", self._place.seen / self._train.num_rows)
        # What the last update of an epoch did shows in no loss before the next one.
        if first_non_finite(self.model) is not None:
            raise diverged(self, self._spec.rule, "a parameter or gradient", f"the end of epoch {number}")
        decay_rate(self.optimizer, self._schedule.lr_decay)
        return self._place.end()

    def _batches(self, order: torch.Generator) -> Iterator[tuple[Tensor, Tensor]]:
        return shuffled_batches(self._train, self._batch_size, order, self._device)

    def state(self) -> dict[str, Any]:
        """See `Trial`: with the place in the epoch, which may be all there is."""
        return {**super().state(), "place": self._place.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """See `Trial`."""
        super().load_state(state)
        self._place.load_state(state["place"])

    def scores(self) -> Scores:
        """See `Trial`: AUC, and log loss on the test part."""
        test = measure(self.model, self._log.parts["test"], self._device)
        return Scores(test.auc, self.validation_auc(), {LOG_LOSS: test.log_loss})

    def validation_auc(self) -> float:
        """The AUC on the validation part alone."""
        return measure(self.model, self._log.parts["validation"], self._device).auc

    def alignment(self) -> tuple[fa.measure.LayerAlignment, ...]:
        """See `Trial`: on the first 512 training rows, without dropout."""
        with evaluating(self.model):
            return fa.measure.alignment(self.model, loss_function, self._fixed).layers

    def step(self) -> object:
        """See `Trial`: on the first training rows, as many as a batch has."""
        x, y = self._timed
        self._update(loss_function(self.model(x), y))
        self.optimizer.zero_grad()
        return None

    @cached_property
    def _timed(self) -> tuple[Tensor, Tensor]:
        return first_rows(self._train, self._batch_size, self._device)

    @torch.no_grad()
    def untrained_loss(self) -> float:
        """See `Trial`."""
        x, y = self._fixed
        with evaluating(self.model):
            return float(loss_function(self.model(x), y))

    def fixed_rows(self) -> tuple[Tensor, Tensor]:
        """The rows that angles are measured on: categories [512, F] and labels [512, 1]."""
        return self._fixed

    def results(self) -> Sequence[ResultFile]:
        """See `Trial`: where a rule sends signals, how those of single rows lie to backprop's."""
        cosines = sample_cosines(self.model, loss_function, *self._fixed)
        if not cosines or issubclass(rule_class(self._spec.rule), Backprop):
            return ()
        found = {point: {"mean": float(one.mean()), "std": float(one.std())} for point, one in cosines.items()}
        return [("cosines.json", lambda path: path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8"))]

    def _step(self, x: Tensor, y: Tensor, when: str) -> float:
        """One update; returns the loss before it."""
        loss = loss_function(self.model(x), y)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise diverged(self, self._spec.rule, f"the loss ({value})", when)
        self._update(loss)
        return value

    def _update(self, loss: Tensor) -> None:
        self.optimizer.zero_grad()
        loss.backward()
        if self._spec.clip is not None:
            clip_gradients(self.optimizer, self._spec.clip)
        self.optimizer.step()


def loss_function(logits: Tensor, labels: Tensor) -> Tensor:
    """Binary cross-entropy, its mean over the rows.

    Args:
        logits: Logits [N, 1].
        labels: 1 for clicks, 0 for none, [N, 1].

    Returns:
        A scalar, in nats.
    """
    return functional.binary_cross_entropy_with_logits(logits, labels)


def attach(model: nn.Module, rule: str, example: Tensor, draws: torch.Generator) -> fa.Handle:
    """Attach a rule to a network for click logs, with the feedback of Launay et al. where it has fixed feedback.

    Args:
        model: One of `build_network`.
        rule: Name of the rule.
        example: Categories [N, F].
        draws: What feedback is drawn with.

    Returns:
        The handle.

    Raises:
        AttachError: The rule cannot teach the network.
    """
    chosen = _WITH_LINKS.get(rule, rule_class(rule)())
    has_papers_feedback = rule in {"dfa", "sign-dfa"}
    return fa.attach(
        model,
        rules_for(model, chosen),
        example_inputs=example,
        feedback=_FEEDBACK_OF_PAPER if has_papers_feedback else None,
        generator=draws,
        strict=True,
    )
