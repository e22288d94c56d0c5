"""A Kubeflow Pipelines API server for tests: real HTTP on loopback, every body checked against kfp-server-api's own
models.
"""

from __future__ import annotations

import json
import re
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import kfp_server_api as api
import yaml

PLAIN = {"str": str, "bool": bool, "int": int, "float": (int, float), "object": object, "datetime": str}


def strictly(body: Any, kind: str) -> Any:
    """``body`` where it is a ``kind`` of the API: no unknown key, no other type, nothing that its model refuses."""
    if kind.startswith(("list[", "dict(")):
        inner = kind[5:-1] if kind.startswith("list[") else kind[5:-1].split(", ")[1]
        items = body if kind.startswith("list[") else body.values()
        return [strictly(item, inner) for item in items] and body
    if kind in PLAIN:
        assert isinstance(body, PLAIN[kind]), f"{body!r} is no {kind}"
        return body
    model = getattr(api, kind)
    if hasattr(model, "allowable_values"):
        assert body in model.allowable_values, f"{body!r} is no {kind}"
        return body
    types = {json_name: model.openapi_types[name] for name, json_name in model.attribute_map.items()}
    assert set(body) <= set(types), f"{kind} has no {set(body) - set(types)}"
    for key, value in body.items():
        # int64 is a string in proto3's JSON, where a number is read, too.
        strictly(
            str(value) if types[key] == "str" and isinstance(value, int) and not isinstance(value, bool) else value,
            types[key],
        )
    return body


@dataclass
class Server:
    """What the server holds, as JSON of the API, and what it was asked."""

    multi_user: bool = False
    token: str = ""
    fail_on: str = ""
    failure: tuple[int, str] = (500, "the database is away")
    login: bool = False
    experiments: list[dict[str, Any]] = field(default_factory=list)
    pipelines: list[dict[str, Any]] = field(default_factory=list)
    versions: list[dict[str, Any]] = field(default_factory=list)
    runs: list[dict[str, Any]] = field(default_factory=list)
    recurring: list[dict[str, Any]] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)
    url: str = ""

    @property
    def changes(self) -> list[str]:
        """The requests that change something."""
        return [line for line in self.asked if not line.startswith("GET")]

    def experiment(self, body: Any) -> Any:
        assert self.multi_user or not body.get("namespace"), "a single-user server refuses a namespace"
        return _keep(self.experiments, strictly(body, "V2beta1Experiment"), "experiment_id")

    def upload(self, query: dict[str, str], package: bytes) -> Any:
        list(yaml.load_all(package, yaml.CSafeLoader))
        made = _keep(self.pipelines, {"display_name": query["name"]}, "pipeline_id")
        self.upload_version({"name": query["name"], "pipelineid": made["pipeline_id"]}, package)
        return made

    def upload_version(self, query: dict[str, str], package: bytes) -> Any:
        spec = next(iter(yaml.load_all(package, yaml.CSafeLoader)))
        made = {"display_name": query["name"], "pipeline_id": query["pipelineid"], "pipeline_spec": spec}
        return _keep(self.versions, made, "pipeline_version_id")

    def run(self, body: Any) -> Any:
        self._check_reference(strictly(body, "V2beta1Run"))
        return _keep(self.runs, body | {"state": "PENDING"}, "run_id")

    def recur(self, body: Any) -> Any:
        self._check_reference(strictly(body, "V2beta1RecurringRun"))
        assert {"trigger", "mode", "max_concurrency", "display_name", "experiment_id"} <= set(body)
        assert 1 <= int(body["max_concurrency"]) <= 10
        return _keep(self.recurring, body, "recurring_run_id")

    def list_recurring(self, query: dict[str, str]) -> Any:
        named = bool(query.get("namespace") or query.get("experiment_id"))
        assert named if self.multi_user else not query.get("namespace"), (
            "a namespace is for a server with several users, which needs one"
        )
        return _page(self.recurring, "recurringRuns", "V2beta1ListRecurringRunsResponse", query)

    def _check_reference(self, body: Any) -> None:
        of = body["pipeline_version_reference"]
        version = next(one for one in self.versions if one["pipeline_version_id"] == of["pipeline_version_id"])
        declared = version["pipeline_spec"]["root"]["inputDefinitions"]["parameters"]
        assert set(body["runtime_config"]["parameters"]) <= set(declared), "the API server refuses unknown parameters"


def _keep(where: list[dict[str, Any]], item: dict[str, Any], key: str) -> dict[str, Any]:
    where.append({**item, key: str(uuid.uuid4()), "created_at": datetime.now(UTC).isoformat()})
    return where[-1]


