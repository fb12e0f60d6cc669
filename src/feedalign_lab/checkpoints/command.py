"""Whose folder a run is to go on in: of two commands, every setting may differ, and only one fact matters."""

from pathlib import Path

from feedalign_lab.errors import SettingError


def refuse_other_command(folder: Path, there: object, here: object) -> None:
    """Refuse to go on with what another command has begun.

    Args:
        folder: Of the run.
        there: The command that a file of it names; anything but text is none.
        here: The one that is to go on with it.

    Raises:
        SettingError: They are two commands.
    """
    if isinstance(there, str) and isinstance(here, str) and there != here:
        raise SettingError(
            f"{folder} is the folder of a run of `feedalign {there}`, and was left as it is: go on with that command, "
            f"or begin a run of `feedalign {here}` in a folder of its own, with --out in the place of --resume."
        )
