"""What else could be made of the same warps without training: other fusions in closed form, and how coherent each is.

    estimate, best warp, mean     what goes into the fusion, as it is
    vote                          the warps' vote with the estimate's share, before HU are carried and films correct
    volume, sample                the product's
    band noise                    the vote, and noise with the power that it lacks in each band
    patches                       the vote, mean and covariance of its patches carried to those of CTs (optimal
                                  transport of Gaussians, one operator for all), half and all of the way
    measured weights              estimate and mean of the warps weighed band by band as fits the training patients
                                  best, each without himself (Wiener's weights of both)
    vote by estimate              warps weighed by how near each comes to the estimate at a place, not to their mean

All but the first four are corrected by the films as the product's volume is. Coherence with the CT by band says in
advance at which wavelengths references help, are free (above one half), or only decorate.

Examples:
    python -m benchmarks.closed_form --data FOLDER                      validation patients
    python -m benchmarks.closed_form --data FOLDER --also FOLDER_2      and every CT of another folder

Writes OUT/closed_form.md; training pairs and warps are those of `benchmarks.local_intensity`, which shares OUT and
its options.
Research only: anatomy may be hallucinated.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from axon.errors import one_line_errors
from axon.files import write_json, write_whole
from axon.geometry.volume import cube_affine
from axon.metrics import realism
from axon.readers.layouts import Study
from axon.references.fusion import Fusion
from axon.references.registration import Registration
from axon.training.randomness import generator_for
from benchmarks.local_intensity import Intensity, intensity_of, intensity_parser
from benchmarks.quality import markdown, page_head
from benchmarks.references import BANDS_MM, COLUMNS, FINE, SIZE, rendered

PATCH, PATCHES = 5, 60_000
"""Voxels a side of a patch, and how many tell a volume's law."""
BODY = -0.5
"""A patch counts where its middle is denser than this: -400 HU in the packaged model's window."""
COHERENCE = tuple(f"rho {a:g}-{b:g}" for a, b in BANDS_MM)
SHOWN = (*COLUMNS[:7], "patch [HU]", *COHERENCE)


def band_noise(fusion: Fusion, mixed_11DHW: Tensor, power_M: Tensor) -> Tensor:
    """Noise of the power that a volume lacks of ``power_M`` around each wavelength of the settings."""
    noise = torch.randn(mixed_11DHW.shape, generator=generator_for("band noise"))
    lacking_M = (power_M - fusion._power(mixed_11DHW)).clamp(min=0)
    return fusion._filtered(noise, (lacking_M / fusion._power(noise).clamp(min=1e-12)).sqrt())


def transport_kernel(made_NP: Tensor, real_NP: Tensor) -> tuple[Tensor, float]:
    """What carries patches of one Gaussian law to another, averaged where they overlap: a convolution, and an offset.

    A = S^-1/2 (S^1/2 R S^1/2)^1/2 S^-1/2 for covariances S and R (Dowson and Landau, J. Multivariate Anal. 1982).

    Args:
        made_NP: Flattened cubic patches, P voxels each.
        real_NP: The same of real volumes.

    Returns:
        tuple[Tensor, float]: Kernel (1, 1, k, k, k) with k = 2 side - 1, and what is added.
    """
    side = round(made_NP.shape[1] ** (1 / 3))
    covariance, wanted = (torch.cov(x.double().T) for x in (made_NP, real_NP))
    covariance = covariance + 1e-4 * covariance.diagonal().mean() * torch.eye(len(covariance))
    root, inverse = _power_of(covariance, 0.5), _power_of(covariance, -0.5)
    operator = inverse @ _power_of(root @ wanted @ root, 0.5) @ inverse
    places = torch.tensor(list(itertools.product(range(side), repeat=3)))
    # The voxel at place i of a patch is made from all places j of it; every voxel is at each place of some patch.
    offset = places[None] - places[:, None] + side - 1
    kernel = torch.zeros((2 * side - 1,) * 3, dtype=torch.float64)
    kernel.index_put_(tuple(offset.reshape(-1, 3).T), operator.flatten() / len(places), accumulate=True)
    shift = float((real_NP.double().mean(0) - operator @ made_NP.double().mean(0)).mean())
    return kernel.float()[None, None], shift


