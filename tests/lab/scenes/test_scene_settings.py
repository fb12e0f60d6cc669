"""Settings and names: where values come from, and what cannot be."""

import pytest

from feedalign_lab.errors import UnknownNameError
from feedalign_lab.scenes import names
from feedalign_lab.scenes.networks import network_of
from feedalign_lab.scenes.settings import default_network, lack, rule_setting, run_setting

CASES = [(data, network) for data in ("lego", "nerf:here", "llff:here") for network in names.NETWORK_NAMES]


@pytest.mark.parametrize(("data", "network"), CASES)
@pytest.mark.parametrize("rule", ["backprop", "dfa", "shallow", "dkp"])
def test_every_case_has_settings_with_their_source(data: str, network: str, rule: str) -> None:
    run, setting = run_setting(data, network), rule_setting(data, network, rule)
    assert run.source
    assert setting.source
    assert run.batch_size is not None
    assert run.batch_size > 0
    assert setting.learning_rate > 0
    assert (setting.feedback_learning_rate is not None) == (rule == "dkp")


def test_the_papers_rates() -> None:
    assert rule_setting("nerf:here", "nerf", "backprop").learning_rate == 5e-4
    assert rule_setting("nerf:here", "nerf", "dfa").learning_rate == 1e-4
    # What the public code has for real scenes, whatever the paper says.
    assert rule_setting("llff:here", "nerf", "dfa").learning_rate == 5e-4


def test_the_rate_falls_to_a_tenth_over_the_papers_iterations() -> None:
    for data, iterations in (("nerf:here", 500_000), ("llff:here", 250_000)):
        run = run_setting(data, "nerf")
        epochs = iterations / network_of("nerf").num_iterations
        assert run.lr_decay**epochs == pytest.approx(0.1)
        assert run.epochs * network_of("nerf").num_iterations == (500_000 if data == "nerf:here" else 200_000)


def test_tiny_runs_for_five_thousand_iterations() -> None:
    assert run_setting("lego", "nerf-tiny").epochs * network_of("nerf-tiny").num_iterations == 5000


def test_tiny_is_the_default() -> None:
    assert default_network("lego") == "nerf-tiny"


@pytest.mark.parametrize("ask", [default_network, lambda data: run_setting(data, "nerf")])
def test_unknown_scenes(ask) -> None:
    with pytest.raises(UnknownNameError, match=r"no scene called 'leggo'. Did you mean lego"):
        ask("leggo")


def test_unknown_networks_and_rules() -> None:
    with pytest.raises(UnknownNameError, match="Did you mean nerf-tiny"):
        run_setting("lego", "nerf-tin")
    with pytest.raises(UnknownNameError, match="no rule called"):
        rule_setting("lego", "nerf", "magic")


def test_rules_that_need_classes() -> None:
    lacking = {rule for rule in ("backprop", "dfa", "drtp", "lg-fg-a", "fg-w") if lack("lego", "nerf-tiny", rule)}
    assert lacking == {"drtp", "lg-fg-a"}
