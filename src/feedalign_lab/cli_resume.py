"""Where commands save their checkpoints, and how they go on with a run that was cut."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from feedalign_lab.checkpoints.keeper import ENDING, CheckpointFolder, Say
from feedalign_lab.errors import OutputFolderError, SettingError
from feedalign_lab.results import ResultsFolder


class Resumable(Protocol):
    """Options of a command that goes on."""

    @property
    def out(self) -> Path | None:
        """Folder for the results."""

    @property
    def overwrite(self) -> bool:
        """Whether to replace what is there."""

    @property
    def resume(self) -> Path | None:
        """Folder of the run to go on with."""


def open_folder(options: Resumable, path: Path) -> ResultsFolder:
    """The folder of a run: that of one to go on with, or one without results.

    Args:
        options: What the user typed.
        path: Where the results of a new run go.

    Returns:
        The folder.

    Raises:
        SettingError: Other options say that another folder is meant.
        OutputFolderError: It cannot be written, it holds results already, or there is nothing to go on with.
    """
    resumed = options.resume
    if resumed is None:
        return ResultsFolder.open(path, overwrite=options.overwrite)
    if options.overwrite:
        raise SettingError("--overwrite begins anew and --resume goes on: leave one of them out.")
    if options.out is not None and options.out != resumed:
        raise SettingError(f"--resume goes on in its own folder, {resumed}: leave --out out.")
    if not resumed.is_dir():
        raise OutputFolderError(f"There is no folder {resumed} to go on in: name that of the run that was cut.")
    return ResultsFolder.open(resumed, overwrite=False, goes_on=has_checkpoint(resumed))


def checkpoints_of(
    options: Resumable, folder: ResultsFolder, configuration: Mapping[str, Any], say: Say
) -> CheckpointFolder:
    """Where a run saves its checkpoints.

    Args:
        options: What the user typed.
        folder: The folder of the run.
        configuration: Everything that decides what the run comes to.
        say: Told what is gone on from, and what is wrong.

    Returns:
        The checkpoints; of a run to go on with, those that it has.

    Raises:
        SettingError: The run to go on with has other settings.
    """
    # Asked for by hand: what other versions wrote is better than nothing, and what it is is said.
    checkpoints = CheckpointFolder(folder.path, configuration, say, trusts_other_versions=True)
    if options.resume is not None:
        checkpoints.refuse_others()
        if not has_checkpoint(folder.path):
            say(f"{folder.path} holds no checkpoint yet: the training begins anew.")
    return checkpoints


def has_checkpoint(folder: Path) -> bool:
    """Whether there is something in a folder to go on from."""
    return any(folder.glob(f"*{ENDING}*"))
