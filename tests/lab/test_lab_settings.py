"""Which learning rate is used where, and what is said about its source."""

from contextlib import nullcontext

import pytest
from made_data import made, made_series

import feedalign as fa
from feedalign.errors import FeedalignError
from feedalign.rules import DirectRule
from feedalign_lab.choices import Case, left_out, make_rule, parse_rule_names
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.learner import LearnerSpec, make_learner
from feedalign_lab.models import build_network, parse_network_name
from feedalign_lab.models.transfer import features_of
from feedalign_lab.names import DATA_NAMES, NETWORK_NAMES, SERIES_NAMES
from feedalign_lab.papers.bacho import APPENDIX_A, SECTION_IV, START_OF_DFA
from feedalign_lab.papers.frenkel import SYNTHETIC_SOURCE, TABLE_3_SOURCE
from feedalign_lab.papers.recurrent_dfa import APPENDIX_B
from feedalign_lab.papers.setting import UNTUNED
from feedalign_lab.settings import TUNED, TUNED_ON_VALIDATION, data_setting, rule_setting, run_setting


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
    assert setting.source == TABLE_3_SOURCE
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
    assert (setting.learning_rate, setting.weight_init, setting.source) == (5e-4, init, SYNTHETIC_SOURCE)


@pytest.mark.parametrize("data", DATA_NAMES)
def test_every_rule_has_a_rate_on_every_network(data: str) -> None:
    for network in NETWORK_NAMES:
        for rule in fa.ALL_RULES:
            assert 0 < rule_setting(data, network, rule.name).learning_rate < 1
    assert data_setting(data).epochs > 0


@pytest.mark.parametrize(
    ("data", "network", "rule", "rate"),
    [
        ("libras", "rnn-512", "backprop", 5e-4),
        ("libras", "gru-before-512", "backprop", 1e-2),
        ("libras", "gru-before-512", "dfa", 5e-4),
        ("strawberry", "rnn-512", "dfa", 5e-4),
        ("strawberry", "rnn-50", "backprop", 5e-4),
        ("strawberry", "gru-before-50", "backprop", 5e-3),
        ("ecg200", "gru-before-50", "dfa", 1e-2),
        ("ecg200", "rnn-50", "dfa", 5e-4),
        ("row-mnist", "gru-before-512", "dfa", 5e-3),
        ("row-mnist", "gru-before-512", "backprop", 5e-4),
        ("row-mnist", "rnn-512", "dfa", 5e-3),
    ],
)
def test_rates_of_the_recurrent_networks(data: str, network: str, rule: str, rate: float) -> None:
    setting = rule_setting(data, network, rule)
    assert (setting.learning_rate, setting.weight_init, setting.source) == (rate, "default", APPENDIX_B)


@pytest.mark.parametrize(
    ("data", "network", "rule", "rate"),
    [
        ("libras", "gru-512", "dfa", 5e-4),
        ("libras", "gru-before-512-x2", "backprop", 1e-2),
        ("libras", "lstm-512", "backprop", 1e-2),
        ("libras", "gru-before-50", "backprop", 1e-2),
        ("libras", "gru-before-512", "fa", 1e-2),
        ("ecg200", "gru-before-50", "drtp", 1e-2),
        ("ecg200", "gru-before-50", "fdfa", 1e-2),
        ("row-mnist", "rnn-512", "backprop", 5e-4),
        ("row-mnist", "rnn-512", "dkp", 5e-3),
        ("row-fashion-mnist", "rnn-512", "dfa", 5e-3),
        ("mackey-glass", "gru-50", "fa", 1e-3),
        ("mackey-glass", "gru-50", "fdfa", 2e-3),
        ("mackey-glass", "lstm-50", "backprop", 5e-2),
        ("digits", "gru-50", "dfa", 1e-3),
        ("libras", "fc1-500", "dfa", 1e-3),
        ("libras", "mlp1-500", "dfa", 1e-3),
        ("row-mnist", "fc1-500", "dfa", 1.5e-4),
    ],
)
def test_recurrent_cases_that_the_paper_does_not_have(data: str, network: str, rule: str, rate: float) -> None:
    setting = rule_setting(data, network, rule)
    assert setting.source.startswith(UNTUNED)
    assert setting.learning_rate == rate


