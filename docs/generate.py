"""Write docs/reference from the code: ``make reference``; ``--check`` changes nothing and fails where a page is not
what the code says.

The sources are read, not run, wherever that is enough: no torch is imported.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

# Run as a program, it finds what lies in docs, but not docs itself.
sys.path.insert(0, str(Path(__file__).parents[1]))

from docs.generators import ROOT, api, cli, configuration, errors, rooms
from docs.generators.text import reflowed

REFERENCE = ROOT / "docs" / "reference"
NOTE = "<!-- Made from the code by `make reference`; changes here are lost. -->\n"


def main() -> int:
    """Write the pages, or with ``--check`` compare them; 1 where one is not up to date."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--check", action="store_true", help="write nothing; fail where a page is not what the code says"
    )
    check = arguments.parse_args().check
    generators = {
        "cli.md": cli,
        "configuration.md": configuration,
        "errors.md": errors,
        "api.md": api,
        "rooms.svg": rooms,
    }
    pages = {name: f"{NOTE}\n{generator.page()}" for name, generator in generators.items()}
    pages = {name: reflowed(page) if name.endswith(".md") else page for name, page in pages.items()}
    stale = [
        name
        for name, text in pages.items()
        if not (REFERENCE / name).is_file() or (REFERENCE / name).read_text() != text
    ]
    if check:
        print(
            f"not what the code says: {', '.join(stale)}; run: make reference"
            if stale
            else "docs/reference is up to date"
        )
        return int(bool(stale))
    REFERENCE.mkdir(exist_ok=True)
    for name in stale:
        (REFERENCE / name).write_text(pages[name])
    print(f"written: {', '.join(stale) or 'nothing, it is up to date'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
