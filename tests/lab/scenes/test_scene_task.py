"""A scene as a task: what is known of it, what it leaves behind, and names that do not exist."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_trials import ALONE, MakeScene, trial_of
from PIL import Image

from feedalign_lab.errors import MissingDataError, SettingError, UnknownNameError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.scenes.film import CAPTION_HEIGHT
from feedalign_lab.scenes.networks import Network
from feedalign_lab.scenes.scene import Scene
from feedalign_lab.scenes.task import SceneTask, load
from feedalign_lab.scenes.trial import Pace
from feedalign_lab.training import Schedule


def task_of(scene: Scene, network: Network = ALONE) -> SceneTask:
    task = SceneTask("lego", "nerf-tiny", scene, Schedule(1, 32))
    task.shape, task.pace = network, Pace(32, network.num_iterations)
    return task


def test_a_task_shows_its_rules_side_by_side(made_scene: MakeScene, tmp_path: Path) -> None:
    task = task_of(made_scene())
    assert task.results() == ()
    for rule in ("backprop", "dfa"):
        task.trial(LearnerSpec(rule, "nerf-tiny", 1e-2)).results()
    ((name, write),) = task.results()
    write(tmp_path / name)
    with Image.open(tmp_path / name) as views:
        # Of 8 x 6 pixels, each drawn as 30 x 30; what each shows stands above.
        assert views.size == (3 * 8 * 30 + 2 * 4, 6 * 30 + CAPTION_HEIGHT)


def test_test_views_that_are_trained_on_are_told_of(made_scene: MakeScene) -> None:
    scene = made_scene()
    (of_validation, of_test) = task_of(scene).remarks()
    assert of_test == "2 of 2 test views are copies of training views (r_0.png, r_1.png): their score tells little"
    assert of_validation.startswith("2 of 2 validation views are copies of training views")
    apart = replace(scene, train=scene.train.chosen([2, 3]))
    assert task_of(apart).remarks() == []


def test_what_is_known_of_a_task(made_scene: MakeScene) -> None:
    task = task_of(made_scene())
    assert task.data_facts()["views"] == {"train": 4, "validation": 2, "test": 2}
    assert task.network_facts()["num_parameters"] == 15 * 16 + 16 + 16 * 16 + 16 + 16 * 4 + 4
    truth = task.scene.test.pixels.double().numpy() / 255
    mean = truth.mean((0, 1, 2))
    by_hand = [-10 * np.log10(((one - mean) ** 2).mean()) for one in truth]
    trivial = task.trivial(0, 0)
    assert trivial["mean colour"] == pytest.approx(float(np.mean(by_hand)), abs=1e-3)
    assert trivial["mean picture"] > 50
    assert (task.metric.name, task.metric.better, task.loss) == ("PSNR", "higher", "mse_loss")


def test_whole_pictures_are_judged_by_ssim_too(made_scene: MakeScene) -> None:
    scene = made_scene(size=(12, 12))
    task = SceneTask("lego", "nerf-tiny", scene, Schedule(1, 32))
    assert [metric.name for metric in task.others] == ["SSIM"]
    trial = trial_of(scene, replace(ALONE, scored_pixels=144))
    assert 0 < trial.scores().others["SSIM"] < 1


@pytest.mark.parametrize(
    ("data", "network", "error", "sentence"),
    [
        ("lego", "gcn", UnknownNameError, "no network for scenes called 'gcn'"),
        ("ship", "nerf", UnknownNameError, "nerf:PATH"),
        ("nerf:/nowhere/at/all", "nerf", MissingDataError, "no folder '/nowhere/at/all'"),
        ("llff:", "nerf", MissingDataError, "no folder ''"),
    ],
)
def test_names_that_do_not_exist(data: str, network: str, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence):
        load(data, network, schedule=Schedule(1, 32))


def test_all_rays_at_once_are_refused(made_scene: MakeScene) -> None:
    with pytest.raises(SettingError, match="rays per step"):
        SceneTask("lego", "nerf-tiny", made_scene(), Schedule(1, None))
