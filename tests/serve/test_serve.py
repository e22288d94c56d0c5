"""The page's server by its answers: who may ask, how much, how many at once, and what is left afterwards."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import logging
import shutil
import signal
import threading
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from starlette.testclient import TestClient

from axon import pretrained
from axon.config import Config
from axon.pictures import LARGEST_PX
from axon.readers import child
from axon.reconstruct import Films, read_films
from axon.serve import app as web
from axon.serve.jobs import Jobs
from axon.serve.server import serve
from tests.support.small_model import small_pipeline, write_films

pytestmark = pytest.mark.slow

HOME = "http://127.0.0.1:8765"


@pytest.fixture(scope="module")
def model() -> pretrained.Model:
    pipeline = small_pipeline(Config.load(Path(__file__).parents[1] / "tiny.yaml"))
    return pretrained.Model(pipeline, "axon", "test", "0" * 64)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return write_films(tmp_path_factory.mktemp("films"))[0].read_bytes()


@pytest.fixture
def jobs(model: pretrained.Model, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Jobs:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return Jobs(model, waiting=1, keep_s=60)


@pytest.fixture
def asked(jobs: Jobs, tmp_path: Path) -> Iterator[TestClient]:
    """A client of the running application. Once that has ended, nothing is left in the temporary folder."""
    with TestClient(web.make_app(jobs), base_url=HOME) as client:
        yield client
    # Torch has a folder of its own there where an earlier test of this process compiled.
    assert [path for path in tmp_path.iterdir() if not path.name.startswith("torchinductor_")] == []


@pytest.fixture
def held(model: pretrained.Model) -> Iterator[threading.Event]:
    """Holds the network until the event is set, so that a job is running for as long as a test needs."""
    event = threading.Event()
    hook = model.pipeline.unet.register_forward_pre_hook(lambda *_: event.wait(30) and None)
    yield event
    event.set()
    hook.remove()


def order(client: TestClient, film: bytes, **fields: str) -> dict:
    return client.post("/api/jobs", files={"frontal": ("JANE_DOE.png", film)}, data=fields).json()


def ended(client: TestClient, job: str) -> dict:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        status = client.get(f"/api/jobs/{job}").json()
        if status["state"] in ("done", "failed"):
            return status
        time.sleep(0.05)
    raise AssertionError("the job does not end")


def test_the_page_and_the_served_model_leave_the_lateral_film_where_it_lies(
    asked: TestClient, jobs: Jobs, film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where they are asked to."""
    from axon.registry.pyfunc_model import _films

    levelled: list[bool] = []
    take = Films.scales
    monkeypatch.setattr(Films, "scales", lambda films: levelled.append(films.level) or take(films))
    for fields in ({}, {"no_level": "true"}):
        assert ended(asked, order(asked, film, **fields)["id"])["state"] == "done"
    assert levelled == [True, False]
    assert [_films({"frontal": film}, {"no_level": asked_for}).level for asked_for in (False, True)] == [True, False]


def test_a_job_counts_its_steps_and_gives_the_command_lines_bytes(
    asked: TestClient, film: bytes, model: pretrained.Model, tmp_path_factory: pytest.TempPathFactory
) -> None:
    from axon.reconstruct import read_films, reconstruct

    status = ended(asked, order(asked, film, seed="3")["id"])
    assert (status["state"], status["step"]) == ("done", status["steps"])
    scratch = tmp_path_factory.mktemp("scratch")
    (scratch / "film.png").write_bytes(film)
    reconstruct(read_films(scratch / "film.png", None), model, scratch / "out", seed=3)
    for name in ("ct.nii.gz", "preview.png", "reconstruction.json"):
        answer = asked.get(f"/api/jobs/{status['id']}/{name}")
        assert answer.content == (scratch / "out" / name).read_bytes()
        assert b"JANE" not in answer.content and "JANE" not in str(answer.headers)


def test_an_empty_film_is_called_so(asked: TestClient) -> None:
    assert "the film is empty" in ended(asked, order(asked, b"")["id"])["error"]["message"]


