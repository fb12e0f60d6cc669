"""When checkpoints are written, and which of those on file are gone on from."""

import json
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

import feedalign as fa
from feedalign_lab.checkpoints.command import refuse_other_command
from feedalign_lab.checkpoints.file import (
    Content,
    Label,
    path_before,
    read_checkpoint,
    remove_checkpoint,
    write_checkpoint,
)
from feedalign_lab.errors import CheckpointError, SettingError
from feedalign_lab.results import to_json

Say = Callable[[str], object]

ENDING = ".feedalign-checkpoint"
TRAINING, CONVOLUTIONS = "training", "convolutions"
"""Names of the checkpoints of a trial, and of what it builds upon."""
FIRST_SECONDS = 1.0
"""How long a training lasts before it is saved for the first time: shorter ones are as soon repeated."""
ENDED = "at its end"
"""How far a training is that is done, where others of its run are not."""
MOST_SHARE = 0.02
"""How much of the time may go into checkpoints: after a slow one the next is so much longer in coming."""

_VERSIONS = ("feedalign", "torch")
_ANEW = "anew, since no checkpoint that was there could be gone on from"


class Checkpoints:
    """The newest checkpoint of one training and the one before.

    Args:
        path: Of the newest.
        configuration: Everything that decides what the training comes to; plain values.
        say: Told in sentences what is gone on from, and what is wrong.
        trusts_other_versions: What other versions of feedalign and torch wrote is gone on from, and this is said; else
            it is passed over, and that is said.

    Attributes:
        resumed: What was gone on from, in words, or that nothing there could be; empty where nothing was there.
    """

    def __init__(
        self, path: Path, configuration: Mapping[str, Any], say: Say, *, trusts_other_versions: bool = False
    ) -> None:
        self.path = path
        self._label = {"configuration": plain(configuration), "made_with": made_with()}
        self._say, self._trusts_other_versions = say, trusts_other_versions
        self._newest_is_sound = self._has_failed = False
        self._due = time.monotonic() + FIRST_SECONDS
        self.resumed = ""

    def newest(self) -> Content | None:
        """Read what the training goes on from.

        Returns:
            The content of the newest checkpoint that is sound and of this training, or of the one before; None where
            the training has to begin anew.
        """
        # Of a run of many trainings, this one begins now.
        self._due = time.monotonic() + FIRST_SECONDS
        found_any = False
        for path in (self.path, path_before(self.path)):
            try:
                label, content = read_checkpoint(path)
            except FileNotFoundError:
                continue
            except CheckpointError as error:
                problem = str(error)
            else:
                problem = self._problem(path, label)
                if not problem:
                    self._go_on_from(path, label)
                    return content
            found_any = True
            self._say(problem)
        if found_any:
            self.resumed = _ANEW
            self._say("No checkpoint is left to go on from: the training begins anew.")
        return None

    def ended(self) -> Content | None:
        """What a training came to that is done, where others of its run are not; None where it is not done."""
        for path in (self.path, path_before(self.path)):
            with suppress(FileNotFoundError, CheckpointError):
                label, content = read_checkpoint(path)
                if label.get("what") == ENDED and not self._problem(path, label):
                    self.resumed = ENDED
                    return content
        return None

    def end(self, result: Content) -> None:
        """Keep what a training came to in the place of its state.

        Args:
            result: Plain values; the state before is removed, which of large models takes much room.
        """
        if self.save(ENDED, result):
            with suppress(OSError):
                path_before(self.path).unlink(missing_ok=True)

    def begin_anew(self, reason: str) -> None:
        """Say that what `newest` gave cannot be gone on from after all.

        Args:
            reason: Why, in words.
        """
        self.resumed, self._newest_is_sound = _ANEW, False
        self._say(f"The checkpoint {self.path} does not fit ({reason}): the training begins anew.")

    def refuse_others(self) -> None:
        """Refuse to write over the checkpoints of another training.

        Raises:
            SettingError: A sound one is there whose configuration is not this one; the sentence tells the command that
                it is of, or what else differs.
        """
        for path in (self.path, path_before(self.path)):
            try:
                label, _ = read_checkpoint(path)
            except (FileNotFoundError, CheckpointError):
                continue
            there, here = label.get("configuration"), self._label["configuration"]
            if found := differences(there, here):
                if isinstance(there, dict):
                    refuse_other_command(self.path.parent, there.get("command"), here.get("command"))
                raise SettingError(
                    f"{path} was saved by a run with other settings ({'; '.join(found)}): give the same ones to go on, "
                    "or begin a run of its own in another folder."
                )

    @property
    def is_due(self) -> bool:
        """Whether it is time for the next one."""
        return time.monotonic() >= self._due

    def save(self, what: str, content: Content) -> bool:
        """Write a checkpoint; where that fails it is said, once, and training goes on.

        Args:
            what: How far the training is, in words.
            content: Its state.

        Returns:
            Whether it was written.
        """
        is_written = False
        start = time.monotonic()
        label = {**self._label, "what": what}
        try:
            write_checkpoint(self.path, label, content, keeps_older=self._newest_is_sound)
            self._newest_is_sound = is_written = True
        except CheckpointError as error:
            if not self._has_failed:
                self._say(f"{error} Training goes on, and what was saved before is kept; make room for the next one.")
            self._has_failed = True
        end = time.monotonic()
        self._due = end + (end - start) / MOST_SHARE
        return is_written

    def remove(self) -> None:
        """Remove what is on file, once nobody will go on from it."""
        remove_checkpoint(self.path)

    def _problem(self, path: Path, label: Label) -> str:
        """Why a sound checkpoint is not gone on from; empty if it is."""
        if found := differences(label.get("configuration"), self._label["configuration"]):
            return f"The checkpoint {path} is of another training ({'; '.join(found)})."
        found = differences(_of_versions(label.get("made_with")), _of_versions(self._label["made_with"]))
        if found and not self._trusts_other_versions:
            return f"The checkpoint {path} was made by other versions ({'; '.join(found)})."
        return ""

    def _go_on_from(self, path: Path, label: Label) -> None:
        """Note and say what is gone on from, and what makes the last digits uncertain."""
        self._newest_is_sound = path == self.path
        found = differences(label.get("made_with"), self._label["made_with"])
        self.resumed = "; ".join([str(label.get("what")), *found])
        doubt = (
            f"; it was made elsewhere ({'; '.join(found)}), so that the last digits may differ, and in time more"
            if found
            else ""
        )
        self._say(f"going on from {path}, saved {label.get('what')}{doubt}")


