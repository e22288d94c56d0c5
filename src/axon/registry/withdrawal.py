"""Take a patient out of a model's references, and tell in its card whose CTs it carries."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from axon.errors import AxonError
from axon.files import whole_folder
from axon.pretrained import SUMS, seal
from axon.references.library import (
    FOLDER,
    TERMS,
    attribution_table,
    open_tensors,
    packed_tensor,
    read_facts,
    write_library,
)
from axon.registry.model_card import CARD

_BEGIN, _END = "<!-- references -->", "<!-- end of references -->"


def drop_reference(model: Path, reference_id: str, out: Path) -> list[str]:
    """Write a model without one of its references, e.g. because the patient withdraws; whole or not at all.

    The other references keep their bytes; with the last one ``references/`` goes. The card's section is made anew, and
    so are the checksums of a model that has some. ``patients.json`` stays: the networks were trained on the patient.

    Args:
        model: The model's folder.
        reference_id: As `load_library` names it; that of a patient is `axon.data.patients.patient_hash`.
        out: Folder of the new model, which may be ``model``.

    Returns:
        list: Ids that are left.

    Raises:
        AxonError: ``REFERENCE_UNKNOWN``, ``CANNOT_WRITE``, ``REFERENCE_DAMAGED`` or another code of `read_facts`.
    """
    facts = read_facts(model)
    left = [fact for fact in facts if fact["id"] != reference_id]
    if len(left) == len(facts):
        there = ", ".join(fact["id"] for fact in facts) or "none"
        raise AxonError(
            "REFERENCE_UNKNOWN", f"{model} has no reference {reference_id!r}", f"name one of those it has: {there}"
        )
    with whole_folder(out) as part:
        shutil.copytree(model, part, dirs_exist_ok=True)
        shutil.rmtree(part / FOLDER)
        if left:
            with open_tensors(model) as file:
                write_library(part / FOLDER, left, {fact["id"]: packed_tensor(file, fact["id"]) for fact in left})
        card = part / CARD
        if card.is_file():
            card.write_text(with_section(card.read_text(), left))
        if (part / SUMS).is_file():
            seal(part)
    return [fact["id"] for fact in left]


def with_section(card: str, facts: Sequence[dict[str, Any]]) -> str:
    """A model card with the section on the references, in the place of an older one, else before the first second
    heading.

    Where one of them is not licensed, the section begins with that, so that it is among the card's first lines.

    Args:
        card: Markdown.
        facts: As of `read_facts`; none takes the section out.
    """
    before, _, rest = card.partition(_BEGIN)
    if rest:
        after = rest.partition(_END)[2].lstrip("\n")
    else:
        before, after = card[: card.find("\n## ") + 1], card[card.find("\n## ") + 1 :]
    return before + (_section(facts) + "\n\n" if facts else "") + after


def _section(facts: Sequence[dict[str, Any]]) -> str:
    unlicensed = [fact["id"] for fact in facts if not fact["licensed"]]
    warning = f"> **Not for publication: no licence clears these patients' CTs: {', '.join(unlicensed)}.**\n\n"
    text = f"The CTs of {len(facts)} training patients are in `{FOLDER}/`, as references. {TERMS}"
    return f"{_BEGIN}\n{warning if unlicensed else ''}{text}\n\n{attribution_table(facts)}\n{_END}"
