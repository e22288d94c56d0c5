"""The cohorts that IDC's real index gives; the rules by which one CT is chosen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from axon.cli import main
from axon.cohorts.select import Cohort, Series, choose_ct, index_path, index_version, read_index, select
from axon.errors import AxonError

COLLECTIONS = ["lidc_idri", "covid_19_ny_sbu", "covid_19_ar"]


@pytest.fixture(scope="module")
def index() -> list[Series]:
    return read_index(index_path(), COLLECTIONS)


def ct(uid: str = "1", **changes: object) -> Series:
    """A CT of a thorax that passes the rules."""
    plain = Series(
        "c",
        "p",
        "s",
        uid,
        f"uuid-{uid}",
        "b",
        "CT",
        100,
        1000,
        "CC BY 4.0",
        "10.1/x",
        "2020-01-10",
        "CHEST",
        "CHEST 3 MM",
    )
    return dataclasses.replace(
        plain, **{"sop_class": "CT Image Storage", "transfer_syntax": "1.2.840.10008.1.2"} | changes
    )


@pytest.mark.slow
def test_counts_are_those_of_idc_25(index: list[Series]) -> None:
    assert index_version().startswith("25.")
    counts = select(index, index_version()).summary["collections"]
    lidc = counts["lidc_idri"]
    assert (lidc["with_ct"], lidc["with_ct_and_film"], lidc["with_ct_and_two_images_of_film"]) == (1010, 290, 199)
    assert counts["covid_19_ny_sbu"]["with_ct_and_film"] == 439
    assert counts["covid_19_ar"]["with_ct_and_film"] == 22
    # Every LIDC scan is a thorax; in the others some patients have CTs of the abdomen alone.
    assert [counts[c]["chosen"] for c in COLLECTIONS] == [290, 402, 22]


def test_a_patient_has_one_ct_and_all_films(index: list[Series]) -> None:
    cohort = select(index, "25", "include")
    cts = [s for s in cohort.series if s.modality == "CT"]
    assert (
        len({(s.collection, s.patient_id) for s in cts})
        == len(cts)
        == cohort.summary["collections"]["lidc_idri"]["chosen"] + 417 + 23
    )
    chosen = {(s.collection, s.patient_id) for s in cohort.series}
    films = {s.series_uid for s in index if s.modality != "CT" and (s.collection, s.patient_id) in chosen}
    assert {s.series_uid for s in cohort.series if s.modality != "CT"} == films
    assert all(
        s.licence in ("CC BY 3.0", "CC BY 4.0") and s.doi and s.bucket == "idc-open-data" and s.bytes > 0
        for s in cohort.series
    )


def test_ct_only(index: list[Series]) -> None:
    both, all_, alone = (select(index, "25", mode) for mode in ("exclude", "include", "only"))
    people = [{(s.collection, s.patient_id) for s in c.series} for c in (both, all_, alone)]
    assert people[0] | people[2] == people[1] and not people[0] & people[2]
    assert {s.modality for s in alone.series} == {"CT"}
    assert alone.summary["collections"]["lidc_idri"]["chosen"] == 1010 - 290


def test_limits_are_nested_samples_and_kept(index: list[Series]) -> None:
    small, large = (select(index, "25", limit=n) for n in (20, 40))
    assert set(small.series) < set(large.series)
    assert len({s.collection for s in small.series}) > 1
    capped = select(index, "25", max_bytes=2 * 10**9)
    assert 10**9 < capped.bytes <= 2 * 10**9
    with pytest.raises(AxonError) as none:
        select(index, "25", max_bytes=1000)
    assert none.value.code == "COHORT_EMPTY"


def test_same_bytes_again_and_from_any_order(index: list[Series], tmp_path: Path) -> None:
    select(index, "25", limit=30).save(tmp_path / "a" / "one.json")
    select(index[::-1], "25", limit=30).save(tmp_path / "two.json")
    assert (tmp_path / "a" / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    loaded = Cohort.load(tmp_path / "two.json")
    loaded.save(tmp_path / "three.json")
    assert (tmp_path / "three.json").read_bytes() == (tmp_path / "two.json").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "three.json", "two.json"]


@pytest.mark.parametrize(
    "changes",
    [
        {"description": "SCOUT AP/LATERAL"},
        {"description": "CHEST SAGITTAL"},
        {"description": "1 25 MM SAGITAL"},
        {"description": "Chest, Cor"},
        {"description": "CORONAL PE MIP"},
        {"description": "Body 3.000 CE"},
        {"description": "Dose report"},
        {"description": "ABD/PEL 2.5 MM", "body_part": ""},
        {"description": "", "body_part": "ABDOMENPELVIS"},
        {"instances": 2},
        {"instances": 2464},
        {"sop_class": "Secondary Capture Image Storage"},
        {"transfer_syntax": "1.2.840.10008.1.2,1.2.840.10008.1.2.4.90"},
    ],
)
def test_what_is_no_thorax_volume_is_refused(changes: dict[str, object]) -> None:
    assert choose_ct([ct()], []) == ct()
    assert choose_ct([ct(**changes)], []) is None


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"description": "CHEST 5 MM", "instances": 60}, {"description": "VENOUS", "body_part": "", "instances": 400}),
        ({"description": "C-A-P"}, {"description": "AbdRoutine 5.0 B31f"}),
        ({"study_date": "2020-01-12"}, {"instances": 300}),
        ({"instances": 300}, {"instances": 299}),
        ({"description": "Body 1.0"}, {"description": "Lung 1.0"}),
        ({}, {"series_uid": "2"}),
    ],
)
def test_order_of_preference(better: dict[str, object], worse: dict[str, object]) -> None:
    film = ct("film", modality="DX", study_date="2020-01-13")
    one, other = ct(**better), dataclasses.replace(ct("1.5"), **worse)
    assert choose_ct([one, other], [film]) == choose_ct([other, one], [film]) == one


def test_low_dose_is_no_dose_sheet() -> None:
    assert choose_ct([ct(description="Recon 2: LOW DOSE THROUGH LUNGS")], []) is not None


@pytest.mark.slow
def test_unknown_collection_is_named() -> None:
    with pytest.raises(AxonError, match="lidc_idir") as unknown:
        read_index(index_path(), ["lidc_idir"])
    assert unknown.value.code == "COHORT_COLLECTION" and "lidc_idri" in unknown.value.fix


@pytest.mark.parametrize(("field", "value"), [("patient_id", "../../etc"), ("collection", ".."), ("series_uid", "a/b")])
def test_a_cohort_cannot_lead_out_of_its_folder(tmp_path: Path, field: str, value: str) -> None:
    path = tmp_path / "cohort.json"
    Cohort((ct(),), {}).save(path)
    raw = json.loads(path.read_text())
    raw["series"][0][field] = value
    path.write_text(json.dumps(raw))
    with pytest.raises(AxonError) as unsafe:
        Cohort.load(path)
    assert unsafe.value.code == "COHORT_UNREADABLE"


@pytest.mark.slow
def test_command_dry_run_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "cohort.json"
    assert main(["cohort", "select", str(path), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "290 patients" in shown and "GB" in shown and "CC BY 3.0" in shown and "doi:10.7937" in shown
    assert not path.exists()
    assert main(["cohort", "select", str(path), "--limit", "2"]) == 0
    assert len({s.patient_id for s in Cohort.load(path).series}) == 2
    with pytest.raises(SystemExit):
        main(["cohort", "select", str(tmp_path), "--limit", "2"])
    assert "[OUT_EXISTS]" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path] and list(tmp_path.parent.glob(".*.part")) == []
