"""Where commands save their checkpoints, and how they go on with a run that was cut."""

import json
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout

from feedalign_lab.checkpoints.command import refuse_other_command
from feedalign_lab.checkpoints.file import read_checkpoint
from feedalign_lab.checkpoints.keeper import ENDED, ENDING, CheckpointFolder, Say, differences, plain
from feedalign_lab.errors import CheckpointError, OutputFolderError, SettingError
from feedalign_lab.overwriting import replaced_results
from feedalign_lab.results import RESULTS_NAME, TUNING_NAME, ResultsFolder, to_json

_LOCK_NAME = ".feedalign-lock"
_EXIT_OK, _EXIT_DIVERGED = 0, 1
# What results say of a run that did not come to its end: "running" is what one leaves that was killed.
_CUT = {"interrupted", "running"}


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

    @property
    def json(self) -> bool:
        """Whether to print the results as JSON and nothing else."""


@dataclass(frozen=True)
class Asked:
    """What a run is, as its results have it.

    Attributes:
        command: The command.
        config: What the results have as `config`: those of such a run that was cut before its first checkpoint may be
            replaced.
        name: Of the file with the results.
    """

    command: str
    config: object
    name: str = RESULTS_NAME


@contextmanager
def open_folder(options: Resumable, path: Path, asked: Asked) -> Iterator[ResultsFolder]:
    """The folder of a run: that of one to go on with, or one without results; no other run writes to it meanwhile.

    Args:
        options: What the user typed.
        path: Where the results of a new run go.
        asked: What the run is.

    Yields:
        The folder; a new one is taken away again if what is done ends in an error before anything was written. Where
        results are replaced, they say from now on that this run is under way.

    Raises:
        SettingError: Other options say that another folder is meant, or it is a file, or of another command.
        OutputFolderError: It cannot be written, it holds results already, or another process trains in it.
    """
    resumed = options.resume
    _refuse_misplaced(options)
    advice = "choose another with --out" if resumed is None else "make it writable, or begin anew elsewhere with --out"
    folder = ResultsFolder.open(resumed or path, overwrite=False, goes_on=True, advice=advice)
    with folder.only_kept_with_content(), _held(folder.path):
        if resumed is None:
            ResultsFolder.open(path, overwrite=options.overwrite)
        elif not has_checkpoint(resumed) and not _is_of(_results(resumed / asked.name), _CUT, asked):
            _refuse_results(resumed, asked)
        facts = {"command": asked.command, "config": asked.config}
        begins = replaced_results(folder, asked.name, facts) if options.overwrite else nullcontext()
        with begins:
            yield folder


def _refuse_misplaced(options: Resumable) -> None:
    """Refuse to go on in two folders, or in none."""
    resumed = options.resume
    if resumed is None:
        return
    if options.overwrite:
        raise SettingError("--overwrite begins anew and --resume goes on: leave one of them out.")
    if options.out not in {None, resumed}:
        raise SettingError(f"--resume goes on in its own folder, {resumed}: leave --out out.")
    if resumed.exists() and not resumed.is_dir():
        raise SettingError(
            f"{resumed} is a file, and --resume expects the folder that the run to go on with writes to; "
            f"the file lies in {resumed.parent}."
        )


def status_of_ended(options: Resumable, asked: Asked) -> int | None:
    """Say how the run to go on with has ended, if it has, with the same settings; its results are left as they are.

    Args:
        options: What the user typed.
        asked: What the run is.

    Returns:
        The exit status that the run itself had; None where there is something to go on with.

    Raises:
        SettingError: Other options say that another folder is meant, or it is a file.
    """
    _refuse_misplaced(options)
    if options.resume is None or has_checkpoint(options.resume):
        return None
    results = _results(options.resume / asked.name)
    if not _is_of(results, {"finished"}, asked):
        return None
    if options.json:
        print(to_json(results), end="")
    print(f"feedalign: the run in {options.resume} is finished already, nothing to go on with.", file=sys.stderr)
    messages = list(_of_diverged(results))
    for message in messages:
        print(f"feedalign: {message}", file=sys.stderr)
    return _EXIT_DIVERGED if messages else _EXIT_OK


