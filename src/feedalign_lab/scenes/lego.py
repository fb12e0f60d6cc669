"""The Lego scene of NeRF-Synthetic at 200 x 200 pixels, from the data folder."""

from pathlib import Path

from feedalign_lab.data.location import VARIABLE, cache_root, named_roots
from feedalign_lab.errors import MissingDataError
from feedalign_lab.scenes.blender import Layout, load_blender
from feedalign_lab.scenes.scene import Scene
from feedalign_lab.task import Tell, silent

FOLDER = "nerf/lego"
_LAYOUT = Layout({"train": "train_200", "test": "test_200"}, is_partial=True, has_validation=False)


def load_lego(reduce: int = 1, tell: Tell = silent) -> Scene:
    """Read the scene: 95 training, 5 validation and 25 test views.

    Pictures are 200 x 200 pixels, averaged from the original 800 x 800. The test views are every eighth of the 200. The
    validation views are held out from the 100 training views.

    Args:
        reduce: Side of the squares of pixels to average over.
        tell: Told how far the reading is.

    Returns:
        The scene.

    Raises:
        MissingDataError: It is not on this machine.
    """
    looked_in = [root / FOLDER for root in [*named_roots(), cache_root()]]
    for folder in looked_in:
        if _is_there(folder):
            return load_blender("lego", folder, reduce, _LAYOUT, tell)
    raise MissingDataError(
        f"No train_200 and test_200 in {' nor in '.join(str(folder) for folder in looked_in)}: set {VARIABLE} to a "
        f"folder that holds {FOLDER} with transforms_*.json and pictures of 200x200 pixels in these two; or take the "
        "original scene with --data nerf:PATH."
    )


def _is_there(folder: Path) -> bool:
    return all((folder / name).is_dir() for name in _LAYOUT.folders.values())
