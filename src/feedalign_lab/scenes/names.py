"""The names a user can type for scenes, in a module that imports nothing heavy."""

DATA_NAMES = ("lego",)
DATA_PREFIXES = ("nerf:", "llff:")
"""A folder with `transforms_*.json` and pictures; one with `poses_bounds.npy` and pictures."""
NETWORK_NAMES = ("nerf", "nerf-tiny", "nerf-dual", "nerf-xl")
OPTIONS = frozenset({"batch_size", "lr_decay", "clip", "weight_decay", "feedback_lr"})
"""The optional settings of the command line that mean something here."""
WHAT = "scenes"
DATA_HELP = (
    "Scenes: lego; nerf:PATH for a folder with transforms_*.json and pictures; llff:PATH for one with "
    "poses_bounds.npy and pictures."
)
NETWORK_HELP = "Scenes: nerf-tiny for a CPU; nerf, nerf-dual and nerf-xl want a GPU. --batch-size counts rays."
