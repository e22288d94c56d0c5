"""Dataset versions through a real git repository, DVC and a real S3 server: there, back, and all that may go wrong on
the way.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest

from axon.cli import main
from axon.data.fetch import fetch
from axon.data.ingest import list_studies
from axon.data.packed_films import choose_films
from axon.data.versions import DataRevision, pull, push, record, resolve, tree_md5
from axon.errors import AxonError
from tests.support.packing import pack, write_cohort
from tests.support.servers import S3Server, git_server, s3_server


def run(repo: Path, *command: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"] if command[0] == "git" else []
    program = [sys.executable, "-m", "dvc"] if command[0] == "dvc" else [command[0]]
    return subprocess.run(
        [*program, *identity, *command[1:]], cwd=repo, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Server]:
    """A bucket named ``lab``, with its credentials in the environment and DVC's own state in the test's folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    (tmp_path / "s3" / "lab").mkdir(parents=True)
    with s3_server(tmp_path / "s3") as server:
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        yield server


@pytest.fixture
def repo(tmp_path: Path, s3: S3Server) -> Path:
    """A repository whose dataset is on S3; its own copy and cache are gone, as in a fresh clone."""
    repo = tmp_path / "repo"
    pack(repo / "data")
    run(repo, "git", "init", "-q")
    run(repo, "dvc", "init", "-q")
    remote = f"url = s3://lab/axon\n    endpointurl = {s3.endpoint}\n    verify = true\n"
    (repo / ".dvc" / "config").write_text(f"[core]\n    remote = lab\n['remote \"lab\"']\n    {remote}")
    record(repo)
    run(repo, "git", "add", "-A")
    run(repo, "git", "commit", "-qm", "Data")
    push(repo)
    return repo


def clone(repo: Path) -> Path:
    run(repo.parent, "git", "clone", "-q", f"file://{repo}", "clone")
    return repo.parent / "clone"


def stored(tmp_path: Path, name: str) -> Path:
    """The object in the bucket whose content is that of ``data/name``."""
    wanted = (tmp_path / "repo" / "data" / name).read_bytes()
    return next(path for path in (tmp_path / "s3").rglob("*") if path.is_file() and path.read_bytes() == wanted)


