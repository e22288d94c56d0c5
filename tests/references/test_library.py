"""The reference library: what gets in, what is refused, what comes back bit for bit."""

from __future__ import annotations

import json
import lzma
import os
import shutil
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from axon import pretrained
from axon.config import Config
from axon.data.cases import Case
from axon.data.ingest import locate_body
from axon.data.patients import Patient, exclude, fingerprint, patient_hash
from axon.data.phantoms import make_phantom
from axon.data.prepared import PreparedDataset
from axon.errors import AxonError
from axon.files import json_text
from axon.geometry.volume import AIR_HU, Volume, resample_to_cube
from axon.readers.layouts import find_studies
from axon.readers.volumes import read_ct
from axon.references.candidates import library_of
from axon.references.library import (
    ATTRIBUTION,
    FACTS,
    FOLDER,
    TENSORS,
    Candidate,
    build_library,
    compress,
    decompress,
    load_library,
    normal_licence,
    read_facts,
    without_face,
)
from axon.registry.model_card import with_section
from axon.registry.withdrawal import drop_reference
from tests.conftest import REAL_DATA_UNSET

REAL = os.environ.get("AXON_TEST_DATA", "")
SIZE = 36
DOI = "doi:10.0000/phantoms"


@pytest.fixture(scope="module")
def chests() -> list[Volume]:
    return [make_phantom(seed, size=60, spacing_mm=6.0) for seed in (0, 2, 4)]


def candidate(volume: Volume, patient: str, licence: str = "cc-by-4.0", source: str = DOI) -> Candidate:
    return Candidate(patient, "phantom", volume, locate_body(volume, 360.0)[0], licence, source)


@pytest.fixture(scope="module")
def candidates(chests: list[Volume]) -> list[Candidate]:
    return [candidate(chest, f"patient-{index}") for index, chest in enumerate(chests)]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory, candidates: list[Candidate]) -> Path:
    model = tmp_path_factory.mktemp("built") / "model"
    model.mkdir()
    (model / "model_index.json").write_text("{}")
    build_library(model, candidates, 6, size=SIZE)
    (model / "README.md").write_text(
        with_section("# Model\n\n> Research only.\n\n## Uses\n\nNone.\n", read_facts(model))
    )
    pretrained.seal(model)
    return model


@pytest.fixture
def model(built: Path, tmp_path: Path) -> Path:
    """A copy of the library to spoil."""
    return shutil.copytree(built, tmp_path / "model")


def test_a_reference_comes_back_as_it_was_put_in(built: Path, chests: list[Volume]) -> None:
    references = load_library(built)
    assert [reference.id for reference in references] == [patient_hash(f"patient-{index}") for index in range(3)]
    for reference, chest in zip(references, chests, strict=True):
        cube = resample_to_cube(chest, locate_body(chest, 360.0)[0], SIZE, 360.0)
        assert np.array_equal(reference.affine, cube.affine) and reference.hu_DHW.dtype == np.float32
        assert np.array_equal(reference.hu_DHW, np.rint(without_face(cube.hu_DHW, 10.0)))
        assert (reference.licence, reference.licensed, reference.source) == ("CC BY 4.0", True, DOI)
        assert reference.fingerprint == fingerprint(chest) and reference.extent_mm == 360.0


def test_the_folder_holds_three_files_that_say_whose_the_references_are_but_not_who(built: Path) -> None:
    assert sorted(path.name for path in (built / FOLDER).iterdir()) == sorted([ATTRIBUTION, FACTS, TENSORS])
    text = (built / FOLDER / ATTRIBUTION).read_text()
    for fact in read_facts(built):
        assert all(fact[name] in text for name in ("id", "licence", "source", "changes"))
    assert not any(b"patient-0" in path.read_bytes() for path in (built / FOLDER).iterdir())


@pytest.mark.parametrize("seed", [0, 1])
def test_compression_gives_every_integer_back(seed: int) -> None:
    noise_DHW = np.random.default_rng(seed).integers(-(2**15), 2**15, (5, 6, 7)).astype(np.int16)
    assert np.array_equal(decompress(compress(noise_DHW), (5, 6, 7)), noise_DHW)