def test_films_go_once_read_and_results_on_request(asked: TestClient, jobs: Jobs, film: bytes) -> None:
    job = order(asked, film)["id"]
    ended(asked, job)
    assert {path.name for path in (jobs.root / job).iterdir()} == {"out"}
    assert asked.delete(f"/api/jobs/{job}").status_code == 204
    assert list(jobs.root.iterdir()) == []
    assert asked.get(f"/api/jobs/{job}").json()["code"] == "SERVE_GONE"
    assert asked.get(f"/api/jobs/{job}/ct.nii.gz").status_code == 404


def test_what_nobody_asks_after_expires(
    model: pretrained.Model, film: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    jobs = Jobs(model, waiting=1, keep_s=0.4)
    with TestClient(web.make_app(jobs), base_url=HOME) as client:
        job = order(client, film)["id"]
        time.sleep(1.5)
        deadline = time.monotonic() + 20
        while list(jobs.root.iterdir()) and time.monotonic() < deadline:
            time.sleep(0.05)
        assert list(jobs.root.iterdir()) == []
        assert client.get(f"/api/jobs/{job}").status_code == 404


def test_one_runs_one_waits_and_the_third_is_told(asked: TestClient, film: bytes, held: threading.Event) -> None:
    first, second = (order(asked, film)["id"] for _ in range(2))
    assert asked.get(f"/api/jobs/{second}").json()["ahead"] == 1
    third = asked.post("/api/jobs", files={"frontal": ("f.png", film)})
    assert third.status_code == 503 and third.headers["retry-after"]
    assert third.json()["code"] == "SERVE_BUSY" and "try again" in third.json()["fix"]
    asked.delete(f"/api/jobs/{second}")
    assert "id" in order(asked, film), "a dropped job gives its place back"
    held.set()
    assert ended(asked, first)["state"] == "done"


def test_a_dropped_job_stops_and_leaves_nothing(
    asked: TestClient, jobs: Jobs, film: bytes, held: threading.Event
) -> None:
    job = order(asked, film)["id"]
    while asked.get(f"/api/jobs/{job}").json()["state"] == "waiting":
        time.sleep(0.02)
    asked.delete(f"/api/jobs/{job}")
    held.set()
    after = order(asked, film)["id"]
    assert ended(asked, after)["state"] == "done"
    assert [path.name for path in jobs.root.iterdir()] == [after]


def test_a_page_that_was_left_may_come_back_for_a_moment(
    asked: TestClient, jobs: Jobs, film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = order(asked, film)["id"]
    ended(asked, job)
    asked.delete(f"/api/jobs/{job}?leaving=true")
    assert asked.get(f"/api/jobs/{job}").status_code == 200, "it was loaded again"
    jobs.expire()
    monkeypatch.setattr("axon.serve.jobs.GRACE_S", -1.0)
    asked.delete(f"/api/jobs/{job}?leaving=true")
    jobs.expire()
    assert asked.get(f"/api/jobs/{job}").status_code == 404 and list(jobs.root.iterdir()) == []


@pytest.mark.parametrize(
    ("prefix", "name"),
    [("frontal-axon", "frontal-axon-ct.nii.gz"), ("../../x\r\ny", "x_y-ct.nii.gz"), ("", "axon-ct.nii.gz")],
)
def test_downloads_are_named_as_the_page_asks(asked: TestClient, film: bytes, prefix: str, name: str) -> None:
    job = order(asked, film)["id"]
    ended(asked, job)
    answer = asked.get(f"/api/jobs/{job}/ct.nii.gz", params={"prefix": prefix})
    assert f'filename="{name}"' in answer.headers["content-disposition"]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8765", "127.0.0.1.evil.example"])
def test_another_name_for_this_machine_is_refused(asked: TestClient, host: str) -> None:
    """A page that rebinds its own name to 127.0.0.1 still sends that name."""
    assert asked.get("/api/about", headers={"host": host}).status_code == 400
    assert asked.get("/api/about", headers={"host": "localhost:8765"}).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "http://127.0.0.1:9999", "https://127.0.0.1:8765", "null"])
