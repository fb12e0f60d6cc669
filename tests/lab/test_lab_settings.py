"""Which learning rate is used where, and what is said about its source."""

import pytest

import feedalign as fa
from feedalign_lab.choices import make_rule, parse_rule_names, task_of
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.names import DATA_NAMES, NETWORK_NAMES
from feedalign_lab.settings import PAPER, PAPER_SYNTHETIC, TUNED, UNTUNED, data_setting, rule_setting


@pytest.mark.parametrize(
    ("data", "network", "rule", "rate"),
    [
        ("mnist", "fc1-500", "fa", 5e-4),
        ("mnist", "fc1-1000", "shallow", 1.5e-2),
        ("mnist", "fc2-500", "drtp", 1.5e-4),
        ("mnist", "conv-random", "sign-dfa", 5e-4),
        ("mnist", "conv", "backprop", 5e-4),
        ("cifar10", "fc1-500", "drtp", 1.5e-4),
        ("cifar10", "fc2-1000", "dfa", 5e-6),
        ("cifar10", "conv", "sign-dfa", 1.5e-5),
    ],
)
def test_rates_of_the_paper(data: str, network: str, rule: str, rate: float) -> None:
    setting = rule_setting(data, network, rule)
    assert setting.learning_rate == rate
    assert setting.source == PAPER
    assert setting.weight_init == "default"


@pytest.mark.parametrize(
    ("data", "network", "rule"),
    [
        ("mnist", "fc3-100", "dfa"),
        ("mnist", "conv", "shallow"),
        ("cifar100", "fc1-1000", "dfa"),
        ("cifar10", "fc1-500", "usf"),
        ("digits", "fc1-100", "fa"),
    ],
)
def test_what_the_paper_does_not_have_is_not_called_the_papers(data: str, network: str, rule: str) -> None:
    assert rule_setting(data, network, rule).source.startswith(UNTUNED)


def test_digits_rates_are_tuned_for_every_rule_on_the_default_network() -> None:
    network = data_setting("digits").network
    assert {rule_setting("digits", network, rule.name).source for rule in fa.ALL_RULES} == {TUNED}


@pytest.mark.parametrize(("rule", "init"), [("fa", "zero"), ("dfa", "zero"), ("backprop", "default")])
def test_synthetic_tasks_start_feedback_alignment_from_zero(rule: str, init: str) -> None:
    setting = rule_setting("synthetic-regression", "fc2-100", rule)
    assert (setting.learning_rate, setting.weight_init, setting.source) == (5e-4, init, PAPER_SYNTHETIC)


@pytest.mark.parametrize("data", DATA_NAMES)
def test_every_rule_has_a_rate_on_every_network(data: str) -> None:
    for network in NETWORK_NAMES:
        for rule in fa.ALL_RULES:
            assert 0 < rule_setting(data, network, rule.name).learning_rate < 1
    assert data_setting(data).epochs > 0


def test_all_rules_means_those_that_suit_the_task() -> None:
    names = tuple(rule.name for rule in fa.ALL_RULES)
    assert parse_rule_names("all", "classification") == names
    assert parse_rule_names("all", "regression") == tuple(name for name in names if name != "drtp")


def test_names_are_split_trimmed_and_taken_once() -> None:
    assert parse_rule_names(" dfa, FA,dfa ", "classification") == ("dfa", "fa")


def test_rules_that_do_not_exist_or_do_not_suit() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean .*sign-dfa"):
        parse_rule_names("dfa,sign-dfaa", "classification")
    with pytest.raises(SettingError, match="No rule"):
        parse_rule_names(" , ", "classification")
    with pytest.raises(SettingError, match="drtp needs class targets"):
        parse_rule_names("dfa,drtp", "regression")


def test_sign_rule_of_a_regression_takes_the_scale_from_the_batch() -> None:
    assert make_rule("sign-dfa", task_of("synthetic-regression")) == fa.SignDFA(link="other")
    assert make_rule("sign-dfa", task_of("digits")) == fa.SignDFA()
