"""Tables 3, 4, A.2 and A.4: graph networks on Cora, CiteSeer and PubMed."""

from collections.abc import Mapping
from dataclasses import replace

from feedalign_lab.graphs.settings import rule_setting
from feedalign_lab.papers.as_printed import cells_of_row
from feedalign_lab.papers.cells import Cell, Protocol, Table

_TRIALS = 5
# Every trial draws the links that are tested anew, so that trials differ more.
_TRIALS_OF_LINKS = 10
_GRAPHS = ("cora", "citeseer", "pubmed")
_NETWORKS = ("cheb", "gcn", "spline", "gat", "dna")
_NEEDS = {"pubmed": "PubMed's features (ind.pubmed.allx and its like)"}

_CLASSES = Protocol(
    epochs=250,
    trials=_TRIALS,
    reading="chosen",
    source=(
        "appendix A and the public code: 250 epochs, test accuracy at the best validation accuracy; ours: 5 trials, "
        "where the paper has one"
    ),
)
# The lab has settings of its own there, for DFA and what borrows from it; the paper's were tuned on Cora and kept.
_ON_CORA = rule_setting("cora", "spline", "dfa")
_SPLINE_OF_CITESEER = replace(
    _CLASSES,
    learning_rate=_ON_CORA.learning_rate,
    weight_decay=_ON_CORA.weight_decay,
    dropout=_ON_CORA.dropout,
    source=f"{_CLASSES.source}; rate, decay and dropout: as on Cora",
)
_LINKS = Protocol(
    epochs=400,
    trials=_TRIALS_OF_LINKS,
    reading="last",
    source="the public code: 400 epochs, the last; ours: 10 trials, where the paper has one",
)
_LINKS_OF_CITESEER = replace(
    _LINKS,
    epochs=200,
    source="the public code: 200 epochs, the last; ours: 10 trials, where the paper has one",
)

_TABLE_3: Mapping[str, Mapping[str, str]] = {
    "cora": {"backprop": "79.2, 80.1, 81.0, 82.6, 84.6", "dfa": "75.4, 79.9, 77.7, 80.6, 82.9"},
    "citeseer": {"backprop": "69.5, 71.6, 70.0, 72.0, 73.4", "dfa": "67.6, 69.4, 69.8, 71.2, 70.8"},
    "pubmed": {"backprop": "79.5, 78.8, 77.5, 77.7, 87.2", "dfa": "75.7, 77.8, 77.2, 77.1, 79.9"},
}
"""Test accuracy in percent by graph and rule, of each of `_NETWORKS`."""
_TABLE_A4: Mapping[str, Mapping[str, str]] = {
    "cora": {"shallow": "23.3, 37.0, 39.6, 59.4, 30.2"},
    "citeseer": {"shallow": "27.4, 33.8, 30.1, 49.8, 24.0"},
    "pubmed": {"shallow": "37.6, 44.8, 44.2, 67.8, 42.2"},
}
_TABLE_4: Mapping[str, Mapping[str, str]] = {
    "cora": {"backprop": "0.918, 0.918", "dfa": "0.900, 0.900"},
    "citeseer": {"backprop": "0.886, 0.895", "dfa": "0.879, 0.889"},
    "pubmed": {"backprop": "0.967, 0.966", "dfa": "0.945, 0.945"},
}
"""AUC and average precision."""
_TABLE_A2 = "0.87 ± 0.12, 0.77 ± 0.25, 0.56 ± 0.22, 0.63 ± 0.18, 0.92 ± 0.30"
"""Cosines at the deepest feedback point, mean and standard deviation over nodes, of each of `_NETWORKS` on Cora."""

_ONE_TRIAL = "The paper prints one trial; ours are several, and no spread of its own enters the verdict."
_CORA = (
    "Settings were tuned on Cora alone and kept for the other graphs; for SplineConv on CiteSeer the lab itself would "
    "take others, here are the paper's."
)
_DECAY = "Weight decay acts on the first layer alone in ChebConv and GraphConv, as in the public code."
_DROPOUT = (
    "The public code leaves the second layer of GATConv without dropout under DFA, where the paper keeps 0.6 in it; "
    "here what its attention drops is the network's dropout."
)
_FOLDS = (
    "DNAConv is trained on a fifth of all nodes and tested on three fifths, as in the public code, so that its numbers "
    "do not compare with those of the others."
)