def test_a_coarser_unit_is_told_and_read_back_in_hu(tmp_path: Path, candidates: list[Candidate]) -> None:
    build_library(tmp_path, candidates[:1], 1, size=SIZE, hu_per_unit=4)
    (reference,) = load_library(tmp_path)
    exact_DHW = without_face(resample_to_cube(candidates[0].volume, candidates[0].center_mm, SIZE, 360.0).hu_DHW, 10.0)
    assert np.abs(reference.hu_DHW - exact_DHW).max() <= 2 and set(np.unique(reference.hu_DHW % 4)) == {0.0}


def test_no_library_is_a_library_of_none(tmp_path: Path, candidates: list[Candidate]) -> None:
    assert build_library(tmp_path, candidates, 0).ids == ()
    assert not list(tmp_path.iterdir()) and load_library(tmp_path) == []


@pytest.mark.parametrize("count", [-1, 65])
def test_an_impossible_count_is_refused(tmp_path: Path, count: int) -> None:
    with pytest.raises(AxonError, match="REFERENCE_COUNT"):
        build_library(tmp_path, [], count)


def test_only_a_stated_and_allowed_licence_gets_in(tmp_path: Path, chests: list[Volume]) -> None:
    terms = [("", ""), ("CC BY-NC 4.0", DOI), ("CC BY 4.0", "")]
    mine = [candidate(chest, f"p{index}", *term) for index, (chest, term) in enumerate(zip(chests, terms, strict=True))]
    done = build_library(tmp_path, mine, 6, size=SIZE)
    assert done.ids == () and [code for _, code, _ in done.left_out] == ["REFERENCE_LICENCE"] * 3
    assert "nobody says under which licence" in done.left_out[0][2] and not (tmp_path / FOLDER).exists()
    done = build_library(tmp_path, mine, 6, allowed=["cc by-nc 4.0"], size=SIZE)
    assert done.ids == (patient_hash("p1"),)


def test_an_unlicensed_reference_is_marked_everywhere(tmp_path: Path, chests: list[Volume]) -> None:
    mine = [candidate(chests[0], "own", "", ""), candidate(chests[1], "public")]
    done = build_library(tmp_path, mine, 6, allow_unlicensed=True, size=SIZE)
    assert done.unlicensed == (patient_hash("own"),) and len(done.ids) == 2
    assert [reference.licensed for reference in load_library(tmp_path)] == [False, True]
    assert "not stated: not cleared" in (tmp_path / FOLDER / ATTRIBUTION).read_text()
    card = with_section("# Model\n\n> Research only.\n\n## Uses\n", read_facts(tmp_path))
    assert any("Not for publication" in line and patient_hash("own") in line for line in card.splitlines()[:7])
    assert "Not for publication" not in with_section(card, read_facts(tmp_path)[1:])


def test_a_patient_is_in_a_library_once_by_id_and_by_ct(tmp_path: Path, chests: list[Volume]) -> None:
    again = [
        candidate(chests[0], "a"),
        candidate(chests[1], "a"),
        candidate(chests[0], "renamed"),
        candidate(chests[2], "b"),
    ]
    done = build_library(tmp_path, again, 6, size=SIZE)
    assert done.ids == (patient_hash("a"), patient_hash("b"))
    assert [code for _, code, _ in done.left_out] == ["REFERENCE_TWICE"] * 2


def test_no_held_out_patient_is_in_a_library_by_id_or_by_ct(tmp_path: Path, chests: list[Volume]) -> None:
    coarse = resample_to_cube(chests[1], locate_body(chests[1], 360.0)[0], 64, 360.0)
    held_out = [Patient(patient_hash("a"), ""), Patient(patient_hash("by another name"), fingerprint(coarse))]
    training = [candidate(chest, name) for chest, name in zip(chests, "abc", strict=True)]
    done = build_library(tmp_path, training, 6, size=SIZE, held_out=held_out)
    assert done.ids == (patient_hash("c"),) and [code for _, code, _ in done.left_out] == ["REFERENCE_HELD_OUT"] * 2


def test_a_training_ct_that_validates_or_tests_under_another_name_is_no_reference(chests: list[Volume]) -> None:
    config = Config.from_yaml("references: {count: 6, allow_unlicensed: true}")
    chest_of = dict(zip("abcvt", [0, 1, 2, 0, 2], strict=True))

    def load(name: str) -> list[Case]:
        """Cubes of 60 voxels a side."""
        film_HW = np.zeros((4, 4), np.float32)
        found = [(case, chests[chest_of[case]]) for case in sets[name]]
        return [Case(case, case, "", chest.hu_DHW, chest.affine, film_HW, film_HW, 1.0) for case, chest in found]

    sets = {"train": "abc", "val": "v", "internal": "t"}
    data = SimpleNamespace(sets=sets, terms=dict.fromkeys("abcvt", ("", "")), load=load)
    library, left_out = library_of(cast(PreparedDataset, data), config)
    assert [fact["id"] for fact in library.facts] == [patient_hash("b")] and left_out == "2 REFERENCE_HELD_OUT"
    library, left_out = library_of(cast(PreparedDataset, data), Config.from_yaml("references: {count: 6}"))
    assert not library.facts and left_out.startswith("3 REFERENCE_LICENCE: say them in patients.csv")