def _page(items: list[dict[str, Any]], name: str, kind: str, query: dict[str, str]) -> Any:
    for predicate in json.loads(query.get("filter") or "{}").get("predicates", []):
        # proto3's JSON has the enumeration's name or its number, which the client sends.
        assert set(predicate) == {"operation", "key", "stringValue"} and predicate["operation"] in ("EQUALS", 1)
        items = [item for item in items if item[predicate["key"]] == predicate["stringValue"]]
    if wanted := query.get("experiment_id"):
        items = [item for item in items if item["experiment_id"] == wanted]
    start, size = int(query.get("page_token") or 0), min(int(query.get("page_size") or 10), 2)
    page: dict[str, Any] = {name: items[start : start + size]} if items else {}
    if start + size < len(items):
        page["next_page_token"] = str(start + size)
    return strictly(page, kind)


@contextmanager
def serving(**options: Any) -> Iterator[Server]:
    """A server on a free port of loopback; `Server.url` has its address."""
    state = Server(**options)
    http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(state))
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{http.server_port}"
    try:
        yield state
    finally:
        http.shutdown()
        thread.join()
        http.server_close()


def _handler(state: Server) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def do_GET(self) -> None:
            self._answer()

        def do_POST(self) -> None:
            self._answer()

        def do_DELETE(self) -> None:
            self._answer()

        def _answer(self) -> None:
            parts = urlsplit(self.path)
            path, query = (
                parts.path.removeprefix("/apis/v2beta1"),
                {key: value[0] for key, value in parse_qs(parts.query).items()},
            )
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            state.asked.append(f"{self.command} {path}")
            try:
                if state.token and self.headers.get("Authorization") != f"Bearer {state.token}":
                    status, answer = 401, {"message": "no valid token"}
                elif state.fail_on and f"{self.command} {path}".startswith(state.fail_on):
                    status, answer = state.failure[0], {"message": state.failure[1]}
                else:
                    status, answer = 200, _route(state, self.command, path, query, self.headers, body)
            except LookupError as error:
                status, answer = 404, {"message": f"not found: {error}"}
            except AssertionError as error:
                status, answer = 400, {"message": str(error)}
            text = b"<html>" if state.login else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if state.login else "application/json")
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

    return Handler


def _route(state: Server, method: str, path: str, query: dict[str, str], headers: Any, body: bytes) -> Any:
    exact: dict[tuple[str, str], Callable[[], Any]] = {
        ("GET", "/healthz"): lambda: strictly({"multi_user": state.multi_user}, "V2beta1GetHealthzResponse"),
        ("GET", "/experiments"): lambda: _page(
            state.experiments, "experiments", "V2beta1ListExperimentsResponse", query
        ),
        ("POST", "/experiments"): lambda: state.experiment(json.loads(body)),
        ("GET", "/pipelines"): lambda: _page(state.pipelines, "pipelines", "V2beta1ListPipelinesResponse", query),
        ("POST", "/pipelines/upload"): lambda: state.upload(query, _file(headers, body)),
        ("POST", "/pipelines/upload_version"): lambda: state.upload_version(query, _file(headers, body)),
        ("GET", "/runs"): lambda: _page(state.runs, "runs", "V2beta1ListRunsResponse", query),
        ("POST", "/runs"): lambda: strictly(state.run(json.loads(body)), "V2beta1Run"),
        ("GET", "/recurringruns"): lambda: state.list_recurring(query),
        ("POST", "/recurringruns"): lambda: strictly(state.recur(json.loads(body)), "V2beta1RecurringRun"),
    }
    if (method, path) in exact:
        return exact[method, path]()
    if found := re.fullmatch(r"/pipelines/([\w-]+)/versions", path):
        versions = [one for one in state.versions if one["pipeline_id"] == found[1]]
        return _page(versions, "pipeline_versions", "V2beta1ListPipelineVersionsResponse", query)
    if found := re.fullmatch(r"/runs/([\w-]+)", path):
        return strictly(
            next((one for one in state.runs if one["run_id"] == found[1]), None) or _missing(path), "V2beta1Run"
        )
    found = re.fullmatch(r"/recurringruns/([\w-]+)(:enable|:disable)?", path)
    one = next((one for one in state.recurring if found and one["recurring_run_id"] == found[1]), None) or _missing(
        path
    )
    assert found
    if method == "DELETE":
        state.recurring.remove(one)
    elif found[2]:
        one["mode"] = found[2].removeprefix(":").upper()
    return {} if method != "GET" else strictly(one, "V2beta1RecurringRun")


def _missing(path: str) -> Any:
    raise LookupError(path)


def _file(headers: Any, body: bytes) -> bytes:
    """The one file of a multipart upload."""
    boundary = re.search(r"boundary=(\S+)", headers["Content-Type"])
    assert boundary
    part = body.split(b"--" + boundary[1].encode())[1]
    return part.partition(b"\r\n\r\n")[2].rstrip(b"\r\n")