def of_feedback(data: str, network: str, rule: str) -> tuple[float | None, float, float]:
    setting = rule_setting(data, network, rule)
    return setting.feedback_learning_rate, setting.weight_decay, setting.feedback_decay


@pytest.mark.parametrize(
    ("data", "network", "rule", "rate", "source"),
    [
        ("mnist", "mlp1-800", "backprop", 1e-4, SECTION_IV),
        ("fashion-mnist", "mlp3-800-bn", "dfa", 1e-4, f"{SECTION_IV}, {START_OF_DFA}"),
        ("cifar10", "mlp2-1000", "fdfa", 1e-4, SECTION_IV),
        ("cifar10", "cnn-bn", "dkp", 5e-4, SECTION_IV),
        ("mnist", "cnn", "backprop", 5e-4, SECTION_IV),
        ("mnist", "cnn", "fg-a", 1e-4, APPENDIX_A),
        ("cifar10", "mlp3-1000", "fg-w", 1e-4, APPENDIX_A),
        ("cifar100", "alexnet", "fdfa", 1e-4, SECTION_IV),
        ("cifar100", "alexnet", "lg-fg-a", 1e-4, APPENDIX_A),
    ],
)
def test_rates_of_the_relu_networks(data: str, network: str, rule: str, rate: float, source: str) -> None:
    setting = rule_setting(data, network, rule)
    assert (setting.learning_rate, setting.weight_init, setting.source) == (rate, "default", source)


@pytest.mark.parametrize(
    ("data", "network", "rule"),
    [
        ("mnist", "mlp2-1000", "fdfa"),
        ("mnist", "mlp4-800", "fdfa"),
        ("cifar10", "mlp2-800", "fdfa"),
        ("mnist", "mlp2-800-bn", "fg-a"),
        ("mnist", "mlp2-800", "fa"),
        ("mnist", "mlp2-800", "noisy-backprop"),
        ("cifar10", "alexnet", "fdfa"),
        ("cifar100", "alexnet-small", "backprop"),
        ("digits", "mlp2-20", "dkp"),
        ("mnist", "fc1-500", "fdfa"),
    ],
)
def test_relu_cases_that_the_papers_do_not_have(data: str, network: str, rule: str) -> None:
    assert rule_setting(data, network, rule).source.startswith(UNTUNED)


def test_learned_feedback_has_a_rate_and_dkp_decays() -> None:
    assert of_feedback("cifar10", "cnn", "fdfa") == (1e-4, 0.0, 0.0)
    assert of_feedback("cifar10", "cnn", "dkp") == (1e-4, 1e-6, 1e-6)
    assert of_feedback("cifar10", "cnn", "dfa") == (None, 0.0, 0.0)
    # Networks that the papers do not have: at the forward rate, which is that of DFA.
    assert of_feedback("cifar10", "fc1-500", "fdfa") == (1.5e-5, 0.0, 0.0)
    assert of_feedback("digits", "fc2-20", "dkp") == (5e-3, 1e-6, 1e-6)
    learned = {"dkp", "fdfa"}
    for rule in fa.ALL_RULES:
        assert (of_feedback("mnist", "mlp2-800", rule.name)[0] is not None) == (rule.name in learned)


