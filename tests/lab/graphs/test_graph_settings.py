from __future__ import annotations

import subprocess
import sys

import pytest
from small_graphs import communities

import feedalign as fa
from feedalign.errors import FeedalignError
from feedalign_lab.errors import UnknownNameError
from feedalign_lab.graphs.links import LinkTask
from feedalign_lab.graphs.names import NETWORK_NAMES
from feedalign_lab.graphs.nodes import NodeTask
from feedalign_lab.graphs.settings import default_network, lack, rule_setting, run_setting
from feedalign_lab.learner import LearnerSpec


@pytest.mark.parametrize("network", NETWORK_NAMES)
@pytest.mark.parametrize("rule", [rule.name for rule in fa.ALL_RULES])
def test_what_a_rule_lacks_is_what_keeps_it_from_training(network: str, rule: str) -> None:
    setting = rule_setting("cora", network, rule)
    spec = LearnerSpec(
        rule,
        network,
        setting.learning_rate,
        feedback_learning_rate=setting.feedback_learning_rate,
        weight_decay=setting.weight_decay,
        dropout=setting.dropout,
    )
    task = LinkTask(communities(), network) if network == "gae" else NodeTask(communities(), network)
    if lack("cora", network, rule) is None:
        trial = task.trial(spec)
        trial.train_epoch(1)
        trial.train_epoch(2)
    else:
        with pytest.raises(FeedalignError):
            task.trial(spec).train_epoch(1)


def test_epochs_of_the_paper() -> None:
    assert run_setting("cora", "gcn").epochs == 250
    assert run_setting("cora", "gae").epochs == 400
    assert run_setting("citeseer", "gae").epochs == 200
    assert run_setting("cora", "gcn").batch_size is None


def test_settings_of_ones_own_graph_are_borrowed_and_say_so() -> None:
    assert "untuned" not in rule_setting("cora", "gat", "dfa").source
    assert "untuned" in rule_setting("graph:mine", "gat", "dfa").source
    assert "untuned" in rule_setting("cora", "gat", "dkp").source
    assert "untuned" in run_setting("graph:mine", "gat").source
    assert rule_setting("cora", "gat", "dkp").feedback_learning_rate is not None
    assert default_network("graph:mine") == "gcn"


def test_what_was_searched_for_on_the_validation_part_says_so() -> None:
    assert rule_setting("citeseer", "spline", "dfa").source == "ours, tuned on the validation part"
    # The paper's shallow baseline has the settings of DFA.
    for rule in ("shallow", "dfa"):
        assert rule_setting("citeseer", "spline", rule).dropout == 0.2
    assert "Launay" in rule_setting("citeseer", "spline", "backprop").source
    assert "Launay" in rule_setting("cora", "spline", "dfa").source


@pytest.mark.parametrize("ask", [run_setting, lambda data, network: rule_setting(data, network, "dfa")])
def test_names_that_do_not_exist(ask: object) -> None:
    assert callable(ask)
    with pytest.raises(UnknownNameError, match="no graph called 'coro'"):
        ask("coro", "gcn")
    with pytest.raises(UnknownNameError, match="no network for graphs called 'gnn'"):
        ask("cora", "gnn")


def test_names_come_without_anything_heavy() -> None:
    code = (
        "import sys, feedalign_lab.graphs.names; "
        "print([m for m in ('torch', 'torch_geometric', 'sklearn', 'matplotlib') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
