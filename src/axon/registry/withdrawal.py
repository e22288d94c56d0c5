"""Take a patient out of a model's references, and tell in its card whose CTs it carries."""

from __future__ import annotations

import shutil
from pathlib import Path

from axon.errors import AxonError
from axon.files import whole_folder
from axon.pretrained import SUMS, seal
from axon.references.library import (
    FOLDER,
    open_tensors,
    packed_tensor,
    read_facts,
    write_library,
)
from axon.registry.model_card import CARD, with_section


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
