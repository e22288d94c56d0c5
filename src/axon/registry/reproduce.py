"""What a registered model was made from, and the commands that make it again."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from axon.errors import AxonError, printable, require
from axon.tracking.client import client, default_tracking_uri, parse_uri, resolve, tracking_errors
from axon.tracking.runs import CONFIG, FOLDER, REPO

PROVENANCE = "provenance.json"


@dataclass(frozen=True)
class Record:
    """What a model version's MLflow run recorded.

    Attributes:
        name, version: Of the registered model.
        code: Git commit of the code, ``<commit>-dirty`` or ``axon-ct <version>``.
        data_revision: The dataset's commit, or ``folder@...`` where it was a plain folder.
        data_md5: DVC's hash of the dataset.
        data_repo: Repository of the dataset; empty for that of the code.
        data_folder: The plain folder of CTs that it was trained from, where it was one: its path where somebody said it
            or an earlier version recorded it, else `axon.names.folder_name`.
        split_hash: Names the split and every case's content.
        views, promote: Parameters of the pipeline.
        config_yaml: The resolved configuration, every key, the seed among them.
        metrics: Mean of every metric of the evaluation, keyed ``set/view/method/protocol/name``.
    """

    name: str
    version: str
    code: str
    data_revision: str
    data_md5: str
    data_repo: str
    data_folder: str
    split_hash: str
    views: str
    promote: str
    config_yaml: str
    metrics: Mapping[str, float] = field(default_factory=dict, repr=False)

    def write_config(self, folder: Path) -> Path:
        """Write the configuration to ``folder`` and return its absolute path."""
        folder.mkdir(parents=True, exist_ok=True)
        path = folder.resolve() / f"{self.name}-{self.version}.yaml"
        path.write_text(self.config_yaml)
        return path

    def commands(self, config: Path, output: Path) -> str:
        """What makes it again, as `shell_lines`. Raises AxonError ``DATA_NOT_VERSIONED`` as `arguments`."""
        return shell_lines(self.code, shlex.join(["python", *self.arguments(config, output)]))

    def arguments(self, config: Path, output: Path) -> list[str]:
        """Python's arguments that run the pipeline again, into a folder and a registry of its own. Raises AxonError
        ``DATA_NOT_VERSIONED`` where nobody says where the folder of the data is.
        """
        data = ["--revision", self.data_revision, *(["--repo", self.data_repo] if self.data_repo else [])]
        if self.of_folder:
            message = f"the model's data were a plain folder, {self.data_folder or 'not named'}"
            fix = "name the same CTs: --folder FOLDER"
            require(Path(self.data_folder).is_absolute(), "DATA_NOT_VERSIONED", message, fix)
            data = ["--folder", self.data_folder]
        run = ["-m", "pipelines", "run", "--config", str(config), *data, "--output", str(output.resolve())]
        return [*run, "--views", self.views, "--promote", self.promote, "--model-name", self.name]

    @property
    def of_folder(self) -> bool:
        """Whether the data were a plain folder, which only the split's hash identifies."""
        return self.data_revision.startswith("folder@")


@dataclass(frozen=True)
class Making:
    """What the ``provenance.json`` of a model folder says of one training or evaluation that made it.

    Attributes:
        part: ``"networks"`` where a later making took them as they were, else ``"model"``.
        code: As of `Record`.
        data: The source of the data with its hash, as JSON, or the hash of their split, which names every case.
        command: As it was called, with the words FOLDER for the CTs and DATASET for what was prepared of them.
    """

    part: str
    code: str
    data: str
    command: str

    def commands(self, folder: Path | None) -> str:
        """What makes it again of the CTs in a folder, as `shell_lines`."""
        return shell_lines(self.code, self.command.replace("FOLDER", shlex.quote(str(folder)) if folder else "FOLDER"))


def makings(model: Path) -> list[Making]:
    """What made a model folder that comes without a registry, the first making first.

    Raises:
        AxonError: ``NOT_RECORDED`` where its ``provenance.json`` is not there or does not say so.
    """
    try:
        said = json.loads((model / PROVENANCE).read_text())
        parts = {"networks": said["networks"]} if "networks" in said else {}
        return [_making(part, facts) for part, facts in (parts | {"model": said}).items()]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        fix = "name a registered version, models:/NAME@ALIAS or models:/NAME/VERSION, or the packaged model"
        raise AxonError("NOT_RECORDED", f"{model} has no {PROVENANCE} that says how it was made", fix) from error


def _making(part: str, facts: Mapping[str, str]) -> Making:
    source = facts["data_source"]
    data = source if json.loads(source) else f"split {facts['split_hash']}"
    return Making(part, str(facts["code_revision"]), data, str(facts["command"]))


