"""Many trials of one case trained at once, as one stacked model."""

from feedalign_lab.lockstep.lack import lack_of_lockstep
from feedalign_lab.lockstep.training import run_lockstep

__all__ = ["lack_of_lockstep", "run_lockstep"]
