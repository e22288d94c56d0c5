"""PSNR and SSIM of one pair of volumes, three-dimensional, Gaussian window."""

from __future__ import annotations

import numpy as np

from benchmarks.contestants import Setting, Timed, repeat


def _pair(setting: Setting) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    reference = rng.random((setting.size,) * 3, dtype=np.float32)
    noisy = np.clip(reference + 0.1 * rng.standard_normal(reference.shape, dtype=np.float32), 0, 1)
    return noisy, reference


def metrics_axon(setting: Setting) -> Timed:
    import torch

    from axon.metrics import protocols

    prediction, reference = (torch.from_numpy(volume).double() for volume in _pair(setting))

    def run() -> np.ndarray:
        ssim = protocols._ssim(prediction, reference, protocols._gaussian(), (0, 1, 2), 1.0, sample_covariance=False)
        return np.array([protocols._psnr(prediction - reference, 1.0), ssim])

    return repeat(run, setting.repeats)


def metrics_scikit_image(setting: Setting) -> Timed:
    from skimage.metrics import peak_signal_noise_ratio, structural_similarity

    a, b = _pair(setting)

    def run() -> np.ndarray:
        ssim = structural_similarity(
            a, b, gaussian_weights=True, sigma=1.5, use_sample_covariance=False, data_range=1.0
        )
        return np.array([peak_signal_noise_ratio(b, a, data_range=1.0), ssim])

    return repeat(run, setting.repeats)


def metrics_monai(setting: Setting) -> Timed:
    import torch
    from monai.metrics import PSNRMetric, SSIMMetric

    a, b = (torch.from_numpy(volume)[None, None] for volume in _pair(setting))
    return repeat(
        lambda: np.array([float(PSNRMetric(1.0)(a, b)), float(SSIMMetric(3, data_range=1.0)(a, b))]), setting.repeats
    )


def metrics_torchmetrics(setting: Setting) -> Timed:
    import torch
    from torchmetrics.functional.image import peak_signal_noise_ratio, structural_similarity_index_measure

    a, b = (torch.from_numpy(volume)[None, None] for volume in _pair(setting))

    def run() -> np.ndarray:
        # Its own mean counts the reflected border; the others leave it out.
        _, full = structural_similarity_index_measure(a, b, data_range=1.0, return_full_image=True)
        return np.array(
            [float(peak_signal_noise_ratio(a, b, data_range=1.0)), float(full[..., 5:-5, 5:-5, 5:-5].mean())]
        )

    return repeat(run, setting.repeats)
