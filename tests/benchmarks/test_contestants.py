"""The contestants of the speed benchmark compute the same."""

from pathlib import Path

import pytest

from benchmarks.contestants import Contestant, Setting, metrics

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
