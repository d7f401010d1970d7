"""Calls to the API server of a Kubernetes cluster, under a deadline and with errors that say who must act; workloads.

A workload is what starts pods: how far its rollout is, and how many pods it is to have.
Long because whatever asks the API server is on this page.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

from k2run.actions.connection import Connection
from k2run.adapters._clients import apart, cause_of, late, masked, require_client
from k2run.adapters.kubernetes.results import Rollout, Scaled, controller, read_pod, read_rollout
from k2run.errors import ActionError, AuthorError, Refused, TimedOut, Unknown, Unreachable
from k2run.language.problems import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kubernetes.client import ApiClient, Configuration

    from k2run.actions.deadline import Deadline

_SETTING = "see connections.kubernetes in the stack file"
_INSIDE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
_CORE, _APPS, _BATCH = "/api/v1", "/apis/apps/v1", "/apis/batch/v1"
_UNAUTHORIZED, _FORBIDDEN, _NOT_FOUND = 401, 403, 404
_BUSY = {429, 502, 503, 504}
_MERGE = "application/merge-patch+json"


class Kubernetes(Connection, frozen=True, kw_only=True, key="kubernetes"):
    """A Kubernetes cluster; unless `server` is set, found as `kubectl` finds it: by a kubeconfig, or inside a pod.

    Attributes:
        kubeconfig: File with clusters and users; `KUBECONFIG`, or `~/.kube/config`, when empty.
        context: One of that file; its current one when empty.
        namespace: For steps that name none; the context's, or `default`, when empty.
        server: URL of the API server, instead of a kubeconfig.
        token: Bearer token for that server.
        ca: File with the certificates to trust for that server, instead of the system's.
    """

    kubeconfig: str = ""
    context: str = ""
    namespace: str = ""
    server: str = ""
    token: str = ""
    ca: str = ""


class Kind(NamedTuple):
    """Where the API keeps the objects of a kind.

    Attributes:
        name: For people: `deployment`.
        root: `/api/v1`, or `/apis/GROUP/VERSION`.
    """

    name: str
    root: str
    plural: str
    namespaced: bool = True

    def path(self, namespace: str, name: str = "", part: str = "") -> str:
        """The path of an object, of a part of it (`scale`, `status`, `log`), or of all objects."""
        place = ("namespaces", namespace) if self.namespaced else ()
        return "/".join((self.root, *place, self.plural, *filter(None, (name, part))))


KINDS = {
    kind.name: kind
    for kind in (
        *(Kind(name, _CORE, f"{name}s") for name in ("pod", "service", "configmap", "secret", "event")),
        Kind("endpoints", _CORE, "endpoints"),
        Kind("persistentvolumeclaim", _CORE, "persistentvolumeclaims"),
        Kind("persistentvolume", _CORE, "persistentvolumes", namespaced=False),
        Kind("node", _CORE, "nodes", namespaced=False),
        Kind("namespace", _CORE, "namespaces", namespaced=False),
        *(Kind(name, _APPS, f"{name}s") for name in ("deployment", "statefulset", "daemonset", "replicaset")),
        *(Kind(name, _BATCH, f"{name}s") for name in ("job", "cronjob")),
        Kind("ingress", "/apis/networking.k8s.io/v1", "ingresses"),
        Kind("poddisruptionbudget", "/apis/policy/v1", "poddisruptionbudgets"),
        Kind("horizontalpodautoscaler", "/apis/autoscaling/v2", "horizontalpodautoscalers"),
    )
}
"""Kinds that need no `api_version`."""
_BY_WORD = {word: kind for kind in KINDS.values() for word in (kind.name, kind.plural)}


class Cluster:
    """A cluster and a namespace of it, for one step; nothing is sent before the first question.

    Args:
        api: The client, with its credentials.
        address: URL of the API server.
        namespace: Where the step looks.
        deadline: Of the step.
        secrets: What errors must not repeat.
    """

    def __init__(
        self, api: ApiClient, address: str, namespace: str, deadline: Deadline, secrets: tuple[str, ...]
    ) -> None:
        self._api = api
        self._secrets = secrets
        self.address = address
        self.namespace = namespace
        self.deadline = deadline

    def kind(self, word: str, api_version: str = "") -> Kind:
        """The kind of that name: a common one, or one of an API of the cluster.

        Args:
            word: `deployment`, `deployments`, `Certificate`, ….
            api_version: `GROUP/VERSION`, such as `cert-manager.io/v1`; empty for the common kinds.

        Raises:
            AuthorError: No such common kind.
            Unknown: The cluster has no such API, or no such kind in it.
        """
        if not api_version:
            if found := _BY_WORD.get(word.lower()):
                return found
            hint = did_you_mean(word.lower(), KINDS) or "for a kind of another API, set api_version: GROUP/VERSION"
            raise AuthorError(f"{word!r} is not one of the common kinds of Kubernetes", hint=hint)
        root = _CORE if api_version == "v1" else f"/apis/{api_version}"
        listed = self.get(root, what=f"API {api_version}")
        for one in listed.get("resources", ()):
            names = {str(one.get(key, "")).lower() for key in ("name", "singularName", "kind")} - {""}
            if word.lower() in names and "/" not in one["name"]:
                return Kind(one["kind"].lower(), root, one["name"], one["namespaced"])
        raise Unknown(f"the API {api_version} of {self.address} has no kind {word!r}", hint="`kubectl api-resources`")

    def find(
        self, kind: Kind, name: str = "", selector: str = "", *, limit: int = 0, allow_missing: bool = False
    ) -> tuple[list[Any], bool]:
        """Objects by name, and whether there are more.

        Args:
            kind: Their kind.
            name: One object; all that the selector means when empty.
            selector: Labels; all objects when empty.
            limit: Objects to fetch at most; all when 0.
            allow_missing: Whether none are an answer, too.

        Raises:
            Unknown: There are none.
        """
        if name:
            try:
                return [self.get(kind.path(self.namespace, name), what=self.called(kind, name))], False
            except Unknown:
                if not allow_missing:
                    raise
                return [], False
        query = {**({"labelSelector": selector} if selector else {}), **({"limit": limit} if limit else {})}
        listed = self.get(kind.path(self.namespace), query, what=f"API for {kind.plural}")
        items = sorted(listed.get("items") or (), key=lambda one: str(one["metadata"]["name"]))
        if not items and not allow_missing:
            which = self.called(kind, f"with {selector}" if selector else "")
            hint = "are the labels and the namespace right? or set allow_missing: true"
            raise Unknown(f"{self.address} has no {which}", hint=hint)
        return items, bool(listed.get("metadata", {}).get("continue"))

    def called(self, kind: Kind, name: str) -> str:
        """An object of this namespace, for people: `deployment web in shop`."""
        return " ".join((kind.name, *([name] if name else []), *(["in", self.namespace] if kind.namespaced else [])))

    def get(self, path: str, query: Mapping[str, Any] | None = None, *, what: str = "") -> Any:
        """The JSON at a path.

        `what` is named in the error when it does not exist.
        """
        return self._json(self._send("GET", path, query=query, what=what), path)

    def text(self, path: str, query: Mapping[str, Any] | None = None, *, what: str = "") -> str:
        """The text at a path, such as a log."""
        return self._send("GET", path, query=query, what=what).decode("utf-8", "replace")

    def patch(self, path: str, change: Mapping[str, Any], *, what: str) -> Any:
        """Merge a change into an object, and return it."""
        return self._json(self._send("PATCH", path, body=change, what=what), path)

    def delete(self, path: str, options: Mapping[str, Any], *, what: str) -> None:
        """Delete an object."""
        self._send("DELETE", path, body=options, what=what)

    def _send(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, Any] | None = None,
        body: Any = None,
        what: str = "",
    ) -> bytes:
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        content = _MERGE if method == "PATCH" else "application/json"
        try:
            return apart(lambda: self._call(method, path, query, body, content), self.deadline)
        except TimedOut as error:
            hint = f"is it up and healthy? {_SETTING}, or raise the step's timeout"
            raise late(self.address, self.deadline, hint) from error
        except ApiException as error:
            raise self._judge(error, what or path) from error
        except (HTTPError, OSError, ValueError) as error:
            raise self._unreached(error) from error
        except (
            AttributeError
        ) as error:  # the client's own, on what has no body, such as a certificate it does not trust
            raise self._unreached(error.__context__ or error) from error

    def _call(self, method: str, path: str, query: Mapping[str, Any] | None, body: Any, content: str) -> bytes:
        answer = self._api.call_api(
            path,
            method,
            query_params=list((query or {}).items()),
            header_params={"Accept": "application/json, */*", "Content-Type": content},
            body=body,
            auth_settings=["BearerToken"],
            _preload_content=False,
            _return_http_data_only=True,
            _request_timeout=self.deadline.remaining(),
        )
        try:
            return bytes(answer.data)
        finally:
            answer.release_conn()

    def _json(self, content: bytes, path: str) -> Any:
        try:
            return msgspec.json.decode(content)
        except msgspec.DecodeError as error:
            raise Refused(f"{self.address}{path} answers no JSON: is it a Kubernetes API?", hint=_SETTING) from error

    def _judge(self, error: Any, what: str) -> ActionError:
        said, is_status = _said(error)
        said = masked(said, *self._secrets)
        status = int(error.status or 0)
        if status == _UNAUTHORIZED:
            return Refused(f"{self.address} refuses the login: {said}", hint=f"user, token: {_SETTING}")
        if status == _FORBIDDEN:
            return Refused(f"{self.address} forbids it: {said}", hint="ask for that permission, or use another user")
        if status == _NOT_FOUND and is_status:
            return Unknown(f"{self.address} has no {what}", hint="are its name and its namespace right?")
        if status in _BUSY:
            return Unreachable(f"{self.address} is not ready: {status} {said}", hint="is the API server healthy?")
        if not is_status:
            return Refused(f"{self.address} is no Kubernetes API: it answers {status} {said}", hint=_SETTING)
        return Refused(f"{self.address} refuses: {status} {said}")

    def _unreached(self, error: BaseException) -> ActionError:
        cause = cause_of(getattr(error, "reason", None) or error, *self._secrets)
        if "certificate" in cause.lower():
            return Refused(f"{self.address} is not trusted: {cause}", hint=f"its CA: {_SETTING}")
        return Unreachable(f"{self.address} does not answer: {cause}", hint=f"is it up? {_SETTING}")


def connect(kubernetes: Kubernetes, deadline: Deadline, namespace: str = "") -> Cluster:
    """The cluster that a connection means, and a namespace of it: the connection's when none is given.

    Raises:
        Refused: The kubeconfig or its context cannot be used, or the client is not installed here.
    """
    require_client("kubernetes", "kubernetes")
    from kubernetes.client import ApiClient, Configuration
    from kubernetes.config import ConfigException

    settings = Configuration()
    settings.retries = False  # a step says itself how often it tries
    try:
        usual = _configure(kubernetes, settings)
    except (ConfigException, OSError, ValueError) as error:
        where = kubernetes.kubeconfig or "the kubeconfig"
        cause = cause_of(error)
        raise Refused(f"{where} cannot be used: {cause}", hint=f"kubeconfig, context, server: {_SETTING}") from error
    chosen = namespace or kubernetes.namespace or usual or "default"
    return Cluster(ApiClient(settings), str(settings.host).rstrip("/"), chosen, deadline, (kubernetes.token,))


def _configure(kubernetes: Kubernetes, settings: Configuration) -> str:
    """Fill in server and credentials; the namespace that belongs to them, or an empty text."""
    from kubernetes import config

    if kubernetes.server:
        if kubernetes.ca and not Path(kubernetes.ca).is_file():
            raise FileNotFoundError(f"its ca {kubernetes.ca} is missing on this machine")
        settings.host = kubernetes.server.rstrip("/")
        settings.ssl_ca_cert = kubernetes.ca or None
        if kubernetes.token:
            settings.api_key = {"BearerToken": f"Bearer {kubernetes.token}"}
        return ""
    named = kubernetes.kubeconfig or os.environ.get("KUBECONFIG", "")
    if not named and "KUBERNETES_SERVICE_HOST" in os.environ:
        config.load_incluster_config(client_configuration=settings)
        return _INSIDE.read_text(encoding="utf-8").strip() if _INSIDE.exists() else ""
    file, context = named or None, kubernetes.context or None
    config.load_kube_config(file, context, client_configuration=settings, persist_config=False)
    contexts, current = config.list_kube_config_contexts(file)
    used = next((one for one in contexts if one["name"] == context), current)
    return str(used["context"].get("namespace", ""))


def _said(error: Any) -> tuple[str, bool]:
    """What an answer that is no success says, and whether it says so as Kubernetes does."""
    try:
        body = error.body.decode("utf-8", "replace") if isinstance(error.body, bytes) else str(error.body or "")
        status = msgspec.json.decode(body)
        if isinstance(status, dict) and status.get("kind") == "Status":
            return " ".join(str(status.get("message", "")).split())[:300], True
    except msgspec.DecodeError:
        pass
    return " ".join(str(error.reason or "").split())[:100], False


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
