"""Scenes as tasks: views to learn from, a network, and the PSNR of views that were held out."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from feedalign_lab.choices import make_rule
from feedalign_lab.errors import MissingDataError, SettingError, UnknownNameError
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.scenes.blender import load_blender
from feedalign_lab.scenes.copies import remarks_on_copies
from feedalign_lab.scenes.film import captioned, write_side_by_side
from feedalign_lab.scenes.lego import load_lego
from feedalign_lab.scenes.llff import load_llff
from feedalign_lab.scenes.names import DATA_NAMES, DATA_PREFIXES
from feedalign_lab.scenes.networks import Network, network_of
from feedalign_lab.scenes.quality import as_colours, psnr, require_torchmetrics
from feedalign_lab.scenes.scene import Scene
from feedalign_lab.scenes.settings import NOISE_OF_FORWARD_SCENES
from feedalign_lab.scenes.trial import Pace, SceneTrial, build_model, has_ssim, streams
from feedalign_lab.seeding import Stream
from feedalign_lab.task import Metric, ResultFile, Task, Tell, silent
from feedalign_lab.training import Schedule

PSNR = Metric("PSNR", "dB", "higher")
SSIM = Metric("SSIM", "", "higher", 3)


class SceneTask(Task):
    """A scene and a network.

    Args:
        data: What the user typed.
        network: What the user typed.
        scene: The scene, on the device to train on.
        schedule: Rays per step, and the decay of the learning rate per epoch.
    """

    def __init__(self, data: str, network: str, scene: Scene, schedule: Schedule) -> None:
        self.data, self.network, self.scene = data, network, scene
        self.shape: Network = network_of(network)
        self.device = scene.train.poses.device
        self.metric, self.loss = PSNR, "mse_loss"
        self.others = (SSIM,) if has_ssim(scene, self.shape) else ()
        if schedule.batch_size is None:
            raise SettingError("Scenes are trained on a number of rays per step: give one with --batch-size.")
        noise = NOISE_OF_FORWARD_SCENES if scene.is_forward else 0.0
        self.pace = Pace(schedule.batch_size, self.shape.num_iterations, schedule.lr_decay, noise)
        self._shown: dict[str, Any] = {}

    def data_facts(self) -> Mapping[str, Any]:
        """Views, camera, and what is around the scene."""
        scene, camera = self.scene, self.scene.camera
        return {
            "views": {"train": len(scene.train), "validation": len(scene.validation), "test": len(scene.test)},
            "width": camera.width,
            "height": camera.height,
            "focal_length": camera.focal_x,
            "averaged_over": self.shape.reduce**2,
            "near": scene.near,
            "far": scene.far,
            "background": "white" if scene.background is not None else "black",
            "coordinates": "normalized device" if scene.is_forward else "of the scene",
        }

    def remarks(self) -> list[str]:
        """Which held-out views are trained on."""
        parts = {"validation": self.scene.validation, "test": self.scene.test}
        return [one for part, views in parts.items() for one in remarks_on_copies(self.scene.train, views, part)]

    def network_facts(self) -> Mapping[str, Any]:
        """Sizes of the networks, and how they are sampled."""
        model = build_model(self.shape, 0)
        return {
            "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
            "networks": {name: str(field.shape) for name, field in model.fields().items()},
            "samples": {"even": self.shape.num_even, "drawn": self.shape.num_drawn},
            "iterations_per_epoch": self.shape.num_iterations,
            "noise_on_densities": self.pace.noise,
            "scored_pixels_per_view": min(self.shape.scored_pixels, self.scene.camera.width * self.scene.camera.height),
        }

    def trivial(self, seed: int, trial: int) -> Mapping[str, float]:
        """PSNR of the training views' mean colour, and of their mean picture."""
        del seed, trial
        truth, train = as_colours(self.scene.test.pixels), self.scene.train.pixels
        colour = train.flatten(0, 2).double().mean(0).float() / 255
        picture = train.double().mean(0).float() / 255
        return {
            "mean colour": float(psnr(colour.expand_as(truth), truth).mean()),
            "mean picture": float(psnr(picture.expand_as(truth), truth).mean()),
        }

    def trial(self, spec: LearnerSpec) -> SceneTrial:
        """Build the networks of a trial, attach the rule to each, make the optimizer."""
        rule = make_rule(spec.rule, "regression")
        return SceneTrial(spec, rule, self.scene, self.shape, self.pace, self._note)

    def _note(self, rule: str, picture: Tensor) -> None:
        self._shown[rule] = picture.cpu()

    def notes(self) -> dict[str, Any]:
        """Return each rule's picture of the first test view; see `Task`."""
        return self._shown

    def results(self) -> Sequence[ResultFile]:
        """Return the first test view: the truth, then each rule's picture, in the order in which they were trained."""
        return (("views.png", self._write_views),) if self._shown else ()

    def _write_views(self, path: Path) -> None:
        write_side_by_side(path, captioned(self.scene.test, self._shown))

    def streams(self) -> tuple[Stream, ...]:
        """Names of the streams of random numbers that a trial draws from."""
        return streams()


def load(
    data: str, network: str, *, schedule: Schedule, device: torch.device | str = "cpu", tell: Tell = silent
) -> SceneTask:
    """Read a scene.

    Args:
        data: `lego`, `nerf:PATH` for a folder with `transforms_*.json`, or `llff:PATH` for one with `poses_bounds.npy`.
        network: A name out of `names.NETWORK_NAMES`.
        schedule: Rays per step, and the decay of the learning rate per epoch.
        device: Where to train.
        tell: Told how far the reading is.

    Returns:
        The task.

    Raises:
        UnknownNameError: There is no such data or network.
        MissingDataError: Files are not there.
        CorruptFileError: A file is not what it should be.
        SceneError: Views, poses or the camera do not go together.
        MissingPackageError: torchmetrics is not installed.
    """
    require_torchmetrics()
    scene = _read(data, network_of(network).reduce, tell)
    return SceneTask(data, network, scene.to(torch.device(device)), schedule)


def _read(data: str, reduce: int, tell: Tell) -> Scene:
    if data == "lego":
        return load_lego(reduce, tell)
    prefix, colon, path = data.partition(":")
    if f"{prefix}{colon}" not in DATA_PREFIXES:
        raise UnknownNameError("scene", data, (*DATA_NAMES, *(f"{prefix}PATH" for prefix in DATA_PREFIXES)))
    folder = Path(path).expanduser()
    if not path or not folder.is_dir():
        raise MissingDataError(f"There is no folder {path!r}: give the folder of a scene, as in {prefix}:PATH.")
    if prefix == "nerf":
        return load_blender(data, folder, reduce, tell=tell)
    return load_llff(data, folder, reduce, tell)
