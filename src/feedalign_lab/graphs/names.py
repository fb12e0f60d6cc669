"""The names a user can type for graphs, in a module that imports nothing heavy."""

DATA_NAMES = ("cora", "citeseer", "pubmed")
DATA_PREFIXES = ("graph:",)
"""What stands before the path of a user's own graph."""
CLASSIFIER_NAMES = ("cheb", "gcn", "spline", "gat", "dna")
"""Networks that tell the class of each node."""
AUTOENCODER_NAMES = ("gae",)
"""Networks that tell which nodes are linked."""
NETWORK_NAMES = (*CLASSIFIER_NAMES, *AUTOENCODER_NAMES)
OPTIONS = frozenset({"dropout", "weight_decay", "feedback_lr"})
"""Settings of the command line that mean something here, beside those that every task has."""
WHAT = "graphs"
DATA_HELP = (
    "Graphs: cora, citeseer, pubmed (the files of Planetoid); graph:PATH for your own, a folder with nodes.csv and "
    "edges.csv."
)
NETWORK_HELP = "For graphs: cheb, gcn, spline, gat, dna tell the class of each node; gae tells which nodes are linked."
