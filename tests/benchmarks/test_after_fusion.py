"""Benchmarks of what comes after the fusion: a trained correction, diseases, patches of other patients."""

import json
import re
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import Tensor

from axon.config import Config
from axon.data.phantoms import make_phantom
from axon.geometry.volume import lps_to_ras
from axon.metrics import realism
from axon.readers.layouts import Study, find_studies
from axon.training.randomness import generator_for
from benchmarks import closed_form, intensity_stage, local_intensity, memorised, references, sick
from tests.support.referenced import SETTINGS
from tests.support.small_model import small_pipeline

TINY = Path(__file__).parents[1] / "tiny.yaml"


@pytest.fixture(scope="module")
def studies(tmp_path_factory: pytest.TempPathFactory) -> list[Study]:
    """Four phantoms."""
    folder = tmp_path_factory.mktemp("phantoms")
    for seed in range(4):
        volume = make_phantom(seed, size=40, spacing_mm=9.0)
        hu_WHD = volume.hu_DHW.transpose(2, 1, 0).astype(np.int16)
        nib.save(nib.Nifti1Image(hu_WHD, lps_to_ras(volume.affine)), folder / f"p{seed}.nii")
    return sorted(find_studies(folder), key=lambda study: study.case_id)


@pytest.fixture
def chosen(studies: list[Study], monkeypatch: pytest.MonkeyPatch) -> tuple[references.ReferenceBench, list[Study]]:
    """Three of them as references, and the fourth to measure on, at a size that shows nothing."""
    for module in (references, local_intensity, closed_form, sick, memorised):
        monkeypatch.setattr(module, "SIZE", 32)
        monkeypatch.setattr(module, "FINE", 64)
    return references.ReferenceBench(small_pipeline(Config.load(TINY)), studies[:3], SETTINGS), studies[3:]


def test_a_network_that_was_not_trained_leaves_the_volume_and_references_enter_by_a_gate_that_is_shut() -> None:
    torch.manual_seed(0)
    network = intensity_stage.Corrector(width=8)
    base, control = torch.randn(1, 6, 16, 16, 16), torch.randn(1, 6, 16, 16, 16)
    assert not network(base, control).any()
    torch.nn.init.normal_(network.tail.weight)
    without = network(base, torch.zeros_like(control))
    assert without.any() and torch.equal(network(base, control), without)
    torch.nn.init.normal_(network.gate.weight)
    assert not torch.equal(network(base, control), without)


def test_voxels_that_became_channels_come_back_where_they_were() -> None:
    volume = torch.arange(6.0**3).view(1, 1, 6, 6, 6)
    assert torch.equal(intensity_stage._unpacked(intensity_stage._packed(volume)), volume)
    assert intensity_stage._packed(volume)[0, :, 0, 0, 0].tolist() == volume[0, 0, :2, :2, :2].flatten().tolist()


