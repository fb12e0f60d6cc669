"""The names a user can type, in a module that imports nothing heavy."""

WHAT = "click logs"
DATA_NAMES = ("adult", "planted")
DATA_PREFIXES = ("criteo:", "clicks:")
"""What stands before the path of a user's own log."""
DATA_HELP = (
    "Click logs: adult (UCI Adult), planted (simulated, the best possible AUC is known); criteo:PATH for a file in "
    "Criteo's format, clicks:PATH for a CSV file or a folder with train.csv and test.csv."
)
NETWORK_NAMES = ("fm", "deepfm", "deepcross", "afn", "deepfm-small", "deepcross-small", "afn-small")
NETWORK_HELP = (
    "Click logs: fm, deepfm, deepcross and afn (adaptive factorization network) in the sizes of the paper's code; "
    "smaller with -small behind the name."
)
OPTIONS = frozenset({"batch_size", "lr_decay", "clip", "dropout", "weight_decay", "feedback_lr"})
"""Options of the command line that mean something for click logs."""
