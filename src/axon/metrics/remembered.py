"""Memory: how much of a volume is another patient, and how near it comes to the CTs that a model was trained on.

Shape legend: D/H/W voxels towards head/back/left, K references, N places, V voxels of a patch.

Patches of a volume are compared with those of the references that were warped to its patient, of the patient's own CT
and of the networks' volume at the same place, and with the patches of training CTs wherever they are. What a CT that
nobody was trained on measures stands beside: it says how near strangers come.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from axon.geometry.volume import body_mask
from axon.metrics.catalogue import in_order

PATCH = 9
"""Voxels a side of a patch."""
STEP, SEARCH_STEP, BANK_STEP = 8, 16, 4
"""Voxels between patches that are compared at their place, that are searched for, and that are searched."""
QUERIES = 256
"""Patches that are searched for at a time."""
TRAINING_CTS = 8
"""Of the CTs that a model carries, so many are searched: the first of its library."""
OTHERS = ("reference", "own", "networks")


def measure(
    volumes: Mapping[str, Tensor],
    truth_DHW: Tensor,
    warps_KDHW: Tensor,
    networks_DHW: Tensor,
    training: Iterable[Tensor],
) -> dict[str, dict[str, float]]:
    """Every value of ``memory/`` in `axon.metrics.catalogue` of each volume, by its name; none where the body has no
    room for a patch, or nothing was warped.

    Args:
        volumes: HU, shape (D, H, W), of one case.
        truth_DHW: The patient's own CT, HU.
        warps_KDHW: References that were warped to the patient, HU.
        networks_DHW: What the model makes without references, HU.
        training: CTs that the model was trained on, as they are, HU, of the same voxel size.
    """
    places, searched = (centres(truth_DHW, step) for step in (STEP, SEARCH_STEP))
    if not len(warps_KDHW) or not len(searched):
        return {}
    own_NV = patches(truth_DHW, places)
    warped_KNV = torch.stack([patches(warp, places) for warp in warps_KDHW])
    others = {"reference": warped_KNV, "own": own_NV[None], "networks": patches(networks_DHW, places)[None]}
    seen = {name: patches(hu_DHW, places) for name, hu_DHW in volumes.items()}
    values = {
        name: {f"memory/{other}": 100 * share for other, share in nearest_share(seen_NV, others).items()}
        | {"memory/to_reference": distance_at_place(seen_NV, warped_KNV)}
        | {"memory/ct_to_reference": distance_at_place(own_NV, warped_KNV)}
        for name, seen_NV in seen.items()
    }
    # At once, as reading the training CTs is the larger part of the work.
    asked = {"ct": truth_DHW, "networks": networks_DHW, **volumes}
    query_NV = torch.cat([patches(hu_DHW, searched) for hu_DHW in asked.values()])
    nearest_N = nearest_in(query_NV, (patches(hu_DHW, centres(hu_DHW, BANK_STEP)) for hu_DHW in training))
    if nearest_N is not None:
        medians = [float(part.median()) for part in nearest_N.split(len(searched))]
        to_training = dict(zip(asked, medians, strict=True))
        for name, found in values.items():
            found["memory/to_training"] = to_training[name]
            found |= {f"memory/{other}_to_training": to_training[other] for other in ("ct", "networks")}
    return {name: in_order(found) for name, found in values.items()}


def centres(hu_DHW: Tensor, step: int) -> Tensor:
    """Every ``step``-th voxel in the body whose patch lies in the volume, shape (N, 3)."""
    inside = torch.zeros(hu_DHW.shape, dtype=torch.bool)
    reach = PATCH // 2
    inner = (slice(reach, -reach, step),) * 3
    inside[inner] = torch.from_numpy(body_mask(hu_DHW.numpy()))[inner]
    return inside.nonzero()


def patches(hu_DHW: Tensor, centres_N3: Tensor) -> Tensor:
    """Shape (N, PATCH^3)."""
    d, h, w = (centres_N3 - PATCH // 2).T
    windows = hu_DHW.unfold(0, PATCH, 1).unfold(1, PATCH, 1).unfold(2, PATCH, 1)
    return windows[d, h, w].flatten(1)


def nearest_share(seen_NV: Tensor, others: Mapping[str, Tensor]) -> dict[str, float]:
    """Share of patches to which each of the others, (K, N, V), comes nearest at the same place."""
    distance_MN = torch.stack([_nearest(seen_NV, each) for each in others.values()])
    first_N = distance_MN.argmin(dim=0)
    return {name: float((first_N == n).float().mean()) for n, name in enumerate(others)}


def distance_at_place(query_NV: Tensor, others_KNV: Tensor) -> float:
    """Median over places of the root mean square distance to the nearest of the others at the same place."""
    return float(_nearest(query_NV, others_KNV).sqrt().median())


def _nearest(query_NV: Tensor, others_KNV: Tensor) -> Tensor:
    """Mean square distance to the nearest, shape (N,); one after the other, so that memory does not grow with K."""
    return torch.stack([(other - query_NV).square().mean(dim=1) for other in others_KNV]).amin(dim=0)


def nearest_in(query_NV: Tensor, bank: Iterable[Tensor]) -> Tensor | None:
    """Root mean square distance of each query to the nearest patch of any part of a bank, each (M, V); shape (N,). None
    where the bank is empty. One part is in memory at a time.
    """
    nearest_N: Tensor | None = None
    for bank_MV in filter(len, bank):  # A CT without room for a patch has none.
        # Around the bank's mean, or float32 loses the difference of two large squares.
        mean_V = bank_MV.mean(dim=0)
        bank_MV, centred_NV = bank_MV - mean_V, query_NV - mean_V
        norm_M = bank_MV.square().sum(dim=1)
        chosen_N = torch.cat([(norm_M - 2 * part @ bank_MV.T).argmin(dim=1) for part in centred_NV.split(QUERIES)])
        distance_N = (bank_MV[chosen_N] - centred_NV).square().mean(dim=1).sqrt()
        nearest_N = distance_N if nearest_N is None else torch.minimum(nearest_N, distance_N)
    return nearest_N


def nearest_median(query_NV: Tensor, bank: Iterable[Tensor]) -> float:
    """Median of `nearest_in`. Raises ValueError for an empty bank."""
    nearest_N = nearest_in(query_NV, bank)
    if nearest_N is None:
        raise ValueError("the bank is empty")
    return float(nearest_N.median())
