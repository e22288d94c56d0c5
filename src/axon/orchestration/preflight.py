"""What can stop a run is found in its first minute, all of it at once; then the run is opened in MLflow, if there is
anything new.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from axon import DISCLAIMER
from axon.config import Config
from axon.errors import AxonError, collected, raise_all, require
from axon.files import write_whole
from axon.metrics.catalogue import VIEW_SETS, metric, metrics_of
from axon.names import folder_name
from axon.orchestration import checks
from axon.orchestration.changes import (
    CHANGED,
    CODE,
    CODE_REVISION,
    DATA_MD5,
    champions_run,
    changed,
    code_identity,
    image_digests,
    same_work,
)
from axon.orchestration.checks import Wanted
from axon.orchestration.parent import PARENT, PARENT_DATA, data_of, parent_name, pinned
from axon.provenance import REGISTERED, code_digest, code_revision
from axon.registry.gate import POLICIES
from axon.tracking.client import REGISTRY, client, tracking_errors, without_credentials
from axon.tracking.runs import CONFIG, DATA_REVISION, FOLDER, REPO, UNKNOWN_WORK, WORK_KEY, last_success, start_parent

NEW, NOTHING_NEW = "new", "nothing new"
LICENCE, SOURCE = "AXON_LICENCE", "AXON_SOURCE"
"""Environment variables by which a run on this machine tells its steps what its user says of a folder's CTs."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Asked:
    """What a run is asked for: the pipeline's parameters, but those of Kubernetes.

    Attributes:
        config_yaml: The configuration as YAML text.
        seed: Replaces the configuration's seed.
        views: Which films the gate and the headline figures speak of: one of `VIEW_SETS`.
        dataset_repo: Checkout or git URL with the dataset's ``data.dvc``; empty for the checkout we are in.
        dataset_revision: Its revision: branch, tag or commit.
        dataset_folder: Folder with CTs; used instead of the repository where given.
        model_name: Registered model; also the MLflow experiment.
        promote: Promotion policy.
        force: Go on also where code, data and configuration are those of the model's last successful run.
        tracking_uri: MLflow server (``http...``) or ``sqlite:///`` file. The local runner fills in this and the next.
        checkpoint_root: Folder that outlives a run, for checkpoints.
    """

    config_yaml: str
    seed: int
    views: str
    dataset_repo: str
    dataset_revision: str
    dataset_folder: str
    model_name: str
    promote: str
    force: bool
    tracking_uri: str = ""
    checkpoint_root: str = ""

    @classmethod
    def among(cls, given: Mapping[str, Any]) -> Asked:
        """From a function's ``locals()``: KFP reads signatures, so that its functions name each parameter."""
        return cls(**{field.name: given[field.name] for field in fields(cls)})


def terms_given() -> tuple[str, str]:
    """Licence and source that the user of a run on this machine says of a folder's CTs; empty where he says none."""
    return os.environ.get(LICENCE, ""), os.environ.get(SOURCE, "")


@dataclass(frozen=True)
class Resolved:
    """What the rest of the run works with.

    Attributes:
        config_yaml: The resolved configuration, every key.
        revision: The dataset's commit; ``folder@<run key>`` for a folder, which nothing identifies, so that it is never
            taken from a cache.
        run_id: The MLflow run; empty where nothing is new.
        shards: Parallel ingestion tasks.
        gpus: GPUs of a training step: as many as it has processes, none where other nodes train.
        same_as: The MLflow run whose code, data and configuration are those of this run; empty where something is new.
        changed: What is not the champion's, in one sentence.
    """

    config_yaml: str
    revision: str
    run_id: str
    shards: int
    gpus: int
    same_as: str = ""
    changed: str = ""

    @property
    def outputs(self) -> tuple[str, str, str, int, str, str]:
        """As the step gives them on; the last says whether there is anything to do: `NEW` or `NOTHING_NEW`."""
        # GPUs as text: KFP's driver reads the limit of a resource as a string, and of a number it gets an empty one and
        # sets no limit.
        return (
            self.config_yaml,
            self.revision,
            self.run_id,
            self.shards,
            str(self.gpus),
            NOTHING_NEW if self.same_as else NEW,
        )

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.same_as:
            same = f"code, data and configuration are those of MLflow run {self.same_as}"
            return f"nothing new, nothing to learn: {same}; the run ends here, as a success"
        return f"data {self.revision}, MLflow run {self.run_id}, {self.shards} shards; {self.changed}"