def test_the_first_candidates_are_taken_and_no_more_read(tmp_path: Path, candidates: list[Candidate]) -> None:
    rest = iter(candidates)
    assert len(build_library(tmp_path, rest, 1, size=SIZE).ids) == 1
    assert len(list(rest)) == len(candidates) - 1


def test_a_case_never_sees_itself_among_the_references(built: Path) -> None:
    references = load_library(built)
    for mine in references:
        assert [r.id for r in exclude(references, mine.patient)] == [r.id for r in references if r is not mine]


def test_dropping_a_reference_leaves_the_others_and_a_whole_model(model: Path, tmp_path: Path) -> None:
    before = load_library(model)
    out = tmp_path / "less"
    assert drop_reference(model, before[1].id, out) == [before[0].id, before[2].id]
    after = load_library(out)
    assert [r.id for r in after] == [before[0].id, before[2].id] and np.array_equal(after[1].hu_DHW, before[2].hu_DHW)
    pretrained.verify(out)
    assert not any(before[1].id.encode() in path.read_bytes() for path in out.rglob("*") if path.is_file())
    assert len(load_library(model)) == 3, "the model that was named stays as it was"


def test_the_last_reference_leaves_a_model_without_a_library(model: Path) -> None:
    for reference in load_library(model):
        drop_reference(model, reference.id, model)
    assert not (model / FOLDER).exists() and load_library(model) == []
    assert (model / "README.md").read_text() == "# Model\n\n> Research only.\n\n## Uses\n\nNone.\n"
    pretrained.verify(model)


def test_dropping_what_is_not_there_changes_nothing(model: Path) -> None:
    before = pretrained.verify(model)
    with pytest.raises(AxonError, match="REFERENCE_UNKNOWN"):
        drop_reference(model, "p000000000000", model)
    assert pretrained.verify(model) == before


