"""How much one step of an estimate varies: the closed forms for two layers and one sample, and how they grow.

The network is `fc1 - tanh - fc2` without biases; only fc1 is perturbed or taught. A batch holds one sample many times
over, and under a summed loss every row is an independent draw of the step. What rules average over the rows themselves
(FG-W's gradient, FDFA's estimate) is taken apart again: their functions are pure, so row by row they make what they
would have made of a batch of one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import feedalign as fa
from problems import draw

NUM_DRAWS = 400_000


@dataclass(frozen=True)
class Network:
    """Weights `[n1, n0]` and `[C, n1]`, and one sample `[n0]` of class 0."""

    first: Tensor
    second: Tensor
    x: Tensor

    def model(self) -> nn.Sequential:
        layers = nn.Sequential()
        for name, weight in (("fc1", self.first), ("act1", None), ("fc2", self.second)):
            layers.add_module(name, nn.Tanh() if weight is None else nn.Linear(*weight.T.shape, bias=False))
            if weight is not None:
                layers[-1].weight = nn.Parameter(weight.clone())
        layers.fc2.weight.requires_grad_(False)
        return layers

    def derivatives(self) -> tuple[Tensor, Tensor, Tensor]:
        """The error at the output `[C]`, dJ/dy1 `[n1]`, and dy1_i/dw_ij `[n1, n0]`."""
        hidden = torch.tanh(self.first @ self.x)
        output = self.second @ hidden
        error = output.softmax(0) - F.one_hot(torch.tensor(0), len(output))
        return error, error @ self.second, torch.outer(1 - hidden**2, self.x)

    def law_of_weights(self) -> Tensor:
        """Variance of FG-W: `(dJ/dw_ij)^2 + |dJ/dW1|^2`."""
        _, signal, slopes = self.derivatives()
        gradient = signal[:, None] * slopes
        return gradient**2 + gradient.square().sum()

    def law_of_activities(self) -> Tensor:
        """Variance of FG-A: `[(dJ/dy_i)^2 + |dJ/dy1|^2] (dy_i/dw_ij)^2`."""
        _, signal, slopes = self.derivatives()
        return (signal**2 + signal.square().sum())[:, None] * slopes**2


SMALL = Network(draw(3, 4, seed=1) / 2, draw(3, 3, seed=2), draw(4, seed=3))


def step(network: Network, rule: fa.Rule, num_draws: int) -> Tensor:
    """One step on so many copies of the sample; the gradients at fc1's output, a row for each."""
    model, x = network.model(), network.x.expand(num_draws, -1)
    fa.attach(model, rule, example_inputs=x[:2], feedback=matrices(network) if isinstance(rule, fa.FDFA) else None)
    arrived: list[Tensor] = []
    model.fc1.register_forward_hook(lambda module, args, output: arrived.append(output))
    output = model(x)
    if arrived[0].requires_grad:
        arrived[0].retain_grad()
    F.cross_entropy(output, torch.zeros(num_draws, dtype=torch.int64), reduction="sum").backward()
    return arrived[0].grad if arrived[0].requires_grad else torch.empty(0)


def matrices(network: Network) -> dict[str, Tensor]:
    """The feedback that FDFA converges to."""
    return {"act1": network.second}


def given_to(rule: type[fa.Rule], method: str, run: Callable[[], object]) -> list[Any]:
    """Arguments of a rule's function while something runs."""
    seen: list[Any] = []
    original = getattr(rule, method)

    def keep(self: fa.Rule, *args: Any) -> Tensor:
        seen.append(args)
        return original(self, *args)

    with mock.patch.object(rule, method, keep):
        run()
    assert len(seen) == 1
    return seen[0]


def of_weights(network: Network, num_draws: int) -> Tensor:
    """Draws of FG-W's gradient, `[draws, n1, n0]`."""
    rule = fa.WeightPerturbed("sample")
    slopes, directions = given_to(fa.WeightPerturbed, "update", lambda: step(network, rule, num_draws))
    return torch.vmap(lambda d, v: rule.update(d[:, None], v[:, None]), in_dims=1)(slopes, directions)


def of_activities(network: Network, num_draws: int) -> Tensor:
    """Draws of FG-A's gradient."""
    return step(network, fa.ActivityPerturbed(), num_draws)[:, :, None] * network.x


def estimates(network: Network, num_draws: int) -> Tensor:
    """Draws of FDFA's estimate of the Jacobian, `[draws, C, n1]`."""
    rule = fa.FDFA(update="ema", projects="new")
    tangents, perturbations, _ = given_to(fa.FDFA, "estimate", lambda: step(network, rule, num_draws))
    return torch.vmap(lambda d, v: rule.estimate(d[None], v[None], 1))(tangents, perturbations)


def of_feedback(network: Network, feedback: Tensor) -> Tensor:
    """FDFA's gradients with these matrices, `[draws, C, n1]`."""
    error, _, slopes = network.derivatives()
    return (error @ feedback)[:, :, None] * slopes


def after_one_step(network: Network, rate: float, num_draws: int) -> Tensor:
    """Draws of FDFA's gradient after one step of the average from the converged matrix."""
    rule = fa.FDFA(update="ema", projects="new", rate=rate)
    return of_feedback(network, rule.averaged(network.second, estimates(network, num_draws)))


