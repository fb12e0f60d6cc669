"""Domains: what can be typed belongs to one of them, and each has settings for all of it."""

import subprocess
import sys
from itertools import product

import pytest
from lab_output import one_line

from feedalign_lab.choices import rule_names
from feedalign_lab.cli import main
from feedalign_lab.domains import CHOOSABLE, PACKAGES, PackagedDomain, all_domains, domain_of
from feedalign_lab.errors import SettingError, UnknownNameError
from feedalign_lab.training import Schedule

DOMAINS = {package.rpartition(".")[2]: PackagedDomain(package) for package in PACKAGES}


def test_no_name_belongs_to_two() -> None:
    names = [name for domain in all_domains() for name in (*domain.data_names, *domain.data_prefixes)]
    networks = [name for domain in all_domains() for name in domain.network_names]
    assert len(names) == len(set(names))
    assert len(networks) == len(set(networks))
    assert all(prefix.endswith(":") for domain in all_domains() for prefix in domain.data_prefixes)


@pytest.mark.parametrize("name", DOMAINS)
def test_everything_that_can_be_typed_has_settings(name: str) -> None:
    domain = DOMAINS[name]
    assert domain.options <= set(CHOOSABLE)
    for data in (*domain.data_names, *(f"{prefix}somewhere/mine" for prefix in domain.data_prefixes)):
        assert type(domain_of(data)) is PackagedDomain
        assert domain_of(data).what == domain.what
        assert domain.default_network(data) in domain.network_names
        for network in domain.network_names:
            setting = domain.run_setting(data, network)
            Schedule(setting.epochs, setting.batch_size, lr_decay=setting.lr_decay, angles_every=setting.angles_every)
            assert setting.source
            assert (setting.batch_size is None) == ("batch_size" not in domain.options)


@pytest.mark.parametrize("name", DOMAINS)
def test_rules_that_are_not_left_out_have_rates_with_a_source(name: str) -> None:
    domain = DOMAINS[name]
    for data, network in product(domain.data_names, domain.network_names):
        case = domain.case(data, network)
        rules = [rule for rule in rule_names() if case.lack(rule) is None]
        assert {"backprop", "dfa"} <= set(rules) or network == "fm"
        for rule in rules:
            setting = domain.rule_setting(data, network, rule)
            assert setting.learning_rate > 0
            assert setting.source
            assert 0 <= setting.dropout < 1


@pytest.mark.parametrize("name", DOMAINS)
def test_unknown_network_is_told_with_those_of_the_domain(name: str) -> None:
    domain = DOMAINS[name]
    wrong = f"{domain.network_names[0]}x"
    with pytest.raises(UnknownNameError, match=f"There is no network for {domain.what} called '{wrong}'. Did you mean"):
        domain.case(domain.data_names[0], wrong)


@pytest.mark.parametrize("name", DOMAINS)
def test_transfer_means_nothing(name: str) -> None:
    domain = DOMAINS[name]
    with pytest.raises(SettingError, match=f"--transfer means nothing for {domain.what}"):
        domain.case(domain.data_names[0], domain.network_names[0], is_transfer=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "core"], "no data set called 'core'. Did you mean cora"),
        (["--data", "criteo"], "Did you mean criteo:PATH"),
        (["--data", "graph:"], "'graph:' names no data: put the path of your own behind the colon"),
        (
            ["--data", "cora", "--network", "fc1-8"],
            "fc1-8 is a network for images, series and simulated data, and cora",
        ),
        (["--data", "digits", "--network", "gat"], "gat is a network for graphs, and digits belongs to images"),
        (["--data", "cora", "--network", "gatt"], "no network for graphs called 'gatt'. Did you mean gat"),
        (["--data", "cora", "--flip"], "--flip means nothing for graphs: leave it out"),
        (["--data", "cora", "--batch-size", "0"], "--batch-size means nothing for graphs"),
        (["--data", "adult", "--transfer"], "--transfer means nothing for click logs"),
        (["--data", "lego", "--gamma", "0.5"], "--gamma means nothing for scenes"),
        (["--data", "lego", "--inputs", "own"], "--inputs means nothing for scenes"),
    ],
)
def test_wrong_arguments(
    tmp_path: object, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(["compare", *arguments, "--out", f"{tmp_path}/out"]) == 2
    assert message in one_line(capsys.readouterr().err)


def test_help_names_all_and_imports_nothing_heavy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "--help"]) == 0
    words = capsys.readouterr().out
    for domain in all_domains():
        for name in (*domain.data_names, *domain.data_prefixes, *domain.network_names):
            assert name.removesuffix("-small") in words or name.startswith(("mlp", "fc", "rnn", "gru", "lstm"))
    code = (
        "import sys; from feedalign_lab.cli import main; status = main(['tune', '--help']); "
        "sys.exit(status or any(heavy in sys.modules for heavy in ('torch', 'torch_geometric', 'sklearn', 'scipy')))"
    )
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
