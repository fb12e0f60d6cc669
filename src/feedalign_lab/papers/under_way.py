"""The trials of a cell that are being trained: where they are saved until they are on file."""

import re
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from feedalign_lab.checkpoints.keeper import CONVOLUTIONS, ENDING, Checkpoints, Say
from feedalign_lab.papers.cells import Cell
from feedalign_lab.papers.store import configuration_hash
from feedalign_lab.plan import Plan
from feedalign_lab.task import Task

_FOLDER = ".checkpoints"


class UnderWay:
    """Checkpoints of the trials of one cell, beside the records of its paper.

    They are found by the hash of the cell's configuration and by the numbers of the trials that are trained together.
    No two processes have to do with the same ones, since each claims the trials that it trains.

    Args:
        records: Folder of the records.
        paper: Name of the paper.
        table: Name of the table.
        cell: The cell.
        plan: Of the cell.
        say: Told what is gone on from, and what is wrong.
    """

    def __init__(self, records: Path, paper: str, table: str, cell: Cell, plan: Plan, say: Say) -> None:
        self._configuration = cell.configuration(plan.schedule.epochs)
        self._folder = records / paper / _FOLDER / f"{table}-{configuration_hash(self._configuration)}"
        self._plan, self._say = plan, say
        self._made: dict[str, Checkpoints] = {}

    def of(self, trials: Sequence[int], task: Task, what: str = "") -> Checkpoints:
        """The checkpoints of trials that are trained together.

        Args:
            trials: Their numbers.
            task: The data and the network.
            what: What of them is trained, where that is not the whole.
        """
        configuration = {
            **self._configuration,
            "trials": list(trials),
            "angles_every": self._plan.schedule.angles_every,
            "device": str(task.device),
            "data_facts": dict(task.data_facts()),
        }
        name = _named(trials, what)
        self._made[name] = Checkpoints(self._folder / f"{name}{ENDING}", configuration, self._say)
        return self._made[name]

    def resumed(self, trials: Sequence[int]) -> dict[str, str]:
        """What trials were gone on from, for the environment of their records; nothing where they began anew."""
        made = self._made.get(_named(trials))
        return {"resumed": made.resumed} if made is not None and made.resumed else {}

    def together_with(self, trials: Sequence[int], missing: Iterable[int]) -> tuple[int, ...]:
        """Trials that a stack of trials was trained with when the process ended as it put them on file.

        Args:
            trials: What is to be trained.
            missing: All trials of the cell that are not on file.

        Returns:
            The stack that was cut, with those of it that are on file by now: they are needed for the others to come
            out the same. Where there is none, the trials themselves.
        """
        wanted, others = set(trials), set(missing)
        for path in sorted(self._folder.glob(f"*{ENDING}")):
            stack = _numbers(path.name.removesuffix(ENDING))
            if wanted < set(stack) and not others & (set(stack) - wanted):
                return stack
        return tuple(trials)

    def forget(self, trials: Sequence[int]) -> None:
        """Remove the checkpoints of trials that are on file."""
        for what in ("", CONVOLUTIONS):
            if (made := self._made.pop(_named(trials, what), None)) is not None:
                made.remove()

    def forget_all(self) -> None:
        """Remove what is left, once all trials of the cell are on file."""
        shutil.rmtree(self._folder, ignore_errors=True)


def _named(trials: Sequence[int], what: str = "") -> str:
    """Numbers in short, as in "0-9" or "0-2,5", and what of the trials is meant."""
    parts: list[list[int]] = []
    for number in sorted(trials):
        if parts and parts[-1][1] == number - 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    numbers = ",".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
    return f"{what}-{numbers}" if what else numbers


def _numbers(name: str) -> tuple[int, ...]:
    """The numbers that `_named` made a name of; none of any other."""
    if re.fullmatch(r"\d{1,6}(-\d{1,6})?(,\d{1,6}(-\d{1,6})?)*", name) is None:
        return ()
    ends = [part.split("-") for part in name.split(",")]
    return tuple(number for part in ends for number in range(int(part[0]), int(part[-1]) + 1))
