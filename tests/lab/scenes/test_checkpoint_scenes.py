"""Radiance fields whose training was cut go on as if it had not been."""

from collections.abc import Callable
from pathlib import Path

import pytest
from cut_runs import assert_same_run, cut_and_resumed, run
from made_trials import BOTH

from feedalign_lab.learner import LearnerSpec
from feedalign_lab.scenes import task as scene_task
from feedalign_lab.scenes.scene import Scene
from feedalign_lab.scenes.task import SceneTask
from feedalign_lab.training import Schedule

pytestmark = pytest.mark.usefixtures("always_saving")


def test_a_scene_goes_on(made_scene: Callable[..., Scene], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two networks with a handle each; pixels and depths are drawn."""
    monkeypatch.setattr(scene_task, "network_of", lambda name: BOTH)
    schedule = Schedule(3, 16, lr_decay=0.9, angles_every=2)
    task, spec = SceneTask("made", "nerf", made_scene(), schedule), LearnerSpec("dfa", "nerf", 1e-2)
    assert_same_run(cut_and_resumed(task, spec, schedule, tmp_path / "a", after=2), run(task, spec, schedule))