def preflight(asked: Asked, run_key: str, out_config: Path) -> Resolved:
    """Check everything that a run needs, write the resolved configuration and, if there is anything new, open the
    MLflow run.

    Args:
        asked: The run's parameters.
        run_key: Unique for the pipeline run.
        out_config: File for the resolved configuration.

    Raises:
        AxonError: The problem, or ``PREFLIGHT`` with all of them.
    """
    problems: list[AxonError] = []
    config, revision, data = Config(), "", ""
    with collected(problems):
        config = Config.from_yaml(asked.config_yaml, seed=asked.seed)
    problems += parameter_problems(asked.views, asked.promote, asked.model_name)
    for key in config.evaluation.gate_metrics:
        with collected(problems):
            refuse_undecided(key)
    if config.training.methods:
        # Only here: it imports torch.
        from axon.baselines.methods import asked as methods_of

        with collected(problems):
            methods_of(config)
    with collected(problems):
        if asked.dataset_folder:
            _announce(Path(asked.dataset_folder), config)
            # Nothing identifies a folder.
            revision = f"folder@{run_key}"
        else:
            revision, data = _resolve_data(asked.dataset_repo, asked.dataset_revision)
    repo, versioned = asked.dataset_repo, not asked.dataset_folder
    needs = Wanted(asked.tracking_uri, asked.model_name, repo, versioned, asked.checkpoint_root, config)
    problems += checks.problems(needs)
    raise_all(problems)
    wanted, parent = config, pinned(config, asked.tracking_uri, asked.model_name)
    config = replace(config, training=replace(config.training, init_from=parent))
    # Of what was asked for: the alias that a run itself moves makes nothing new. Another model in the same folder does.
    named = wanted.training.init_from.startswith(REGISTRY)
    key = work_key(data, wanted if named else config, asked.views, asked.promote)
    write_whole(out_config, config.to_yaml().encode())
    gpus = config.training.processes if config.training.nodes == 1 else 0
    version, champion = champions_run(asked.tracking_uri, asked.model_name)
    same_as = last_success(asked.tracking_uri, asked.model_name, key) if key else None
    if champion is not None and same_work(champion, key):
        same_as = str(champion.info.run_id)
    if same_as and not asked.force:
        return Resolved(config.to_yaml(), revision, "", config.data.shards, gpus, same_as)
    tags = {
        WORK_KEY: key or UNKNOWN_WORK,
        DATA_REVISION: revision,
        DATA_MD5: data,
        REPO: without_credentials(asked.dataset_repo),
        FOLDER: folder_name(asked.dataset_folder),
        CODE_REVISION: code_revision(),
        CODE: code_identity(),
        "axon.config_fingerprint": config.fingerprint(),
        PARENT: parent_name(parent),
        PARENT_DATA: data_of(parent, asked.tracking_uri),
        "axon.disclaimer": DISCLAIMER,
    }
    params = {**_flat(config.to_dict(), ""), "views": asked.views, "promote": asked.promote}
    tags[CHANGED] = changed(version, champion, tags, params)
    run_id = start_parent(asked.tracking_uri, asked.model_name, run_key, params, tags)
    # A parameter holds 5000 characters at most; the whole configuration is what reproducing the run needs.
    with tracking_errors(asked.tracking_uri):
        client(asked.tracking_uri).log_text(run_id, config.to_yaml(), CONFIG)
    return Resolved(config.to_yaml(), revision, run_id, config.data.shards, gpus, changed=tags[CHANGED])


def parameter_problems(views: str, promote: str, model_name: str) -> list[AxonError]:
    """What is wrong with these parameters of the pipeline, all of it."""
    problems: list[AxonError] = []
    for name, value, choices in (("views", views, VIEW_SETS), ("promote", promote, POLICIES)):
        if value not in choices:
            problems.append(AxonError("PARAMETER", f"{name} is {value!r}", f"choose one of: {', '.join(choices)}"))
    if not model_name or any(character in model_name for character in "/:.'\"%"):
        problems.append(AxonError("PARAMETER", f"model_name is {model_name!r}", "use letters, digits, '-' and '_'"))
    return problems


def refuse_undecided(key: str) -> None:
    """A gate can only use a metric that says which model is better. Raises AxonError ``METRIC_UNKNOWN`` or
    ``CONFIG_VALUE``.
    """
    if any(metric(each).better == "neither" for each in metrics_of([key])):
        raise AxonError(
            "CONFIG_VALUE", f"evaluation.gate_metrics names {key}, which has no better side", "name another metric"
        )


def work_key(data: str, config: Config, views: str, promote: str) -> str:
    """What a run would do, as one SHA-256: two runs with one key do the same.

    It holds the code that a registered model and its evaluation depend on, and on a cluster the digests of the images,
    which ``AXON_IMAGES`` names: libraries and the bodies of the steps (``components/``) count there, too, and on one
    machine do not. A change of the page or of the docs is no new work.

    Args:
        data: DVC's hash of the dataset; empty for a folder, which nothing identifies.
        config: The resolved configuration, with the seed.
        views: Films that the gate speaks of.
        promote: Promotion policy.

    Returns:
        str: Empty where nothing identifies the data: such a run is always new.
    """
    if not data:
        return ""
    facts = [code_digest(REGISTERED), image_digests(), data, config.fingerprint(), views, promote]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def _announce(data: Path, config: Config) -> None:
    """Log what a folder of CTs, or an archive of one, holds and what of it would be rejected, before anything long
    begins. Raises AxonError ``DATA_FOLDER``, or those of `list_studies`.
    """
    from axon.data.check import check_folder
    from axon.data.ingest import list_studies
    from axon.readers.layouts import as_folder

    require(data.exists(), "DATA_FOLDER", f"no folder at {data}", "name a folder with CTs that this step can see")
    with as_folder(data) as folder:
        list_studies(folder)
        if not (folder / "manifest.csv").is_file():
            # KFP begins a message with its own words, and the local runner shows no line that begins so.
            _log.info(f"the data:\n{check_folder(folder, config=config).text()}")


def _resolve_data(repo: str, revision: str) -> tuple[str, str]:
    """The revision for the run's record, and DVC's hash of the data."""
    if not revision:
        raise AxonError(
            "DATA_SOURCE",
            "neither dataset_folder nor dataset_revision is given",
            "name a folder with CTs, or a revision such as HEAD",
        )
    from axon.data.versions import resolve

    found = resolve(repo, revision)
    return found.commit, found.md5


def _flat(tree: dict[str, Any], where: str) -> dict[str, Any]:
    """``{"grid": {"upscale": 2}}`` as ``{"grid.upscale": 2}``, for MLflow."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        name = f"{where}{key}"
        flat |= _flat(value, f"{name}.") if isinstance(value, dict) and value else {name: value}
    return flat
