"""Brownian-bridge diffusion between a CT volume and its lifted X-rays, as a diffusers scheduler.

After "BBDM: Image-to-image Translation with Brownian Bridge Diffusion Models" (Li et al., CVPR 2023, arXiv 2205.07680),
equations 4 to 12, written anew. Unlike the reference, ``eta`` scales the posterior variance in the mean as well as in
the noise, so that ``eta = 0`` is a deterministic sampler of the same marginals (as in DDIM, arXiv 2010.02502).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from axon.compute.bases import BaseOutput, ConfigMixin, SchedulerMixin, randn_tensor, register_to_config


@dataclass
class BrownianBridgeSchedulerOutput(BaseOutput):
    """Result of a step.

    Attributes:
        prev_sample: The sample one step nearer to the data, same shape as the sample.
        pred_original_sample: The data x0 as predicted at this step.
    """

    prev_sample: Tensor
    pred_original_sample: Tensor


class BrownianBridgeScheduler(SchedulerMixin, ConfigMixin):
    """The bridge x_t = (1 - m_t) x0 + m_t y + sqrt(var_t) eps, with m_t linear and var_t = 2 (m_t - m_t^2) max_var.

    Args:
        num_train_timesteps: T.
        m_min, m_max: m_t at the first and the last timestep.
        max_var: Factor on the variance; at most ``max_var / 2`` is reached in the middle.
        objective: What the network predicts: ``"grad"`` m_t (y - x0) + sqrt(var_t) eps, ``"noise"`` eps, ``"ysubx"`` y
            - x0.
        eta: Default of `step`: 0 deterministic, 1 the full posterior variance.
    """

    order = 1

    @register_to_config
    def __init__(
        self,
        num_train_timesteps: int = 1000,
        m_min: float = 0.001,
        m_max: float = 0.999,
        max_var: float = 1.0,
        objective: str = "grad",
        eta: float = 1.0,
    ) -> None:
        if objective not in ("grad", "noise", "ysubx"):
            raise ValueError(f"objective must be 'grad', 'noise' or 'ysubx', not {objective!r}")
        # float64: near the ends the variances differ by parts in a thousand.
        self.m = torch.linspace(m_min, m_max, num_train_timesteps, dtype=torch.float64)
        self.variance = 2 * (self.m - self.m**2) * max_var
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self._tables: dict[tuple[torch.device, torch.dtype], Tensor] = {}

    def set_timesteps(self, num_inference_steps: int, device: str | torch.device | None = None) -> None:
        """Space the sampling steps evenly from T - 1 down to 0, both included.

        Raises:
            ValueError: Fewer than 2 steps, or more than there are timesteps.
        """
        last = self.config.num_train_timesteps - 1
        if not 2 <= num_inference_steps <= last + 1:
            raise ValueError(f"num_inference_steps must be from 2 to {last + 1}, not {num_inference_steps}")
        self.timesteps = torch.linspace(last, 0, num_inference_steps, dtype=torch.float64).round().long().to(device)

    def scale_model_input(self, sample: Tensor, timestep: int | None = None) -> Tensor:
        """The sample itself; here for interchange with diffusers' other schedulers."""
        return sample

    def add_noise(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor, endpoint: Tensor) -> Tensor:
        """x_t for each item of a batch (BBDM eq. 4).

        Args:
            original_samples: x0, shape (B, ...).
            noise: eps, standard normal, shape (B, ...).
            timesteps: t, shape (B,).
            endpoint: y, shape (B, ...).
        """
        m, variance = self._at(timesteps, original_samples)
        return (1 - m) * original_samples + m * endpoint + variance.sqrt() * noise

    def get_target(self, original_samples: Tensor, noise: Tensor, timesteps: Tensor, endpoint: Tensor) -> Tensor:
        """What the network has to predict for `add_noise` of the same arguments."""
        if self.config.objective == "noise":
            return noise
        if self.config.objective == "ysubx":
            return endpoint - original_samples
        m, variance = self._at(timesteps, original_samples)
        return m * (endpoint - original_samples) + variance.sqrt() * noise

    def predict_original(self, model_output: Tensor, timesteps: Tensor, sample: Tensor, endpoint: Tensor) -> Tensor:
        """x0 implied by the network's output at ``timesteps``, shape (B, ...)."""
        if self.config.objective == "grad":
            return sample - model_output
        if self.config.objective == "ysubx":
            return endpoint - model_output
        m, variance = self._at(timesteps, sample)
        return (sample - m * endpoint - variance.sqrt() * model_output) / (1 - m)

    def step(
        self,
        model_output: Tensor,
        timestep: int | Tensor,
        sample: Tensor,
        endpoint: Tensor,
        eta: float | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: Tensor | None = None,
        correct: Callable[[Tensor], Tensor] | None = None,
        return_dict: bool = True,
    ) -> BrownianBridgeSchedulerOutput | tuple[Tensor, Tensor]:
        """One step of the reverse bridge, from ``timestep`` to the next of `timesteps`; the last returns x0.

        Args:
            model_output: The network's prediction, shape (B, ...).
            timestep: The current one of `timesteps`.
            sample: x_t.
            endpoint: y.
            eta: Overrides the configured ``eta``.
            generator: Source of the noise: one, or one a sample.
            variance_noise: The noise itself, instead of a generator.
            correct: Applied to the predicted x0 before it is used, e.g. to make it agree with a measurement.
            return_dict: False returns the tuple (prev_sample, pred_original_sample).
        """
        t = int(timestep)
        eta = self.config.eta if eta is None else eta
        x0 = self.predict_original(model_output, torch.tensor([t]), sample, endpoint)
        x0 = correct(x0) if correct is not None else x0
        later = self.timesteps[self.timesteps < t]
        if len(later) == 0:
            previous = x0
        else:
            n = int(later[0])
            m_t, m_n = float(self.m[t]), float(self.m[n])
            var_t, var_n = float(self.variance[t]), float(self.variance[n])
            posterior = (var_t - var_n * (1 - m_t) ** 2 / (1 - m_n) ** 2) * var_n / var_t * eta**2
            residual = sample - (1 - m_t) * x0 - m_t * endpoint
            previous = (1 - m_n) * x0 + m_n * endpoint + ((var_n - posterior) / var_t) ** 0.5 * residual
            if eta > 0:
                if variance_noise is None:
                    variance_noise = randn_tensor(
                        sample.shape, generator=generator, device=sample.device, dtype=sample.dtype
                    )
                previous = previous + posterior**0.5 * variance_noise
        if not return_dict:
            return previous, x0
        return BrownianBridgeSchedulerOutput(prev_sample=previous, pred_original_sample=x0)

    def __len__(self) -> int:
        return int(self.config.num_train_timesteps)

    def _at(self, timesteps: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """m_t and var_t shaped to broadcast over ``like``."""
        shape = (-1,) + (1,) * (like.ndim - 1)
        place = (like.device, like.dtype)
        if place not in self._tables:
            # A look-up on another device would wait for the GPU at every training step.
            self._tables[place] = torch.stack([self.m, self.variance]).to(like)
        m, variance = self._tables[place][:, timesteps.to(like.device)]
        return m.view(shape), variance.view(shape)
