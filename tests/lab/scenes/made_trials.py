"""Small networks on small scenes, ready to train."""

from collections.abc import Callable
from dataclasses import replace

from feedalign_lab.choices import make_rule
from feedalign_lab.learner import LearnerSpec
from feedalign_lab.scenes.fields import FieldShape
from feedalign_lab.scenes.networks import Network
from feedalign_lab.scenes.scene import Scene
from feedalign_lab.scenes.trial import Pace, SceneTrial

TINY = FieldShape(width=16, num_layers=2, skips=(), sees_directions=False, point_frequencies=2)
WHOLE = FieldShape(width=16, num_layers=3, skips=(2,), point_frequencies=2, direction_frequencies=1)
ALONE = Network(fine=TINY, coarse=None, num_even=8, num_drawn=0, num_iterations=30, scored_pixels=100)
BOTH = Network(fine=replace(WHOLE, width=20), coarse=WHOLE, num_even=6, num_drawn=4, num_iterations=3, scored_pixels=20)
MakeScene = Callable[..., Scene]


def trial_of(
    scene: Scene, network: Network = ALONE, rule: str = "dfa", rate: float = 1e-2, **pace: float
) -> SceneTrial:
    spec = LearnerSpec(rule, "nerf-tiny", rate)
    return SceneTrial(spec, make_rule(rule, "regression"), scene, network, Pace(32, network.num_iterations, **pace))