@pytest.mark.parametrize(
    ("data", "network", "batch_size", "lr_decay", "inputs", "source"),
    [
        ("mnist", "fc1-500", 60, 1.0, "own", "ours"),
        ("mnist", "mlp2-800", 64, 0.95, "symmetric", SECTION_IV),
        ("cifar10", "cnn-bn", 64, 0.95, "symmetric", SECTION_IV),
        ("cifar100", "alexnet", 128, 0.95, "symmetric", SECTION_IV),
        ("cifar100", "alexnet-small", 128, 0.95, "symmetric", f"{UNTUNED}: as in {SECTION_IV}"),
        ("mnist", "mlp2-100", 64, 0.95, "symmetric", f"{UNTUNED}: as in {SECTION_IV}"),
        ("digits", "mlp2-20", 32, 1.0, "symmetric", "ours"),
        ("synthetic-classification", "mlp2-20", 50, 1.0, "own", "ours"),
        ("libras", "gru-before-512", 10, 1.0, "own", APPENDIX_B),
        ("libras", "gru-512", 10, 1.0, "own", f"{UNTUNED}: as in {APPENDIX_B}"),
        ("strawberry", "rnn-512", 100, 1.0, "own", APPENDIX_B),
        ("strawberry", "rnn-50", 256, 1.0, "own", APPENDIX_B),
        ("ecg200", "gru-before-50", 256, 1.0, "own", APPENDIX_B),
        ("row-mnist", "rnn-512", 100, 1.0, "own", APPENDIX_B),
        ("row-mnist", "rnn-50", 10, 1.0, "own", APPENDIX_B),
        ("row-fashion-mnist", "rnn-50", 10, 1.0, "own", f"{UNTUNED}: as in {APPENDIX_B}"),
        ("mackey-glass", "gru-50", 20, 1.0, "own", f"{UNTUNED}: clipped as in {APPENDIX_B}"),
        ("row-mnist", "mlp2-800", 64, 0.95, "symmetric", f"{UNTUNED}: as in {SECTION_IV}"),
    ],
)
def test_what_comes_with_network_and_data(
    data: str, network: str, batch_size: int, lr_decay: float, inputs: str, source: str
) -> None:
    setting = run_setting(data, network)
    assert (setting.batch_size, setting.lr_decay, setting.inputs, setting.source) == (
        batch_size, lr_decay, inputs, source,
    )  # fmt: skip
    assert setting.epochs == data_setting(data).epochs
    assert setting.clip == (2.0 if parse_network_name(network).is_recurrent else None)


@pytest.mark.parametrize("data", DATA_NAMES)
def test_every_rule_has_a_setting_on_every_network(data: str) -> None:
    for network in (*NETWORK_NAMES, "mlp6-50", "mlp6-50-bn"):
        assert run_setting(data, network).batch_size > 0
        for rule in fa.ALL_RULES:
            setting = rule_setting(data, network, rule.name)
            assert (setting.feedback_learning_rate is not None) == (rule.name in {"dkp", "fdfa"})


@pytest.mark.parametrize(
    ("data", "network", "is_transfer"),
    [
        ("mnist", "fc1-8", False),
        ("mnist", "mlp1-8", False),
        ("mnist", "mlp2-8-bn", False),
        ("mnist", "conv-random", False),
        ("mnist", "cnn-bn", False),
        ("mnist", "cnn-bn", True),
        ("cifar10", "conv", True),
        ("synthetic-regression", "fc2-8", False),
        ("synthetic-regression", "mlp2-8", False),
        ("row-mnist", "rnn-8", False),
        ("row-mnist", "gru-8", False),
        ("row-mnist", "gru-before-8-x2", False),
        ("row-mnist", "lstm-8", False),
        ("mackey-glass", "gru-8", False),
        ("mackey-glass", "gru-8-x2", False),
    ],
)
def test_rules_that_are_left_out_are_those_that_fail(data: str, network: str, is_transfer: bool) -> None:
    is_series, is_forecast = data in SERIES_NAMES, data == "mackey-glass"
    dataset = made_series(4, is_forecast=is_forecast) if is_series else made(data, 4)
    case = Case.named(data, network, is_transfer=is_transfer)
    features = features_of(build_network(network, dataset, seed=0)) if is_transfer else None
    for rule in fa.ALL_RULES:
        spec = LearnerSpec(rule.name, network, 1e-3, feedback_learning_rate=of_feedback(data, network, rule.name)[0])
        fails = nullcontext() if case.lack(rule.name) is None else pytest.raises(FeedalignError)
        with fails:
            make_learner(spec, dataset, features).step(dataset.x_train, dataset.encode(dataset.y_train))


DIGITS = Case.named("digits", "fc2-20")