def test_a_page_of_another_origin_can_change_nothing(asked: TestClient, film: bytes, origin: str) -> None:
    answer = asked.post("/api/jobs", files={"frontal": ("f.png", film)}, headers={"origin": origin})
    assert (answer.status_code, answer.json()["code"]) == (403, "SERVE_ORIGIN")
    assert asked.delete("/api/jobs/x", headers={"origin": origin}).status_code == 403
    assert asked.delete("/api/jobs/x", headers={"origin": HOME}).status_code == 204


def test_sizes_are_bounded(asked: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "MAX_FILM_BYTES", 2**20)
    one = asked.post("/api/jobs", files={"frontal": ("f.png", b"x" * (2**20 + 1))})
    assert one.status_code == 413 and "frontal film has more than 1 MiB" in one.json()["message"]
    # No length is promised here, so that what comes must be counted.
    head = b'--b\r\nContent-Disposition: form-data; name="frontal"; filename="f"\r\n\r\n'
    body = (part for part in (head, *[b"x" * 2**16] * 100))
    endless = asked.post("/api/jobs", content=body, headers={"content-type": "multipart/form-data; boundary=b"})
    assert endless.status_code == 413 and "2 MiB together" in endless.json()["message"]


@pytest.mark.parametrize(
    "fields",
    [
        {"samples": "9"},
        {"samples": "0"},
        {"samples": "x"},
        {"seed": "-1"},
        {"seed": "9" * 30},
        {"seed": "9" * 5000},
        {"samples": "1" * 5000},
    ],
)
def test_wrong_fields_are_explained(asked: TestClient, film: bytes, fields: dict[str, str]) -> None:
    assert order(asked, film, **fields)["code"] == "SERVE_FORM"


def test_wrong_bodies_are_explained(asked: TestClient) -> None:
    assert asked.post("/api/jobs", data={"frontal": "text"}).json()["code"] == "SERVE_FORM"
    assert asked.post("/api/jobs").json()["code"] == "XRAY_MISSING"
    bad = asked.post("/api/jobs", content=b"no boundary", headers={"content-type": "multipart/form-data; boundary=b"})
    assert 400 <= bad.status_code < 500


def test_an_unreadable_film_fails_with_the_command_lines_words(asked: TestClient) -> None:
    status = ended(asked, order(asked, b"no film")["id"])
    assert status["state"] == "failed" and status["error"]["code"].startswith("XRAY_") and status["error"]["fix"]


def test_no_other_file_can_be_had(asked: TestClient, film: bytes) -> None:
    job = order(asked, film)["id"]
    ended(asked, job)
    for name in ("dicom", "..%2f..%2fsecret", "%2e%2e", "films"):
        assert asked.get(f"/api/jobs/{job}/{name}").status_code == 404


@pytest.mark.parametrize("path", ["/", "/api/about", "/static/app.js", "/api/jobs/none", "/nowhere"])
def test_every_answer_has_the_headers(asked: TestClient, path: str) -> None:
    headers = asked.get(path).headers
    assert (
        "default-src 'self'" in headers["content-security-policy"]
        and "unsafe" not in headers["content-security-policy"]
    )
    assert headers["x-content-type-options"] == "nosniff" and headers["cache-control"] == "no-store"
    assert headers["cross-origin-resource-policy"] == "same-origin"


def test_a_taken_port_is_explained_before_the_model_is_loaded(capsys: pytest.CaptureFixture[str]) -> None:
    import socket

    from axon.cli import main

    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(SystemExit):
            main(["serve", "--port", str(other.getsockname()[1]), "--model", "/nowhere"])
    assert "[SERVE_PORT]" in capsys.readouterr().err