def _of_diverged(results: Mapping[str, Any]) -> Iterator[str]:
    """What was said of the trials that diverged.

    Yields:
        A sentence for each; of one that nothing is on file about, only that it did.
    """
    for name in ("trials", "runs"):
        found = results.get(name)
        for one in found if isinstance(found, list) else ():
            if isinstance(one, dict) and one.get("status") == "diverged":
                number = one.get("trial")
                heading = f"trial {number + 1}: " if isinstance(number, int) else ""
                yield f"{heading}{one.get('message', 'a trial diverged')}"


def way_on(folder: Path) -> str:
    """A sentence, after a blank, on how an interrupted run goes on and from where; empty where nothing was saved.

    Args:
        folder: The folder of the run.
    """
    newest = max(folder.glob(f"*{ENDING}"), key=lambda path: path.stat().st_mtime, default=None)
    if newest is None:
        return ""
    try:
        what = read_checkpoint(newest)[0].get("what")
    except (CheckpointError, FileNotFoundError):
        what = ENDED
    # What is done says nothing of the one that was under way.
    saved = "" if what == ENDED else f", from what was saved {what}"
    return f" The same command goes on with --resume {folder}{saved}."


@contextmanager
def _held(folder: Path) -> Iterator[None]:
    """Keep other processes out of a folder; the system lets go of it when the process dies."""
    lock = FileLock(folder / _LOCK_NAME)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise OutputFolderError(
            f"Another process trains in {folder} just now: wait for its end, or choose another folder."
        ) from None
    except (OSError, NotImplementedError) as error:
        raise OutputFolderError(f"The folder {folder} cannot be locked ({error}): choose another one.") from error
    try:
        yield
    finally:
        # Before it is let go of: a file that somebody else holds by then is not ours to remove.
        with suppress(OSError):
            (folder / _LOCK_NAME).unlink(missing_ok=True)
        lock.release()


def _refuse_results(folder: Path, asked: Asked) -> None:
    """Refuse a folder that holds what some run came to, and nothing to go on from."""
    try:
        ResultsFolder.open(folder, overwrite=False)
    except OutputFolderError as error:
        refuse_other_command(folder, _command_in(folder, asked), asked.command)
        found = _other_settings(folder, asked)
        what = f"of a run with other settings ({found})" if found else "that are not of an interrupted run"
        raise OutputFolderError(
            f"{folder} holds results {what}, and no checkpoint: they were left as they are. "
            f"{'Give the same settings, or begin' if found else 'Begin'} a run in a folder of its own, with --out in "
            "the place of --resume."
        ) from error


def _command_in(folder: Path, asked: Asked) -> object:
    """The command whose results are there: this one, if there are any of it."""
    named = (_results(folder / name).get("command") for name in (asked.name, RESULTS_NAME, TUNING_NAME))
    return next((command for command in named if command is not None), None)


def _other_settings(folder: Path, asked: Asked) -> str:
    """What the results that are there were made with instead; empty where they do not tell."""
    there = _results(folder / asked.name).get("config")
    return "; ".join(differences(there, _plain_config(asked))) if isinstance(there, dict) else ""


def _is_of(results: Mapping[str, Any], statuses: set[str], asked: Asked) -> bool:
    """Whether results are those of such a run that ended like this."""
    # Results of before that was noted have no command.
    same = results.get("config") == _plain_config(asked) and results.get("command", asked.command) == asked.command
    return same and results.get("status") in statuses


def _plain_config(asked: Asked) -> object:
    """What results that are read from a file have as `config`."""
    return plain({"config": asked.config})["config"]


def _results(path: Path) -> dict[str, Any]:
    """What a run left, empty where it left nothing that can be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
        elif num_ended := checkpoints.num_ended():
            are_done = (
                "trials are done already, and taken as they"
                if num_ended > 1
                else "trial is done already, and taken as it"
            )
            say(f"{num_ended} {are_done} came out.")
    return checkpoints


def has_checkpoint(folder: Path) -> bool:
    """Whether there is something in a folder to go on from."""
    return any(folder.glob(f"*{ENDING}*"))
