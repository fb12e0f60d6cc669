"""What networks for scenes are trained with, and where each value comes from."""

from feedalign_lab.choices import rule_class
from feedalign_lab.errors import UnknownNameError
from feedalign_lab.papers.setting import RuleSetting, RunSetting
from feedalign_lab.scenes.names import DATA_NAMES, DATA_PREFIXES, NETWORK_NAMES
from feedalign_lab.scenes.networks import network_of

NOISE_OF_FORWARD_SCENES = 1.0
"""Standard deviation of what is added to densities while training, in the public code's settings of LLFF scenes."""

PAPER = "Launay et al. 2020"
_CODE = "public code of Launay et al. 2020"
_BATCH_SIZE, _BATCH_SIZE_OF_TINY = 1024, 512
_BATCH_SIZE_OF_FORWARD_SCENES = 4096
# So many iterations divide the rate by ten in the public code.
_TENFOLD, _TENFOLD_OF_FORWARD_SCENES = 500_000, 250_000
_EPOCHS, _EPOCHS_OF_FORWARD_SCENES, _EPOCHS_OF_TINY = 1000, 400, 5
_RATE_OF_BACKPROP, _RATE_OF_DFA = 5e-4, 1e-4

_TINY_RATES = {"backprop": 5e-3, "dfa": 2e-3, "shallow": 5e-2}
_TINY_SEARCH = "ours: the best of several rates on the validation views"


def default_network(data: str) -> str:
    """The network for a scene where none is named.

    Args:
        data: What the user typed.
    """
    _check(data, NETWORK_NAMES[0])
    return "nerf-tiny"


def run_setting(data: str, network: str) -> RunSetting:
    """What a network is trained with on a scene, whatever the rule; an epoch is 1000 iterations of nerf-tiny, else 500.

    Args:
        data: What the user typed.
        network: What the user typed.

    Returns:
        Rays per step, epochs and decay of the rate.

    Raises:
        UnknownNameError: There is no such data or network.
    """
    _check(data, network)
    if network == "nerf-tiny":
        source = (
            f"{PAPER}, appendix B: 5000 iterations; constant rate: its public code; 512 rays per iteration where that "
            "takes a whole picture: ours"
        )
        return RunSetting(_BATCH_SIZE_OF_TINY, _EPOCHS_OF_TINY, 1.0, "own", source)
    steps = network_of(network).num_iterations
    if data.startswith("llff:"):
        decay = float(0.1 ** (steps / _TENFOLD_OF_FORWARD_SCENES))
        size, epochs = _BATCH_SIZE_OF_FORWARD_SCENES, _EPOCHS_OF_FORWARD_SCENES
        return RunSetting(size, epochs, decay, "own", f"{_CODE}, LLFF scenes", angles_every=50)
    decay = float(0.1 ** (steps / _TENFOLD))
    return RunSetting(_BATCH_SIZE, _EPOCHS, decay, "own", f"{_CODE}, NeRF-Synthetic", angles_every=50)


def rule_setting(data: str, network: str, rule: str) -> RuleSetting:
    """What a rule trains a network with on a scene.

    Args:
        data: What the user typed.
        network: What the user typed.
        rule: Name of a rule.

    Returns:
        Its rate, and where that comes from.

    Raises:
        UnknownNameError: There is no such data, network or rule.
    """
    _check(data, network)
    learned = rule_class(rule).learns_feedback
    if network == "nerf-tiny":
        rate, source = _tiny_rate(data, rule)
    elif rule == "backprop":
        rate, source = _RATE_OF_BACKPROP, f"{PAPER}, appendix C"
    elif data.startswith("llff:"):
        rate = _RATE_OF_BACKPROP
        source = f"{_CODE}, LLFF scenes" if rule == "dfa" else "ours, untuned: as DFA"
    else:
        rate, source = _RATE_OF_DFA, f"{PAPER}, appendix C" if rule == "dfa" else "ours, untuned: as DFA"
    return RuleSetting(rate, "default", source, feedback_learning_rate=rate if learned else None)


def lack(data: str, network: str, rule: str) -> str | None:
    """What a rule needs and scenes do not have.

    Args:
        data: What the user typed.
        network: What the user typed.
        rule: Name of a rule.

    Returns:
        The need in words; None where the rule can learn a scene.
    """
    _check(data, network)
    rule_class(rule)
    return "needs classes" if rule in {"drtp", "lg-fg-a"} else None


def _tiny_rate(data: str, rule: str) -> tuple[float, str]:
    rate = _TINY_RATES.get(rule, _TINY_RATES["dfa"])
    if rule not in _TINY_RATES:
        return rate, "ours, untuned: as DFA"
    return rate, _TINY_SEARCH if data == "lego" else f"{_TINY_SEARCH} of lego"


def _check(data: str, network: str) -> None:
    if data not in DATA_NAMES and not data.startswith(DATA_PREFIXES):
        raise UnknownNameError("scene", data, (*DATA_NAMES, *(f"{prefix}PATH" for prefix in DATA_PREFIXES)))
    network_of(network)
