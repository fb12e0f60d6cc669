"""Settings of Bacho and Chu (2022, 2024): the ReLU networks with linear outputs and softmax cross-entropy.

2022 is "Directional Direct Feedback Alignment" (section IV-A, tables I and II), 2024 "Low-variance Forward Gradients
using Direct Feedback Alignment and momentum" (appendix A, tables 1 to 3 and B.6). Where both print the same result for
a network and the settings differ, as for the CNN's rate, those of 2022 are taken, which are more complete. 2024 alone
has the forward gradients.

Differs from the papers:

* The forward weights under DFA start at zero there, and ReLU layers that start at zero never move: the slope at zero is
  zero. They start as under the other rules here, which is what the authors' code does too.
* "Uniform Kaiming" is PyTorch's own draw, as in the authors' code.
* AlexNet saw random crops of CIFAR-100 in 2022, of a size that is not stated, and no augmentation in 2024: none here.
"""

from collections.abc import Mapping

from feedalign_lab.models import NetworkName

SECTION_IV = "Bacho & Chu 2022, section IV-A"
APPENDIX_A = "Bacho & Chu 2024, appendix A"
START_OF_DFA = "but for the start of the weights, which there is zero, where ReLU layers never move"

RATE = 1e-4
RATE_OF_CNN = 5e-4
FEEDBACK_RATE = 1e-4
LR_DECAY = 0.95
DKP_DECAY = 1e-6
BATCH_SIZE = 64
BATCH_SIZE_OF_ALEXNET = 128

RULES_2022 = ("backprop", "dfa", "dkp", "fdfa")
RULES_2024 = (*RULES_2022, "fg-w", "fg-a", "lg-fg-a")

_FULLY_CONNECTED_WIDTH: Mapping[str, int] = {"mnist": 800, "fashion-mnist": 800, "cifar10": 1000}
_MAX_HIDDEN = 3


def is_in_papers(data: str, network: NetworkName) -> bool:
    """Whether a network was trained on a data set in one of the two papers."""
    if network.family == "alexnet":
        return data == "cifar100"
    if network.family == "cnn":
        return data in _FULLY_CONNECTED_WIDTH
    is_known = network.family == "mlp" and network.num_hidden <= _MAX_HIDDEN
    return is_known and network.width == _FULLY_CONNECTED_WIDTH.get(data)


def rate_of(network: NetworkName, rule: str) -> float:
    """The learning rate for a network: that of the shallow CNN is larger for the rules of 2022."""
    return RATE_OF_CNN if network.family == "cnn" and rule in RULES_2022 else RATE


def source_of(data: str, network: NetworkName, rule: str) -> str | None:
    """Where a rule's rate on a network comes from, or None where neither paper has that case."""
    if not is_in_papers(data, network):
        return None
    if rule in RULES_2022:
        return f"{SECTION_IV}, {START_OF_DFA}" if rule == "dfa" else SECTION_IV
    # The forward gradients were run without batch normalization, AlexNet apart, which always has it.
    has_extra_norm = network.has_batch_norm and network.family != "alexnet"
    return APPENDIX_A if rule in RULES_2024 and not has_extra_norm else None