def test_through_s3_to_a_fresh_clone(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    revision = resolve(str(repo), "HEAD")
    assert revision == DataRevision(run(repo, "git", "rev-parse", "HEAD"), tree_md5(repo / "data"))
    fresh = clone(repo)
    monkeypatch.chdir(fresh)
    assert main(["dataset", "pull"]) == 0
    assert tree_md5(fresh / "data") == revision.md5 and not run(fresh, "git", "status", "--porcelain")
    assert run(fresh, "dvc", "status") == "Data and pipelines are up to date."
    assert main(["dataset", "verify"]) == 0


def test_a_step_needs_a_url_but_neither_git_nor_a_checkout(repo: Path, tmp_path: Path) -> None:
    commit, code = (
        run(repo, "git", "rev-parse", "HEAD"),
        "import sys; from pathlib import Path; from axon.data.fetch import fetch; ",
    )
    code += "print(fetch(Path(sys.argv[1]), 2, repo=sys.argv[2], commit=sys.argv[3]))"
    nowhere = {**os.environ, "PATH": str(tmp_path / "empty"), "GIT_PYTHON_REFRESH": "quiet"}
    command = [sys.executable, "-c", code, str(tmp_path / "raw"), f"file://{repo}", commit]
    done = subprocess.run(command, cwd=tmp_path, env=nowhere, capture_output=True, text=True)
    assert done.stdout.strip() == "[0, 1]", done.stderr
    (tmp_path / "raw" / "source.json").unlink()
    assert tree_md5(tmp_path / "raw") == tree_md5(repo / "data")


@pytest.fixture
def history(repo: Path, tmp_path: Path) -> tuple[list[DataRevision], Path]:
    """Two versions of the dataset, and the folder of a bare ``data.git`` with both: the first tagged and on a branch,
    the second HEAD.
    """
    run(repo, "git", "tag", "-a", "v1", "-m", "First")
    run(repo, "git", "branch", "team/first")
    (repo / "data" / "README.md").write_text("Second")
    record(repo)
    run(repo, "git", "commit", "-qam", "Second")
    push(repo)
    (tmp_path / "git").mkdir()
    run(tmp_path, "git", "clone", "-q", "--bare", f"file://{repo}", "git/data.git")
    return [resolve(str(repo), name) for name in ("HEAD~1", "HEAD")], tmp_path / "git"


def test_any_revision_of_a_git_url(history: tuple[list[DataRevision], Path], tmp_path: Path) -> None:
    """From git's own HTTP server: branch, tag, commit, short commit; what is not there has a code."""
    (first, second), folder = history
    with git_server(folder) as server:
        url = f"{server}/data.git"
        for name in ("v1", "team/first", first.commit, first.commit[:8], "HEAD~1"):
            assert resolve(url, name) == first, name
        for name in ("HEAD", second.commit[:8]):
            assert resolve(url, name) == second, name
        for name in ("nowhere", "0" * 40, first.commit[:7] + "x"):
            with pytest.raises(AxonError) as error:
                resolve(url, name)
            assert error.value.code == "DATA_REVISION_MISSING" and name in str(error.value)
        with pytest.raises(AxonError, match="DATA_REPO"):
            resolve(f"{server}/other.git", "HEAD")
        assert fetch(tmp_path / "raw", 2, repo=url, commit=first.commit) == [0, 1]
        (tmp_path / "raw" / "source.json").unlink()
        assert tree_md5(tmp_path / "raw") == first.md5
        # A checkout without history knows its own commit alone, and says so.
        run(tmp_path, "git", "clone", "-q", "--depth", "1", url, "shallow")
        assert resolve(str(tmp_path / "shallow"), "HEAD") == second
        with pytest.raises(AxonError, match="DATA_REVISION_MISSING"):
            resolve(str(tmp_path / "shallow"), first.commit)
    with pytest.raises(AxonError, match="DATA_REPO"):
        resolve(url, "HEAD")


@pytest.mark.parametrize("name", ["cases/phantom-1.nii", "README.md"])
def test_a_flipped_byte_on_the_remote_is_found(name: str, repo: Path, tmp_path: Path) -> None:
    """Also in a file that the manifest does not name, and by DVC itself where it fetches into its cache."""
    (repo / "data" / "README.md").write_text("Read me")
    record(repo)
    run(repo, "git", "commit", "-qam", "Say more")
    push(repo)
    victim = stored(tmp_path, name)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    fresh = clone(repo)
    with pytest.raises(AxonError, match="DATA_DAMAGED"):
        pull(fresh, "HEAD")
    assert not (fresh / "data").exists()
    dvc = subprocess.run([sys.executable, "-m", "dvc", "pull", "-q"], cwd=fresh, capture_output=True, text=True)
    assert dvc.returncode != 0


def test_an_object_that_is_gone_is_found(repo: Path, s3: S3Server, tmp_path: Path) -> None:
    victim = stored(tmp_path, "cases/phantom-1.nii").relative_to(tmp_path / "s3" / "lab")
    boto3.client("s3", endpoint_url=s3.endpoint).delete_object(Bucket="lab", Key=victim.as_posix())
    with pytest.raises(AxonError, match="DATA_NOT_CACHED"):
        pull(clone(repo), "HEAD")


def test_wrong_credentials_and_no_server_have_codes(
    repo: Path, s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = clone(repo)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    with pytest.raises(AxonError, match="DATA_REMOTE_DENIED") as denied:
        pull(fresh, "HEAD")
    assert "not-the-secret" not in str(denied.value) and s3.secret not in str(denied.value)
    with pytest.raises(AxonError, match="DATA_REMOTE_DENIED"):
        fetch(tmp_path / "raw", 2, repo=f"file://{repo}", commit="HEAD")
    shutil.rmtree(repo / ".dvc" / "tmp")
    with pytest.raises(AxonError, match="DATA_REMOTE_DENIED"):
        push(repo)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    config = fresh / ".dvc" / "config"
    config.write_text(config.read_text().replace(s3.endpoint, "http://127.0.0.1:9"))
    with pytest.raises(AxonError, match="DATA_REMOTE_FAILED"):
        pull(fresh, "HEAD")


def test_versions_come_and_go_and_nothing_unsaved_is_lost(
    repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repo)
    before = tree_md5(repo / "data")
    cts = tmp_path / "cts"
    cts.mkdir()
    for path in (repo / "data" / "cases").iterdir():
        shutil.copyfile(path, cts / f"mine{path.name[-5:]}")
    add = ["dataset", "add", str(cts), "--licence", "CC BY 4.0", "--source", "doi:10.1/x"]
    assert main(add) == 0
    run(repo, "git", "commit", "-qam", "Mine")
    assert main(["dataset", "push"]) == 0
    mine = resolve("", "HEAD")
    assert mine.md5 == tree_md5(repo / "data") != before == resolve("", "HEAD~1").md5
    assert pull(repo, "HEAD~1").md5 == before == tree_md5(repo / "data")
    assert pull(repo, "HEAD") == mine and not run(repo, "git", "status", "--porcelain")

    (repo / "data" / "README.md").write_text("unsaved")
    for refused in (add, ["dataset", "pull", "--revision", "HEAD~1"], ["--debug", "dataset", "push"]):
        with pytest.raises((SystemExit, AxonError)) as error:
            main(refused)
        assert isinstance(error.value, SystemExit) or error.value.code == "DATA_CHANGED"
    assert (repo / "data" / "README.md").read_text() == "unsaved"


def test_films_take_the_same_road(repo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(repo)
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    assert main(["dataset", "add", str(write_cohort(cohort)), "--licence", "CC BY 4.0", "--source", "doi:10.1/x"]) == 0
    run(repo, "git", "commit", "-qam", "Films")
    assert main(["dataset", "push"]) == 0
    assert fetch(tmp_path / "raw", 9, repo=f"file://{repo}", commit="HEAD") == [0, 1]
    chosen = [choose_films(study.films)[0] for study in list_studies(tmp_path / "raw")]
    assert [set(films) for films in chosen] == [{"film_frontal", "film_lateral"}] * 2


def test_no_repository(tmp_path: Path) -> None:
    for url in (str(tmp_path), f"file://{tmp_path / 'nowhere'}"):
        with pytest.raises(AxonError) as error:
            resolve(url, "HEAD")
        assert error.value.code == "DATA_REPO", error.value


def test_a_checkout_of_somebody_else_is_one_line_that_names_chown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a volume that another user filled: git does not open the checkout, and DVC may not write into its
    folder.
    """
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    run(checkout, "git", "init", "-q")
    run(checkout, "dvc", "init", "-q")
    run(checkout, "git", "commit", "-qm", "Empty")
    wanted = rf"DATA_REPO.*as user {os.getuid()}: .*chown -R {os.getuid()}:{os.getgid()} "
    if os.getuid() == 0:
        run(tmp_path, "chown", "-R", "12345:12345", "checkout")
        with pytest.raises(AxonError, match=wanted):
            resolve(str(checkout), "HEAD")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(checkout / ".dvc/tmp/lock"))

    monkeypatch.setattr("dvc.api.DVCFileSystem", refuse)
    with pytest.raises(AxonError, match=wanted):
        resolve(str(checkout), "HEAD")