@pytest.mark.parametrize(
    ("data", "network", "is_transfer", "missing"),
    [
        ("digits", "fc2-20", False, {}),
        ("mnist", "fc1-500", False, {"lg-fg-a": "needs two hidden layers that learn"}),
        ("synthetic-regression", "fc2-100", False, {"drtp": "needs classes", "lg-fg-a": "needs classes"}),
        ("mnist", "mlp2-800-bn", False, {"drtp": "needs hidden units that saturate, such as tanh"}),
        ("cifar10", "cnn", False, {"drtp": "needs hidden units that saturate, such as tanh"}),
        ("mnist", "conv", False, {}),
        ("mnist", "conv-random", False, {"lg-fg-a": "needs two hidden layers that learn"}),
        ("cifar10", "conv-random", False, {}),
        ("mnist", "conv", True, {"lg-fg-a": "needs two hidden layers that learn"}),
        ("cifar10", "conv", True, {}),
        ("cifar100", "alexnet", True, {"drtp": "needs hidden units that saturate, such as tanh"}),
        ("libras", "gru-512", False, {"lg-fg-a": "needs two hidden layers that learn"}),
        ("libras", "gru-512-x2", False, {}),
        ("mackey-glass", "rnn-50", False, {"drtp": "needs classes", "lg-fg-a": "needs classes"}),
        (
            "row-mnist",
            "lstm-50-x2",
            False,
            {"fg-w": "needs forward-mode differentiation, which torch's LSTM does not have"},
        ),
    ],
)
def test_all_rules_means_those_that_can_learn_it(
    data: str, network: str, is_transfer: bool, missing: dict[str, str]
) -> None:
    case = Case.named(data, network, is_transfer=is_transfer)
    names = [rule.name for rule in fa.ALL_RULES]
    assert parse_rule_names("all", case) == tuple(name for name in names if name not in missing)
    assert left_out("all", case) == {name: need for name, need in missing.items() if name in names}
    assert left_out("dfa", case) == {}


def test_names_are_split_trimmed_and_taken_once() -> None:
    assert parse_rule_names(" dfa, FA,dfa ", DIGITS) == ("dfa", "fa")


def test_rules_that_do_not_exist_or_do_not_suit() -> None:
    with pytest.raises(UnknownNameError, match=r"Did you mean .*sign-dfa"):
        parse_rule_names("dfa,sign-dfaa", DIGITS)
    with pytest.raises(SettingError, match="No rule"):
        parse_rule_names(" , ", DIGITS)
    with pytest.raises(SettingError, match="drtp needs classes, so it cannot train fc2-100 on synthetic-regression"):
        parse_rule_names("dfa,drtp", Case.named("synthetic-regression", "fc2-100"))
    with pytest.raises(SettingError, match="drtp needs hidden units that saturate"):
        parse_rule_names("drtp", Case.named("mnist", "mlp2-800"))


@pytest.mark.parametrize(("rule", "rate"), [("dfa", 2e-3), ("backprop", 5e-2), ("shallow", 5e-2)])
def test_forecast_rates_were_chosen_on_the_validation_part(rule: str, rate: float) -> None:
    setting = rule_setting("mackey-glass", "gru-50", rule)
    assert (setting.learning_rate, setting.source) == (rate, TUNED_ON_VALIDATION)


def test_gamma_is_that_of_rules_that_broadcast() -> None:
    assert make_rule("dfa", "forecasting", 0.25) == fa.DFA(gamma=0.25)
    assert make_rule("sign-dfa", "forecasting", 0.25) == fa.SignDFA(link="other", gamma=0.25)
    assert make_rule("backprop", "forecasting", 0.25) == fa.Backprop()
    assert make_rule("dfa", "forecasting") == fa.DFA()
    broadcasting = {rule.name for rule in fa.ALL_RULES if issubclass(rule, DirectRule)}
    for rule in fa.ALL_RULES:
        gamma = rule_setting("mackey-glass", "gru-50", rule.name).gamma
        assert (gamma is not None) == (rule.name in broadcasting)
        assert rule_setting("libras", "gru-50", rule.name).gamma is None


def test_sign_rule_of_a_regression_takes_the_scale_from_the_batch() -> None:
    assert make_rule("sign-dfa", "regression") == fa.SignDFA(link="other")
    assert make_rule("sign-dfa", "classification") == fa.SignDFA()
