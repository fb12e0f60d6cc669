"""Training on a scene: same numbers, a loss that falls, scores, pictures, and what goes wrong."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from made_trials import ALONE, BOTH, MakeScene, trial_of
from PIL import Image
from ssim_by_hand import ssim_by_hand
from torch.nn import functional as F

from feedalign_lab.choices import rule_names
from feedalign_lab.errors import DivergedError
from feedalign_lab.scenes.batches import draw_batch, pixels_of
from feedalign_lab.scenes.film import CAPTION_HEIGHT, write_side_by_side
from feedalign_lab.scenes.networks import Network
from feedalign_lab.scenes.quality import psnr, ssim
from feedalign_lab.scenes.rays import rays_of_view
from feedalign_lab.scenes.sampling import hierarchical, stratified
from feedalign_lab.scenes.settings import lack
from feedalign_lab.scenes.trial import SceneTrial


def weights_of(trial: SceneTrial) -> list[torch.Tensor]:
    return [parameter.detach().clone() for parameter in trial.model.parameters()]


@pytest.mark.parametrize("network", [ALONE, BOTH], ids=["alone", "both"])
def test_one_seed_gives_the_same_numbers_and_leaves_the_global_ones_alone(
    made_scene: MakeScene, network: Network
) -> None:
    before = torch.get_rng_state()
    one, other = (trial_of(made_scene(), network) for _ in range(2))
    assert one.train_epoch(1) == other.train_epoch(1)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(one), weights_of(other), strict=True))
    assert one.scores() == other.scores()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("rule", ["backprop", "dfa", "shallow"])
def test_the_loss_falls_and_the_picture_comes_nearer(made_scene: MakeScene, rule: str) -> None:
    trial = trial_of(made_scene(), rule=rule)
    before, start = trial.scores(), trial.untrained_loss()
    for epoch in (1, 2):
        loss = trial.train_epoch(epoch)
    assert loss < start
    after = trial.scores()
    assert after.test > before.test
    assert after.validation is not None
    assert before.validation is not None
    assert after.validation > before.validation


@pytest.mark.parametrize("rule", [name for name in rule_names() if lack("lego", "nerf", name) is None])
def test_every_rule_that_can_learns(made_scene: MakeScene, rule: str) -> None:
    trial = trial_of(made_scene(), BOTH, rule=rule)
    before = weights_of(trial)
    assert np.isfinite(trial.train_epoch(1))
    assert not all(torch.equal(a, b) for a, b in zip(weights_of(trial), before, strict=True))
    assert np.isfinite(trial.scores().test)


def test_shallow_leaves_hidden_layers_as_they_were(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene(), rule="shallow")
    before = {name: parameter.clone() for name, parameter in trial.model.named_parameters()}
    trial.train_epoch(1)
    moved = {name for name, parameter in trial.model.named_parameters() if not torch.equal(parameter, before[name])}
    assert moved == {"fine.output.weight", "fine.output.bias"}


def test_each_network_learns_from_its_own_loss_alone(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene(), BOTH)
    batch = draw_batch(trial.scene, 16, torch.Generator().manual_seed(0))

    def gradients(part: str | None) -> dict[str, torch.Tensor | None]:
        trial.model.zero_grad()
        looks = trial.renderer.looks(batch.rays, torch.Generator().manual_seed(1))
        losses = {name: F.mse_loss(seen.colours, batch.colours) for name, seen in looks.items()}
        (torch.stack(list(losses.values())).sum() if part is None else losses[part]).backward()
        return {name: parameter.grad for name, parameter in trial.model.named_parameters()}

    whole, coarse, fine = gradients(None), gradients("coarse"), gradients("fine")
    for name, gradient in whole.items():
        own, other = (coarse, fine) if name.startswith("coarse") else (fine, coarse)
        assert gradient is not None
        assert own[name] is not None
        torch.testing.assert_close(gradient, own[name], atol=0, rtol=0)
        assert other[name] is None


def test_the_fine_network_is_asked_where_the_coarse_one_saw_something(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene(), BOTH)
    trial.train_epoch(1)
    renderer, rays = trial.renderer, draw_batch(trial.scene, 16, torch.Generator().manual_seed(0)).rays
    looks = renderer.looks(rays, torch.Generator().manual_seed(1))
    draws = torch.Generator().manual_seed(1)
    depths = stratified(16, 6, 2.0, 6.0, rays.origins, draws)
    coarse, fine = (field for field in trial.model.fields().values())
    seen = renderer.shade(coarse, rays, depths)
    depths = hierarchical(depths, seen.weights.detach(), 4, draws)
    torch.testing.assert_close(looks["coarse"].colours, seen.colours)
    torch.testing.assert_close(looks["fine"].colours, renderer.shade(fine, rays, depths).colours)


def test_the_rule_is_attached_to_both_networks(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene(), BOTH)
    trial.train_epoch(1)
    assert len(trial.handles()) == 2
    assert trial.handle is trial.handles()[1]
    for handle in trial.handles():
        assert all(row.fired for row in handle.describe().rows if row.signal != "error")
        handle.remove()
    assert not any("feedalign" in name for name in trial.model.state_dict())


@pytest.mark.parametrize("rule", ["backprop", "dfa", "shallow"])
def test_angles_of_both_networks(made_scene: MakeScene, rule: str) -> None:
    trial = trial_of(made_scene(), BOTH, rule=rule)
    trial.train_epoch(1)
    rows = {row.layer: row for row in trial.alignment()}
    assert {"coarse.layers.0", "fine.layers.0", "coarse.feature", "fine.colour"} <= set(rows)
    angle = rows["fine.layers.0"].weight
    assert angle == 0 if rule == "backprop" else (np.isnan(angle) if rule == "shallow" else 0 < angle < 180)
    assert rows["fine.layers.0"].point == "fine.activations.0"
    assert rows["fine.colour"].weight == 0
    assert trial.alignment() == trial.alignment() or rule == "shallow"


def test_scores_are_those_of_whole_pictures(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene())
    trial.train_epoch(1)
    shown = [trial.renderer.picture(trial.scene.camera, pose, is_forward=False) for pose in trial.scene.test.poses]
    truth = trial.scene.test.pixels.double().numpy() / 255
    errors = [float(((one.double().numpy() - true) ** 2).mean()) for one, true in zip(shown, truth, strict=True)]
    scores = trial.scores()
    assert scores.test == pytest.approx(float(np.mean([-10 * np.log10(error) for error in errors])), abs=1e-4)
    assert set(scores.others) == set()


def test_few_pixels_are_the_same_at_every_call(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene(size=(20, 10)), replace(ALONE, scored_pixels=20))
    assert trial.scores() == trial.scores()
    assert len(trial._scored.unique()) == 20


def test_ssim_by_hand() -> None:
    draws = torch.Generator().manual_seed(0)
    truth = torch.rand(2, 16, 14, 3, generator=draws)
    shown = (truth + 0.2 * torch.rand(2, 16, 14, 3, generator=draws)).clamp(0, 1)
    assert ssim(truth, truth) == pytest.approx(1.0)
    assert ssim(shown, truth) == pytest.approx(ssim_by_hand(shown.double().numpy(), truth.double().numpy()), abs=1e-4)


def test_psnr_by_hand() -> None:
    truth = torch.zeros(2, 3, 3, 3)
    shown = truth.clone()
    shown[0] += 0.1
    assert psnr(shown, truth).tolist() == [pytest.approx(20.0, abs=1e-4), float("inf")]


def test_a_dual_picture_is_the_average_at_the_fine_samples(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene(), replace(BOTH, is_dual=True))
    trial.train_epoch(1)
    scene, renderer = trial.scene, trial.renderer
    rays = rays_of_view(scene.camera, scene.test.poses[0], is_forward=False)
    with torch.no_grad():
        depths = renderer.fine_depths(rays, None)
        coarse, fine = (renderer.shade(field, rays, depths).colours for field in trial.model.fields().values())
    assert depths.shape[1] == 10
    torch.testing.assert_close(renderer.colours(rays), (coarse + fine) / 2)
    assert not torch.equal(coarse, fine)


def test_dual_trains_as_without(made_scene: MakeScene) -> None:
    one, other = trial_of(made_scene(), BOTH), trial_of(made_scene(), replace(BOTH, is_dual=True))
    assert one.train_epoch(1) == other.train_epoch(1)
    assert all(torch.equal(a, b) for a, b in zip(weights_of(one), weights_of(other), strict=True))


def test_pieces_of_a_picture_fit_together(made_scene: MakeScene, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_of(made_scene(), BOTH)
    pose = trial.scene.test.poses[0]
    whole = trial.renderer.picture(trial.scene.camera, pose, is_forward=False)
    monkeypatch.setattr("feedalign_lab.scenes.renderer._POINTS_AT_ONCE", 70)
    torch.testing.assert_close(trial.renderer.picture(trial.scene.camera, pose, is_forward=False), whole)


def test_a_forward_scene_trains_with_noise(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene(is_forward=True), BOTH, noise=1.0)
    quiet = trial_of(made_scene(is_forward=True), BOTH)
    batch = draw_batch(trial.scene, 16, torch.Generator().manual_seed(0))
    losses = [float(one.loss(batch, torch.Generator().manual_seed(1)).detach()) for one in (trial, quiet)]
    assert losses[0] != losses[1]
    assert np.isfinite(trial.train_epoch(1))
    # Pictures have no noise in them.
    assert trial.scores() == trial.scores()


def test_targets_are_the_pixels_that_rays_go_through(made_scene: MakeScene) -> None:
    scene = made_scene()
    numbers, pixels = torch.tensor([1, 3]), torch.tensor([0, 3 * 8 + 4])
    batch = pixels_of(scene, scene.train, numbers, pixels)
    assert (batch.colours[0] * 255).tolist() == [255, 255, 255]
    torch.testing.assert_close(batch.colours[1] * 255, torch.tensor([30.0, 120.0, 60.0]))
    whole = rays_of_view(scene.camera, scene.train.poses[3], is_forward=False)
    torch.testing.assert_close(batch.rays.directions[1], whole.directions[3 * 8 + 4])


def test_the_rate_decays_after_each_epoch(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene(), BOTH, lr_decay=0.5)
    trial.train_epoch(1)
    trial.train_epoch(2)
    assert {group["lr"] for group in trial.optimizer.param_groups} == {1e-2 / 4}


def test_a_timed_step_is_a_step_and_gives_gradients_back(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene(), BOTH)
    before = weights_of(trial)
    trial.step()
    assert not any(torch.equal(a, b) for a, b in zip(weights_of(trial), before, strict=True))
    assert all(parameter.grad is None for parameter in trial.model.parameters())


@pytest.mark.parametrize("network", [ALONE, BOTH], ids=["alone", "both"])
def test_clipping_shortens_the_gradient_of_all_weights(made_scene: MakeScene, network: Network) -> None:
    trial = trial_of(made_scene(), network)
    trial.spec = replace(trial.spec, clip=1e-6)
    trial._update(trial.loss(draw_batch(trial.scene, 16, torch.Generator()), torch.Generator()))
    norm = torch.stack([p.grad.norm() for p in trial.model.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(1e-6, rel=1e-3)


def test_a_trial_that_blows_up_says_where(made_scene: MakeScene) -> None:
    trial = trial_of(made_scene())
    with torch.no_grad():
        next(iter(trial.model.fine.output.parameters())).fill_(float("nan"))
    with pytest.raises(DivergedError, match=r"dfa: the loss \(nan\) .* step 31 \(epoch 2\), first in fine.output"):
        trial.train_epoch(2)


def test_what_a_trial_leaves_behind(made_scene: MakeScene, tmp_path: Path) -> None:
    trial = trial_of(made_scene(size=(12, 8)))
    told: list[tuple[str, float]] = []
    trial.tell = lambda what, share: told.append((what, share))
    for name, write in trial.results():
        write(tmp_path / name)
    with Image.open(tmp_path / "view.png") as view:
        pixels = np.asarray(view)
    # Each pixel is drawn as 20 x 20, below captions.
    assert pixels.shape == (8 * 20 + CAPTION_HEIGHT, 2 * 12 * 20 + 4, 3)
    captions, below = pixels[:CAPTION_HEIGHT], pixels[CAPTION_HEIGHT:]
    assert (below[10::20, 10:240:20] == trial.scene.test.pixels[0].numpy()).all()
    assert (below[:, 240:244] == 255).all()
    assert all((part < 128).any() for part in (captions[:, :240], captions[:, 244:]))
    with Image.open(tmp_path / "turn.gif") as film:
        assert (film.size, film.n_frames) == ((12, 8), 40)
    assert told[-1] == ("rendering a film", 1.0)


def test_captions_name_the_view_the_rule_and_its_psnr(
    made_scene: MakeScene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[list[str]] = []
    monkeypatch.setattr("feedalign_lab.scenes.trial.write_side_by_side", lambda path, panels: told.append([*panels]))
    trial = trial_of(made_scene())
    dict(trial.results())["view.png"](tmp_path / "view.png")
    picture = trial.renderer.picture(trial.scene.camera, trial.scene.test.poses[0], is_forward=False)
    error = (picture - trial.scene.test.pixels[0] / 255).square().mean()
    assert told == [["truth: r_0.png", f"dfa: {-10 * math.log10(float(error)):.2f} dB"]]


def test_large_pictures_stay_as_they_are_and_long_captions_are_cut(tmp_path: Path) -> None:
    picture = torch.zeros(10, 300, 3)
    write_side_by_side(tmp_path / "view.png", {"a" * 500: picture, "größer": picture})
    with Image.open(tmp_path / "view.png") as view:
        pixels = np.asarray(view)
    assert pixels.shape == (10 + CAPTION_HEIGHT, 604, 3)
    assert (pixels[:, 300:304] == 255).all()


def test_a_film_is_small(made_scene: MakeScene, tmp_path: Path) -> None:
    trial = trial_of(made_scene(size=(200, 20)))
    dict(trial.results())["turn.gif"](tmp_path / "turn.gif")
    with Image.open(tmp_path / "turn.gif") as film:
        assert film.size == (100, 10)


@pytest.mark.parametrize(("network", "name"), [(ALONE, "fine"), (BOTH, "coarse")], ids=["alone", "both"])
def test_a_field_that_sees_no_density_anywhere_has_diverged(made_scene: MakeScene, network: Network, name: str) -> None:
    trial = trial_of(made_scene(), network)
    with torch.no_grad():
        for field in trial.model.fields().values():
            (field.density if field.shape.sees_directions else field.output).bias[-1] = -100.0
    with pytest.raises(DivergedError, match=rf"the {name} network is zero at the end of epoch 1: it sees no density"):
        trial.train_epoch(1)
