"""The contestants of the speed benchmark compute the same."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.contestants import Contestant, Setting, drr, metrics, step

pytestmark = pytest.mark.slow

pytest.importorskip("torchmetrics", reason="the extra `bench` is not installed")
TINY = str(Path(__file__).parents[1] / "tiny.yaml")


@pytest.mark.parametrize(
    "contestant", [metrics.metrics_scikit_image, metrics.metrics_monai, metrics.metrics_torchmetrics]
)
def test_ssim_and_psnr_agree_with_the_libraries(contestant: Contestant) -> None:
    setting = Setting(TINY, 24, 1, "")
    _, ours = metrics.metrics_axon(setting)
    _, theirs = contestant(setting)
    assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize("contestant", [step.step_plain, step.step_lightning])
def test_a_training_step_is_of_the_same_network_samples_and_loss(contestant: Contestant) -> None:
    setting = Setting(TINY, 24, 1, "")
    (_, (ours,)), (seconds, (theirs,)) = step.step_axon(setting), contestant(setting)
    assert theirs == pytest.approx(ours, rel=1e-4) and len(seconds) == 1


def test_the_plain_loop_has_pytorch_s_own_tf32_and_gives_it_back() -> None:
    stage = step.bridge_stage(Setting(TINY, 24, 1, ""))
    backends: tuple[Any, ...] = torch.backends.cudnn, torch.backends.cuda.matmul
    with step.torch_tf32():  # for the tests that follow
        for backend in backends:
            backend.allow_tf32 = False
        within = [[backend.allow_tf32 for backend in backends] for _ in step.plain_steps(stage, 1)]
        assert within == [[True, False]] and not any(backend.allow_tf32 for backend in backends)


# A volume of flashdrr's is a voxel smaller, of 24.
@pytest.mark.parametrize(("library", "alike"), [("nanodrr", 0.999), ("flashdrr", 0.5)])
def test_a_film_and_its_gradient_are_the_library_s(library: str, alike: float) -> None:
    pytest.importorskip(library, reason="the extra `bench` has nanodrr; flashdrr is installed by hand")
    setting = Setting(TINY, 24, 1, "")
    for what, least in (("drr", 0.97), ("gradient", alike)):
        (_, ours), (_, theirs) = (getattr(drr, f"{what}_{who}")(setting) for who in ("axon", library))
        assert ours.shape == theirs.shape and np.corrcoef(ours.ravel(), theirs.ravel())[0, 1] > least
