"""A site's file: what it changes in the compiled pipeline, and what is wrong with one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from axon.errors import AxonError
from pipelines import resources, site
from pipelines.__main__ import main
from pipelines.axon_pipeline import COMPILED

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "docs/site.yaml"
DIGEST = "sha256:" + "1" * 64


@pytest.fixture(autouse=True)
def usual_site(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AXON_IMAGE_CPU", "AXON_IMAGE_CUDA", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(resources, "SITE", resources.SITE)  # which compiling for another site sets


def test_every_key_of_the_example_reaches_the_pipeline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AXON_IMAGE_CUDA", f"mine@{DIGEST}")
    before = COMPILED.read_text()
    main(["compile", "--site", str(EXAMPLE), "-o", str(tmp_path / "made.yaml")])
    pipeline, platform = yaml.safe_load_all((tmp_path / "made.yaml").read_text())
    given = yaml.safe_load(EXAMPLE.read_text())
    train = pipeline["deploymentSpec"]["executors"]["exec-train-bridge"]["container"]
    ingest = pipeline["deploymentSpec"]["executors"]["exec-ingest"]["container"]
    assert train["image"] == f"mine@{DIGEST}", "the environment wins over the site"
    assert ingest["image"] == given["images"]["cpu"]
    assert train["resources"]["accelerator"]["resourceType"] == given["gpu"]
    assert train["resources"]["resourceCpuRequest"] == "16" and train["resources"]["resourceMemoryLimit"] == "128Gi"
    assert ingest["resources"]["resourceMemoryLimit"] == "32Gi" and ingest["resources"]["resourceCpuRequest"] == "4"
    steps = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    trains, ingests, evaluates = (steps[f"exec-{step}"] for step in ("train-bridge", "ingest", "evaluate"))
    assert trains["emptyDirMounts"][0]["sizeLimit"] == given["steps"]["train"]["shared_memory"] == "32Gi"
    assert evaluates["emptyDirMounts"][0]["sizeLimit"] == given["shared_memory"] == "16Gi"
    assert "emptyDirMounts" not in ingests
    assert [one["key"] for one in trains["tolerations"]] == [given["gpu"], "dedicated"]
    assert ingests["nodeSelector"]["labels"] == given["node_selector"]
    assert [one["secretName"] for one in ingests["imagePullSecret"]] == given["pull_secrets"]
    nodes = pipeline["root"]["inputDefinitions"]["parameters"]["gpu_nodes"]["defaultValue"]
    assert nodes == {**given["node_selector"], **given["gpu_nodes"]}
    assert COMPILED.read_text() == before


def test_everything_that_is_wrong_is_named_at_once(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        "imagez: {}\ngpu: 3\nsteps: {trian: {cpu: 2}, ingest: {memory: lots, cpus: 1}}\n"
    )
    with pytest.raises(AxonError) as caught:
        site.load(tmp_path / "site.yaml", resources.NEEDS)
    for word in ("'imagez'", "did you mean 'images'", "gpu is 3", "steps.trian", "steps.ingest.memory", "ingest.cpus"):
        assert word in str(caught.value)
    assert len(caught.value.several) == 5, "gpu: 3 is one mistake"


def test_images_need_digests_and_secrets_a_name(tmp_path: Path) -> None:
    (tmp_path / "site.yaml").write_text(
        f"images: {{cpu: 'x:latest', cuda: 'x@sha256:12', gpu: 'x@{DIGEST}'}}\npull_secrets: [login, 'My Secret']\n"
    )
    with pytest.raises(AxonError) as caught:
        site.load(tmp_path / "site.yaml", resources.NEEDS)
    assert len(caught.value.several) == 3 and "unknown key 'images.gpu'" in str(caught.value)
    assert "images is {'cpu': 'x:latest'" in str(caught.value) and "pull_secrets is ['login', 'My" in str(caught.value)


def test_a_dry_run_names_every_mistake_of_site_configuration_and_settings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site.yaml").write_text("imagez: {}\n")
    (tmp_path / "config.yaml").write_text("sede: 1\nnaem: x\ngrid: {coarse_sise: 32, upscale: two}\n")
    words = ["submit", "--dry-run", "--site", str(tmp_path / "site.yaml"), "--config", str(tmp_path / "config.yaml")]
    settings = ["promot=never", "seed=soon", "views=tri", "force", "gpu_nodes={a: ["]
    with pytest.raises(SystemExit):
        main([*words, *(word for setting in settings for word in ("--set", setting))])
    said = capsys.readouterr().err
    assert said.startswith("[SUBMISSION] 10 problems: ")
    for word in ("'imagez'", "'sede'", "'naem'", "'grid.coarse_sise'", "'grid.upscale'", "'promot'", "'soon'", "'tri'"):
        assert word in said
    assert "'force' is no setting" in said and "gpu_nodes is '{a: ['" in said


def test_a_check_of_schedules_names_every_mistake_of_site_and_entries(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "site.yaml").write_text("imagez: {}\n")
    entries = (
        "{name: Nightly!, cron: '0 3 * * *', enable: true, pipeline: other, config: none.yaml, parameters: {promot: x}}"
    )
    text = f"experimant: axon\nschedules: [{entries}, {{name: 3, corn: '0'}}]\nserviceaccount: x\nother: 1\n"
    (tmp_path / "schedules.yaml").write_text(text)
    words = ["--file", str(tmp_path / "schedules.yaml"), "--site", str(tmp_path / "site.yaml")]
    with pytest.raises(SystemExit):
        main(["schedule", "--check", *words])
    said = capsys.readouterr().err
    assert said.startswith("[SCHEDULES] 14 problems: ")
    for code in ("SITE_KEY", "SCHEDULE_NAME", "SCHEDULE_CRON", "SCHEDULE_PIPELINE", "CONFIG_MISSING", "'promot'"):
        assert code in said
    for word in ("did you mean 'experiment'", "schedules.yaml has no experiment", "unknown key 'other'"):
        assert word in said
    for word in (
        "did you mean 'service_account'",
        "did you mean 'enabled'",
        "did you mean 'cron'",
        "has no cron",
        "name of 3 is 3",
    ):
        assert word in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["compile", "--check", "--site", str(EXAMPLE)], "COMPILE_OPTIONS"),
        (["compile", "--namespace", "mine"], "COMPILE_OPTIONS"),
        (["compile", "--site", str(EXAMPLE)], "COMPILE_OPTIONS"),
        (["compile", "-o", "/nowhere/pipeline.yaml"], "RESOURCES_FILE"),
        (
            ["submit", "--dry-run", "--site", "/nowhere.yaml", "--set", "promot=x"],
            "SITE_MISSING.*did you mean 'promote'",
        ),
    ],
)
def test_a_wrong_call_is_explained(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)
    assert re.search(said, capsys.readouterr().err)


def test_the_site_names_the_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def cluster(host: str, namespace: str) -> None:
        asked.append(namespace)
        raise AxonError("CLUSTER_HOST", host, namespace)

    monkeypatch.setattr("pipelines.submit.Cluster", cluster)
    pinned = "".join(f"  {target}: mine@{DIGEST}\n" for target in ("cpu", "cuda"))
    (tmp_path / "site.yaml").write_text(f"namespace: mine\nimages:\n{pinned}")
    for words in (["submit"], ["schedule", "--namespace", "other"]):
        with pytest.raises(SystemExit):
            main([*words, "--site", str(tmp_path / "site.yaml")])
    assert asked == ["mine", "other"]


def test_a_check_needs_neither_cluster_nor_images(capsys: pytest.CaptureFixture[str]) -> None:
    main(["submit", "--dry-run", "--site", str(EXAMPLE), "--set", "promote=never"])
    main(["schedule", "--check", "--file", str(ROOT / "schedules.yaml")])
    said = capsys.readouterr().out
    assert "nothing is wrong with it" in said and "weekly: 20" in said


def test_a_status_is_of_the_sites_namespace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "site.yaml").write_text("namespace: team-chest\n")
    asked: list[str] = []

    def cluster(host: str, namespace: str) -> str:
        asked.append(namespace)
        return host

    monkeypatch.setattr("pipelines.submit.Cluster", cluster)
    monkeypatch.setattr("pipelines.submit.status", lambda cluster, run: {})
    monkeypatch.setattr("pipelines.submit.status_lines", lambda found: [])
    for words in ([], ["--namespace", "mine"]):
        main(["status", "run-1", "--host", "http://kfp", "--site", str(tmp_path / "site.yaml"), *words])
    assert asked == ["team-chest", "mine"]
