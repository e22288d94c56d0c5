"""Recurring runs, kept in git: `plan` compares schedules.yaml with the cluster, `apply` makes the cluster as the file
says.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import yaml
from croniter import croniter
from croniter.croniter import CroniterError

from axon.config import Config
from axon.errors import AxonError, collected, raise_all
from pipelines.submit import Cluster, Package, config_parameter

PREFIX = "axon-schedule-"
"""Recurring runs with another name are somebody else's, and are left alone."""
MARK = re.compile(r"kept by schedules\.yaml, ([0-9a-f]{64})$")
FIELDS = ("second", "minute", "hour", "day of month", "month", "day of week")
NAMES = "SUNMONTUEWEDTHUFRISATJANFEBMARAPRMAYJUNJULAUGSEPOCTNOVDEC"
NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?")
PIPELINE = "axon"
ENDED = ("SUCCEEDED", "FAILED", "CANCELED", "SKIPPED")


@dataclass(frozen=True)
class Schedule:
    """One entry of schedules.yaml.

    Attributes:
        name: Lower-case letters, digits and '-'.
        cron: Six fields, second first, in UTC.
        config: Configuration file, relative to schedules.yaml; empty for the pipeline's default.
        parameters: Further parameters of the pipeline.
        pipeline: The pipeline; there is one, ``axon``.
        enabled: Whether it fires.
    """

    name: str
    cron: str
    config: str = ""
    parameters: dict[str, Any] = field(default_factory=dict)
    pipeline: str = PIPELINE
    enabled: bool = True

    def next_runs(self, after: datetime, count: int = 3) -> Iterator[datetime]:
        """The next times that it fires after ``after``, in UTC."""
        times = croniter(
            self.cron.replace("?", "*"), after.astimezone(UTC), ret_type=datetime, second_at_beginning=True
        )
        return islice(times, count)


@dataclass(frozen=True)
class Desired:
    """A recurring run as it should be on the cluster; ``digest`` covers everything that cannot be edited there."""

    schedule: Schedule
    parameters: dict[str, Any]
    package: Package
    service_account: str

    @property
    def name(self) -> str:
        return PREFIX + self.schedule.name

    @property
    def digest(self) -> str:
        facts = [self.schedule.cron, self.parameters, self.package.version, self.service_account]
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Change:
    """One change of a plan.

    Attributes:
        action: What happens. A replacement is three changes: create (off), retire, enable.
        name: The recurring run's name.
        why: For people.
        recurring_run_id: The one on the cluster, where there is one already.
        desired: What to create.
    """

    action: Literal["create", "enable", "disable", "delete", "keep"]
    name: str
    why: str
    recurring_run_id: str = ""
    desired: Desired | None = None


SIGNS = {"create": "+", "enable": "~", "disable": "~", "delete": "-", "keep": " "}


def load(path: Path, package: Package) -> tuple[str, list[Desired]]:
    """Read and check schedules.yaml; all problems at once.

    Args:
        path: The file.
        package: The pipeline that its entries run.

    Returns:
        The Kubeflow experiment, and what should be on the cluster.

    Raises:
        AxonError: ``SCHEDULES_MISSING``, ``SCHEDULES_YAML``, ``SCHEDULE_NAME``, ``SCHEDULE_TWICE``, ``SCHEDULE_CRON``,
            ``SCHEDULE_PIPELINE``, those of `Package.check`, or ``SCHEDULES`` with all of them.
    """
    problems: list[AxonError] = []
    experiment, entries, service_account = _read(path, problems)
    found: list[Desired] = []
    seen: set[str] = set()
    for entry in entries:
        schedule = _schedule(entry, problems)
        if schedule is None:
            continue
        if schedule.name in seen:
            fix = "give each a name of its own"
            problems.append(AxonError("SCHEDULE_TWICE", f"two schedules are called {schedule.name!r}", fix))
        seen.add(schedule.name)
        with collected(problems):
            check_cron(schedule)
        if schedule.pipeline != PIPELINE:
            message = f"{schedule.name}: no pipeline {schedule.pipeline!r}"
            problems.append(AxonError("SCHEDULE_PIPELINE", message, f"write {PIPELINE}"))
        parameters = dict(schedule.parameters)
        if schedule.config:
            with collected(problems):
                parameters["config_yaml"] = config_parameter(path.parent / schedule.config)
                parameters.setdefault("seed", Config.load(path.parent / schedule.config).seed)
        with collected(problems):
            package.check(parameters)
        found.append(Desired(schedule, parameters, package, service_account))
    raise_all(problems, "SCHEDULES")
    return experiment, found


