"""Procedural chest phantoms in HU, bit-exact on every machine: integer arithmetic only.

Lengths are in units of 1/16 mm. x runs to the left, y to the back, z to the head; the origin is the centre of the
thorax.
Shape legend: D slices (towards the head), H rows (towards the back), W columns (towards the left).

A structure is painted by its coverage of each voxel, 0 to 256, so that edges are as soft as a scanner's partial volume.
"""

from __future__ import annotations

import copy
import itertools
import math
import random
from bisect import bisect_left
from dataclasses import dataclass

import numpy as np

from axon.geometry.volume import AIR_HU, Volume

MM = 16
_ONE = 1 << 10
_SQUARE = 1 << 20
Point = tuple[int, int, int]
"""x, y, z in 1/16 mm."""


@dataclass(frozen=True)
class _Anatomy:
    """The random build of one chest; lengths in 1/16 mm, scales in 1/1024."""

    wide: int
    deep: int
    tall: int
    fat: int
    shift: Point
    lean: int
    scoliosis: int
    kyphosis: int
    heart: Point
    heart_turn: int
    dome_right: int
    dome_left: int
    mediastinum: int
    lung_hu: int
    blood_hu: int
    bone_hu: int
    rib_drop: int
    rib_radius: int
    nodules: int
    effusion: int


def make_phantom(seed: int, size: int = 90, spacing_mm: float = 4.0) -> Volume:
    """A random chest: the same integers for the same arguments on every machine.

    Args:
        seed: Chooses the anatomy.
        size: Voxels per side.
        spacing_mm: Voxel size, a multiple of 1/16 mm.

    Returns:
        Volume: int16 HU of shape (size, size, size), centred on the origin.
    """
    spacing = int(spacing_mm * MM)
    dice = _Dice(seed)
    canvas = _Canvas(size, spacing)
    a = _draw_anatomy(dice)
    canvas.shift, canvas.lean = a.shift, a.lean
    _paint_trunk(canvas, a)
    _paint_abdomen(canvas, a, dice)
    _paint_lungs(canvas, a, dice)
    _paint_heart_and_vessels(canvas, a, dice)
    _paint_airways(canvas, a)
    _paint_spine(canvas, a)
    _paint_ribs(canvas, a)
    _paint_shoulders(canvas, a)
    canvas.add_noise(seed)
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = -spacing_mm * (size - 1) / 2
    return Volume(np.clip(canvas.hu, AIR_HU, 3071).astype(np.int16), affine)