def _power_of(symmetric: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh(symmetric)
    return (vectors * values.clamp(min=1e-10) ** exponent) @ vectors.T


def patches_of(volume_DHW: Tensor) -> Tensor:
    """`PATCHES` patches around places of the body, the same places for the same volume, shape (N, P)."""
    side, inside = PATCH // 2, volume_DHW[(slice(PATCH // 2, -(PATCH // 2)),) * 3]
    places = (inside > BODY).nonzero()
    chosen = places[torch.randint(len(places), (PATCHES,), generator=generator_for("patches"))] + side
    around = torch.tensor(list(itertools.product(range(-side, side + 1), repeat=3)))
    d, h, w = (chosen[:, None] + around).unbind(dim=-1)
    return volume_DHW[d, h, w]


def carried(volume_11DHW: Tensor, kernel: Tensor, shift: float, share: float) -> Tensor:
    """A volume whose patches are ``share`` of the way to the other law; outside of the body it stays as it is."""
    margin = kernel.shape[-1] // 2
    other = F.conv3d(F.pad(volume_11DHW, (margin,) * 6, mode="replicate"), kernel) + shift
    body = F.avg_pool3d((volume_11DHW > BODY).float(), 3, 1, 1)
    return torch.lerp(volume_11DHW, other, share * body)


def wiener_weights(pairs: list[tuple[Tensor, Tensor, Tensor]], extent_mm: float) -> Tensor:
    """Weights of estimate and mean of the warps that are nearest to the truth in each of `BANDS_MM`, shape (bands, 2).

    Args:
        pairs: Estimate, mean of the warps, truth, each (D, H, W).
        extent_mm: Side of the cube.
    """
    normal, right = torch.zeros(len(BANDS_MM), 2, 2), torch.zeros(len(BANDS_MM), 2)
    for pair in pairs:
        waves = [torch.fft.fftn(x.float() - x.float().mean()) for x in pair]
        for band, inside in enumerate(_bands(pair[0].shape[-1], extent_mm)):
            estimate, mean, truth = (wave[inside] for wave in waves)
            seen = torch.stack([estimate, mean])
            normal[band] += (seen @ seen.conj().T).real
            right[band] += (seen @ truth.conj()).real
    return (torch.linalg.pinv(normal) @ right[..., None])[..., 0]  # 0 in a band that the grid does not hold.


def weighed(estimate_DHW: Tensor, mean_DHW: Tensor, weight_B2: Tensor, extent_mm: float) -> Tensor:
    """Their sum with those weights in the bands; longer and shorter waves are the mean's own."""
    waves = [torch.fft.fftn(x) for x in (estimate_DHW, mean_DHW)]
    for inside, (of_estimate, of_mean) in zip(_bands(mean_DHW.shape[-1], extent_mm), weight_B2.tolist(), strict=True):
        waves[1][inside] = of_estimate * waves[0][inside] + of_mean * waves[1][inside]
    return torch.fft.ifftn(waves[1]).real


def _bands(size: int, extent_mm: float) -> list[Tensor]:
    axis = torch.fft.fftfreq(size, extent_mm / size)
    radius = (axis[:, None, None] ** 2 + axis[:, None] ** 2 + axis**2).sqrt()
    return [(radius >= 1 / longest) & (radius < 1 / shortest) for longest, shortest in BANDS_MM]


class ByEstimate(Fusion):
    """Warps vote by their distance from the estimate, blurred as it is."""

    def _dissent(self) -> Tensor:
        side = self.known.estimate_11NNN.shape[-1]
        warps = F.avg_pool3d(self.warps_K1DHW, self.warps_K1DHW.shape[-1] // side)
        return F.avg_pool3d((warps - self.known.estimate_11NNN).abs(), 3, 1, 1, count_include_pad=False)


class ClosedForm:
    """The comparison; training pairs and warps are kept by ``run``."""

    def __init__(self, run: Intensity) -> None:
        self.run, self.bench = run, run.bench
        pairs = [run.pair(number) for number in range(len(self.bench.library))]
        self.weight_B2 = wiener_weights(
            [(pair.shown_CDHW[0], pair.shown_CDHW[2], pair.truth_1DHW[0]) for pair in pairs], self.bench.extent_mm
        )

    @torch.no_grad()
    def measure(self, study: Study) -> dict[str, dict[str, float]]:
        """Figures of one patient, by method."""
        bench = self.bench
        films_12UV, truth = (
            rendered(bench.cube(study, FINE), bench.extent_mm, 0),
            bench.normalised(bench.cube(study, SIZE)),
        )
        known = bench.known(films_12UV, "rendered")
        found = Registration(**self.run.made(f"warps/{study.case_id}", lambda: vars(bench.found(known))))
        fusion, settings = bench.fusion(found, known), bench.config
        by_estimate = ByEstimate(
            found, known, *fusion.obey[:1], fusion.obey[2], fusion.obey[1], fusion.obey[3], settings
        )
        vote = fusion._blended(fusion.evidence_K, settings.tolerance, settings.estimate_share)
        mean = found.warps_K1DHW.mean(dim=0)[None]
        power_M = torch.stack([fusion._power(reference[None]) for reference in bench.references]).mean(dim=0)
        real = torch.cat([patches_of(reference[0]) for reference in bench.references])
        kernel, shift = transport_kernel(patches_of(vote[0, 0]), real)
        measured = weighed(fusion.estimate_11DHW[0, 0], mean[0, 0], self.weight_B2, bench.extent_mm)[None, None]
        raw = {"estimate": fusion.estimate_11DHW, "best warp": found.warps_K1DHW[:1], "mean": mean, "vote": vote}
        made = {
            "volume": fusion.volume(),
            "sample": fusion.sample(0),
            "band noise": fusion._consistent(vote + band_noise(fusion, vote, power_M)),
            "patches, half": fusion._consistent(carried(vote, kernel, shift, 0.5)),
            "patches": fusion._consistent(carried(vote, kernel, shift, 1.0)),
            "measured weights": fusion._consistent(fusion._carried(measured, settings.transport)),
            "vote by estimate": by_estimate.volume(),
        }
        return {name: self.figures(volume, truth, known) for name, volume in (raw | made).items()}

    def figures(self, volume_11DHW: Tensor, truth_11DHW: Tensor, known: object) -> dict[str, float]:
        found = self.run.figures(volume_11DHW, truth_11DHW, known)  # type: ignore[arg-type]
        low, high = self.bench.hu_window
        hu, reference = (((v[0, 0] + 1) / 2 * (high - low) + low).numpy() for v in (volume_11DHW, truth_11DHW))
        looks = realism.measure(hu, reference, cube_affine(np.zeros(3), SIZE, self.bench.extent_mm))
        rho = [looks[f"realism/coherence_{a:g}_{b:g}"] for a, b in BANDS_MM]
        return found | dict(zip(COHERENCE, rho, strict=True))


def table(rows: Mapping[str, dict[str, dict[str, float]]]) -> str:
    """Means over patients."""
    cells = []
    for method in next(iter(rows.values())):
        figures = np.mean([[row[method][column] for column in SHOWN] for row in rows.values()], axis=0)
        cells.append([method, *(f"{value:.3f}" for value in figures)])
    return markdown(["method", *SHOWN], cells)


def main(argv: list[str] | None = None) -> int:
    given = intensity_parser(__doc__ or "").parse_args(argv)
    with one_line_errors():
        run, chosen = intensity_of(given)
        closed = ClosedForm(run)
        rows = {}
        for study in chosen:
            rows[study.case_id] = closed.measure(study)
            print(study.case_id, json.dumps(rows[study.case_id]), flush=True)
        bands = zip(BANDS_MM, closed.weight_B2.tolist(), strict=True)
        cells = [
            [f"{a:g} to {b:g}", f"{of_estimate:.2f}", f"{of_mean:.2f}"] for (a, b), (of_estimate, of_mean) in bands
        ]
        weights = markdown(["wavelengths [mm]", "estimate", "mean of the warps"], cells)
        parts = [
            page_head("Other fusions in closed form"),
            f"{len(rows)} patients.",
            table(rows),
            "Measured weights:",
            weights,
        ]
        write_whole(given.out / "closed_form.md", ("\n\n".join(parts) + "\n").encode())
        write_json(given.out / "closed_form.json", rows)
    print("\n\n".join(parts))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