def test_a_failure_while_dropping_leaves_the_model_as_it_was(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = pretrained.verify(model)
    monkeypatch.setattr("axon.registry.withdrawal.seal", lambda folder: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        drop_reference(model, load_library(model)[0].id, model)
    assert pretrained.verify(model) == before and len(load_library(model)) == 3


def test_a_damaged_reference_can_be_dropped(model: Path) -> None:
    spoil_tensor(model, lambda packed_B: packed_B[:-9])
    with pytest.raises(AxonError, match="REFERENCE_DAMAGED"):
        load_library(model)
    drop_reference(model, read_facts(model)[0]["id"], model)
    assert len(load_library(model)) == 2


def spoil_tensor(model: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Change the first reference's bytes."""
    path = model / FOLDER / TENSORS
    tensors = load_file(path)
    name = read_facts(model)[0]["id"]
    tensors[name] = np.ascontiguousarray(change(tensors[name]))
    save_file(tensors, path)


def flip_a_bit(packed_B: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(packed_B)) == len(packed_B) // 2, packed_B ^ 1, packed_B)


def other_values(packed_B: np.ndarray) -> np.ndarray:
    return compress(decompress(packed_B, (SIZE,) * 3) + np.int16(1))


def bomb(packed_B: np.ndarray) -> np.ndarray:
    """A gigabyte of zeros in a few kilobytes of streams."""
    return np.frombuffer(lzma.compress(bytes(2**24)) * 64, np.uint8)


def hungry(packed_B: np.ndarray) -> np.ndarray:
    """A stream whose dictionary is larger than anything here."""
    filters = [
        {
            "id": lzma.FILTER_LZMA2,
            "preset": 0,
            "dict_size": 2**29,
            "mode": lzma.MODE_FAST,
            "mf": lzma.MF_HC3,
            "nice_len": 32,
        }
    ]
    stream = bytearray(lzma.compress(bytes(10), filters=[{**filters[0], "dict_size": 2**20}]))
    # The dictionary's size is one byte of the block's header, which its CRC follows.
    start = 12
    length = (stream[start] + 1) * 4
    stream[start + 4] = 34
    stream[start + length - 4 : start + length] = zlib.crc32(stream[start : start + length - 4]).to_bytes(4, "little")
    return np.frombuffer(bytes(stream), np.uint8)


@pytest.mark.parametrize(
    "change",
    [
        lambda packed_B: packed_B[:-9],
        lambda packed_B: packed_B[:0],
        lambda packed_B: np.append(packed_B, packed_B),
        lambda packed_B: packed_B.astype(np.int16),
        lambda packed_B: packed_B[None],
        flip_a_bit,
        other_values,
        bomb,
        hungry,
    ],
    ids=["cut", "empty", "two", "int16", "two axes", "bit", "values", "bomb", "hungry"],
)
def test_a_damaged_tensor_is_refused(model: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    spoil_tensor(model, change)
    with pytest.raises(AxonError, match="REFERENCE_DAMAGED"):
        load_library(model)


def test_of_a_decompression_bomb_only_the_size_of_the_grid_is_decoded() -> None:
    packed_B = np.frombuffer(lzma.compress(bytes(2**25)), np.uint8)
    tracemalloc.start()
    with pytest.raises(AxonError, match="REFERENCE_DAMAGED"):
        decompress(packed_B, (8, 8, 8))
    assert tracemalloc.get_traced_memory()[1] < 2**24
    tracemalloc.stop()


@pytest.mark.parametrize("name", [FACTS, TENSORS])
def test_a_missing_file_is_told(model: Path, name: str) -> None:
    (model / FOLDER / name).unlink()
    with pytest.raises(AxonError, match=f"REFERENCE_MISSING.*{name}"):
        load_library(model)


def test_a_missing_tensor_is_told(model: Path) -> None:
    path = model / FOLDER / TENSORS
    tensors = load_file(path)
    tensors.pop(read_facts(model)[1]["id"])
    save_file(tensors, path)
    with pytest.raises(AxonError, match="REFERENCE_MISSING"):
        load_library(model)


def test_a_file_that_is_no_safetensors_is_told(model: Path) -> None:
    (model / FOLDER / TENSORS).write_bytes(b"\xff" * 100)
    with pytest.raises(AxonError, match="REFERENCE_DAMAGED"):
        load_library(model)


@pytest.mark.parametrize(
    ("code", "values"),
    [
        ("GRID", {"shape": [SIZE, SIZE, SIZE + 1]}),
        ("GRID", {"shape": [2**20] * 3}),
        ("GRID", {"shape": [True] * 3}),
        ("GRID", {"extent_mm": 300.0}),
        ("DAMAGED", {"bytes": 2**60}),
        ("DAMAGED", {"bytes": "many"}),
        ("DAMAGED", {"hu_per_unit": 0}),
        ("DAMAGED", {"sha256": "0" * 64}),
        ("DAMAGED", {"affine": [[1, 2], [3]]}),
        ("DAMAGED", {"affine": [["a"] * 4] * 4}),
        ("DAMAGED", {"affine": [[float("nan")] * 4] * 4}),
        ("DAMAGED", {"affine": [[1e999] * 4] * 4}),
        ("DAMAGED", {"id": "../../etc"}),
        ("DAMAGED", {"fingerprint": "ab"}),
        ("DAMAGED", {"more": 1}),
        ("LICENCE", {"licence": ""}),
        ("LICENCE", {"source": ""}),
    ],
)
def test_facts_that_are_not_right_are_refused(model: Path, code: str, values: dict[str, Any]) -> None:
    path = model / FOLDER / FACTS
    read = json.loads(path.read_text())
    read["references"][1] |= values
    path.write_text(json_text(read))
    with pytest.raises(AxonError, match=f"REFERENCE_{code}"):
        load_library(model)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"version": 2, "references": []}',
        '{"version": 1, "references": []}',
        "[" * 100_000,
        " " * 2**21,
    ],
)
def test_a_list_that_is_none_is_refused(model: Path, text: str) -> None:
    (model / FOLDER / FACTS).write_text(text)
    with pytest.raises(AxonError, match="REFERENCE_DAMAGED"):
        load_library(model)


def test_a_reference_named_twice_is_refused(model: Path) -> None:
    path = model / FOLDER / FACTS
    read = json.loads(path.read_text())
    read["references"][1] = read["references"][0]
    path.write_text(json_text(read))
    with pytest.raises(AxonError, match=r"REFERENCE_DAMAGED.*twice"):
        load_library(model)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("CC BY 3.0", "CC BY 3.0"),
        ("cc-by-4.0", "CC BY 4.0"),
        ("CC BY 3.0 Unported", "CC BY 3.0"),
        ("Creative Commons Attribution 4.0 International License", "CC BY 4.0"),
        ("https://creativecommons.org/licenses/by/4.0/", "CC BY 4.0"),
        ("http://creativecommons.org/licenses/by-nc/3.0/legalcode", "CC BY-NC 3.0"),
        ("CC-BY-NC-SA-4.0", "CC BY-NC-SA 4.0"),
        ("Creative Commons Attribution-NonCommercial 4.0", "CC BY-NC 4.0"),
        ("CC0", "CC0 1.0"),
        ("cc0-1.0", "CC0 1.0"),
        ("https://creativecommons.org/publicdomain/zero/1.0/", "CC0 1.0"),
        ("Creative Commons Attribution-NoDerivatives 4.0", "CC BY-ND 4.0"),
        ("CC BY-NC 4.0 or CC BY 4.0", "CC BY-NC 4.0 or CC BY 4.0"),
        ("CC BY", "CC BY"),
        ("CC BY 4.0, but only with our leave", "CC BY 4.0, but only with our leave"),
        ("not CC0", "not CC0"),
        ("", ""),
        ("  MIT ", "MIT"),
    ],
)
def test_a_licence_has_one_spelling(text: str, expected: str) -> None:
    assert normal_licence(text) == expected