def test_the_distance_of_patches_is_none_of_a_copy_and_grows_with_blur() -> None:
    truth = torch.randn(1, 1, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    blurred = torch.nn.functional.avg_pool3d(truth, 3, 1, 1)
    found = [
        float(intensity_stage.patch_distance(x, truth, generator_for(0)))
        for x in (truth, (truth + blurred) / 2, blurred)
    ]
    assert found[0] == 0 < found[1] < found[2]
    assert float(intensity_stage.amplitudes(truth, truth)) == 0 < float(intensity_stage.amplitudes(blurred, truth))


def test_a_critic_and_its_corrector_do_not_move_each_other_and_what_is_real_may_be_learnt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch.manual_seed(0)
    critic = intensity_stage.Critic(8).eval()  # In training its norms are estimated further with each call.
    made, truth = torch.zeros(2, 1, 32, 32, 32, requires_grad=True), 0.3 * torch.randn(2, 1, 32, 32, 32)

    def slopes(weight: float) -> tuple[torch.Tensor, ...]:
        monkeypatch.setattr(intensity_stage, "WEIGHT", weight)
        loss = critic.losses(made, truth, 0.0, True, generator_for(0))
        return torch.autograd.grad(loss, [made, *critic.parameters()])

    none, some = slopes(0.0), slopes(1.0)
    assert not none[0].any() and some[0].any()
    assert all(torch.equal(a, b) for a, b in zip(none[1:], some[1:], strict=True))
    assert [bool(slope.any()) for slope in none[1:]].count(False) == 1  # The last bias is added to real and made alike.
    optimizer = torch.optim.Adam(critic.train().parameters(), 1e-2)
    for step in range(20):
        optimizer.zero_grad()
        critic.losses(made.detach(), truth, 0.0, False, generator_for(step)).backward()
        optimizer.step()
    assert critic(truth).mean() > critic(made).mean()


def _one_patch(
    stage: intensity_stage.PatchStage, pairs: list[intensity_stage.Seen], chance: list[float]
) -> list[Tensor]:
    """One after the other and by slices, as plainly as can be: fused volume, place, control, CT."""
    pair, size = pairs[int(chance[0] * len(pairs))], stage.place_3DHW.shape[-1]
    side = min(intensity_stage.SIDE, size)
    corner = [2 * int(share * ((size - side) // 2 + 1)) for share in chance[1:4]]
    where = (slice(None), *(slice(first, first + side) for first in corner))
    fused = pair.fused_F1DHW[int(chance[4] * len(pair.fused_F1DHW))]
    cut = [x[where].float() for x in (fused, stage.place_3DHW, pair.shown_CDHW[1:], pair.truth_1DHW)]
    if chance[5] < intensity_stage.BLIND:
        cut[2][:4] = 0
        cut[0] = pair.shown_CDHW[:1][where].float()
    return [x.flip(-1) for x in cut] if chance[6] < 0.5 else cut


def test_patches_that_are_cut_out_at_once_are_those_of_one_after_the_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(intensity_stage, "SIDE", 8)
    draw = torch.Generator().manual_seed(0)
    pairs = [
        intensity_stage.Seen(*(torch.rand(*shape, 20, 20, 20, generator=draw).half() for shape in ((4, 1), (7,), (1,))))
        for _ in range(3)
    ]
    stage = intensity_stage.PatchStage("regression", torch.nn.Identity(), pairs, 5, 10, 0.0)
    drawn = stage.draw(2, range(3, 40))
    chances = [torch.rand(7, generator=generator_for(5, stage.name, 2, slot)) for slot in range(3, 40)]
    assert {bool(chance[5] < intensity_stage.BLIND) for chance in chances} == {True, False}
    names = ("fused_B1DHW", "place_B3DHW", "control_BCDHW", "truth_B1DHW")
    for number, chance in enumerate(chances):
        for name, wanted in zip(names, _one_patch(stage, pairs, chance.tolist()), strict=True):
            assert torch.equal(getattr(drawn, name)[number], wanted), (number, name)


def test_what_is_altered_is_altered_alike() -> None:
    volume = torch.rand(1, 1, 32, 32, 32) + 1
    first, second = intensity_stage.altered(torch.cat([volume, volume]), 0.1, generator_for(0))
    assert torch.equal(first, second) and first.shape == (1, 28, 28, 28)
    assert 0.05 < float((first == 0).float().mean()) < 0.25


def test_a_bone_head_begins_with_the_fused_volume_and_its_loss_falls_with_overlap() -> None:
    torch.manual_seed(0)
    network = intensity_stage.Corrector(width=8)
    base, control = torch.randn(1, 6, 16, 16, 16), torch.randn(1, 6, 16, 16, 16)
    logits = intensity_stage.bone_logits(network, base, control, 0.5)
    assert torch.equal(logits > 0, base[:, 1:2] > 0.5)
    told = intensity_stage.told(network, base, control, 0.5)
    assert torch.equal(told[:, :-1], control) and torch.equal(told[:, -1:] > 0.5, base[:, 1:2] > 0.5)
    found = [float(intensity_stage.bone_loss(sign * logits.detach(), base[:, 1:2] > 0.5)) for sign in (1, 0.2, -1)]
    assert found == sorted(found)


def test_patches_of_one_law_stay_and_others_are_carried_to_it() -> None:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(4000, 27, generator=generator) + 1
    same, offset = closed_form.transport_kernel(real, real)
    volume = torch.randn(1, 1, 24, 24, 24, generator=generator)
    assert float((closed_form.carried(volume, same, offset, 1.0) - volume).abs().max()) < 1e-3
    kernel, shift = closed_form.transport_kernel(real / 2, real)
    made = closed_form.carried(torch.full((1, 1, 24, 24, 24), 0.5), kernel, shift, 1.0)
    assert made[..., 8:16, 8:16, 8:16].numpy() == pytest.approx(1.0, abs=0.05)
    assert float(kernel[0, 0, 2, 2, 2]) == pytest.approx(2, abs=0.1)
    assert torch.equal(closed_form.carried(volume, kernel, shift, 0.0), volume)


def test_the_weights_that_fit_are_found_and_used() -> None:
    truth, noise = torch.randn(2, 32, 32, 32, generator=torch.Generator().manual_seed(0))
    weights = closed_form.wiener_weights([(noise, 0.5 * truth, truth)], 360.0)
    held = weights[:3]  # On this grid no wave is shorter than 22 mm.
    assert held[:2].numpy() == pytest.approx(np.array([[0, 2], [0, 2]]), abs=1e-3)
    made = closed_form.weighed(noise, 0.5 * truth, torch.tensor([[0.0, 2.0]] * 4), 360.0)
    power = [references.band_power(x, 360.0)[:2] for x in (made, truth)]
    assert power[0] == pytest.approx(power[1], rel=0.05)


def test_what_a_change_shows_of_a_disease() -> None:
    disease, body = np.zeros((8, 8, 8)), np.ones((8, 8, 8), bool)
    disease[2:4, 2:4, 2:4] = 800
    assert sick.shown(disease, disease, body) == (1, 0)
    assert sick.shown(disease / 2, disease, body) == (0.5, 0)
    assert sick.shown(disease + 40 * (disease == 0), disease, body) == (1, 40)
    assert sick.shown(np.roll(disease, 4, axis=0), disease, body)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("module", [sick, memorised])
def test_a_benchmark_measures_each_patient_once(
    module: object,
    chosen: tuple[references.ReferenceBench, list[Study]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(module, "bench_of", lambda arguments: arguments.out.mkdir(exist_ok=True) or chosen)
    arguments = ["--out", str(tmp_path / "out")]
    assert module.main(arguments) == 0  # type: ignore[attr-defined]
    piece = tmp_path / "out" / "pieces" / "p3.json"
    written = piece.stat().st_mtime_ns
    figures = list(json.loads(piece.read_text()).values())
    flat = [value for row in figures for value in (row.values() if isinstance(row, dict) else [row])]
    assert np.isfinite(flat).all() and any(flat)
    assert module.main(arguments) == 0  # type: ignore[attr-defined]
    assert piece.stat().st_mtime_ns == written
    with pytest.raises(SystemExit):
        module.main([*arguments, "--config", str(TINY)])  # type: ignore[attr-defined]
    assert "BENCH_OTHER" in (said := capfd.readouterr().err) and "begun with other: config ->" in said


@pytest.mark.slow
def test_the_networks_are_trained_once_and_measured_beside_the_closed_form(
    chosen: tuple[references.ReferenceBench, list[Study]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(local_intensity, "bench_of", lambda arguments: arguments.out.mkdir(exist_ok=True) or chosen)
    arguments = ["--config", str(TINY), "--out", str(tmp_path / "out"), "--steps", "2", "--estimator-steps", "2"]
    assert local_intensity.main(arguments) == 0
    assert capfd.readouterr().out.count(": begins") == 13
    written = tmp_path / "out" / "local_intensity.json"
    (row,) = json.loads(written.read_text())
    closed = {"volume", "sample", "films again", "HU carried all the way", "0.15 of a sample", "0.3 of a sample"}
    assert set(row) == closed | set(local_intensity.KINDS)
    page = written.with_suffix(".md").read_text()
    for kind in local_intensity.KINDS:
        assert re.search(rf"^\| {kind} \| \d+\.\d\d \| \d+\.\d\d \|$", page, re.MULTILINE), kind
    # What says where bone is makes no volume.
    assert set(row.pop("bone")) == {"bone", "bone, volume matched"}
    assert len({figures["PSNR"] for figures in row.values()}) == len(row)
    with pytest.raises(SystemExit):
        local_intensity.main([*arguments, "--steps", "3"])
    assert "BENCH_OTHER" in (said := capfd.readouterr().err) and "begun with other: steps ->" in said
    assert local_intensity.main(arguments) == 0
    assert "begins" not in capfd.readouterr().out
    (again,) = json.loads(written.read_text())  # Weights that were loaded lie otherwise in memory, and round otherwise.
    again.pop("bone")
    assert {name: figures["PSNR"] for name, figures in again.items()} == pytest.approx(
        {name: figures["PSNR"] for name, figures in row.items()}, abs=1e-4
    )


@pytest.mark.slow
def test_other_fusions_are_measured_on_the_same_warps(
    chosen: tuple[references.ReferenceBench, list[Study]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_intensity, "bench_of", lambda arguments: arguments.out.mkdir(exist_ok=True) or chosen)
    monkeypatch.setattr(closed_form, "PATCHES", 500)
    bands = ((300.0, 200.0), (200.0, 90.0), (90.0, 45.0), (45.0, 25.0))  # What a grid of 11 mm holds.
    for module in (closed_form, references):
        monkeypatch.setattr(module, "BANDS_MM", bands)
    looks = {f"realism/coherence_{a:g}_{b:g}": 0.5 for a, b in bands}  # The catalogue's bands are finer.
    measure = realism.measure
    monkeypatch.setattr(realism, "measure", lambda *given: measure(*given) | looks)
    arguments = ["--config", str(TINY), "--out", str(tmp_path / "out"), "--estimator-steps", "2"]
    assert closed_form.main(arguments) == 0
    (row,) = json.loads((tmp_path / "out" / "closed_form.json").read_text()).values()
    psnr = [figures["PSNR"] for figures in row.values()]
    assert np.isfinite(psnr).all() and len(set(psnr)) == len(row) == 11