class _Dice:
    """Integers from the Mersenne Twister's raw bits, which no Python release may change."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def between(self, low: int, high: int) -> int:
        """Uniform in [low, high]."""
        return low + (self._random.getrandbits(32) * (high - low + 1) >> 32)

    def mm(self, low: int, high: int) -> int:
        return self.between(low * MM, high * MM)


def _draw_anatomy(dice: _Dice) -> _Anatomy:
    return _Anatomy(
        wide=dice.between(900, 1120),
        deep=dice.between(880, 1150),
        tall=dice.between(900, 1080),
        fat=dice.mm(6, 26),
        shift=(dice.mm(-10, 10), dice.mm(-8, 8), dice.mm(-12, 12)),
        lean=dice.between(-40, 40),
        scoliosis=dice.mm(-8, 8),
        kyphosis=dice.mm(4, 16),
        heart=(dice.mm(58, 76), dice.mm(42, 54), dice.mm(42, 52)),
        heart_turn=dice.between(360, 640),
        dome_right=dice.mm(-62, -36),
        dome_left=dice.mm(-26, -8),
        mediastinum=dice.mm(24, 32),
        lung_hu=dice.between(-880, -800),
        blood_hu=dice.between(35, 160),
        bone_hu=dice.between(380, 620),
        rib_drop=dice.mm(40, 75),
        rib_radius=dice.between(80, 108),
        nodules=dice.between(0, 3),
        effusion=max(0, dice.mm(-120, 45)),
    )


class _Canvas:
    """HU as int64 with the coordinates of its voxels, and the brushes."""

    def __init__(self, size: int, spacing: int) -> None:
        axis = spacing * (2 * np.arange(size, dtype=np.int64) - (size - 1)) // 2
        self.spacing, self.axis, self.ticks = spacing, axis, axis.tolist()
        self.x, self.y, self.z = axis[None, None, :], axis[None, :, None], axis[:, None, None]
        self.hu = np.full((size, size, size), AIR_HU, dtype=np.int64)
        self.shift: Point = (0, 0, 0)
        self.lean = 0

    def moved(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Coordinates in the patient's own frame: shifted, and leaning to one side."""
        z = self.z - self.shift[2]
        return self.x - self.shift[0] - (self.lean * z >> 10), self.y - self.shift[1], z

    def slab(self, z: int, reach: int) -> _Canvas:
        """The slices within ``reach`` of height ``z``: the same voxels, for a brush that needs no more of them."""
        middle = z + self.shift[2]
        low, high = np.searchsorted(self.axis, [middle - reach, middle + reach])
        part = copy.copy(self)
        part.z, part.hu = self.z[low:high], self.hu[low:high]
        return part

    def paint(self, depth: np.ndarray, hu: int | np.ndarray, within: np.ndarray | None = None) -> np.ndarray:
        """Blend ``hu`` in where ``depth``, the distance inside the surface, is positive. Returns the coverage, 0 to
        256.
        """
        cover = np.clip(depth * 256 // self.spacing + 128, 0, 256)
        if within is not None:
            cover = np.minimum(cover, within)
        self.hu += (hu - self.hu) * cover >> 8
        return cover

    def ellipsoid(self, center: Point, radii: Point, turn: int = 0) -> np.ndarray:
        """Depth inside an ellipsoid, turned about the y axis by ``turn``/1024 (the sine of the angle)."""
        x, y, z = self.moved()
        x, y, z = x - center[0], y - center[1], z - center[2]
        cosine = math.isqrt(_SQUARE - turn * turn)
        u, w = (x * cosine + z * turn) >> 10, (z * cosine - x * turn) >> 10
        q = (u * _ONE // radii[0]) ** 2 + (y * _ONE // radii[1]) ** 2 + (w * _ONE // radii[2]) ** 2
        return (_SQUARE - q) * min(radii) >> 21

    def tube(self, path: list[tuple[Point, int]], hu: int, within: np.ndarray | None = None) -> None:
        """Paint spheres of the given radii along a path, each in its own small box."""
        for (px, py, pz), radius in path:
            cx, cy, cz = px + self.shift[0] + (self.lean * pz >> 10), py + self.shift[1], pz + self.shift[2]
            reach = radius + self.spacing
            box = tuple(self._within(c - reach, c + reach) for c in (cz, cy, cx))
            q = (self.z[box[0]] - cz) ** 2 + (self.y[:, box[1]] - cy) ** 2 + (self.x[:, :, box[2]] - cx) ** 2
            # Thin tubes keep their mass: a ramp wider than the tube is capped by the share of the voxel that it fills.
            depth = (radius * radius - q) // (2 * radius)
            most = min(256, 512 * radius // self.spacing)
            cover = np.minimum(np.maximum(depth * 256 // self.spacing + 128, 0), most)
            if within is not None:
                cover = np.minimum(cover, within[box])
            part = self.hu[box]
            part += (hu - part) * cover >> 8

    def _within(self, low: int, high: int) -> slice:
        """The voxels of an axis whose coordinates lie from ``low`` to ``high``."""
        return slice(bisect_left(self.ticks, low), bisect_left(self.ticks, high + 1))

    def add_noise(self, seed: int) -> None:
        """Quantum noise: a hash of the voxel's index, white plus smoothed, about 20 HU; more in the soft tissue than in
        air.
        """
        n = np.arange(self.hu.size, dtype=np.uint64).reshape(self.hu.shape) + np.uint64(seed % 2**20 << 32)
        for shift, factor in ((33, 0xFF51AFD7ED558CCD), (33, 0xC4CEB9FE1A85EC53), (33, 1)):
            n = (n ^ (n >> np.uint64(shift))) * np.uint64(factor)
        bits = n.astype(np.int64)
        white = sum(((bits >> k) & 255) for k in (0, 8, 16, 24)) - 510
        smooth = white + sum(np.roll(white, s, axis) for s in (-1, 1) for axis in range(3))
        noise = (white * 6 + smooth * 5) >> 7
        self.hu += np.where(self.hu > -950, noise, noise >> 2)


def _along(z: np.ndarray, knots: list[tuple[int, int]]) -> np.ndarray:
    """Piecewise-linear integer profile: knots of (z, value) in mm, z rising; returns 1/16 mm."""
    out = np.full_like(z, knots[0][1] * MM)
    for (z0, v0), (z1, v1) in itertools.pairwise(knots):
        inside = np.clip(z - z0 * MM, 0, (z1 - z0) * MM)
        out = out + inside * (v1 - v0) // (z1 - z0)
    return out


def _along_at(z: int, knots: list[tuple[int, int]]) -> int:
    """`_along` at one height, without an array's cost."""
    out = knots[0][1] * MM
    for (z0, v0), (z1, v1) in itertools.pairwise(knots):
        out += min(max(z - z0 * MM, 0), (z1 - z0) * MM) * (v1 - v0) // (z1 - z0)
    return out


_BODY_WIDE = [(-190, 152), (-60, 158), (40, 158), (90, 172), (130, 176), (165, 120), (190, 75)]
_BODY_DEEP = [(-190, 120), (-60, 124), (50, 118), (110, 104), (150, 82), (190, 66)]
_CAGE_WIDE = [(-190, 130), (-80, 132), (-20, 130), (40, 120), (80, 104), (105, 84), (122, 60), (134, 32), (142, 8)]
_CAGE_DEEP = [(-190, 102), (-80, 102), (-20, 98), (40, 86), (80, 70), (105, 56), (122, 40), (134, 20), (142, 6)]
_CAGE_BACK = [(-190, 4), (0, 4), (60, 14), (134, 30)]


def _barrel(canvas: _Canvas, wide: np.ndarray, deep: np.ndarray, back: np.ndarray | int = 0) -> np.ndarray:
    """Depth inside a tube of rounded cross-section (between an ellipse and a rounded square) with half-axes along z."""
    x, y, _ = canvas.moved()
    u2, v2 = (x * _ONE // np.maximum(wide, 1)) ** 2, ((y - back) * _ONE // np.maximum(deep, 1)) ** 2
    u2, v2 = np.minimum(u2, _SQUARE << 3), np.minimum(v2, _SQUARE << 3)
    q = (u2 + v2 + (u2 >> 10) ** 2 + (v2 >> 10) ** 2) >> 1
    # The gradient of q is steeper than an ellipse's by about one half.
    return (_SQUARE - q) * np.maximum(np.minimum(wide, deep), 8 * MM) // (3 * _SQUARE)


def _cage(canvas: _Canvas, a: _Anatomy, inset: int) -> np.ndarray:
    """Depth inside the rib cage, ``inset`` further in."""
    z = canvas.moved()[2] * _ONE // a.tall
    wide, deep = _along(z, _CAGE_WIDE) * a.wide >> 10, _along(z, _CAGE_DEEP) * a.deep >> 10
    return _barrel(canvas, np.maximum(wide - inset, 1), np.maximum(deep - inset, 1), _along(z, _CAGE_BACK))


def _paint_trunk(canvas: _Canvas, a: _Anatomy) -> None:
    """Skin, fat, muscle, and the soft filling of the rib cage."""
    z = canvas.moved()[2] * _ONE // a.tall
    wide, deep = (_along(z, _BODY_WIDE) * a.wide >> 10) - 20 * MM, (_along(z, _BODY_DEEP) * a.deep >> 10) - 14 * MM
    canvas.paint(_barrel(canvas, wide + a.fat, deep + a.fat), 20)
    canvas.paint(_barrel(canvas, wide + a.fat - 3 * MM, deep + a.fat - 3 * MM), -105)
    canvas.paint(_barrel(canvas, wide, deep), 52)
    canvas.paint(_cage(canvas, a, 6 * MM), 15)


def _dome(canvas: _Canvas, a: _Anatomy, side: int) -> np.ndarray:
    """Height above the diaphragm's dome on one side: +1 left, -1 right."""
    x, y, z = canvas.moved()
    top = a.dome_right if side < 0 else a.dome_right + a.dome_left
    across, along = x - side * 60 * MM * a.wide // _ONE, y + 12 * MM
    fall = across**2 // (110 * MM) + np.where(along > 0, along**2 // (70 * MM), along**2 // (150 * MM))
    return (z - top + fall) >> 1


def _paint_abdomen(canvas: _Canvas, a: _Anatomy, dice: _Dice) -> None:
    """Under the domes: fat, the liver at the right, spleen, stomach with its air bubble, kidneys left out."""
    inside = np.clip(_cage(canvas, a, 7 * MM) * 256 // canvas.spacing + 128, 0, 256)
    x = canvas.moved()[0]
    below = np.where(x > 8 * MM, -_dome(canvas, a, 1), -_dome(canvas, a, -1))
    under = np.minimum(canvas.paint(below, -70, inside), inside)
    deep = a.dome_right - 75 * MM
    canvas.paint(canvas.ellipsoid((-48 * MM, -4 * MM, deep + 5 * MM), (92 * MM, 88 * MM, 92 * MM)), 62, under)
    canvas.paint(canvas.ellipsoid((78 * MM, 48 * MM, deep), (38 * MM, 36 * MM, 52 * MM)), 55, under)
    stomach = (56 * MM, -18 * MM, a.dome_right + a.dome_left - 44 * MM)
    canvas.paint(canvas.ellipsoid(stomach, (38 * MM, 40 * MM, 36 * MM)), 38, under)
    gas = dice.mm(10, 24)
    canvas.paint(
        canvas.ellipsoid((stomach[0], stomach[1] - 10 * MM, stomach[2] + 10 * MM), (gas + 6 * MM, gas, gas)),
        -920,
        under,
    )


def _paint_lungs(canvas: _Canvas, a: _Anatomy, dice: _Dice) -> None:
    """Both lungs: inside the cage, above the dome, outside the mediastinum; vessels, nodules, an effusion in some."""
    x, y, z = canvas.moved()
    cage = _cage(canvas, a, 7 * MM)
    # The mediastinum narrows behind the sternum, where the lungs nearly meet, and beside the spine.
    half = (
        a.mediastinum
        - np.clip(-y - 24 * MM, 0, 60 * MM) * 3 // 8
        - np.clip(y - 24 * MM, 0, 30 * MM) // 3
        + np.clip(-z, 0, 90 * MM) // 12
    )
    for side in (-1, 1):
        depth = np.minimum(np.minimum(cage, _dome(canvas, a, side)), side * x - half)
        gradient = a.lung_hu + y // (6 * MM) - z // (12 * MM)
        lung = canvas.paint(depth, gradient)
        hilum = (side * 30 * MM, 8 * MM, 12 * MM)
        for _ in range(13):
            aim = (side * dice.mm(30, 110), dice.mm(-70, 80), dice.mm(-110, 95))
            _branch(canvas, dice, hilum, aim, dice.between(56, 92), 3, lung)
        if dice.between(0, 2) < a.nodules:
            center = (side * dice.mm(45, 95), dice.mm(-40, 50), dice.mm(-20, 70))
            canvas.tube([(center, dice.mm(5, 13))], 40, lung)
        if side == 1 - 2 * (a.effusion & 1):
            level = a.dome_right - 45 * MM + a.effusion
            canvas.paint(
                (level - z + y // 3) * np.int64(a.effusion > 0) - np.int64(a.effusion == 0) * (1 << 16), 12, lung
            )


def _branch(canvas: _Canvas, dice: _Dice, start: Point, aim: Point, radius: int, order: int, lung: np.ndarray) -> None:
    """A vessel from ``start`` towards ``aim``, tapering and forking ``order`` times."""
    length = 2 if order > 1 else 3
    end = tuple(s + (t - s) * length // 5 + dice.mm(-6, 6) for s, t in zip(start, aim, strict=True))
    thinner = radius * 3 // 4
    canvas.tube(_line([(start, radius), ((end[0], end[1], end[2]), thinner)], canvas.spacing), 30, lung)
    if order:
        for _ in range(2):
            spread = tuple(t + dice.mm(-26, 26) for t in aim)
            _branch(canvas, dice, (end[0], end[1], end[2]), (spread[0], spread[1], spread[2]), thinner, order - 1, lung)


def _line(knots: list[tuple[Point, int]], spacing: int) -> list[tuple[Point, int]]:
    """Points along straight pieces between knots of (point, radius), half a voxel apart."""
    path = []
    for (p, r), (q, s) in itertools.pairwise(knots):
        count = max(1, 2 * max(abs(b - a) for a, b in zip(p, q, strict=True)) // spacing)
        for n in range(count + 1):
            x, y, z = (a + (b - a) * n // count for a, b in zip(p, q, strict=True))
            path.append(((x, y, z), r + (s - r) * n // count))
    return path


def _mm(*points: tuple[int, int, int, int]) -> list[tuple[Point, int]]:
    """Knots from (x, y, z, radius) in mm."""
    return [((x * MM, y * MM, z * MM), r * MM) for x, y, z, r in points]


def _paint_heart_and_vessels(canvas: _Canvas, a: _Anatomy, dice: _Dice) -> None:
    """The heart lies on the left half of the dome, its apex down and to the left."""
    base = a.dome_right + a.dome_left // 2 + a.heart[2] * 3 // 5
    center = (24 * MM, -28 * MM, base)
    canvas.paint(
        canvas.ellipsoid(center, (a.heart[0] + 5 * MM, a.heart[1] + 5 * MM, a.heart[2] + 4 * MM), -a.heart_turn), -60
    )
    canvas.paint(canvas.ellipsoid(center, a.heart, -a.heart_turn), 45)
    canvas.paint(
        canvas.ellipsoid((30 * MM, -24 * MM, base - 4 * MM), (30 * MM, 26 * MM, 22 * MM), -a.heart_turn), a.blood_hu
    )
    canvas.paint(canvas.ellipsoid((-22 * MM, -18 * MM, base + 6 * MM), (26 * MM, 32 * MM, 36 * MM)), a.blood_hu)
    r = dice.between(12, 16)
    arch = _mm(
        (2, -22, 5, r), (-10, -26, 35, r), (-6, -20, 56, r), (8, 0, 66, r), (20, 22, 58, r - 1), (24, 38, 35, r - 2)
    )
    canvas.tube(_line([*arch, *_mm((22, 40, -60, r - 2), (12, 38, -180, r - 3))], canvas.spacing), a.blood_hu)
    pulmonary = [
        _mm((14, -28, 5, 13), (14, -12, 24, 13), (38, 12, 18, 9)),
        _mm((14, -12, 22, 12), (-18, 2, 16, 10), (-40, 10, 8, 8)),
    ]
    great = [_mm((-22, -14, 20, 9), (-24, -12, 70, 8), (-30, -6, 120, 7)), _mm((-8, -12, 62, 6), (-18, -2, 130, 5))]
    for path in [*pulmonary, *great, _mm((16, 14, 64, 5), (28, 8, 130, 5)), _mm((-16, 4, -30, 11), (-18, 8, -130, 11))]:
        canvas.tube(_line(path, canvas.spacing), a.blood_hu)


def _paint_airways(canvas: _Canvas, a: _Anatomy) -> None:
    """The trachea, a little right of the midline, and the main bronchi."""
    trachea = _mm((0, 4, 190, 8), (-2, 10, 110, 8), (-3, 18, 40, 8))
    right, left = (
        _mm((-4, 18, 38, 7), (-22, 18, 18, 6), (-36, 18, 2, 4)),
        _mm((-2, 18, 38, 6), (26, 18, 18, 5), (44, 20, 8, 4)),
    )
    for path in (trachea, right, left):
        canvas.tube(_line([(p, r + 2 * MM) for p, r in path], canvas.spacing), 40)
    for path in (trachea, right, left):
        canvas.tube(_line(path, canvas.spacing), -980)


def _spine(a: _Anatomy, z: int) -> tuple[int, int]:
    """x and y of the centre of the vertebral body at height z."""
    bow = (z - 20 * MM) * (z - 20 * MM) // (180 * MM)
    return a.scoliosis * z // (180 * MM), 62 * MM * a.deep // _ONE + a.kyphosis - bow * a.kyphosis // (110 * MM)


def _paint_spine(canvas: _Canvas, a: _Anatomy) -> None:
    """Vertebrae with cortex, marrow, discs, the canal, transverse and spinous processes."""
    pitch = 24 * MM * a.tall // _ONE
    for n in range(-9, 9):
        z = n * pitch
        x, y = _spine(a, z)
        slab = canvas.slab(z, pitch)
        slab.paint(slab.ellipsoid((x, y, z), (21 * MM, 20 * MM, pitch * 3 // 4)), 70)
    for n in range(-9, 9):
        z = n * pitch
        x, y = _spine(a, z)
        block, slab = pitch * 3 // 8, canvas.slab(z, pitch)
        above = slab.moved()[2] - z
        for grow, hu in ((0, a.bone_hu), (4 * MM, a.bone_hu * 2 // 5)):
            plates = block - grow // 2 - np.abs(above)
            slab.paint(np.minimum(slab.ellipsoid((x, y, z), (18 * MM - grow, 16 * MM - grow, 2 * pitch)), plates), hu)
        knobs = [(x, y + 26 * MM, z, 5), (x, y + 34 * MM, z - 6 * MM, 4), (x, y + 42 * MM, z - 12 * MM, 4)]
        knobs += [(x + s * d * MM, y + 20 * MM, z, 5) for s in (-1, 1) for d in (14, 22, 30)]
        canvas.tube([((px, py, pz), r * MM) for px, py, pz, r in knobs], a.bone_hu * 3 // 4)
    canal = [(_spine(a, z), z) for z in range(-190 * MM, 190 * MM, 4 * MM)]
    canvas.tube([((x, y + 21 * MM, z), 7 * MM) for (x, y), z in canal], 30)


def _paint_ribs(canvas: _Canvas, a: _Anatomy) -> None:
    """Eleven pairs, from the spine around the cage, falling to the front; cartilage and the sternum close the cage."""
    for n in range(11):
        z_back = (128 - 23 * n) * MM * a.tall // _ONE
        drop = a.rib_drop * min(n + 3, 9) // 8
        bony_end = (300, 420, 480, 520, 520, 480, 420, 340, 240, 60, -200)[n]
        for side in (-1, 1):
            path = [_rib_point(a, t, z_back, drop, side, a.rib_radius) for t in range(-880, bony_end, 12)]
            canvas.tube(path, a.bone_hu + 120)
            canvas.tube([(p, r // 2) for p, r in path], a.bone_hu // 3)
            if n < 7:
                cartilage = [_rib_point(a, t, z_back, drop, side, a.rib_radius) for t in range(bony_end, 900, 16)]
                canvas.tube(cartilage, 110)
    for z in range(-34 * MM, 84 * MM, 3 * MM):
        y = _rib_point(a, _ONE, z, 0, 1, 0)[0][1] - 2 * MM
        canvas.tube([((x * MM, y, z), 6 * MM) for x in range(-14, 15, 4)], a.bone_hu * 3 // 5)


def _rib_point(a: _Anatomy, t: int, z_back: int, drop: int, side: int, radius: int) -> tuple[Point, int]:
    """A point of a rib on the cage's surface; t/1024 runs from -1 at the spine over 0 at the flank to 1 at the front.

    The circle is the rational one, ((1 - t^2), -2t) / (1 + t^2), which needs no sine.
    """
    below = _SQUARE + t * t
    c, s = (_SQUARE - t * t) * _ONE // below, -2 * t * _SQUARE // below
    z = z_back - drop * (t + _ONE) // (2 * _ONE)
    level = z * _ONE // a.tall
    wide, deep, back = (_along_at(level, knots) for knots in (_CAGE_WIDE, _CAGE_DEEP, _CAGE_BACK))
    # Solve (k^2 + k^4 b) / 2 = 1, the surface of `_barrel` in direction (c, s).
    b = (c**4 + s**4) >> 30
    k2 = (math.isqrt(_SQUARE + 8 * b * _ONE) - _ONE) * _ONE // (2 * b)
    k = math.isqrt(k2 << 10)
    x = side * (c * k >> 10) * (wide * a.wide >> 10) >> 10
    y = ((s * k >> 10) * (deep * a.deep >> 10) >> 10) + back
    return (x, y, z), radius


def _paint_shoulders(canvas: _Canvas, a: _Anatomy) -> None:
    """Clavicles and shoulder blades."""
    front = _rib_point(a, _ONE, 90 * MM, 0, 1, 0)[0][1]
    for side in (-1, 1):
        wide = side * 125 * MM * a.wide // _ONE
        knots: list[tuple[Point, int]] = [
            ((side * 16 * MM, front, 88 * MM), 100),
            ((wide // 2, front + 2 * MM, 112 * MM), 90),
        ]
        canvas.tube(_line([*knots, ((wide, front + 40 * MM, 132 * MM), 90)], canvas.spacing), a.bone_hu)
        for n in range(12):
            z = (108 - 9 * n) * MM
            inner, outer = wide * (12 + n) // 24, wide * (23 - n // 3) // 24
            y = (72 + n // 3) * MM * a.deep // _ONE
            ends: list[tuple[Point, int]] = [((inner, y + 10 * MM, z), 40), ((outer, y - 22 * MM, z), 56)]
            canvas.tube(_line(ends, canvas.spacing), a.bone_hu * 3 // 4)
