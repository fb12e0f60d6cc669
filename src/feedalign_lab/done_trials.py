"""Trials that are done, of a run that has others: kept in the place of their checkpoints, and taken as they are."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from feedalign_lab.checkpoints.file import Content
from feedalign_lab.checkpoints.keeper import CheckpointFolder, Checkpoints
from feedalign_lab.records import TrialResult, trial_result


@dataclass(frozen=True)
class DoneTrial:
    """What a trial came to that ended by itself.

    Attributes:
        result: Its figures.
        features: Those of the convolutions that it built upon; None where it trained the whole network.
        files: Names of what it left behind.
        note: What it noted for pictures of several rules; see `Task.notes`.
    """

    result: TrialResult
    features: TrialResult | None = None
    files: tuple[str, ...] = ()
    note: Any = None

    def keep(self, checkpoints: Checkpoints | None) -> None:
        """Put it on file, in the place of the trial's checkpoint.

        Args:
            checkpoints: Of the trial; None where nothing is kept.
        """
        if checkpoints is None or self.result.status == "interrupted":
            return
        features = None if self.features is None else asdict(self.features)
        checkpoints.end({"result": asdict(self.result), "features": features, "files": self.files, "note": self.note})


def done_trial(checkpoints: Checkpoints | None) -> DoneTrial | None:
    """What is on file of a trial.

    Args:
        checkpoints: Of the trial; None where nothing is kept.

    Returns:
        What it came to; None where it is not done.
    """
    content = None if checkpoints is None else checkpoints.ended()
    return None if content is None else _of(content)


def checkpoints_named(folder: CheckpointFolder | None, name: str, number: int) -> Checkpoints | None:
    """The checkpoints of one training of a run.

    Args:
        folder: Of the run; None where nothing is kept.
        name: What is trained.
        number: Of the trial, from 0.
    """
    return None if folder is None else folder.of(f"{name}-{number + 1}")


def _of(content: Content) -> DoneTrial:
    features: Mapping[str, Any] | None = content["features"]
    return DoneTrial(
        trial_result(content["result"]),
        None if features is None else trial_result(features),
        tuple(content["files"]),
        content["note"],
    )
