"""What the objects of a Kubernetes cluster are read into: the results of actions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from msgspec import Struct

from k2run.actions.action import Result

if TYPE_CHECKING:
    from collections.abc import Mapping


class Health(Result, frozen=True, kw_only=True):
    """An API server that is ready and lets this user in.

    Attributes:
        version: Of the server, `v1.34.2`.
        nodes: How many the cluster has; None where this user may not list them.
        nodes_ready: How many of them are ready; None likewise.
        unready: Names of the others.
        elapsed_ms: Of all questions together, with connecting.
    """

    unknowable: ClassVar[frozenset[str]] = frozenset({"nodes", "nodes_ready"})

    version: str
    nodes: int | None
    nodes_ready: int | None
    unready: list[str]
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `v1.34.2, 3 of 3 nodes ready`."""
        nodes = "nodes unknown" if self.nodes is None else f"{self.nodes_ready} of {self.nodes} nodes ready"
        return f"{self.version}, {nodes}"


class Objects(Result, frozen=True, kw_only=True):
    """Objects of one kind.

    Attributes:
        kind: `deployment`, `pod`, ….
        count: How many were found.
        first: The only one, or the first by name; None without any.
        items: As the API describes them (`metadata`, `spec`, `status`), without `metadata.managedFields`.
        truncated: Whether there are more than `limit`.
    """

    kind: str
    count: int
    first: Any
    items: list[Any]
    truncated: bool

    def headline(self) -> str:
        """The name of one, or how many there are."""
        if self.count == 1:
            return f"{self.kind} {self.first['metadata']['name']}"
        return f"{self.count:,}{' or more' if self.truncated else ''} {self.kind} objects"


class Pod(Struct, frozen=True, kw_only=True):
    """A pod.

    Attributes:
        phase: `Pending`, `Running`, `Succeeded`, `Failed`, `Unknown`.
        ready: Whether it is ready for traffic; one that is being deleted is not.
        restarts: Of all its containers.
        reason: Why it is not ready, in Kubernetes' words: `CrashLoopBackOff`, `ImagePullBackOff`, `Unschedulable`,
            `Terminating`, …; empty when it is ready or nothing is said.
        last_exit: Exit code with which a container ended last; None when none has ended.
        node: Where it runs; empty before it is scheduled.
        owner: What starts it again: `ReplicaSet/web-5d4f`; empty when nothing does.
    """

    name: str
    phase: str
    ready: bool
    restarts: int
    reason: str
    last_exit: int | None
    node: str
    owner: str


class Pods(Result, frozen=True, kw_only=True):
    """Pods, by name.

    Attributes:
        count: How many were found; those that ran to completion are included.
        ready: How many are ready.
        restarts: Of all of them.
        reasons: Why others are not ready, each reason once.
    """

    count: int
    ready: int
    restarts: int
    reasons: list[str]
    pods: list[Pod]

    def headline(self) -> str:
        """Such as `2 of 3 ready, 7 restarts, CrashLoopBackOff`."""
        why = f", {', '.join(self.reasons)}" if self.reasons else ""
        return f"{self.ready} of {self.count} ready, {self.restarts:,} restarts{why}"


class Rollout(Result, frozen=True, kw_only=True):
    """How far a workload is with what its specification asks for.

    Attributes:
        name: `deployment/web`.
        desired: Pods that it should have.
        updated: Pods of the newest specification.
        ready: Pods that are ready.
        available: Pods that have been ready for `minReadySeconds`.
        complete: Whether all of that is reached, and no old pod is left.
        stalled: Whether Kubernetes has given up waiting (`progressDeadlineSeconds`).
        waits_for: What is missing; empty when it is complete.
    """

    name: str
    namespace: str
    desired: int
    updated: int
    ready: int
    available: int
    complete: bool
    stalled: bool
    waits_for: str

    def headline(self) -> str:
        """Such as `deployment/web 3 of 3 ready`."""
        why = f", waits for {self.waits_for}" if self.waits_for else ""
        return f"{self.name} {self.ready} of {self.desired} ready{why}"


class Waited(Result, frozen=True, kw_only=True):
    """Objects that meet a condition.

    Attributes:
        condition: `Ready`, `Available`, `deleted`, ….
        count: How many meet it.
        waited_s: Seconds until they did.
    """

    condition: str
    count: int
    waited_s: float

    def headline(self) -> str:
        """Such as `2 Ready after 3.1 s`."""
        return f"{self.count} {self.condition} after {self.waited_s:.1f} s"


class Scaled(Result, frozen=True, kw_only=True):
    """A workload whose number of pods was set.

    Attributes:
        name: `deployment/web`.
        before: Pods that it was to have.
        replicas: Pods that it is to have now.
    """

    name: str
    namespace: str
    before: int
    replicas: int

    def headline(self) -> str:
        """Such as `deployment/web from 3 to 0`."""
        return f"{self.name} from {self.before} to {self.replicas}"