def _read(path: Path, problems: list[AxonError]) -> tuple[str, list[Any], str]:
    """Experiment, entries and service account, as far as they are good; ``problems`` gets the rest."""
    if not path.is_file():
        raise AxonError("SCHEDULES_MISSING", f"no schedules at {path}", "name a file such as schedules.yaml")
    try:
        raw = yaml.safe_load(path.read_text())
    except (yaml.YAMLError, ValueError) as error:
        raise AxonError("SCHEDULES_YAML", f"{path} cannot be read: {error}", "mend it as YAML") from error
    if not isinstance(raw, dict):
        raise AxonError("SCHEDULES_YAML", f"{path} is no table", "it needs the keys experiment and schedules")
    if raw.get("schedules", "") is None:
        raw["schedules"] = []
    kinds: dict[str, type] = {"experiment": str, "service_account": str, "schedules": list}
    good = _checked(raw, kinds, ("experiment", "schedules"), path.name, problems)
    return good.get("experiment", ""), good.get("schedules", []), good.get("service_account", "")


def _checked(
    given: dict[Any, Any], kinds: dict[str, type], needed: Iterable[str], what: str, problems: list[AxonError]
) -> dict[str, Any]:
    """What of a table is good; ``problems`` gets the rest."""

    def told(message: str, fix: str) -> None:
        problems.append(AxonError("SCHEDULES_YAML", message, fix))

    good: dict[str, Any] = {}
    for key in needed:
        if key not in given:
            told(f"{what} has no {key}", f"give it a {key}")
    for key, value in given.items():
        if key not in kinds:
            near = difflib.get_close_matches(str(key), kinds, n=1)
            fix = f"did you mean {near[0]!r}?" if near else f"keys: {', '.join(kinds)}"
            told(f"unknown key {key!r} in {what}", fix)
        elif not isinstance(value, kinds[key]):
            told(f"{key} of {what} is {value!r}", f"give it a {kinds[key].__name__}")
        else:
            good[key] = value
    return good


def _schedule(entry: Any, problems: list[AxonError]) -> Schedule | None:
    """The schedule of what is good in ``entry``, None without a name or a cron; ``problems`` gets the rest."""
    if not isinstance(entry, dict) or not {"name", "cron"} & set(entry):
        least = "give it at least a name and a cron"
        problems.append(AxonError("SCHEDULES_YAML", f"{entry!r} is no schedule", least))
        return None
    kinds: dict[str, type] = {**{one.name: str for one in fields(Schedule)}, "parameters": dict, "enabled": bool}
    good = _checked(entry, kinds, ("name", "cron"), repr(entry.get("name", entry)), problems)
    if not {"name", "cron"} <= set(good):
        return None
    schedule = Schedule(**good)
    if not NAME.fullmatch(schedule.name):
        fix = "at most 40 lower-case letters, digits and '-'"
        problems.append(AxonError("SCHEDULE_NAME", f"the name {schedule.name!r} is no good", fix))
    return schedule


