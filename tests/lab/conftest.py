"""What the tests of the lab's engine share."""

from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from toy_task import ToyDomain, ToyTask

from feedalign_lab import comparison, domains
from feedalign_lab.checkpoints import keeper
from feedalign_lab.cost import CostRecord


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> ToyTask:
    """The task behind the data `toys`; its steps are taken, not timed."""
    made = ToyTask()

    def measure(steps: dict[str, Any], baseline: str, device: torch.device) -> tuple[CostRecord, ...]:
        for step in steps.values():
            step()
        return tuple(CostRecord(rule, 0.001, 1.0, 1000, 1.0) for rule in steps)

    honest = domains.all_domains
    monkeypatch.setattr(comparison, "measure_cost", measure)
    monkeypatch.setattr(domains, "all_domains", lambda: (*honest(), ToyDomain(made)))
    return made


@pytest.fixture
def always_saving(monkeypatch: pytest.MonkeyPatch) -> None:
    """Checkpoints are due wherever one can be written."""
    monkeypatch.setattr(keeper, "FIRST_SECONDS", 0.0)
    monkeypatch.setattr(keeper, "MOST_SHARE", float("inf"))


@pytest.fixture
def rough_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """All is drawn, but on few dots, and where it falls: for tests in which pictures are not the point.

    Arranging what is on a picture, and its dots, take most of the time.
    """
    save = Figure.savefig

    def save_roughly(figure: Figure, *arguments: Any, **options: Any) -> None:
        figure.set_layout_engine("none")
        save(figure, *arguments, **{**options, "dpi": 20})

    monkeypatch.setattr(Figure, "savefig", save_roughly)
