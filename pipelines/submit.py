"""Speak to a Kubeflow cluster: upload the compiled pipeline, start a run of it, say how a run is doing."""

from __future__ import annotations

import contextlib
import difflib
import hashlib
import io
import json
import logging
import os
import re
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kfp
import kfp_server_api
import urllib3
import yaml

from axon.config import Config
from axon.errors import AxonError, collected, raise_all
from axon.orchestration.heartbeat import progress
from axon.orchestration.preflight import parameter_problems
from axon.tracking.client import without_credentials
from pipelines.site import IMAGE

HOST, TOKEN, CA_CERT = "KF_PIPELINES_ENDPOINT", "AXON_KFP_TOKEN", "AXON_KFP_CA"
PINNED = re.compile(rf"(?!axon\.invalid/)(?!.*@sha256:0{{64}}$){IMAGE.pattern}$")
"""An image that a cluster can pull: no tag, and not what the committed file and the manifests hold in its place."""
TYPES: dict[str, tuple[type, ...]] = {
    "STRING": (str,),
    "BOOLEAN": (bool,),
    "NUMBER_INTEGER": (int,),
    "NUMBER_DOUBLE": (int, float),
    "STRUCT": (dict,),
    "LIST": (list,),
}
NO_KIND = re.compile(r"could not find the requested resource|no matches for kind")
NO_NAMESPACE = re.compile(r'namespaces "[^"]*" not found|single-user mode')
"""How Kubernetes, and Kubeflow Pipelines after it, put what a cluster has not."""
PAGE = 100
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""In a tenth of the time, where PyYAML was built with libyaml."""


@dataclass(frozen=True)
class Package:
    """A compiled pipeline, fit for a cluster.

    Attributes:
        path: The YAML file.
        name: The pipeline's name.
        version: Name of its version on the cluster: a hash of the content, so that the same pipeline is uploaded once.
        parameters: Its parameters as the specification declares them.
    """

    path: Path
    name: str
    version: str
    parameters: dict[str, Any]

    @classmethod
    def read(cls, path: Path, pinned: bool = True) -> Package:
        """Read a compiled pipeline.

        Args:
            path: The YAML file.
            pinned: Whether images have to be named by digest, as for a cluster.

        Raises:
            AxonError: ``IMAGE_NOT_PINNED`` where an image is named by a tag, of which KFP's cache would serve old
                results of new code, or by the committed file's digest of zeros.
        """
        text = path.read_text()
        spec = next(iter(yaml.load_all(text, LOADER)))
        executors = [executor for executor in spec["deploymentSpec"]["executors"].values() if "container" in executor]
        images = {executor["container"]["image"] for executor in executors}
        if pinned and (loose := sorted(image for image in images if not PINNED.match(image))):
            fix = "set AXON_IMAGE_CPU and AXON_IMAGE_CUDA, or images of --site, to name@sha256:... that can be pulled"
            raise AxonError("IMAGE_NOT_PINNED", f"images without a digest that can be pulled: {', '.join(loose)}", fix)
        declared = spec["root"]["inputDefinitions"]["parameters"]
        return cls(
            path, spec["pipelineInfo"]["name"], f"sha256-{hashlib.sha256(text.encode()).hexdigest()[:16]}", declared
        )

    def check(self, given: dict[str, Any]) -> None:
        """See that every parameter in ``given`` exists, has its type and makes sense together with the defaults.

        Raises:
            AxonError: ``PARAMETER_UNKNOWN``, ``PARAMETER``, those of `Config.from_yaml`, or ``PARAMETERS`` with all of
                them.
        """
        problems: list[AxonError] = []
        of = {name: declared.get("defaultValue") for name, declared in self.parameters.items()}
        for name, value in given.items():
            if name not in self.parameters:
                near = difflib.get_close_matches(name, self.parameters, n=1)
                fix = f"did you mean {near[0]!r}?" if near else f"choose from: {', '.join(self.parameters)}"
                problems.append(AxonError("PARAMETER_UNKNOWN", f"the pipeline has no parameter {name!r}", fix))
            elif not _has_type(value, kind := self.parameters[name]["parameterType"]):
                problems.append(AxonError("PARAMETER", f"{name} is {value!r}", f"give it a {kind.lower()}"))
            else:
                of[name] = value
        with collected(problems):
            Config.from_yaml(of["config_yaml"], seed=int(of["seed"]))
        if not of["dataset_revision"] and not of["dataset_folder"]:
            problems.append(
                AxonError("DATA_SOURCE", "neither dataset_folder nor dataset_revision is given", "name one, e.g. HEAD")
            )
        raise_all(problems + parameter_problems(of["views"], of["promote"], of["model_name"]), "PARAMETERS")


def _has_type(value: Any, kind: str) -> bool:
    return isinstance(value, TYPES[kind]) and (kind == "BOOLEAN" or not isinstance(value, bool))


def parse_settings(settings: Iterable[str]) -> dict[str, Any]:
    """``["seed=1", "promote=never"]`` as parameters; values are read as YAML.

    Raises:
        AxonError: ``PARAMETER`` for a setting without ``=`` or with a value that is no YAML.
    """
    parsed: dict[str, Any] = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals:
            raise AxonError("PARAMETER", f"{setting!r} is no setting", "write name=value, e.g. --set promote=manual")
        try:
            parsed[name] = yaml.safe_load(value) if value else ""
        except (yaml.YAMLError, ValueError) as error:
            raise AxonError(
                "PARAMETER",
                f"{name} is {value!r}, which is no YAML",
                "close its brackets and quotes, or quote it whole",
            ) from error
    return parsed


def config_parameter(path: Path) -> str:
    """The configuration file as the parameter ``config_yaml``, on one line. Raises AxonError as `Config.load`."""
    Config.load(path)
    return json.dumps(yaml.safe_load(path.read_text()) or {})


class Cluster:
    """Kubeflow Pipelines behind ``kfp.Client``, whose errors become one line and whose own printing is kept quiet.

    Args:
        host: Address of the API; empty for ``KF_PIPELINES_ENDPOINT``. A bearer token is taken from ``AXON_KFP_TOKEN``,
            a certificate authority's file from ``AXON_KFP_CA``; neither is an argument, because a process list shows
            arguments.
        namespace: The user's namespace on a multi-user cluster, else empty.

    Raises:
        AxonError: ``CLUSTER_HOST`` without an address, ``CLUSTER_LOGIN`` where something else answers there; later
            ``CLUSTER_UNREACHABLE``, or as `refused`.
    """

    def __init__(self, host: str = "", namespace: str = "") -> None:
        self.host = (host or os.environ.get(HOST, "")).rstrip("/")
        self.shown = without_credentials(self.host)
        self.namespace = namespace or None
        if not self.host.startswith(("http://", "https://")):
            fix = (
                f"give --host or set {HOST}, e.g. http://localhost:8080 after: kubectl -n kubeflow port-forward "
                "svc/ml-pipeline-ui 8080:80"
            )
            said = f"the cluster's address is {self.shown!r}, not http(s)" if self.host else "no cluster is named"
            raise AxonError("CLUSTER_HOST", said, fix)
        # It tells of each try; the error tells of all. The level of its parent is the client's to set.
        logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)
        token, authority = os.environ.get(TOKEN, "").strip() or None, os.environ.get(CA_CERT)
        with self._errors(), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # That it wants Kubeflow Pipelines 2.
            if self._multi_user(token, authority) and not namespace:
                raise AxonError(
                    "CLUSTER_NAMESPACE",
                    f"{self.shown} serves several users",
                    "give --namespace, your profile's namespace",
                )
            self.kfp = kfp.Client(
                host=self.host, namespace=namespace or "kubeflow", existing_token=token, ssl_ca_cert=authority
            )

    def _multi_user(self, token: str | None, authority: str | None) -> bool:
        """Asked of the server here, because the client would ask five times with pauses, whatever the answer."""
        configuration = kfp_server_api.Configuration(host=self.host)
        if token:
            configuration.api_key, configuration.api_key_prefix = {"authorization": token}, {"authorization": "Bearer"}
        configuration.ssl_ca_cert = authority
        service = kfp_server_api.HealthzServiceApi(kfp_server_api.ApiClient(configuration))
        health, _, headers = service.healthz_service_get_healthz_with_http_info()
        kind = headers.get("Content-Type", "")
        if "json" not in kind:  # The client takes a page, of whatever words, for an empty answer.
            problem = f"{self.shown} answers with {kind or 'nothing'}, as a page to log in does"
            fix = f"set {TOKEN} to a token that has not expired; without a log-in, check the address"
            raise AxonError("CLUSTER_LOGIN", problem, fix)
        return bool(health.multi_user)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """The client's errors as AxonErrors; what it prints (links) is dropped."""
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                yield
        except kfp_server_api.ApiException as error:
            raise refused(self.shown, error) from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            reason = getattr(error, "reason", error)
            fix = "check the address and that the port-forward runs"
            raise AxonError("CLUSTER_UNREACHABLE", f"{self.shown} does not answer: {reason}", fix) from error
        except ValueError as error:  # Its text may hold the token.
            fix = f"check the address and {TOKEN}, a single line"
            raise AxonError("CLUSTER_UNREACHABLE", f"{self.shown} cannot be asked", fix) from error

    def pages(self, listing: Callable[..., Any], field: str, **options: Any) -> Iterator[Any]:
        """Every item of a paginated listing."""
        token = ""
        while True:
            with self._errors():
                page = listing(page_token=token, page_size=PAGE, **options)
            yield from getattr(page, field) or []
            token = page.next_page_token
            if not token:
                return

    def call(self, function: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """``function(...)`` of the client, its errors as AxonErrors."""
        with self._errors():
            return function(*arguments, **options)

    def experiment(self, name: str) -> str:
        """The experiment's id; it is made when missing."""
        return str(self.call(self.kfp.create_experiment, name, namespace=self.namespace).experiment_id)

    def find_experiment(self, name: str) -> str | None:
        """The experiment's id; None when it is missing."""
        found = self.pages(self.kfp.list_experiments, "experiments", namespace=self.namespace)
        return next((str(one.experiment_id) for one in found if one.display_name == name), None)

    def find_version(self, package: Package) -> tuple[str, str] | None:
        """Ids of the pipeline and of this version of it on the cluster; None when it was not uploaded."""
        pipelines = self.pages(self.kfp.list_pipelines, "pipelines", namespace=self.namespace)
        pipeline = next((one.pipeline_id for one in pipelines if one.display_name == package.name), None)
        if pipeline is None:
            return None
        versions = self.pages(self.kfp.list_pipeline_versions, "pipeline_versions", pipeline_id=pipeline)
        version = next((one.pipeline_version_id for one in versions if one.display_name == package.version), None)
        return (pipeline, version) if version else None

    def upload(self, package: Package) -> tuple[str, str]:
        """Upload the pipeline unless this version is there; returns the ids of the pipeline and of the version."""
        if found := self.find_version(package):
            return found
        pipelines = self.pages(self.kfp.list_pipelines, "pipelines", namespace=self.namespace)
        pipeline = next((one.pipeline_id for one in pipelines if one.display_name == package.name), None)
        path = str(package.path)
        if pipeline is None:
            pipeline = self.call(self.kfp.upload_pipeline, path, package.name, namespace=self.namespace).pipeline_id
        version = self.call(self.kfp.upload_pipeline_version, path, package.version, pipeline_id=pipeline)
        return str(pipeline), str(version.pipeline_version_id)

    def newest_run(self) -> str:
        """The id of the run that was made last. Raises AxonError ``RUN_MISSING``."""
        listing = {"page_size": 1, "sort_by": "created_at desc", "namespace": self.namespace}
        found = self.call(self.kfp.list_runs, **listing).runs
        if not found:
            raise AxonError("RUN_MISSING", f"{self.shown} has no run", "start one: axon pipeline submit")
        return str(found[0].run_id)

    def link(self, run_id: str) -> str:
        """The run's page."""
        return f"{self.shown}/#/runs/details/{run_id}"


def refused(host: str, error: kfp_server_api.ApiException) -> AxonError:
    """An answer other than success, by what there is to do about it: ``CLUSTER_INCOMPLETE``, ``CLUSTER_NAMESPACE`` or
    ``CLUSTER_REFUSED``.
    """
    said = _server_message(error.body) or str(error.reason)
    problem = f"{host} answered {error.status}: {said}"
    if NO_KIND.search(said):
        whole = "install all of Kubeflow Pipelines: the cluster lacks a definition (CRD) that it brings"
        return AxonError("CLUSTER_INCOMPLETE", problem, whole)
    if NO_NAMESPACE.search(said):
        right = "give --namespace, your profile's namespace; on a server of one user, leave it out, of the site, too"
        return AxonError("CLUSTER_NAMESPACE", problem, right)
    if error.status == 401:
        return AxonError("CLUSTER_REFUSED", problem, f"set {TOKEN} to a token that has not expired")
    todo = "check your rights in the namespace, and its name" if error.status == 403 else "see the server's log"
    return AxonError("CLUSTER_REFUSED", problem, todo)


def _server_message(body: Any) -> str:
    try:
        return str(json.loads(body)["message"]).splitlines()[0]
    except (TypeError, ValueError, KeyError, IndexError):
        return ""


def submit(
    cluster: Cluster,
    package: Package,
    parameters: dict[str, Any],
    experiment: str,
    name: str,
    service_account: str = "",
) -> str:
    """Start one run of ``package``.

    Args:
        cluster: The cluster.
        package: The pipeline; uploaded where it is not there.
        parameters: Its parameters; the others keep their defaults.
        experiment: Kubeflow experiment, made when missing.
        name: Name of the run.
        service_account: Account of the steps; empty for the cluster's default.

    Returns:
        The run's id.

    Raises:
        AxonError: As `Package.check` and `Cluster`.
    """
    package.check(parameters)
    experiment_id = cluster.experiment(experiment)
    pipeline_id, version_id = cluster.upload(package)
    run = cluster.call(
        cluster.kfp.run_pipeline,
        experiment_id,
        job_name=name,
        params=parameters,
        pipeline_id=pipeline_id,
        version_id=version_id,
        service_account=service_account or None,
    )
    return str(run.run_id)


def status(cluster: Cluster, run_id: str) -> dict[str, Any]:
    """How the run ``run_id`` is doing, the newest one where it is empty.

    Returns:
        dict: ``run_id``, ``name``, ``state``, ``error`` (empty without one), ``link``, and ``steps`` in the order in
        which they began, each with ``name``, ``state``, ``seconds`` (None while it runs), ``pod`` and ``error``.

    Raises:
        AxonError: As `Cluster`; ``RUN_MISSING`` where there is none.
    """
    run_id = run_id or cluster.newest_run()
    run = cluster.call(cluster.kfp.get_run, run_id)
    details = (run.run_details.task_details if run.run_details else None) or []
    steps = [
        {
            "name": task.display_name,
            "state": task.state or "PENDING",
            "seconds": (task.end_time - task.start_time).total_seconds() if task.end_time and task.start_time else None,
            "pod": task.pod_name or "",
            "error": (task.error and task.error.message) or "",
        }
        for task in sorted(details, key=lambda task: str(task.start_time or task.create_time or "9999"))
    ]
    error = (run.error and run.error.message) or ""
    where = {"run_id": run_id, "link": cluster.link(run_id)}
    return {**where, "name": run.display_name, "state": run.state or "PENDING", "error": error, "steps": steps}


def status_lines(found: dict[str, Any]) -> list[str]:
    """What `status` found, for a person."""
    lines = [f"{found['name']}: {found['state']}"]
    for step in found["steps"]:
        took = "" if step["seconds"] is None else f"{step['seconds']:.0f} s"
        pod = f"  pod {step['pod']}" if step["pod"] else ""
        said = f"{step['name']}{pod}  {progress(step)}  {step['error']}"
        lines.append(f"  {step['state']:<10} {took:>8}  {said}".rstrip())
    if found["error"]:
        lines.append(f"  error: {found['error']}")
    return [*lines, f"look at {found['link']}, or at a step: kubectl logs POD -c main"]