class Deleted(Result, frozen=True, kw_only=True):
    """A pod that was deleted, and is gone.

    Attributes:
        owner: What starts another one: `deployment/web`.
        elapsed_ms: Until it was gone.
    """

    pod: str
    namespace: str
    owner: str
    elapsed_ms: float

    def headline(self) -> str:
        """Such as `web-5d4f-x2 of deployment/web`."""
        return f"{self.pod} of {self.owner}"


class Lines(Result, frozen=True, kw_only=True):
    """What pods logged.

    Attributes:
        pods: Whose logs were searched.
        matches: How many lines fit.
        searched: How many lines were searched.
        lines: The newest of those that fit, at most 20, each cut after 1,000 characters; pod by pod, where several.
    """

    pods: list[str]
    matches: int
    searched: int
    lines: list[str]

    def headline(self) -> str:
        """Such as `3 of 1,204 lines`."""
        return f"{self.matches:,} of {self.searched:,} lines"


def read_pod(found: Mapping[str, Any]) -> Pod:
    """A pod as the API describes it."""
    meta, status = found["metadata"], found.get("status", {})
    containers = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
    leaving = "deletionTimestamp" in meta
    ready = not leaving and condition(found, "Ready") == "True"
    exits = [
        one["exitCode"]
        for container in containers
        for part in ("state", "lastState")
        if (one := container.get(part, {}).get("terminated"))
    ]
    owner = controller(found)
    return Pod(
        name=meta["name"],
        phase=status.get("phase", "Unknown"),
        ready=ready,
        restarts=sum(int(one.get("restartCount", 0)) for one in containers),
        reason="" if ready else "Terminating" if leaving else _reason(status, containers),
        last_exit=exits[-1] if exits else None,
        node=found.get("spec", {}).get("nodeName", ""),
        owner=f"{owner['kind']}/{owner['name']}" if owner else "",
    )


def _reason(status: Mapping[str, Any], containers: list[Any]) -> str:
    """The most telling word on why a pod is not ready: of a container, of the pod, of a condition."""
    states = [one.get("state", {}) for one in containers]
    said = [state.get(part, {}).get("reason", "") for part in ("waiting", "terminated") for state in states]
    said += [status.get("reason", "")]
    said += [one.get("reason", "") for one in status.get("conditions", ()) if one.get("status") != "True"]
    return next(filter(None, said), "")


def condition(found: Mapping[str, Any], name: str) -> str:
    """The status of a condition: `True`, `False`, `Unknown`; empty when the object has no such condition."""
    conditions = found.get("status", {}).get("conditions") or ()
    return next((one["status"] for one in conditions if one["type"].lower() == name.lower()), "")


def controller(found: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What made an object, and makes it again when it is gone; None when nothing does."""
    owners: list[Mapping[str, Any]] = found["metadata"].get("ownerReferences") or []
    return next((one for one in owners if one.get("controller")), None)


def read_rollout(kind: str, found: Mapping[str, Any], source: str) -> Rollout:
    """How far a deployment, stateful set, daemon set or replica set is, by the rules of `kubectl rollout status`."""
    spec, status = found.get("spec", {}), found.get("status", {})
    if kind == "daemonset":
        desired = int(status.get("desiredNumberScheduled", 0))
        updated, ready, available, total = (
            int(status.get(key, 0))
            for key in ("updatedNumberScheduled", "numberReady", "numberAvailable", "currentNumberScheduled")
        )
    else:
        desired = int(spec.get("replicas", 1))
        total, ready, available = (
            int(status.get(key, 0)) for key in ("replicas", "readyReplicas", "availableReplicas")
        )
        updated = int(status.get("updatedReplicas", 0)) if kind != "replicaset" else total
    old = total - updated if kind == "deployment" else 0
    kept = int(spec.get("updateStrategy", {}).get("rollingUpdate", {}).get("partition", 0))  # left old on purpose
    seen = int(status.get("observedGeneration", 0)) >= int(found["metadata"].get("generation", 0))
    reasons = {one.get("reason") for one in status.get("conditions") or ()}
    missing = {
        "its controller to see the change": not seen,
        f"{desired - kept - updated} updated pods": updated < desired - kept,
        f"{old} old pods to end": old > 0,
        f"{total - desired} pods to end": total > desired and old <= 0 and kind != "daemonset",
        f"{desired - available} pods to be available": available < desired,
    }
    waits_for = ", ".join(what for what, lacks in missing.items() if lacks)
    return Rollout(
        name=f"{kind}/{found['metadata']['name']}",
        namespace=found["metadata"].get("namespace", ""),
        desired=desired,
        updated=updated,
        ready=ready,
        available=available,
        complete=not waits_for,
        stalled=seen and "ProgressDeadlineExceeded" in reasons,
        waits_for=waits_for,
        source=source,
    )