def assert_is(found: Tensor, expected: Tensor) -> None:
    """Within 2 % at every weight."""
    torch.testing.assert_close(found, expected, rtol=0.02, atol=0)


def test_weight_perturbed_steps_vary_as_the_closed_form_says() -> None:
    found = of_weights(SMALL, NUM_DRAWS).var(0)
    assert_is(found, SMALL.law_of_weights())
    with pytest.raises(AssertionError, match="not close"):
        assert_is(found, SMALL.law_of_activities())


def test_activity_perturbed_steps_vary_as_the_closed_form_says() -> None:
    found = of_activities(SMALL, NUM_DRAWS).var(0)
    assert_is(found, SMALL.law_of_activities())
    with pytest.raises(AssertionError, match="not close"):
        assert_is(found, SMALL.law_of_weights())


@pytest.mark.parametrize("rate", [1.0, 0.1])
def test_one_step_of_the_average_varies_as_the_square_of_its_rate_times_that(rate: float) -> None:
    found = after_one_step(SMALL, rate, NUM_DRAWS)
    assert_is(found.var(0), rate**2 * SMALL.law_of_activities())
    _, signal, slopes = SMALL.derivatives()
    error = (found.mean(0) - signal[:, None] * slopes).abs()
    assert (error < 5 * (found.var(0) / NUM_DRAWS).sqrt()).all()


def test_a_step_of_the_attached_rule_is_one_of_these_draws() -> None:
    """With a batch of one, what is put together here by hand is what arrives."""
    rule, found = fa.FDFA(update="ema", projects="new", rate=0.1), []
    tangent, perturbation, _ = given_to(fa.FDFA, "estimate", lambda: found.append(step(SMALL, rule, 1)[0]))
    feedback = rule.averaged(SMALL.second, rule.estimate(tangent, perturbation, 1))
    expected = of_feedback(SMALL, feedback[None])[0]
    torch.testing.assert_close(found[0][:, None] * SMALL.x, expected, rtol=1e-12, atol=1e-12)


def exponent(sizes: list[float], variances: list[Tensor]) -> float:
    """Slope of the logarithms, by least squares."""
    x, y = torch.tensor(sizes, dtype=torch.float64).log(), torch.stack(variances).log()
    return float(((x - x.mean()) * (y - y.mean())).sum() / (x - x.mean()).square().sum())


def of_width(num_inputs: int, num_hidden: int) -> Network:
    """All inputs of one size, all hidden units alike, the same error whatever the widths."""
    signs = torch.ones(num_hidden, dtype=torch.float64)
    signs[1::2] = -1
    first = torch.full((num_hidden, num_inputs), 0.5 / num_inputs, dtype=torch.float64)
    return Network(first, torch.stack([signs, -signs]) / 2, torch.ones(num_inputs, dtype=torch.float64))


def test_the_variance_of_weight_perturbation_grows_with_the_inputs_and_that_of_activity_perturbation_does_not() -> None:
    sizes = [16, 32, 64, 128, 256]
    assert abs(exponent(sizes, [of_weights(of_width(n, 2), 20_000).var(0).mean() for n in sizes]) - 1) < 0.05
    assert abs(exponent(sizes, [of_activities(of_width(n, 2), 20_000).var(0).mean() for n in sizes])) < 0.05


def test_the_variance_of_activity_perturbation_grows_with_the_hidden_units() -> None:
    sizes = [16, 32, 64, 128, 256]
    found = exponent(sizes, [of_activities(of_width(2, n), 20_000).var(0).mean() for n in sizes])
    assert abs(found - 1) < 0.05


RATES = [0.3, 0.1, 0.03]


def test_one_step_from_the_converged_matrix_has_a_quadratic_law_in_the_rate() -> None:
    drawn = estimates(SMALL, 50_000)
    averages = {rate: fa.FDFA(update="ema", rate=rate).averaged(SMALL.second, drawn) for rate in RATES}
    variances = [of_feedback(SMALL, feedback).var(0).mean() for feedback in averages.values()]
    assert abs(exponent(RATES, variances) - 2) < 1e-6


def test_a_running_average_has_a_linear_one() -> None:
    """Averages side by side, from the converged matrix until they have forgotten it."""
    num_chains, variances = 20_000, []
    for rate in RATES:
        rule, num_steps = fa.FDFA(update="ema", rate=rate), round(5 / rate)
        feedback = SMALL.second.expand(num_chains, 3, 3)
        for drawn in estimates(SMALL, num_steps * num_chains).unflatten(0, (num_steps, num_chains)):
            feedback = rule.averaged(feedback, drawn)
        variances.append(of_feedback(SMALL, feedback).var(0).mean())
        expected = rate / (2 - rate) * SMALL.law_of_activities().mean()
        # Of 20 000 numbers the variance is known to sqrt(2 / 20 000) = 1 %; 3 % are three standard errors.
        assert abs(variances[-1] / expected - 1) < 0.03
        assert abs(variances[-1] / (rate**2 * SMALL.law_of_activities().mean()) - 1) > 0.5
    stretched = [rate / (2 - rate) for rate in RATES]
    assert abs(exponent(stretched, variances) - 1) < 0.05