@dataclass(frozen=True)
class CheckpointFolder:
    """Where the checkpoints of one run lie.

    Attributes:
        path: The folder; made when the first checkpoint is written.
        configuration: Everything that decides what the run comes to.
        say: Told what is gone on from, and what is wrong.
        trusts_other_versions: See `Checkpoints`.
    """

    path: Path
    configuration: Mapping[str, Any]
    say: Say
    trusts_other_versions: bool = False
    _made: dict[str, Checkpoints] = field(default_factory=dict)

    def of(self, name: str) -> Checkpoints:
        """The checkpoints of one training of the run.

        Args:
            name: Of the training: the beginning of the name of its file.
        """
        if name not in self._made:
            self._made[name] = self._new(name)
        return self._made[name]

    def _new(self, name: str) -> Checkpoints:
        path, trusts = self.path / f"{name}{ENDING}", self.trusts_other_versions
        return Checkpoints(path, self.configuration, self.say, trusts_other_versions=trusts)

    def is_begun(self) -> bool:
        """Whether a checkpoint of any training is there."""
        return any(self.path.glob(f"*{ENDING}*"))

    def refuse_others(self) -> None:
        """Refuse to go on in a folder that another run was cut in.

        Raises:
            SettingError: A checkpoint there has another configuration; the sentence tells the differences.
        """
        for path in sorted(self.path.glob(f"*{ENDING}")):
            Checkpoints(path, self.configuration, self.say).refuse_others()

    def num_ended(self) -> int:
        """How many trainings of the run are done."""
        names = sorted(path.name.removesuffix(ENDING) for path in self.path.glob(f"*{ENDING}"))
        return sum(self._new(name).ended() is not None for name in names)

    def resumed(self) -> str:
        """What the trainings of this run were gone on from, in words; empty where all began anew."""
        found = {name: made.resumed for name, made in self._made.items() if made.resumed}
        num_ended = list(found.values()).count(ENDED)
        done = [f"{num_ended} done before"] if num_ended else []
        return ", ".join([*done, *(f"{name} {words}" for name, words in found.items() if words != ENDED)])

    def remove(self) -> None:
        """Remove the checkpoints of all trainings that were asked for."""
        for made in self._made.values():
            made.remove()


def made_with() -> dict[str, str | int]:
    """What the last digits of a training depend on beside its configuration."""
    return {"feedalign": fa.__version__, "torch": str(torch.__version__), "threads": torch.get_num_threads()}


def plain(configuration: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration as it comes back from a file.

    Args:
        configuration: Containers, numbers, text and dataclasses.
    """
    found: dict[str, Any] = json.loads(to_json(configuration))
    return found


def differences(saved: object, now: object, name: str = "") -> list[str]:
    """What two configurations differ in.

    Args:
        saved: That of a file; plain values.
        now: That of this run; plain values.
        name: Where in the configuration the two stand.

    Returns:
        A few words on each difference, with the setting's name.
    """
    if isinstance(saved, dict) and isinstance(now, dict):
        names = dict.fromkeys([*saved, *now])
        return [
            one
            for key in names
            for one in differences(saved.get(key), now.get(key), f"{name}.{key}" if name else str(key))
        ]
    return [] if saved == now else [f"{name or 'configuration'}: {_short(saved)} there, {_short(now)} here"]


def _short(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _of_versions(made: object) -> object:
    return {name: made.get(name) for name in _VERSIONS} if isinstance(made, dict) else made
