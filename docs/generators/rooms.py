"""The picture of the rooms: what each may import by the contract in pyproject.toml, and what it does."""

from __future__ import annotations

import tomllib

import grimp

from docs.generators import ROOT

CELL, LEFT, TOP = 22, 120, 116
FONT = 'font-family="sans-serif" font-size="12"'
ABOUT = "A row imports the columns with a dot; it may import the grey ones, which lie on lower floors."


def page() -> str:
    """An SVG: the rooms from the top floor to the bottom, as rows and as columns."""
    floor_of = floors()
    rooms, imported = list(floor_of), imports()
    side = CELL * len(rooms)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + side + 10} {TOP + side + 32}" {FONT}>',
        f"<title>{ABOUT}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    for row, room in enumerate(rooms):
        y = TOP + CELL * row
        allowed = [column for column, other in enumerate(rooms) if floor_of[other] > floor_of[room]]
        parts += [
            f'<text x="{LEFT - 8}" y="{y + 15}" text-anchor="end">{room}</text>',
            f'<text transform="translate({LEFT + CELL * row + 15} {TOP - 8}) rotate(-90)">{room}</text>',
            _bar(0, len(rooms), y, "#f6f5f4"),
            _bar(len(rooms) - len(allowed), len(allowed), y, "#deddda"),
            _bar(row, 1, y, "#77767b"),
        ]
        for column in (column for column, other in enumerate(rooms) if (room, other) in imported):
            parts.append(f'<circle cx="{LEFT + CELL * column + 10.5}" cy="{y + 10.5}" r="5" fill="#1a5fb4"/>')
    for column in range(1, len(rooms)):
        parts.append(f'<rect x="{LEFT + CELL * column - 1}" y="{TOP}" width="1" height="{side}" fill="white"/>')
    parts.append(f'<text x="{LEFT}" y="{TOP + side + 20}">{ABOUT}</text>')
    return "\n".join([*parts, "</svg>", ""])


def floors() -> dict[str, int]:
    """Floor of each room, by the first contract of pyproject.toml; 0 is the top."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    layers = settings["tool"]["importlinter"]["contracts"][0]["layers"]
    return {room: number for number, layer in enumerate(layers) for room in layer.split(" | ")}


def imports() -> set[tuple[str, str]]:
    """Pairs of rooms (importer, imported); those for type checkers alone do not count."""
    graph = grimp.build_graph("axon", exclude_type_checking_imports=True, cache_dir=None)
    pairs = set()
    for module in graph.modules - {"axon"}:
        for other in graph.find_modules_directly_imported_by(module) - {"axon"}:
            pairs.add((module.split(".")[1], other.split(".")[1]))
    return pairs - {(room, room) for room, _ in pairs}


def _bar(first: int, columns: int, y: int, fill: str) -> str:
    return f'<rect x="{LEFT + CELL * first}" y="{y}" width="{CELL * columns}" height="{CELL - 1}" fill="{fill}"/>'
