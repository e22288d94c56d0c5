"""How much of a volume is another patient, by patches."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from axon.metrics import remembered

SIZE = 32


def chest(seed: int) -> Tensor:
    """Noise in a body that fills the middle of the cube."""
    hu_DHW = torch.full((SIZE,) * 3, -1000.0)
    hu_DHW[:, 4:-4, 4:-4] = 100 * torch.randn(SIZE, SIZE - 8, SIZE - 8, generator=torch.Generator().manual_seed(seed))
    return hu_DHW


def of(volume_DHW: Tensor, **changed: object) -> dict[str, float]:
    given = {
        "truth_DHW": chest(0),
        "warps_KDHW": torch.stack([chest(1), chest(2)]),
        "networks_DHW": chest(3),
        "training": [chest(4), chest(5)],
    }
    return remembered.measure({"it": volume_DHW}, **{**given, **changed})["it"]  # type: ignore[arg-type]


def test_a_volume_is_told_by_whose_patches_it_has() -> None:
    shares = ("memory/reference", "memory/own", "memory/networks")
    near = torch.full((SIZE,) * 3, 3.0)
    for seed, expected in ((2, (100, 0, 0)), (0, (0, 100, 0)), (3, (0, 0, 100))):
        values = of(chest(seed) + near)
        assert tuple(values[share] for share in shares) == expected
    half = chest(2)
    half[:, :, SIZE // 2 :] = chest(0)[:, :, SIZE // 2 :]
    values = of(half)
    assert min(values["memory/reference"], values["memory/own"]) > 20 and values["memory/networks"] == 0


def test_a_copy_lies_nearer_to_training_than_a_stranger() -> None:
    moved = chest(4).roll(4, dims=0)
    copied = of(moved)
    # The copy is found where it was taken from, at another place.
    assert copied["memory/to_training"] == 0 and copied["memory/to_reference"] > 50
    assert copied["memory/ct_to_training"] > 50 and copied["memory/ct_to_reference"] > 50
    assert of(chest(1) + 5.0)["memory/to_reference"] == pytest.approx(5, rel=1e-3)
    own = of(chest(0))
    assert own["memory/to_training"] == own["memory/ct_to_training"]
    # What has less detail lies nearer to everything.
    smooth = of(chest(1), networks_DHW=torch.where(chest(3) > -900, 0.2 * chest(3), chest(3)))
    assert smooth["memory/networks_to_training"] < own["memory/ct_to_training"] - 5


def test_the_nearest_of_a_bank_is_found_in_whatever_part_it_lies() -> None:
    generator = torch.Generator().manual_seed(0)
    query_NV, bank_MV = (1000 + torch.randn(count, 27, generator=generator) for count in (300, 90))
    expected_N = torch.cdist(query_NV.double(), bank_MV.double()).amin(dim=1) / 27**0.5
    for parts in ([bank_MV], bank_MV.split(40)):
        found_N = remembered.nearest_in(query_NV, parts)
        assert found_N is not None and found_N.double().numpy() == pytest.approx(expected_N.numpy(), rel=1e-4)
    assert remembered.nearest_in(query_NV, []) is remembered.nearest_in(query_NV, [bank_MV[:0]]) is None
    assert remembered.nearest_median(bank_MV, [bank_MV]) == 0
    with pytest.raises(ValueError, match="empty"):
        remembered.nearest_median(query_NV, [])


def test_what_nothing_is_known_of_is_left_out() -> None:
    assert "memory/to_training" not in of(chest(1), training=[])
    volumes = {"it": chest(1)}
    air = torch.full((SIZE,) * 3, -1000.0)
    assert remembered.measure(volumes, air, chest(1)[None], chest(3), []) == {}
    assert remembered.measure(volumes, chest(0), chest(1)[:0].reshape(0, SIZE, SIZE, SIZE), chest(3), []) == {}
