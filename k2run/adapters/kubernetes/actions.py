"""Kubernetes: what a cluster has and how it is, logs, rollouts, and faults on pods and workloads."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from k2run.actions.action import Effect, Striking, Undo, action, beginning, fault
from k2run.actions.deadline import Deadline
from k2run.adapters.kubernetes.client import (
    KINDS,
    POLL_S,
    RESTARTABLE,
    SCALABLE,
    WORKLOADS,
    Kubernetes,
    connect,
    workload,
    workload_of,
)
from k2run.adapters.kubernetes.results import (
    Deleted,
    Health,
    Lines,
    Objects,
    Pods,
    Rollout,
    Scaled,
    Waited,
    condition,
    read_pod,
)
from k2run.errors import AuthorError, Refused, TimedOut
from k2run.language.quantities import Duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from k2run.adapters.kubernetes.client import Kind

_SHOWN_LINES, _SHOWN_CHARACTERS = 20, 1000
_RESTARTED_AT = "kubectl.kubernetes.io/restartedAt"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


@action("kubernetes.health")
def health(kubernetes: Kubernetes, deadline: Deadline) -> Health:
    """The API server is ready and lets this user in; how many nodes are ready, where the user may see that."""
    cluster, started = connect(kubernetes, deadline), time.perf_counter()
    cluster.text("/readyz", what="/readyz: is it a Kubernetes API?")
    version = cluster.get("/version")["gitVersion"]
    try:
        nodes: list[Any] | None = cluster.find(KINDS["node"], allow_missing=True)[0]
    except Refused:  # a user of one namespace may not list them
        nodes = None
    unready = [one["metadata"]["name"] for one in nodes or () if condition(one, "Ready") != "True"]
    return Health(
        version=version,
        nodes=None if nodes is None else len(nodes),
        nodes_ready=None if nodes is None else len(nodes) - len(unready),
        unready=sorted(unready),
        elapsed_ms=(time.perf_counter() - started) * 1000,
        source=cluster.address,
    )


@action("kubernetes.get")
def get(
    kubernetes: Kubernetes,
    deadline: Deadline,
    kind: str,
    name: str = "",
    selector: str = "",
    namespace: str = "",
    api_version: str = "",
    limit: int = 100,
    allow_missing: bool = False,
) -> Objects:
    """Objects of a kind, as the API describes them; none are unknown. The values of secrets are left out.

    Args:
        kind: `deployment`, `pod`, `node`, …; of another API, such as `certificate`, with `api_version`.
        name: One object; all that the selector means when empty.
        selector: Labels, as in `app=web,tier!=cache`.
        namespace: Where to look; the connection's when empty.
        api_version: `GROUP/VERSION` of a kind that is not one of the common ones.
        limit: Objects to fetch at most.
        allow_missing: Whether none are an answer, too.
    """
    cluster = connect(kubernetes, deadline, namespace)
    wanted = cluster.kind(kind, api_version)
    found, more = cluster.find(wanted, name, selector, limit=limit, allow_missing=allow_missing)
    items = [_shown(wanted, one) for one in found]
    return Objects(
        kind=wanted.name,
        count=len(items),
        first=items[0] if items else None,
        items=items,
        truncated=more,
        source=cluster.address,
    )


@action("kubernetes.pods")
def pods(
    kubernetes: Kubernetes, deadline: Deadline, selector: str = "", namespace: str = "", allow_missing: bool = False
) -> Pods:
    """Pods with their phase, readiness, restarts, and why they are not ready; none are unknown.

    Args:
        selector: Labels, as in `app=web,tier!=cache`; all pods of the namespace when empty.
        namespace: Where to look; the connection's when empty.
        allow_missing: Whether none are an answer, too.
    """
    cluster = connect(kubernetes, deadline, namespace)
    found, _ = cluster.find(KINDS["pod"], selector=selector, allow_missing=allow_missing)
    listed = [read_pod(one) for one in found]
    return Pods(
        count=len(listed),
        ready=sum(one.ready for one in listed),
        restarts=sum(one.restarts for one in listed),
        reasons=sorted({one.reason for one in listed} - {""}),
        pods=listed,
        source=cluster.address,
    )


@action("kubernetes.wait")
def wait(
    kubernetes: Kubernetes,
    deadline: Deadline,
    kind: str,
    for_: str,
    name: str = "",
    selector: str = "",
    namespace: str = "",
    api_version: str = "",
) -> Waited:
    """Wait until objects meet a condition, as `kubectl wait` does; how long is the step's timeout.

    Args:
        kind: `pod`, `deployment`, `job`, …; of another API, such as `certificate`, with `api_version`.
        for: A condition that must be true, such as `Ready`, `Available`, `Complete`; or `deleted`.
        name: One object; all that the selector means when empty.
        selector: Labels, as in `app=web`. At least one object must be there, unless for `deleted`.
        namespace: Where to look; the connection's when empty.
        api_version: `GROUP/VERSION` of a kind that is not one of the common ones.
    """
    if bool(name) == bool(selector):
        raise AuthorError("kubernetes.wait needs either a name or a selector", hint="such as selector: app=web")
    cluster, started = connect(kubernetes, deadline, namespace), time.monotonic()
    wanted = cluster.kind(kind, api_version)
    gone, most, waiting = for_.lower() == "deleted", 0, "nothing has been seen yet"
    while True:
        try:
            found, _ = cluster.find(wanted, name, selector, allow_missing=True)
            most = max(most, len(found))
            unmet = found if gone else [one for one in found if condition(one, for_) != "True"]
            if not unmet and (found or gone):
                count = most if gone else len(found)
                waited_s = round(time.monotonic() - started, 3)
                return Waited(condition=for_, count=count, waited_s=waited_s, source=cluster.address)
            waiting = _waiting(wanted, unmet, for_, name or selector)
            deadline.sleep(POLL_S)
        except TimedOut as error:
            raise TimedOut(f"not {for_} within {deadline.seconds:g}s: {waiting}", hint=error.hint) from error


@action("kubernetes.logs")
def logs(
    kubernetes: Kubernetes,
    deadline: Deadline,
    pod: str = "",
    selector: str = "",
    container: str = "",
    pattern: str = "",
    since: Duration | None = None,
    lines: int = 1000,
    previous: bool = False,
    namespace: str = "",
) -> Lines:
    """Search the logs of pods.

    Args:
        pod: Name of one pod; all that the selector means when empty.
        selector: Labels, as in `app=web`.
        container: Which one of a pod that has several.
        pattern: Regular expression to look for in each line; every line fits when it is empty.
        since: Only lines written within this time before now.
        lines: How many of the newest lines of each pod are searched.
        previous: The log of the container's run before this one, which ended.
        namespace: Where to look; the connection's when empty.
    """
    if bool(pod) == bool(selector):
        raise AuthorError("kubernetes.logs needs either a pod or a selector", hint="such as selector: app=web")
    try:
        wanted = re.compile(pattern)
    except re.error as error:
        hint = "quote its special characters"
        raise AuthorError(f"{pattern!r} is not a regular expression: {error}", hint=hint) from error
    cluster = connect(kubernetes, deadline, namespace)
    kind, names = KINDS["pod"], [pod]
    if selector:
        found, _ = cluster.find(kind, selector=selector)
        names = [one["metadata"]["name"] for one in found]
    query: dict[str, Any] = {"tailLines": lines, **({"container": container} if container else {})}
    query |= {"sinceSeconds": max(1, round(since))} if since is not None else {}
    query |= {"previous": "true"} if previous else {}
    searched, fitting = 0, []
    for name in names:
        text = cluster.text(kind.path(cluster.namespace, name, "log"), query, what=cluster.called(kind, name))
        written = text.splitlines()
        searched += len(written)
        fitting += [line for line in written if wanted.search(line)]
    shown = [beginning(line, _SHOWN_CHARACTERS) for line in fitting[-_SHOWN_LINES:]]
    return Lines(pods=names, matches=len(fitting), searched=searched, lines=shown, source=cluster.address)


@action("kubernetes.rollout")
def rollout(
    kubernetes: Kubernetes, deadline: Deadline, name: str, kind: str = "deployment", namespace: str = ""
) -> Rollout:
    """How far a workload is with what its specification asks for.

    Args:
        name: Of the workload.
        kind: `deployment`, `statefulset`, `daemonset` or `replicaset`.
        namespace: Where to look; the connection's when empty.
    """
    return workload(connect(kubernetes, deadline, namespace), kind, name, WORKLOADS).rollout()


@action("kubernetes.wait_rollout")
def wait_rollout(
    kubernetes: Kubernetes, deadline: Deadline, name: str, kind: str = "deployment", namespace: str = ""
) -> Rollout:
    """Wait until a workload has all its pods, of its newest specification, available.

    Args:
        name: Of the workload.
        kind: `deployment`, `statefulset`, `daemonset` or `replicaset`.
        namespace: Where to look; the connection's when empty.

    Raises:
        Refused: Kubernetes has given up waiting (`progressDeadlineSeconds`).
    """
    return workload(connect(kubernetes, deadline, namespace), kind, name, WORKLOADS).completed()


@action("kubernetes.restart", effect=Effect.CHANGES)
def restart(
    kubernetes: Kubernetes, deadline: Deadline, name: str, kind: str = "deployment", namespace: str = ""
) -> Rollout:
    """Replace all pods of a workload as `kubectl rollout restart` does, and wait until the new ones are available.

    Args:
        name: Of the workload.
        kind: `deployment`, `statefulset` or `daemonset`.
        namespace: Where to look; the connection's when empty.
    """
    cluster = connect(kubernetes, deadline, namespace)
    found = workload(cluster, kind, name, RESTARTABLE)
    now = datetime.now(UTC).isoformat(timespec="microseconds")
    change = {"spec": {"template": {"metadata": {"annotations": {_RESTARTED_AT: now}}}}}
    cluster.patch(found.path, change, what=cluster.called(found.kind, name))
    return found.completed()


@action("kubernetes.set_replicas", effect=Effect.CHANGES)
def set_replicas(
    kubernetes: Kubernetes,
    deadline: Deadline,
    name: str,
    replicas: int,
    kind: str = "deployment",
    namespace: str = "",
) -> Scaled:
    """Set how many pods a workload is to have, and wait until it has them.

    Args:
        name: Of the workload.
        replicas: How many.
        kind: `deployment`, `statefulset` or `replicaset`.
        namespace: Where to look; the connection's when empty.
    """
    found = workload(connect(kubernetes, deadline, namespace), kind, name, SCALABLE)
    scaled = found.scaled(found.replicas(), replicas)
    found.completed()
    return scaled


@fault("kubernetes.scale", undone_by="kubernetes.set_replicas")
def scale(
    kubernetes: Kubernetes,
    deadline: Deadline,
    name: str,
    replicas: int = 0,
    kind: str = "deployment",
    namespace: str = "",
) -> Striking[Scaled]:
    """Take pods away from a workload, or give it more. Undone by setting the former number.

    Blast radius: the workload, and what depends on it. A HorizontalPodAutoscaler sets a number other than 0 again.

    Args:
        name: Of the workload.
        replicas: How many pods it is to have.
        kind: `deployment`, `statefulset` or `replicaset`.
        namespace: Where to look; the connection's when empty.
    """
    cluster = connect(kubernetes, deadline, namespace)
    found = workload(cluster, kind, name, SCALABLE)
    before = found.replicas()
    args = {"kind": found.kind.name, "name": name, "namespace": cluster.namespace, "replicas": before}
    yield Undo(action="kubernetes.set_replicas", args=args, says=f"scale {found} to {before}")
    return found.scaled(before, replicas)


@fault("kubernetes.delete_pod", undone_by="kubernetes.wait_rollout")
def delete_pod(
    kubernetes: Kubernetes,
    deadline: Deadline,
    pod: str = "",
    selector: str = "",
    grace: Duration | None = None,
    namespace: str = "",
) -> Striking[Deleted]:
    """Delete one pod and wait until it is gone. Its workload starts another; undone by waiting until that is available.

    Blast radius: the pod, and who talks to it. A pod that nothing would start again is refused.

    Args:
        pod: Name of the pod; the first by name that the selector means, when empty.
        selector: Labels, as in `app=web`.
        grace: How long it may take to end by itself, whole seconds; 0s kills it. What the pod itself says when missing.
        namespace: Where to look; the connection's when empty.
    """
    if bool(pod) == bool(selector):
        raise AuthorError("kubernetes.delete_pod needs either a pod or a selector", hint="such as selector: app=web")
    cluster, kind = connect(kubernetes, deadline, namespace), KINDS["pod"]
    found, _ = cluster.find(kind, pod, selector)
    chosen = next((one for one in found if "deletionTimestamp" not in one["metadata"]), found[0])
    name, uid = (chosen["metadata"][key] for key in ("name", "uid"))
    owner = workload_of(cluster, chosen)
    args = {"kind": owner.kind.name, "name": owner.name, "namespace": cluster.namespace}
    yield Undo(action="kubernetes.wait_rollout", args=args, says=f"wait until {owner} has all its pods")
    started = time.monotonic()
    options: dict[str, Any] = {"preconditions": {"uid": uid}}
    options |= {"gracePeriodSeconds": int(grace)} if grace is not None else {}
    cluster.delete(kind.path(cluster.namespace, name), options, what=cluster.called(kind, name))
    while any(one["metadata"]["uid"] == uid for one in cluster.find(kind, name, allow_missing=True)[0]):
        deadline.sleep(POLL_S)
    elapsed_ms = (time.monotonic() - started) * 1000
    return Deleted(
        pod=name, namespace=cluster.namespace, owner=str(owner), elapsed_ms=elapsed_ms, source=cluster.address
    )


def _shown(kind: Kind, found: Mapping[str, Any]) -> dict[str, Any]:
    """An object without what no one reads, and without what no one may read."""
    meta = {key: value for key, value in found["metadata"].items() if key != "managedFields"}
    if kind.name != "secret":
        return {**found, "metadata": meta}
    notes = {key: value for key, value in (meta.get("annotations") or {}).items() if key != _LAST_APPLIED}
    hidden = {part: dict.fromkeys(found[part], "***") for part in ("data", "stringData") if found.get(part)}
    return {**found, "metadata": {**meta, "annotations": notes}, **hidden}


def _waiting(kind: Kind, unmet: list[Any], for_: str, which: str) -> str:
    """What a wait still waits for, in one line."""
    if not unmet:
        return f"there is no {kind.name} {which}"
    first = unmet[0]
    conditions: list[dict[str, str]] = first.get("status", {}).get("conditions") or []
    said = [one.get("reason", "") for one in conditions if one["type"].lower() == for_.lower()]
    reason = read_pod(first).reason if kind.name == "pod" else "".join(said)
    why = f" ({reason})" if reason else ""
    return f"{kind.name} {first['metadata']['name']}{why}" + (f" and {len(unmet) - 1} more" if len(unmet) > 1 else "")
