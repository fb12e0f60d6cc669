"""`nerf-tiny` on a scene: whole training steps of DFA and shallow against backprop, rays and ray marching included."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.contestants import Step
from benchmarks.interleaving import interleave
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.scenes.networks import network_of
from feedalign_lab.scenes.poses import looking_at
from feedalign_lab.scenes.scene import Camera, Scene, Views
from feedalign_lab.scenes.settings import run_setting
from feedalign_lab.scenes.task import SceneTask
from feedalign_lab.training import Schedule

RULES = ("backprop", "dfa", "shallow")
_NETWORK = "nerf-tiny"
_SIZE, _NUM_VIEWS = 100, 4


def scene() -> Scene:
    """Return views of noise: what is in them makes no step longer or shorter."""
    draws = torch.Generator().manual_seed(0)
    pixels = torch.randint(256, (_NUM_VIEWS, _SIZE, _SIZE, 3), generator=draws, dtype=torch.uint8)
    places = 4 * torch.nn.functional.normalize(torch.randn(_NUM_VIEWS, 3, generator=draws), dim=1)
    up = torch.tensor([0.0, 0.0, 1.0])
    poses = torch.stack([looking_at(place, torch.zeros(3), up) for place in places])
    views = Views(tuple(map(str, range(_NUM_VIEWS))), pixels, poses)
    return Scene("noise", Camera.with_angle(_SIZE, _SIZE, 0.7), views, views, views, 2.0, 6.0, 1.0)


def steps() -> dict[str, Step]:
    """Return a step of each rule, at the batch size of its setting; weights stay as they are."""
    setting = run_setting("lego", _NETWORK)
    task = SceneTask("lego", _NETWORK, scene(), Schedule(1, setting.batch_size))
    return {rule: task.trial(LearnerSpec(rule, _NETWORK, learning_rate=0.0)).step for rule in RULES}


def measure(rounds: int) -> dict[str, Any]:
    """Time the steps, interleaved in one process.

    Args:
        rounds: Steps of each rule.

    Returns:
        For each rule the median of its steps, in milliseconds, and over backprop's.
    """
    seconds = {rule: statistics.median(found) for rule, found in interleave(steps(), rounds).items()}
    network = network_of(_NETWORK)
    return {
        "network": _NETWORK,
        "rays": run_setting("lego", _NETWORK).batch_size,
        "samples": network.num_even,
        "rules": {
            rule: {"ms": round(1e3 * one, 3), "ratio": round(one / seconds["backprop"], 4)}
            for rule, one in seconds.items()
        },
    }


def show(record: dict[str, Any]) -> None:
    """Print a record.

    Args:
        record: What `measure` returned, beside facts about the machine.
    """
    print(f"{record['network']}, {record['rays']} rays of {record['samples']} samples")
    for rule, found in record["rules"].items():
        print(f"  {rule:10s} {found['ms']:8.2f} ms   {found['ratio']:.3f} of backprop")


if __name__ == "__main__":
    show(measure(60))