def shell_lines(code: str, run: str) -> str:
    """The lines for a shell that check out the code and run a command there with its Python; where the code is no
    commit, one line that says that there are none.
    """
    if not is_commit(code):
        return f"no command makes it again: its code is {code!r}, no commit"
    folder = f"axon-{code[:12]}"
    checkout = f"git worktree add {folder} {code} && cd {folder} && make install"
    return f"{checkout}\n{re.sub('^python ', '.venv/bin/python ', printable(run))}"


def is_commit(code: str) -> bool:
    """Whether it is a git commit and nothing else: no ``-dirty``, no version."""
    return re.fullmatch(r"[0-9a-f]{40}", code) is not None


def read_recipe(uri: str, tracking_uri: str) -> Record:
    """Read from the registry how a model was made.

    Args:
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        tracking_uri: MLflow tracking and registry.

    Raises:
        AxonError: ``MODEL_URI``, ``TRACKING_FAILED`` (also for an unknown model), or ``NOT_RECORDED`` where the run did
            not say enough.
    """
    name, _, _ = parse_uri(uri)
    mlflow = client(tracking_uri)
    with tracking_errors(tracking_uri):
        version = resolve(mlflow, uri)
        run = mlflow.get_run(version.run_id)
        has_config = any(item.path == CONFIG for item in mlflow.list_artifacts(version.run_id))
        config_yaml = Path(mlflow.download_artifacts(version.run_id, CONFIG)).read_text() if has_config else ""
    tags, params = run.data.tags, run.data.params
    needed = {key: tags.get(f"axon.{key}", "") for key in ("code_revision", "data_revision", "split_hash")}
    missing = [key for key, value in needed.items() if not value] + ["configuration"] * (not has_config)
    if missing:
        message = f"{name} version {version.version} does not say its {', '.join(missing)}"
        raise AxonError(
            "NOT_RECORDED", message, "only models registered by this or a later version of AXON can be made again"
        )
    return Record(
        name=name,
        version=str(version.version),
        code=needed["code_revision"],
        data_revision=needed["data_revision"],
        data_md5=tags.get("axon.data_md5", ""),
        data_repo=tags.get(REPO, ""),
        data_folder=tags.get(FOLDER, ""),
        split_hash=needed["split_hash"],
        views=params["views"],
        promote=params["promote"],
        config_yaml=config_yaml,
        metrics=run.data.metrics,
    )


def check_reproducible(recipe: Record, running_code: str) -> None:
    """See that the running code can make the model again. Raises AxonError ``CODE_NOT_RECORDED``, ``CODE_DIFFERS``."""
    if not is_commit(recipe.code):
        fix = "commit every change before a run whose model is to be made again"
        raise AxonError("CODE_NOT_RECORDED", f"the model's code is {recipe.code!r}, no commit", fix)
    if running_code != recipe.code:
        checkout = f"git worktree add ../axon-{recipe.code[:12]} {recipe.code}"
        fix = f"run this command from the recorded code: {checkout}, then cd there, make install, and once more"
        raise AxonError("CODE_DIFFERS", f"the running code is {running_code}, the model's is {recipe.code}", fix)


def python_command(recipe: Record, config: Path, output: Path) -> list[str]:
    """The pipeline's command with the Python that is running."""
    return [sys.executable, *recipe.arguments(config, output)]


def compared(recipe: Record, output: Path) -> str:
    """How the model that was made again compares with the one recorded, in one line.

    Args:
        recipe: Of the model that was to be made again.
        output: Folder of the new run, with its registry.

    Raises:
        AxonError: ``NOT_REPRODUCED`` where code, data, split, configuration or the set of metrics is another; those of
            `read_recipe`.
    """
    from axon.registry.register import versions

    uri = default_tracking_uri(output)
    again = read_recipe(f"models:/{recipe.name}/{versions(uri, recipe.name)[0].version}", uri)
    same = ["code", "data_revision", "data_md5", "split_hash", "views", "config_yaml"]
    if recipe.of_folder:
        same.remove("data_revision")  # It is the run's own; the split's hash holds the content of every case.
    differ = [key for key in same if getattr(again, key) != getattr(recipe, key)]
    if differ or set(again.metrics) != set(recipe.metrics):
        message = f"the new model differs from the recorded one in {', '.join(differ) or 'what was measured'}"
        raise AxonError("NOT_REPRODUCED", message, f"compare the two runs; the new one is in {uri}")
    apart = {
        key: abs(again.metrics[key] - value) for key, value in recipe.metrics.items() if again.metrics[key] != value
    }
    told = (
        f"the same code, data, split and configuration; {len(recipe.metrics) - len(apart)} of "
        f"{len(recipe.metrics)} metrics are equal"
    )
    if not apart:
        return told
    worst = max(apart, key=lambda key: apart[key] / max(abs(recipe.metrics[key]), 1e-12))
    return f"{told}; furthest apart: {worst}, {recipe.metrics[worst]:g} and {again.metrics[worst]:g}"