def test_only_a_container_is_asked_to_listen_everywhere(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """The loopback is the default and says nothing; every interface is asked for by name, warned of, and nothing else
    is accepted.
    """
    from axon.cli import main

    for words, warned in ((["--port", "0"], False), (["--port", "0", "--host", "0.0.0.0"], True)):
        caplog.clear()
        with pytest.raises(SystemExit):
            main(["serve", "--model", "/nowhere", *words])
        assert "[MODEL_MISSING]" in capsys.readouterr().err
        assert ("no password" in caplog.text) == warned
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--host", "192.168.0.1"])
    assert ended.value.code == 2


def test_the_servers_log_names_no_file_of_a_study(
    model: pretrained.Model, film: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog
) -> None:
    (tmp_path / "study").mkdir()
    (tmp_path / "study/DOE_JANE.png").write_bytes(film)
    read: list[Films] = []
    monkeypatch.setattr("uvicorn.Server.run", lambda *_: read.append(read_films(tmp_path / "study", None)))
    monkeypatch.setattr(pretrained, "load", lambda *_: model)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    for name in ("uvicorn.error", "asyncio", "axon.serve.app"):
        monkeypatch.setattr(logging.getLogger(name), "filters", [])
    caplog.set_level("INFO")
    caplog.set_level("INFO", "axon.reconstruct")  # which it has again after this test
    serve(None, None, "127.0.0.1", 0, 1, 60)
    assert set(read[0].xrays) == {"frontal"} and "DOE" not in caplog.text


def test_the_pages_options_are_those_of_the_command(asked: TestClient, film: bytes) -> None:
    """The negative of a film, mended, and the film as it was given."""
    negative = io.BytesIO()
    ImageOps.invert(Image.open(io.BytesIO(film))).save(negative, "PNG")
    refused = ended(asked, order(asked, negative.getvalue())["id"])
    assert refused["error"]["code"] == "XRAY_INVERTED" and "--invert" in refused["error"]["fix"]
    mended = ended(asked, order(asked, negative.getvalue(), invert="true", rotate="", view="frontal")["id"])
    plain = ended(asked, order(asked, film)["id"])
    (one,), (other,) = mended["result"]["films"], plain["result"]["films"]
    assert one["given"].startswith("data:image/") and one["given"] != other["given"] and one["mae"] == other["mae"]
    assert order(asked, film, crop="middle")["code"] == "XRAY_OPTION"
    assert order(asked, film, lateral_rotate="45")["code"] == "XRAY_OPTION"
    assert order(asked, film, view="oblique")["code"] == "XRAY_OPTION"


def test_the_worker_survives_what_a_job_meets(
    asked: TestClient, jobs: Jobs, film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A library that ends the process, a full disk, and a temporary directory that somebody cleared."""

    def meets(error: BaseException) -> str:
        def failing(*_: object) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr("axon.serve.jobs.write", failing)
            return ended(asked, order(asked, film)["id"])["error"]["code"]

    assert meets(SystemExit(1)) == "SERVE_FAILED"
    assert meets(torch.AcceleratorError("CUDA error")) == "GPU_FAILED"
    assert meets(MemoryError()) == "OUT_OF_MEMORY"
    assert meets(OSError(errno.ENOSPC, "No space left on device")) == "DISK_FULL"
    assert meets(OSError(errno.EMFILE, "Too many open files")) == "SERVE_BUSY"
    shutil.rmtree(jobs.root)
    job = order(asked, film)["id"]
    assert ended(asked, job)["state"] == "done"
    assert {path.stat().st_mode & 0o777 for path in (jobs.root, jobs.root / job)} == {0o700}
    with monkeypatch.context() as patch:
        patch.setattr("axon.serve.jobs.read_films", lambda *_: shutil.rmtree(jobs.root))
        assert ended(asked, order(asked, film)["id"])["state"] == "failed"
    assert ended(asked, order(asked, film)["id"])["state"] == "done"


def test_a_full_disk_is_told_when_the_films_come(
    asked: TestClient, jobs: Jobs, film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("axon.serve.jobs.shutil.copyfileobj", full)
    answer = asked.post("/api/jobs", files={"frontal": ("f.png", film)})
    assert (answer.status_code, answer.json()["code"]) == (507, "DISK_FULL")
    assert list(jobs.root.iterdir()) == []


def test_the_decoder_stops_with_its_job(
    asked: TestClient, jobs: Jobs, film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where nobody wants the job any more, and where it took too long; the next one does not wait."""
    hanging: list[child._Child] = []

    def hang(kind: str, read: object, files: list[Path], rules: object = None) -> None:
        hanging.append(child._take())
        hanging[-1].process.send_signal(signal.SIGSTOP)
        monkeypatch.setattr(child, "_take", lambda: hanging[-1])
        apart(kind, read, files, rules)

    apart, take = child.apart, child._take
    for stopped in ("dropped", "too long"):
        monkeypatch.setattr("axon.readers.films.apart", hang)
        monkeypatch.setattr(jobs, "most_s", 1.0 if stopped == "too long" else 60.0)
        job = order(asked, film)["id"]
        while len(hanging) == (stopped == "too long"):
            time.sleep(0.02)
        monkeypatch.setattr("axon.readers.films.apart", apart)
        if stopped == "dropped":
            asked.delete(f"/api/jobs/{job}")
        else:
            assert ended(asked, job)["error"]["code"] == "SERVE_TOO_LONG"
        assert hanging[-1].process.wait(10) == -signal.SIGKILL
        monkeypatch.setattr(child, "_take", take)
        monkeypatch.setattr(jobs, "most_s", 60.0)
        assert ended(asked, order(asked, film)["id"])["state"] == "done"


def test_films_that_do_not_come_give_their_place_back(asked: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web, "UPLOAD_S", 0.2)

    async def stuck(*_: object) -> None:
        await asyncio.sleep(60)

    with monkeypatch.context() as patch:
        patch.setattr(web, "_queued", stuck)
        answers = [asked.post("/api/jobs", files={"frontal": ("f.png", b"x")}).json() for _ in range(3)]
    assert {answer["code"] for answer in answers} == {"SERVE_FORM"} and "minutes" in answers[0]["message"]


def test_an_archive_of_a_study_is_taken_in_place_of_a_film(asked: TestClient, film: bytes) -> None:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as files:
        files.writestr("JANE/1.png", film)
    done = ended(asked, order(asked, archive.getvalue())["id"])
    assert [row["view"] for row in done["result"]["films"]] == ["frontal"]


def preview(client: TestClient, film: bytes, **headers: str) -> dict:
    return client.post("/api/preview", files={"film": ("JANE_DOE.dcm", film)}, headers=headers).json()


def test_a_preview_is_drawn_by_the_reader_and_leaves_nothing(asked: TestClient, jobs: Jobs, film: bytes) -> None:
    drawn = preview(asked, film)
    assert set(drawn) == {"image"}
    picture = Image.open(io.BytesIO(base64.b64decode(drawn["image"].partition(",")[2])))
    assert max(picture.size) <= LARGEST_PX and np.asarray(picture.convert("L")).std() > 10
    assert list(jobs.root.iterdir()) == []


def test_a_preview_that_is_not_to_be_had_is_no_error(
    asked: TestClient, jobs: Jobs, film: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of no film, too large a one, one that is too slow, one for another page, and where the server ends."""
    nothing = {"image": None}
    assert preview(asked, b"no film") == preview(asked, b"") == asked.post("/api/preview").json() == nothing
    assert preview(asked, film, origin="http://evil.example")["code"] == "SERVE_ORIGIN"
    with monkeypatch.context() as patch:
        patch.setattr(web, "MAX_FILM_BYTES", len(film) - 1)
        assert preview(asked, film) == nothing
    with monkeypatch.context() as patch:
        patch.setattr(web, "PREVIEW_S", 0.0)
        assert preview(asked, film) == nothing
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "_closing", True)
        assert preview(asked, film) == nothing
    ends = time.monotonic() + 10
    while list(jobs.root.iterdir()) and time.monotonic() < ends:  # The one that was too slow may still be at work.
        time.sleep(0.05)
    assert list(jobs.root.iterdir()) == [] and preview(asked, film) != nothing


def test_one_preview_is_read_at_a_time(asked: TestClient, film: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once: list[int] = []
    inside = 0

    def slow(_: Jobs, __: object) -> str:
        nonlocal inside
        inside += 1
        at_once.append(inside)
        time.sleep(0.2)
        inside -= 1
        return "data:,"

    monkeypatch.setattr(Jobs, "preview", slow)
    others = [threading.Thread(target=preview, args=(asked, film)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert at_once == [1, 1, 1]
