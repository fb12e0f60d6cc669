"""A loop of one's own, saved as `docs/checkpoints.md` says and gone on with, is the one that was never cut."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import StepLR
from torch.utils.data import DataLoader, TensorDataset

import feedalign as fa
from integration.gradients import ALL_RULES, AVERAGED, DRAWS_ANEW, attached

NUM_EPOCHS, CUT_AFTER = 4, 2
RULES = [*ALL_RULES, AVERAGED, fa.DFA(limits=fa.Limits(noise=0.2, delay=3)), fa.ActivityPerturbed(num_perturbations=2)]
draws = torch.Generator().manual_seed(0)
inputs, labels = torch.randn(50, 6, generator=draws), torch.randint(3, (50,), generator=draws)


class Net(nn.Sequential):
    """Dropout, which draws from torch's own random state, and averages that are counted in the forward."""

    def __init__(self) -> None:
        super().__init__(
            nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.3), nn.Linear(8, 8), nn.Tanh(),
            nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3),
        )  # fmt: skip


class Loop:
    """A model, a rule, and what else changes as they train."""

    def __init__(self, rule: fa.Rule, seed: int) -> None:
        torch.manual_seed(seed)
        self.model = attached(Net, rule, inputs[:2], generator=torch.Generator().manual_seed(seed))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.scheduler = StepLR(self.optimizer, 1, gamma=0.7)
        self.order = torch.Generator().manual_seed(seed)
        self.loader = DataLoader(TensorDataset(inputs, labels), batch_size=16, shuffle=True, generator=self.order)
        torch.manual_seed(seed)

    def train(self, epochs: int) -> None:
        for _ in range(epochs):
            for x, y in self.loader:
                loss = F.cross_entropy(self.model(x), y)
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
            self.scheduler.step()

    def save(self, path: Path) -> None:
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
        }
        torch.save(state, path)

    def load(self, path: Path, *, without: str = "") -> None:
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(
            {key: value for key, value in state["model"].items() if not without or without not in key},
            strict=not without,
        )
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.order.set_state(state["order"])
        torch.set_rng_state(state["random"])


@pytest.fixture(scope="module", autouse=True)
def own_random_state() -> Any:
    with torch.random.fork_rng(devices=[]):
        yield


def resumed(rule: fa.Rule, path: Path, *, without: str = "") -> dict[str, Tensor]:
    """The state of a loop that was cut, and gone on with by one that began from other random numbers."""
    first = Loop(rule, seed=1)
    first.train(CUT_AFTER)
    first.save(path)
    second = Loop(rule, seed=2)
    second.load(path, without=without)
    second.train(NUM_EPOCHS - CUT_AFTER)
    return second.model.state_dict()


def undisturbed(rule: fa.Rule) -> dict[str, Tensor]:
    whole = Loop(rule, seed=1)
    whole.train(NUM_EPOCHS)
    return whole.model.state_dict()


def different(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    assert one.keys() == other.keys()
    return [key for key in one if not torch.equal(one[key], other[key])]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_every_rule_resumes_bit_for_bit_from_the_state_dict_alone(rule: fa.Rule, tmp_path: Path) -> None:
    assert different(resumed(rule, tmp_path / "saved.pt"), undisturbed(rule)) == []


@pytest.mark.parametrize("rule", [rule for rule in ALL_RULES if isinstance(rule, DRAWS_ANEW)], ids=repr)
def test_without_the_count_of_forwards_the_draws_would_be_others(rule: fa.Rule, tmp_path: Path) -> None:
    """The control: the count is what carries the perturbations over, and it is in the state_dict."""
    found = resumed(rule, tmp_path / "saved.pt", without="feedalign.counter")
    assert any(key.endswith("weight") for key in different(found, undisturbed(rule)))
