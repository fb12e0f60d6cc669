"""Graphs whose training was cut go on as if it had not been."""

from pathlib import Path

import pytest
from cut_runs import assert_same_run, cut_and_resumed, run
from small_graphs import communities

from feedalign_lab.graphs.links import LinkTask
from feedalign_lab.graphs.nodes import NodeTask
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.task import Task
from feedalign_lab.training import Schedule

pytestmark = pytest.mark.usefixtures("always_saving")


@pytest.mark.parametrize("network", ["gat", "gae"])
def test_a_graph_goes_on(network: str, tmp_path: Path) -> None:
    """Nodes are chosen by validation, with dropout; links draw pairs anew in every epoch."""
    graph, schedule = communities(), Schedule(6, None, angles_every=2)
    task: Task = LinkTask(graph, network) if network == "gae" else NodeTask(graph, network)
    spec = LearnerSpec("dfa", network, 1e-2, dropout=0.3)
    undisturbed = run(task, spec, schedule)
    resumed = cut_and_resumed(task, spec, schedule, tmp_path / "a", after=3)
    assert_same_run(resumed, undisturbed)
    assert [name for name, _ in resumed[1].results()] == [name for name, _ in undisturbed[1].results()]