def head(size: int = 64) -> np.ndarray:
    """A trunk with two lungs, a neck above, and a chin that rests in front of it; 5 mm a voxel."""
    d, h, w = np.mgrid[:size, :size, :size]
    body = np.full((size,) * 3, AIR_HU, np.float32)
    body[((w - 32) / 24.0) ** 2 + ((h - 36) / 14.0) ** 2 < 1] = 40
    body[44:][((w - 32)[44:] / 9.0) ** 2 + ((h - 40)[44:] / 9.0) ** 2 >= 1] = AIR_HU
    for side in (20, 44):
        body[((w - side) / 7.0) ** 2 + ((h - 36) / 9.0) ** 2 + ((d - 22) / 18.0) ** 2 < 1] = -850
    body[42:52, 12:20, 26:38] = 300
    return body


def test_chin_and_head_are_blanked_and_the_chest_is_not() -> None:
    hu_DHW = head()
    blanked_DHW = without_face(hu_DHW, 5.0)
    assert (blanked_DHW[42:52, 12:20, 26:38] == AIR_HU).all(), "the chin"
    assert (blanked_DHW[52:] == AIR_HU).all() and (hu_DHW[52:] > 0).any(), "the head"
    assert np.array_equal(blanked_DHW[:42], hu_DHW[:42]), "the chest"
    assert np.array_equal(blanked_DHW[42:47, 22:], hu_DHW[42:47, 22:]), "the neck"


def test_a_ct_without_lungs_is_left_out(tmp_path: Path, chests: list[Volume]) -> None:
    with pytest.raises(AxonError, match="REFERENCE_NO_LUNGS"):
        without_face(np.where(chests[0].hu_DHW < -500, AIR_HU, chests[0].hu_DHW) * np.float32(1) + 2000, 6.0)


@pytest.mark.skipif(not REAL, reason=REAL_DATA_UNSET)
def test_a_real_ct_takes_little_more_than_a_megabyte_and_loses_nothing(tmp_path: Path) -> None:
    (study,) = [study for study in find_studies(Path(REAL) / "ct") if study.patient_id == "LIDC-IDRI-0006"]
    volume = read_ct(study.files)
    mine = Candidate(
        study.patient_id,
        "LIDC-IDRI",
        volume,
        locate_body(volume, 360.0)[0],
        "CC BY 3.0",
        "doi:10.7937/K9/TCIA.2015.LO9QL9SX",
    )
    build_library(tmp_path, [mine], 1)
    assert (tmp_path / FOLDER / TENSORS).stat().st_size < 1.6e6
    (reference,) = load_library(tmp_path)
    exact_DHW = without_face(resample_to_cube(volume, mine.center_mm, 128, 360.0).hu_DHW, 360 / 128)
    assert np.abs(reference.hu_DHW - np.clip(exact_DHW, AIR_HU, 3071)).max() <= 0.5