def _classes(printed: Mapping[str, Mapping[str, str]]) -> tuple[Cell, ...]:
    """Accuracies, by graph and network, as the paper has them."""
    return tuple(
        cell
        for data, rules in printed.items()
        for place, network in enumerate(_NETWORKS)
        for rule, row in rules.items()
        for cell in cells_of_row(
            f"{data}/{network}",
            data,
            network,
            {rule: row.split(", ")[place]},
            _protocol_of_classes(data, network, rule),
            needs=_NEEDS.get(data, ""),
        )
    )


def _protocol_of_classes(data: str, network: str, rule: str) -> Protocol:
    is_own = (data, network) == ("citeseer", "spline") and rule != "backprop"
    return _SPLINE_OF_CITESEER if is_own else _CLASSES


def _links() -> tuple[Cell, ...]:
    """AUC and average precision of the autoencoder."""
    return tuple(
        cell
        for data, rules in _TABLE_4.items()
        for place, (metric, measured, variant) in enumerate((("AUC", "", "auc"), ("AP", "AP", "ap")))
        for rule, row in rules.items()
        for cell in cells_of_row(
            f"{data}/gae",
            data,
            "gae",
            {rule: row.split(", ")[place]},
            _protocol_of_links(data, rule),
            metric=metric,
            measured=measured,
            variant=variant,
            needs=_NEEDS.get(data, ""),
        )
    )


def _protocol_of_links(data: str, rule: str) -> Protocol:
    if data != "citeseer":
        return _LINKS
    if rule == "dfa":
        return replace(_LINKS_OF_CITESEER, learning_rate=0.02, source=f"{_LINKS_OF_CITESEER.source}; its rate: 0.02")
    return _LINKS_OF_CITESEER


TABLE_3 = Table(
    "table3",
    "Test accuracy of graph networks",
    "%",
    _classes(_TABLE_3),
    (_ONE_TRIAL, _CORA, _DECAY, _DROPOUT, _FOLDS),
)
TABLE_4 = Table(
    "table4",
    "Links of an autoencoder: AUC and average precision",
    "",
    _links(),
    (
        _ONE_TRIAL,
        "The error of DFA is that of the latent rows, before the decoder.",
        "On CiteSeer the public code doubles the rate of DFA to 0.02; the lab itself would take 0.01.",
    ),
)
TABLE_A2 = Table(
    "a2",
    "Cosines between the signals of DFA and backprop on Cora",
    "",
    tuple(
        cell
        for network, number in zip(_NETWORKS, _TABLE_A2.split(", "), strict=True)
        for cell in cells_of_row(
            f"cora/{network}",
            "cora",
            network,
            {"dfa": number},
            Protocol(250, _TRIALS, "last", "appendix A: after 250 epochs, over all nodes"),
            metric="cosine",
            elsewhere="`python -m benchmarks.cosines` in the source measures the cosines",
        )
    ),
    (
        "The printed spread is that over nodes, not over trials.",
        "The public code measures backprop on a copy of the network in training mode, so that dropout turns its signal "
        "away in SplineConv and GATConv; ours is measured without dropout.",
        "For DNAConv the public code measures at a rate of 0.005, where table 3 has 0.01.",
    ),
)
TABLE_A4 = Table(
    "a4",
    "Test accuracy of graph networks whose hidden layers stay as they start",
    "%",
    _classes(_TABLE_A4),
    (
        _ONE_TRIAL,
        _CORA,
        "Rates are those of DFA, as in the public code.",
        _FOLDS,
        "Over our seeds the spread is 2 to 4 points in most cells, so that the single one that is printed may lie as "
        "far off as that of GraphConv on CiteSeer does; GATConv on Cora is better than printed, and the paper does not "
        "say what it dropped there.",
    ),
)
