"""The dataset card: a README.md with the headings and the front matter of Hugging Face's dataset cards, made from the
manifest alone.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from axon import DISCLAIMER

_BAR = 40
_UNKNOWN = "not stated"
_SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"))


def card(
    title: str,
    rows: Sequence[Mapping[str, Any]],
    source: Mapping[str, str],
    left_out: Sequence[Mapping[str, Any]],
    films: Mapping[str, int],
    films_left_out: Mapping[str, int],
) -> str:
    """The card's text.

    Args:
        title: First heading.
        rows: The manifest's rows that have a case: patient_id, collection, set, spacing_mm ("w h d"), shape ("D H W"),
            licence, source.
        source: What ``source.json`` says of the dataset this one was made from; may be empty.
        left_out: Studies without a case: case_id, excluded (a code), reason.
        films: Number of the patients' real X-ray films by view.
        films_left_out: Number of films that were left out, by code.

    Returns:
        str: Markdown; equal input gives equal text.
    """
    parts = [
        _front_matter(rows),
        f"# Dataset Card for {title}",
        f"{_counted(rows)}. {DISCLAIMER}",
        "## Dataset Details",
        "### Dataset Sources",
        _sources(rows),
        *_origin(source),
        "## Uses",
        "### Direct Use",
        "Training and evaluating the reconstruction of chest CT from X-ray films, in research.",
        "### Out-of-Scope Use",
        "Diagnosis, treatment, or any attempt to identify a person.",
        "## Dataset Structure",
        "The manifest has one row a case with its SHA-256; `splits.json` the set of each patient; `cases/` one file a "
        "case.",
        _table(("set", "patients", "cases"), _sets(rows)),
        "Voxel spacing (w h d, mm):",
        _histogram(str(row["spacing_mm"]) for row in rows),
        "Voxels (D H W):",
        _histogram(str(row["shape"]) for row in rows),
        "## Dataset Creation",
        "### Data Collection and Processing",
        "Volumes are int16 HU in patient axes; every header but the geometry was dropped. Cases left out, by code:",
        *_left_out(left_out),
        _films(films),
        *(
            ["Films left out, by code:", _table(("code", "films"), sorted(films_left_out.items()))]
            if films_left_out
            else []
        ),
        "### Personal and Sensitive Information",
        "Patients appear under the pseudonyms of the manifest. The sources' own terms forbid re-identification.",
        "## Bias, Risks, and Limitations",
        "Nothing is known here of age, sex, origin or disease, so nothing can be said about how the dataset represents "
        "anybody.",
        "## Citation",
        _citations(rows),
    ]
    return "\n\n".join(parts) + "\n"


def _front_matter(rows: Sequence[Mapping[str, Any]]) -> str:
    licences = sorted({str(row["licence"]).lower().replace(" ", "-") or "unknown" for row in rows})
    size = next((name for limit, name in _SIZES if len(rows) < limit), "n>100K")
    return "\n".join(
        ["---", f"license: [{', '.join(licences)}]", "tags: [medical, ct, x-ray]", f"size_categories: [{size}]", "---"]
    )


def _left_out(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """How many by code, then each with its reason."""
    if not rows:
        return ["None."]
    codes = Counter(row["excluded"] for row in rows)
    reasons = [(row["case_id"], row["excluded"], row["reason"]) for row in rows]
    return [_table(("code", "studies"), sorted(codes.items())), _table(("study", "code", "reason"), reasons)]


def _films(films: Mapping[str, int]) -> str:
    counted = ", ".join(f"{count} {view}" for view, count in sorted(films.items())) or "none"
    return (
        f"Real X-ray films of these patients: {counted}. They were not taken with the CT and are not registered to it."
    )


def _counted(rows: Sequence[Mapping[str, Any]]) -> str:
    patients = len({row["patient_id"] for row in rows})
    return f"{len(rows)} chest CTs of {patients} patients, from {len({row['collection'] for row in rows})} collections"


def _sources(rows: Sequence[Mapping[str, Any]]) -> str:
    kinds = Counter((str(r["collection"]), str(r["licence"]) or _UNKNOWN, _source(r) or _UNKNOWN) for r in rows)
    return _table(
        ("collection", "licence", "source", "cases"), [(*kind, count) for kind, count in sorted(kinds.items())]
    )


def _origin(source: Mapping[str, Any]) -> list[str]:
    made_from = ", ".join(f"{key} `{value}`" for key, value in sorted(source.items()))
    return [f"Made from: {made_from}."] if source else []


def _source(row: Mapping[str, Any]) -> str:
    """A DOI as a link; the generator's seeds of phantoms as one source."""
    text = str(row["source"])
    return f"https://doi.org/{text.removeprefix('doi:')}" if text.startswith("doi:") else text.partition(" seed ")[0]


def _citations(rows: Sequence[Mapping[str, Any]]) -> str:
    links = sorted({_source(row) for row in rows if str(row["source"]).startswith("doi:")})
    return "\n".join(f"- {link}" for link in links) or "No source of this dataset states a DOI."


def _sets(rows: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int]]:
    of_set: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        of_set[str(row["set"])].append(row["patient_id"])
    return [(name, len(set(patients)), len(patients)) for name, patients in sorted(of_set.items())]


def _table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    """A bar or a line break in a cell would end it."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _histogram(values: Iterable[str]) -> str:
    counts = Counter(values)
    width = max(map(len, counts), default=0)
    most = max(counts.values(), default=1)
    bars = [
        f"{name:<{width}}  {'#' * max(1, round(_BAR * n / most))} {n}"
        for name, n in sorted(counts.items(), key=_by_number)
    ]
    return "\n".join(["```", *bars, "```"])


def _by_number(item: tuple[str, int]) -> list[float]:
    return [float(word) for word in item[0].split()]
