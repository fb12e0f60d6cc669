"""A task whose numbers are known by hand: one weight that moves by the learning rate in every epoch."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

import feedalign as fa
from feedalign_lab.divergence import diverged
from feedalign_lab.domains import Domain, PackagedCase
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.papers.setting import RuleSetting, RunSetting
from feedalign_lab.plan import Plan
from feedalign_lab.records import Better
from feedalign_lab.task import Metric, ResultFile, Scores, Task, Tell, Trial

RULES = {"backprop": 1.0, "dfa": 0.5, "shallow": 0.25}
"""Learning rates: the weight after epoch e is e times the rule's."""


class ToyTrial(Trial):
    """Weight w = epoch * rate: score w, validation score (w - 2)^2, log loss w / 10."""

    def __init__(self, task: "ToyTask", spec: LearnerSpec) -> None:
        with torch.random.fork_rng(devices=[]):
            self.model = nn.Linear(1, 1, bias=False)
        nn.init.zeros_(self.model.weight)
        self.handle = fa.attach(self.model, fa.Backprop(), example_inputs=torch.ones(2, 1))
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=spec.learning_rate)
        self._task, self._spec = task, spec

    @property
    def weight(self) -> float:
        return float(self.model.weight.detach())

    def train_epoch(self, number: int) -> float:
        self._task.dropped.append(float(torch.rand(())))
        self.tell("half", 0.5)
        if (self._spec.rule, self._spec.trial, number) in self._task.interrupted_at:
            raise KeyboardInterrupt
        if (self._spec.rule, number) in self._task.diverged_at:
            raise diverged(self, self._spec.rule, "the loss (nan)", f"epoch {number}")
        self.model.weight.data += self._spec.learning_rate
        return self._task.losses.get(self._spec.rule, 1.0 / number)

    def scores(self) -> Scores:
        validation = (self.weight - 2) ** 2 if self._task.has_validation else None
        return Scores(self.weight, validation, {"log loss": self.weight / 10})

    def alignment(self) -> tuple[fa.measure.LayerAlignment, ...]:
        return (fa.measure.LayerAlignment("fc1", "tanh", 1.0, 40.0 + self._spec.trial, 3.0),)

    def step(self) -> None:
        self._task.steps.append(self._spec)

    def untrained_loss(self) -> float:
        return 1.0

    def results(self) -> Sequence[ResultFile]:
        self._task.noted[self._spec.rule] = self.weight
        return [("weight.txt", self._write)]

    def _write(self, path: Path) -> None:
        assert path.suffix == ".txt"
        path.write_text(f"{self.weight:g}")
        if self._spec.rule in self._task.interrupted_files:
            raise KeyboardInterrupt


class ToyTask(Task):
    data, network, loss, optimizer = "toys", "line", "none", "SGD"
    others = (Metric("log loss", digits=4),)

    def __init__(self, better: Better = "higher", *, has_validation: bool = True) -> None:
        self.metric = Metric("AUC", better=better, digits=3)
        self.has_validation = has_validation
        self.interrupted_at: set[tuple[str, int, int]] = set()
        self.diverged_at: set[tuple[str, int]] = set()
        self.interrupted_files: set[str] = set()
        self.losses: dict[str, float] = {}
        self.steps: list[LearnerSpec] = []
        self.noted: dict[str, Any] = {}
        self.dropped: list[float] = []

    def data_facts(self) -> Mapping[str, Any]:
        return {"num_toys": 3}

    def network_facts(self) -> Mapping[str, Any]:
        return {"num_parameters": 1}

    def trivial(self, seed: int, trial: int) -> Mapping[str, float]:
        return {"coin": 0.5 + trial}

    def trial(self, spec: LearnerSpec) -> ToyTrial:
        return ToyTrial(self, spec)

    def notes(self) -> dict[str, Any]:
        return self.noted

    def results(self) -> Sequence[ResultFile]:
        return [("together.txt", lambda path: path.write_text(" ".join(self.noted)))]


class ToyDomain(Domain):
    what = "toys"
    data_names = ("toys",)
    data_prefixes = ("toy:",)
    network_names = ("line",)
    options = frozenset({"dropout", "weight_decay"})

    def __init__(self, task: ToyTask) -> None:
        self.task = task

    def default_network(self, data: str) -> str:
        return "line"

    def case(self, data: str, network: str, *, is_transfer: bool = False) -> PackagedCase:
        return ToyCase(self, data, network)

    def run_setting(self, data: str, network: str) -> RunSetting:
        return RunSetting(None, 3, 1.0, "own", "toys", angles_every=2)

    def rule_setting(self, data: str, network: str, rule: str) -> RuleSetting:
        return RuleSetting(RULES[rule], "default", "toys", weight_decay=0.125, dropout=0.25)

    def load(self, plan: Plan, device: torch.device, tell: Tell) -> Task:
        tell("toys", 0.5)
        return self.task


class ToyCase(PackagedCase):
    def lack(self, rule: str) -> str | None:
        return None if rule in RULES else "is not for toys"
