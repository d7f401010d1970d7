"""A workload of Kubernetes: what starts pods, how far its rollout is, and how many pods it is to have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from k2run.adapters.kubernetes.client import KINDS, Cluster, Kind
from k2run.adapters.kubernetes.results import Rollout, Scaled, controller, read_pod, read_rollout
from k2run.errors import AuthorError, Refused, TimedOut

if TYPE_CHECKING:
    from collections.abc import Mapping

POLL_S = 0.5
"""Seconds between two looks at what is waited for."""
WORKLOADS = ("deployment", "statefulset", "daemonset", "replicaset")
SCALABLE = ("deployment", "statefulset", "replicaset")
RESTARTABLE = ("deployment", "statefulset", "daemonset")
_WHY = "kubernetes.pods says why its pods are not ready"


class Workload(NamedTuple):
    """A workload of a cluster, by its name; it may not exist."""

    cluster: Cluster
    kind: Kind
    name: str

    def __str__(self) -> str:
        return f"{self.kind.name}/{self.name}"

    @property
    def path(self) -> str:
        """Where the API has it."""
        return self.kind.path(self.cluster.namespace, self.name)

    def rollout(self) -> Rollout:
        """How far it is with what its specification asks for."""
        (found,), _ = self.cluster.find(self.kind, self.name)
        return read_rollout(self.kind.name, found, self.cluster.address)

    def completed(self) -> Rollout:
        """Its rollout, once that is complete.

        Raises:
            Refused: Kubernetes has given up waiting.
            TimedOut: The deadline passed first; the message says what is missing.
        """
        deadline, waits_for = self.cluster.deadline, ""
        while True:
            try:
                seen = self.rollout()
                if seen.complete and self._ready_pods() >= seen.desired:
                    return seen
                waits_for = seen.waits_for or "its pods to be ready"
                if seen.stalled:
                    raise Refused(f"{self} has stopped progressing: it waits for {waits_for}", hint=_WHY, result=seen)
                deadline.sleep(POLL_S)
            except TimedOut as error:
                if not waits_for:
                    raise
                message = f"{self} is not complete after {deadline.seconds:g}s: it waits for {waits_for}"
                raise TimedOut(message, hint=f"{_WHY}; or raise the step's timeout") from error

    def _ready_pods(self) -> int:
        """Its ready pods, counted: its own status does not yet know of one that was deleted just now."""
        (found,), _ = self.cluster.find(self.kind, self.name)
        selector = selector_text(found["spec"].get("selector") or {})
        pods, _ = self.cluster.find(KINDS["pod"], selector=selector, allow_missing=True)
        return sum(read_pod(one).ready for one in pods)

    def replicas(self) -> int:
        """How many pods it is to have."""
        found = self.cluster.get(f"{self.path}/scale", what=self.cluster.called(self.kind, self.name))
        return int(found.get("spec", {}).get("replicas", 0))

    def scaled(self, before: int, replicas: int) -> Scaled:
        """Set how many pods it is to have; does not wait for them."""
        what = self.cluster.called(self.kind, self.name)
        self.cluster.patch(f"{self.path}/scale", {"spec": {"replicas": replicas}}, what=what)
        return Scaled(
            name=str(self),
            namespace=self.cluster.namespace,
            before=before,
            replicas=replicas,
            source=self.cluster.address,
        )


def selector_text(selector: Mapping[str, Any]) -> str:
    """A workload's selector as the API takes one in a query; every part of it must hold.

    Args:
        selector: Its `matchLabels` and `matchExpressions`, with the operators In, NotIn, Exists and DoesNotExist.

    Raises:
        Refused: It has an operator that is not known here: what it selects is unknown.
    """
    parts = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for one in selector.get("matchExpressions") or ():
        key, operator, values = one["key"], one["operator"], ",".join(one.get("values") or ())
        written = {
            "In": f"{key} in ({values})",
            "NotIn": f"{key} notin ({values})",
            "Exists": key,
            "DoesNotExist": f"!{key}",
        }
        if operator not in written:
            hint = f"k2run reads {', '.join(written)}; a newer k2run may read it"
            raise Refused(f"a workload's selector has the operator {operator!r}, which is not known", hint=hint)
        parts.append(written[operator])
    return ",".join(parts)


def workload(cluster: Cluster, kind: str, name: str, among: tuple[str, ...]) -> Workload:
    """The workload of that kind and name.

    Raises:
        AuthorError: Its kind is not among those that this can be done to.
    """
    found = cluster.kind(kind)
    if found.name not in among:
        raise AuthorError(f"this cannot be done to a {found.name}", hint=f"kind is one of {', '.join(among)}")
    return Workload(cluster, found, name)


def workload_of(cluster: Cluster, pod: Mapping[str, Any]) -> Workload:
    """The workload that starts a pod again; of a deployment's replica set, the deployment.

    Raises:
        Refused: Nothing does.
    """
    owner = controller(pod)
    if owner is not None and owner["kind"] == "ReplicaSet":
        (found,), _ = cluster.find(KINDS["replicaset"], owner["name"])
        owner = controller(found) or owner
    if owner is None or owner["kind"].lower() not in WORKLOADS:
        made_by = f"{owner['kind']} {owner['name']}" if owner else "nothing"
        raise Refused(
            f"pod {pod['metadata']['name']} belongs to {made_by}, which would not start it again",
            hint=f"choose a pod of one of {', '.join(WORKLOADS)}",
        )
    return Workload(cluster, KINDS[owner["kind"].lower()], owner["name"])
