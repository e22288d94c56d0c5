"""Dataset revisions through a real git repository and a real DVC remote."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from axon.data.fetch import fetch
from axon.data.versions import push, resolve
from axon.errors import AxonError
from tests.support.packing import pack


def test_revision_goes_through_dvc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repo, home = tmp_path / "repo", tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("DVC_SITE_CACHE_DIR", str(tmp_path / "site"))

    def run(*command: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"] if command[0] == "git" else []
        program = [sys.executable, "-m", "dvc"] if command[0] == "dvc" else [command[0]]
        return subprocess.run(
            [*program, *identity, *command[1:]], cwd=repo, check=True, capture_output=True, text=True
        ).stdout

    pack(repo / "data")
    run("git", "init", "-q")
    run("dvc", "init", "-q")
    (repo / ".dvc" / "config").write_text(
        "[core]\n    remote = here\n['remote \"here\"']\n    url = remote\n    verify = true\n"
    )
    (repo / ".dvc" / ".gitignore").write_text("/tmp\n/cache\n/remote\n")
    run("git", "commit", "-qm", "Begin")
    run("dvc", "add", "-q", "data")
    run("git", "add", "-A")
    run("git", "commit", "-qm", "Add data")
    commit = run("git", "rev-parse", "HEAD").strip()

    revision = resolve(str(repo), "HEAD")
    assert revision.commit == commit and revision.md5.endswith(".dir")
    for name, code in (("nowhere", "DATA_REVISION_MISSING"), ("HEAD~1", "DATA_NOT_VERSIONED")):
        with pytest.raises(AxonError) as error:
            resolve(str(repo), name)
        assert error.value.code == code

    push(repo)
    run("rm", "-rf", ".dvc/cache", "data")
    assert fetch(tmp_path / "raw", 8, repo=str(repo), commit="HEAD") == [0, 1, 2]
    assert json.loads((tmp_path / "raw" / "source.json").read_text()) == {
        "kind": "dvc",
        "commit": commit,
        "dvc_md5": revision.md5,
    }
    run("rm", "-rf", ".dvc/cache", ".dvc/remote")
    with pytest.raises(AxonError, match=r"DATA_NOT_CACHED.*make data"):
        fetch(tmp_path / "more", 2, repo=str(repo), commit="HEAD")
    assert not (tmp_path / "more").exists()

    pack(repo / "data")
    push(repo)
    assert fetch(tmp_path / "more", 2, repo=str(repo), commit="HEAD") == [0, 1]
    (repo / "data" / "README.md").write_text("changed")
    with pytest.raises(AxonError, match="DATA_CHANGED"):
        push(repo)
