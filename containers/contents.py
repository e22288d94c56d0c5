"""Prints what is large in the Python environment that runs it, and which package asked for it."""

import re
import sys
from collections import defaultdict
from importlib.metadata import distributions
from pathlib import Path

LARGEST = 15


def bytes_of(paths: list[Path]) -> int:
    return sum(path.stat().st_size for path in paths if path.is_file() and not path.is_symlink())


sizes: dict[str, int] = {}
needed_by: dict[str, list[str]] = defaultdict(list)
for package in distributions():
    name = re.sub(r"[-_.]+", "-", package.metadata["Name"]).lower()
    files = [Path(str(file.locate())) for file in package.files or []]
    sizes[name] = bytes_of([file for file in files if file.suffix != ".pyc"])
    for requirement in package.requires or []:
        if "extra ==" not in requirement or name == "axon-ct":
            wanted = re.match(r"[\w.-]+", requirement)
            needed_by[re.sub(r"[-_.]+", "-", wanted[0]).lower() if wanted else ""].append(name)

bytecode = bytes_of(list(Path(sys.prefix).rglob("*.pyc")))
rest = sum(sizes.values()) - sum(sorted(sizes.values())[-LARGEST:])
rows = sorted(((size, name, ", ".join(sorted(needed_by[name])[:4])) for name, size in sizes.items()), reverse=True)[
    :LARGEST
]
rows += [
    (bytecode, "(bytecode)", "what steps import, compiled: a read-only image cannot do it later"),
    (rest, f"({len(sizes) - LARGEST} others)", ""),
]
print("   MB  package               needed by")
for size, name, why in rows:
    print(f"{size / 1e6:5.0f}  {name:20s}  {why}")
