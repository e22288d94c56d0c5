"""Each overlay is taken whole, without a warning, and a second time changes nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.cluster.conftest import rendered
from tests.cluster.server import Cluster, Json

LOST: set[str] = set()
"""What the server does not keep of what it is given."""
CLAIMS = "StatefulSet/axon-postgres"
"""Its claim templates, a list that is compared whole, hold defaults on the server: kubectl always finds a difference,
and the controller, writing the status, becomes their owner for this server.
"""


def name(one: Json) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def lost(asked: Any, kept: Any, path: str = "") -> Iterator[str]:
    """Paths of what was asked for, and is not there or is something else."""
    if isinstance(asked, dict) and isinstance(kept, dict):
        for key, value in asked.items():
            yield from lost(value, kept.get(key), f"{path}.{key}")
    elif isinstance(asked, list) and isinstance(kept, list) and len(asked) == len(kept):
        for nth, value in enumerate(asked):
            yield from lost(value, kept[nth], f"{path}[{nth}]")
    elif asked != kept:
        yield path


def wanted(one: Json) -> Json:
    """What somebody asked for, without what controllers write."""
    metadata = {key: value for key, value in one["metadata"].items() if key not in ("managedFields", "resourceVersion")}
    return {**{key: value for key, value in one.items() if key != "status"}, "metadata": metadata}


def test_server_side_apply_keeps_every_field(cluster: Cluster, overlay: str) -> None:
    """Applying has no warning, which `Cluster.done` asserts."""
    kept = {name(one): cluster.done("GET", cluster.path(one)) for one in rendered(overlay)}
    missing = {f"{name(one)}{path}" for one in rendered(overlay) for path in lost(one, kept[name(one)])}
    assert missing == LOST


def test_a_field_that_is_lost_is_seen(cluster: Cluster, overlay: str) -> None:
    """This server does not know Pod's ``hostUsers``, which is newer."""
    (deployment,) = [one for one in rendered(overlay) if one["kind"] == "Deployment"]
    template = deployment["spec"]["template"]
    newer = {**deployment["spec"], "template": {**template, "spec": {**template["spec"], "hostUsers": False}}}
    kept = cluster.ask(
        "PATCH",
        cluster.path(deployment),
        {**deployment, "spec": newer},
        "apply-patch+yaml",
        fieldManager="other",
        dryRun="All",
    )
    if kept.ok:
        assert list(lost(newer, kept.json()["spec"])) == [".template.spec.hostUsers"]
    else:
        assert "hostUsers" in kept.text


def test_a_second_apply_changes_nothing(cluster: Cluster, overlay: str) -> None:
    """Its generation too stays, which a change of what is wanted would raise."""
    for one in rendered(overlay):
        before = cluster.done("GET", cluster.path(one))
        after = cluster.apply(one, force=name(one) == CLAIMS)
        assert wanted(after) == wanted(before), name(one)
        assert "status" in after or after["metadata"]["resourceVersion"] == before["metadata"]["resourceVersion"]


def test_the_guides_command_agrees(cluster: Cluster, overlay: str) -> None:
    """``kubectl apply -k``, which merges by itself, over what the server merged; from then on it changes nothing."""
    spec = {name(one): cluster.done("GET", cluster.path(one)).get("spec") for one in rendered(overlay)}
    first = cluster.kubectl("apply", "-k", f"deploy/overlays/{overlay}")
    assert first.returncode == 0, first.stderr
    before = {name(one): cluster.done("GET", cluster.path(one)) for one in rendered(overlay)}
    again = cluster.kubectl("apply", "-k", f"deploy/overlays/{overlay}")
    assert again.returncode == 0 and not again.stderr, again.stderr
    said = again.stdout.splitlines()
    assert len(said) == len(before), again.stdout
    assert [line for line in said if not line.endswith(" unchanged")] == ["statefulset.apps/axon-postgres configured"]
    for one in rendered(overlay):
        after, earlier = cluster.done("GET", cluster.path(one)), before[name(one)]
        assert after.get("spec") == earlier.get("spec") == spec[name(one)], name(one)
        assert after["metadata"].get("generation") == earlier["metadata"].get("generation"), name(one)
