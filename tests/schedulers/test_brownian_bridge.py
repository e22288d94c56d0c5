import json
from pathlib import Path

import pytest
import torch

from axon.schedulers.brownian_bridge import BrownianBridgeScheduler

VECTORS = json.loads((Path(__file__).parents[1] / "support/vectors/bridge.json").read_text())["values"]


@pytest.mark.parametrize("t", [int(t) for t in VECTORS])
def test_bridge_matches_reference_values(t: int) -> None:
    scheduler = BrownianBridgeScheduler()
    mean, variance = VECTORS[str(t)]
    assert float(scheduler.m[t]) == pytest.approx(mean, abs=1e-12)
    assert float(scheduler.variance[t]) == pytest.approx(variance, abs=1e-12)


@pytest.mark.parametrize(
    ("x_t", "t", "n", "z", "expected"), [(-0.2, 999, 993, 0.0, -0.1970000030), (0.1, 500, 400, 0.5, 0.3398698735)]
)
def test_a_step_matches_reference_values(x_t: float, t: int, n: int, z: float, expected: float) -> None:
    scheduler = BrownianBridgeScheduler(eta=1.0)
    scheduler.timesteps = torch.tensor([t, n])
    x0, y, sample = (torch.tensor(v, dtype=torch.float64) for v in (0.3, -0.2, x_t))
    out = scheduler.step(sample - x0, t, sample, y, variance_noise=torch.tensor(z, dtype=torch.float64))
    assert out.prev_sample.item() == pytest.approx(expected, abs=1e-9)
    assert out.pred_original_sample.item() == pytest.approx(0.3)


@pytest.mark.parametrize("objective", ["grad", "noise", "ysubx"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("steps", [2, 5, 40])
def test_with_an_oracle_the_reverse_bridge_ends_at_the_data(objective: str, eta: float, steps: int) -> None:
    scheduler = BrownianBridgeScheduler(objective=objective, eta=eta)
    generator = torch.Generator().manual_seed(1)
    x0, y = torch.randn(2, 3, 1, 4, 4, 4, generator=generator, dtype=torch.float64).unbind(0)
    scheduler.set_timesteps(steps)
    sample = y
    for t in scheduler.timesteps:
        m, sigma = scheduler.m[t], scheduler.variance[t].sqrt()
        noise = (sample - (1 - m) * x0 - m * y) / sigma
        oracle = scheduler.get_target(x0, noise, t.repeat(3), y)
        sample = scheduler.step(oracle, t, sample, y, generator=generator).prev_sample
    torch.testing.assert_close(sample, x0, atol=1e-7, rtol=0)


@pytest.mark.parametrize("eta", [0.0, 0.7, 1.0])
def test_steps_keep_the_marginals_of_the_bridge(eta: float) -> None:
    """Noising to t, then an oracle step to n, must give the distribution of noising to n, whatever eta is."""
    scheduler = BrownianBridgeScheduler(max_var=0.5, eta=eta)
    generator = torch.Generator().manual_seed(2)
    x0, y = torch.full((200_000,), 0.4, dtype=torch.float64), torch.full((200_000,), -0.6, dtype=torch.float64)
    t, n = 700, 300
    noise = torch.randn(len(x0), generator=generator, dtype=torch.float64)
    x_t = scheduler.add_noise(x0, noise, torch.full((len(x0),), t), y)
    scheduler.timesteps = torch.tensor([t, n])
    oracle = scheduler.get_target(x0, noise, torch.full((len(x0),), t), y)
    x_n = scheduler.step(oracle, t, x_t, y, generator=generator).prev_sample
    m, variance = float(scheduler.m[n]), float(scheduler.variance[n])
    assert x_n.mean().item() == pytest.approx((1 - m) * 0.4 + m * -0.6, abs=0.005)
    assert x_n.var().item() == pytest.approx(variance, rel=0.02)


def test_eta_zero_is_deterministic() -> None:
    scheduler = BrownianBridgeScheduler(eta=0.0)
    scheduler.set_timesteps(4)
    sample = torch.ones(1, 1, 2, 2, 2)
    outs = [scheduler.step(sample * 0.1, 999, sample, sample).prev_sample for _ in range(2)]
    assert torch.equal(*outs)


def test_the_configuration_is_saved_whole(tmp_path: Path) -> None:
    BrownianBridgeScheduler(max_var=0.05, objective="ysubx", eta=0.3).save_pretrained(tmp_path)
    loaded = BrownianBridgeScheduler.from_pretrained(tmp_path)
    assert (loaded.config.max_var, loaded.config.objective, loaded.config.eta) == (0.05, "ysubx", 0.3)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="objective"):
        BrownianBridgeScheduler(objective="gradient")
    with pytest.raises(ValueError, match="num_inference_steps"):
        BrownianBridgeScheduler().set_timesteps(1)
