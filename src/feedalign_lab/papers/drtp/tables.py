"""Tables 1, 2, S1 and S2: test errors on MNIST and CIFAR-10."""

from collections.abc import Mapping
from dataclasses import replace

from feedalign_lab.papers.as_printed import cells_of_row
from feedalign_lab.papers.cells import Cell, Protocol, Table
from feedalign_lab.papers.drtp import numbers

_TRIALS = 10
_MNIST = Protocol(
    epochs=100,
    trials=_TRIALS,
    reading="last ten",
    source="section 4: 100 epochs, mean of the last 10, 10 trials; rates: table 3; inputs: the public code",
)
_CIFAR = Protocol(
    epochs=200,
    trials=_TRIALS,
    reading="last ten",
    source=(
        "section 4: at most 200 epochs, mean of the last 10, 10 trials; rates: table 3; inputs: the public code; no "
        "early stopping: ours, since the paper names no criterion and the public code has none"
    ),
)
# No value for no dropout: it is what the settings have.
_OF_MNIST: Mapping[str, Protocol] = {
    "dropout-0": _MNIST,
    "dropout-0.1": replace(_MNIST, dropout=0.1),
    "dropout-0.25": replace(_MNIST, dropout=0.25),
}
_OF_CIFAR: Mapping[str, Protocol] = {
    "dropout-0": _CIFAR,
    "dropout-0.1": replace(_CIFAR, dropout=0.1),
    "dropout-0.25": replace(_CIFAR, dropout=0.25),
    "flip": replace(_CIFAR, flip=True),
}

_RATES = (
    "In the text of table 3 the rates of FA, DFA, sDFA and DRTP can only be told apart by the order of their columns; "
    "those of backprop and shallow training are certain."
)
_DROPOUT = "Dropout acts on the input of every fully connected layer, the pixels too, as in the public code."
_START = (
    "Weights start as in PyTorch, which is what the public code calls He uniform; its optimizer is NAG unless it is "
    "told otherwise, the paper's is Adam."
)
_STOPPING = (
    "The paper stops early on CIFAR-10 and says no more of it; ours trains for all 200 epochs, as the public code does."
)


def _cells(data: str, printed: Mapping[str, Mapping[str, str]], protocols: Mapping[str, Protocol]) -> tuple[Cell, ...]:
    """Every cell of a table: by network, then variant, then rule, as the paper has them."""
    return tuple(
        cell
        for network, rules in printed.items()
        for place, (variant, protocol) in enumerate(protocols.items())
        for cell in cells_of_row(
            network,
            data,
            network,
            {rule: row.split(", ")[place] for rule, row in rules.items()},
            protocol,
            metric="error",
            trials=_TRIALS,
            variant=variant,
        )
    )


TABLE_1 = Table(
    "table1",
    "Test error on MNIST",
    "%",
    _cells("mnist", numbers.TABLE_1, _OF_MNIST),
    (_RATES, _DROPOUT, _START),
)
TABLE_2 = Table(
    "table2",
    "Test error on CIFAR-10",
    "%",
    _cells("cifar10", numbers.TABLE_2, _OF_CIFAR),
    (_STOPPING, _RATES, _DROPOUT, _START),
)
TABLE_S1 = Table(
    "s1",
    "Test error on MNIST: the error's sign against the target",
    "%",
    _cells("mnist", numbers.TABLE_S1, _OF_MNIST),
    ("The numbers of DRTP are those of table 1 again.", _RATES, _DROPOUT, _START),
)
TABLE_S2 = Table(
    "s2",
    "Test error on CIFAR-10: the error's sign against the target",
    "%",
    _cells("cifar10", numbers.TABLE_S2, _OF_CIFAR),
    ("The numbers of DRTP are those of table 2 again.", _STOPPING, _RATES, _DROPOUT, _START),
)