def check_cron(schedule: Schedule) -> None:
    """See that the six fields mean the same to Kubeflow's cron (robfig) and here.

    Raises:
        AxonError: ``SCHEDULE_CRON``.
    """
    words = schedule.cron.split()
    hint = (
        "write six fields: second minute hour day-of-month month day-of-week, e.g. '0 0 3 * * 0' for Sundays at "
        "03:00 UTC"
    )
    if len(words) != len(FIELDS):
        raise AxonError("SCHEDULE_CRON", f"{schedule.name}: {schedule.cron!r} has {len(words)} fields", hint)
    # croniter knows more than robfig does: L, #, W, R and H; robfig takes ? for *, and Sunday as 0 only.
    strange = next(
        (word for word in words if not re.fullmatch(r"[\d*,/-]+|\?", word.upper()) and not _names_only(word)), None
    )
    if strange:
        raise AxonError("SCHEDULE_CRON", f"{schedule.name}: {strange!r} in {schedule.cron!r} is not understood", hint)
    if re.search(r"(?<!/)\b7\b", words[-1]):
        raise AxonError("SCHEDULE_CRON", f"{schedule.name}: Kubeflow's cron has no weekday 7", "write 0 for Sunday")
    try:
        next(schedule.next_runs(datetime.now(UTC), 1))
    except (CroniterError, ValueError, StopIteration) as error:
        raise AxonError("SCHEDULE_CRON", f"{schedule.name}: {schedule.cron!r} never fires: {error}", hint) from error
    for low, high in re.findall(r"(\w+)-(\w+)", schedule.cron.upper()):
        if _place(low) > _place(high):
            problem = f"{schedule.name}: Kubeflow's cron has no range that ends before it begins, {low}-{high}"
            raise AxonError("SCHEDULE_CRON", problem, "write two ranges, e.g. FRI-SAT,SUN-MON")
    days = {words[3], words[5]}
    if not days & {"*", "?"} and "*" in "".join(days):
        # Of two restricted fields either is enough; robfig takes */2 for unrestricted, so that both must hold, and
        # croniter does not.
        problem = (
            f"{schedule.name}: a star with more to it beside another restriction of the day, {schedule.cron!r}, "
            "has two meanings"
        )
        raise AxonError(
            "SCHEDULE_CRON", problem, "leave one of day-of-month and day-of-week *, or write its days, e.g. 1-31/2"
        )


def _place(word: str) -> int:
    return int(word) if word.isdigit() else NAMES.index(word)


def _names_only(word: str) -> bool:
    """Whether ``word`` is made of names of months or days, as in ``MON-FRI``."""
    return all(len(part) == 3 and part.isalpha() for part in re.split("[,-]", word))


def plan(cluster: Cluster, experiment: str, desired: list[Desired]) -> list[Change]:
    """What to do so that the cluster is as ``desired``; recurring runs with other names are not looked at.

    Ours are found in every experiment of the namespace: in one that the file named before, they would fire on beside
    the new ones.

    A recurring run cannot be edited, so a changed one is replaced: the new one is created switched off, the old one is
    switched off and then deleted, the new one is switched on. Ended at any point, neither do both fire nor are both
    lost. Deleting a recurring run also deletes the workflows it started, so one with an unfinished run is only switched
    off; a later call deletes it.

    Args:
        cluster: The cluster, which is only read.
        experiment: The Kubeflow experiment.
        desired: From `load`.

    Returns:
        The changes in their order.
    """
    experiment_id = cluster.find_experiment(experiment)
    here = cluster.pages(cluster.kfp.list_recurring_runs, "recurring_runs", namespace=cluster.namespace)
    ours = [one for one in here if one.display_name.startswith(PREFIX) and MARK.search(one.description or "")]
    busy = {identity for each in {str(one.experiment_id) for one in ours} for identity in _busy(cluster, each)}
    changes: list[Change] = []
    for wanted in desired:
        same_name = [one for one in ours if one.display_name == wanted.name]
        fitting = [one for one in same_name if _digest(one) == wanted.digest and one.experiment_id == experiment_id]
        current, others = (fitting[0] if fitting else None), [one for one in same_name if one not in fitting[:1]]
        if current is None:
            changes.append(Change("create", wanted.name, "changed" if same_name else "new", desired=wanted))
        for old in others:
            changes += _retire(old, "replaced", busy)
        if current is None:
            changes += [Change("enable", wanted.name, "created", desired=wanted)] if wanted.schedule.enabled else []
        else:
            changes.append(_switch(current, wanted))
    gone = [one for one in ours if one.display_name not in {wanted.name for wanted in desired}]
    return changes + [change for old in gone for change in _retire(old, "no longer in the file", busy)]


def _digest(recurring: Any) -> str:
    found = MARK.search(recurring.description or "")
    return found[1] if found else ""


def _is_on(recurring: Any) -> bool:
    return str(recurring.mode) == "ENABLE"


def _switch(current: Any, wanted: Desired) -> Change:
    identity, on = str(current.recurring_run_id), wanted.schedule.enabled
    if _is_on(current) == on:
        return Change("keep", wanted.name, "as the file says" if on else "off, as the file says", identity)
    return Change("enable" if on else "disable", wanted.name, "as the file says", identity)


def _retire(old: Any, why: str, busy: set[str]) -> list[Change]:
    identity, name = str(old.recurring_run_id), str(old.display_name)
    off = [Change("disable", name, why, identity)] if _is_on(old) else []
    if identity in busy:
        return off or [Change("keep", name, f"{why}; off, deleted once its run has ended", identity)]
    return [*off, Change("delete", name, why, identity)]


def _busy(cluster: Cluster, experiment_id: str) -> set[str]:
    """Recurring runs of the experiment of which a run has not ended."""
    runs = cluster.pages(cluster.kfp.list_runs, "runs", experiment_id=experiment_id, sort_by="created_at desc")
    return {str(run.recurring_run_id) for run in runs if run.recurring_run_id and run.state not in ENDED}


def apply(cluster: Cluster, experiment: str, changes: list[Change]) -> None:
    """Carry out a plan; stopped in the middle, `plan` and `apply` again finish it.

    Raises:
        AxonError: As `Cluster`.
    """
    created: dict[str, str] = {}
    for change in changes:
        identity = change.recurring_run_id or created.get(change.name, "")
        if change.action == "create" and change.desired:
            created[change.name] = _create(cluster, experiment, change.desired)
        elif change.action == "enable":
            cluster.call(cluster.kfp.enable_recurring_run, identity)
        elif change.action == "disable":
            cluster.call(cluster.kfp.disable_recurring_run, identity)
        elif change.action == "delete":
            cluster.call(cluster.kfp.delete_recurring_run, identity)


def _create(cluster: Cluster, experiment: str, wanted: Desired) -> str:
    experiment_id = cluster.experiment(experiment)
    pipeline_id, version_id = cluster.upload(wanted.package)
    made = cluster.call(
        cluster.kfp.create_recurring_run,
        experiment_id,
        wanted.name,
        description=f"kept by schedules.yaml, {wanted.digest}",
        cron_expression=wanted.schedule.cron,
        max_concurrency=1,
        no_catchup=True,
        params=wanted.parameters,
        pipeline_id=pipeline_id,
        version_id=version_id,
        enabled=False,
        service_account=wanted.service_account or None,
    )
    return str(made.recurring_run_id)


def describe(changes: list[Change], desired: list[Desired], now: datetime) -> list[str]:
    """The plan for people, with the next three runs of every schedule that is on."""
    lines = [f"{SIGNS[change.action]} {change.action:<8} {change.name}  ({change.why})" for change in changes]
    for wanted in desired:
        times = ", ".join(f"{time:%Y-%m-%d %H:%M:%S}" for time in wanted.schedule.next_runs(now))
        lines.append(
            f"{wanted.schedule.name}: next {times} UTC" if wanted.schedule.enabled else f"{wanted.schedule.name}: off"
        )
    count = sum(change.action != "keep" for change in changes)
    return [*lines, f"{count} changes" if count else "nothing to change"]
