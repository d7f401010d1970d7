"""A fake of the HTTP API of Kubernetes, and what plays the other programs of a cluster.

It answers as the API's reference says, for the resources and the parts of them that k2run uses. What a cluster's
controllers and kubelets do is done by `Controllers`.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import json
import re
import ssl
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qs, urlsplit

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

TOKEN = "a-token-of-tests"
NAMESPACE = "shop"
APPS = f"/apis/apps/v1/namespaces/{NAMESPACE}"
CORE = f"/api/v1/namespaces/{NAMESPACE}"
_PATH = re.compile(
    r"(?P<root>/api/v1|/apis/[^/]+/[^/]+)(?:/namespaces/(?P<namespace>[^/]+))?/(?P<plural>[a-z]+)"
    r"(?:/(?P<name>[^/]+))?(?:/(?P<part>status|scale|log))?"
)
_PARTS = re.compile(r",(?![^()]*\))")
_AMONG = re.compile(r"(?P<key>\S+) (?P<how>in|notin) \((?P<values>.*)\)")
_KINDS = {"pods": "Pod", "deployments": "Deployment", "replicasets": "ReplicaSet", "namespaces": "Namespace"}
_KINDS |= {"nodes": "Node", "secrets": "Secret", "widgets": "Widget", "statefulsets": "StatefulSet"}
WIDGETS = {
    "kind": "APIResourceList",
    "groupVersion": "shop.test/v1",
    "resources": [
        {"name": "widgets", "singularName": "widget", "kind": "Widget", "namespaced": True},
        {"name": "widgets/status", "singularName": "", "kind": "Widget", "namespaced": True},
    ],
}


class Refusal(Exception):
    """An answer of the API that is no success."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(message)
        self.code, self.reason = code, reason


class FakeApi:
    """The API server of one cluster, with its objects in memory.

    Attributes:
        logs: What `log` answers, by pod and container.
        forbidden: Plurals that the user may not list.
    """

    version = "v1.36.0"

    def __init__(self, certificate: Path) -> None:
        self.objects: dict[tuple[str, str], dict[str, Any]] = {}
        self.logs: dict[tuple[str, str], str] = {}
        self.forbidden: set[str] = set()
        self._lock = threading.RLock()
        self._changes = 0
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def answer(self) -> None:
                content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                try:
                    found = api.answer(self.command, self.path, json.loads(content or b"{}"), self.headers)
                    code = 201 if self.command == "POST" else 200
                except Refusal as refusal:
                    code = refusal.code
                    found = {"kind": "Status", "status": "Failure", "message": str(refusal), "reason": refusal.reason}
                    found |= {"apiVersion": "v1", "code": code}
                text = isinstance(found, str)
                body = found.encode() if text else json.dumps(found).encode()
                self.send_response(code)
                self.send_header("Content-Type", "text/plain" if text else "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        for method in ("GET", "POST", "PUT", "PATCH", "DELETE"):
            setattr(Handler, f"do_{method}", Handler.answer)
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.server.daemon_threads = True
        self.url = f"https://127.0.0.1:{self.server.server_port}"
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()

    def answer(self, method: str, target: str, sent: dict[str, Any], headers: Mapping[str, str]) -> Any:
        """What the API answers."""
        if headers.get("Authorization") != f"Bearer {TOKEN}":
            raise Refusal(401, "Unauthorized", "Unauthorized")
        path, query = (
            urlsplit(target).path,
            {key: values[0] for key, values in parse_qs(urlsplit(target).query).items()},
        )
        match path:
            case "/readyz":
                return "ok"
            case "/version":
                return {"gitVersion": self.version}
            case "/apis/shop.test/v1":
                return WIDGETS
        found = _PATH.fullmatch(path)
        if found is None or found["plural"] not in _KINDS:
            raise Refusal(404, "NotFound", "the server could not find the requested resource")
        with self._lock:
            kept = self.objects.setdefault((found["plural"], found["namespace"] or ""), {})
            if found["name"] is None:
                return self._listed(found["plural"], kept, query) if method == "GET" else self._made(found, kept, sent)
            if found["name"] not in kept:
                message = f'{found["plural"]} "{found["name"]}" not found'
                raise Refusal(404, "NotFound", message)
            if found["part"] == "log":
                return self._log(found["name"], query)
            return self._one(method, found, kept, sent)

    def _listed(self, plural: str, kept: dict[str, Any], query: dict[str, str]) -> dict[str, Any]:
        if plural in self.forbidden:
            raise Refusal(403, "Forbidden", f'{plural} is forbidden: User "tester" cannot list resource "{plural}"')
        wanted = [part for part in _PARTS.split(query.get("labelSelector", "")) if part]
        items = [
            one for one in kept.values() if all(_selects(part, one["metadata"].get("labels", {})) for part in wanted)
        ]
        limit = int(query.get("limit", len(items)))
        more = {"continue": "next"} if len(items) > limit else {}
        return {"kind": f"{_KINDS[plural]}List", "metadata": more, "items": items[:limit]}

    def _made(self, found: re.Match[str], kept: dict[str, Any], sent: dict[str, Any]) -> dict[str, Any]:
        meta, name = sent["metadata"], sent["metadata"]["name"]
        if name in kept:
            raise Refusal(409, "AlreadyExists", f'{found["plural"]} "{name}" already exists')
        meta |= {"uid": str(uuid.uuid4()), "generation": 1, "creationTimestamp": _now()}
        if found["namespace"]:
            meta["namespace"] = found["namespace"]
        return self._kept(kept, name, {**sent, "status": sent.get("status", {})})

    def _one(self, method: str, found: re.Match[str], kept: dict[str, Any], sent: dict[str, Any]) -> dict[str, Any]:
        name, part = found["name"], found["part"]
        before = kept[name]
        if method == "DELETE":
            wanted = sent.get("preconditions", {}).get("uid", before["metadata"]["uid"])
            if wanted != before["metadata"]["uid"]:
                raise Refusal(409, "Conflict", "Precondition failed: UID in precondition")
            return kept.pop(name)  # at once, as of a pod that no kubelet runs
        if part == "scale":
            if method == "PATCH":
                before = self._changed(kept, name, {"spec": sent["spec"]})
            return {
                "kind": "Scale",
                "spec": {"replicas": before["spec"].get("replicas", 1)},
                "metadata": {"name": name},
            }
        if method == "GET":
            return before
        return self._changed(kept, name, {"status": sent["status"]} if part == "status" else sent)

    def _changed(self, kept: dict[str, Any], name: str, change: dict[str, Any]) -> dict[str, Any]:
        before = kept[name]
        after = merged(before, change)
        if after.get("spec") != before.get("spec"):
            after["metadata"] = {**after["metadata"], "generation": before["metadata"]["generation"] + 1}
        return self._kept(kept, name, after)

    def _kept(self, kept: dict[str, Any], name: str, found: dict[str, Any]) -> dict[str, Any]:
        self._changes += 1
        found["metadata"]["resourceVersion"] = str(self._changes)
        found["metadata"]["managedFields"] = [{"manager": "tests"}]
        kept[name] = found
        return found

    def _log(self, pod: str, query: dict[str, str]) -> str:
        containers = [container for name, container in self.logs if name == pod and " " not in container]
        if "container" not in query and len(containers) > 1:
            message = f"a container name must be specified for pod {pod}, choose one of: {containers}"
            raise Refusal(400, "BadRequest", message)
        container = query.get("container", containers[0] if containers else "")
        if query.get("previous") == "true":
            container += " before"
        lines = self.logs.get((pod, container), "").splitlines(keepends=True)
        return "".join(lines[-int(query.get("tailLines", len(lines) or 1)) :])


def _selects(part: str, labels: Mapping[str, str]) -> bool:
    """Whether one part of a label selector means an object, as the API's reference on labels says."""
    if found := _AMONG.fullmatch(part):
        among = labels.get(found["key"]) in found["values"].split(",")
        return among if found["how"] == "in" else not among
    key, equals, value = part.partition("=")
    if not equals:
        return key.removeprefix("!") not in labels if key.startswith("!") else key in labels
    return labels.get(key) != value if key.endswith("!") else labels.get(key) == value


def merged(before: Any, change: Any) -> Any:
    """A JSON merge patch (RFC 7396)."""
    if not isinstance(change, dict):
        return change
    kept = dict(before) if isinstance(before, dict) else {}
    for key, value in change.items():
        if value is None:
            kept.pop(key, None)
        else:
            kept[key] = merged(kept.get(key), value)
    return kept


def _now() -> str:
    return dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Client:
    """What the tests themselves do in the cluster."""

    def __init__(self, url: str, ca: Path, token: str = TOKEN) -> None:
        self._http = httpx.Client(
            base_url=url,
            headers={"Authorization": f"Bearer {token}"},
            verify=ssl.create_default_context(cafile=str(ca)),
            timeout=30,
        )

    def send(self, method: str, path: str, body: Any = None) -> Any:
        kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
        content = None if body is None else json.dumps(body)
        answer = self._http.request(method, path, content=content, headers={"Content-Type": kind})
        assert answer.is_success, f"{method} {path}: {answer.status_code} {answer.text}"
        return answer.json()

    def items(self, path: str, **labels: str) -> list[Any]:
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        items: list[Any] = self.send("GET", f"{path}?labelSelector={selector}" if selector else path)["items"]
        return items

    def close(self) -> None:
        self._http.close()


def deployment(name: str, replicas: int) -> dict[str, Any]:
    """A deployment with the label `app`."""
    container = {"name": "main", "image": "registry.test/web:1"}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": {"containers": [container]}},
        },
    }


class Controllers:
    """Does for deployments what a cluster's controllers and kubelets do: replica sets, pods that become ready, status.

    Attributes:
        broken: While set, new pods do not become ready: `CrashLoopBackOff`.
    """

    def __init__(self, client: Client) -> None:
        self.broken = threading.Event()
        self._client = client
        self._stop = threading.Event()
        self._names = 0
        self._failed: list[Exception] = []
        self._thread = threading.Thread(target=self._work, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        assert not self._failed, self._failed

    def _work(self) -> None:
        while not self._stop.wait(0.05):
            try:
                for one in self._client.items(f"{APPS}/deployments"):
                    self._deployment(one)
            except (AssertionError, httpx.HTTPError) as error:  # it was deleted meanwhile, by the test
                if "404" not in str(error) and "409" not in str(error):
                    self._failed.append(error)
                    return

    def _deployment(self, found: dict[str, Any]) -> None:
        name, spec = found["metadata"]["name"], found["spec"]
        mark = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:8]
        sets = self._client.items(f"{APPS}/replicasets", app=name)
        newest = next((one for one in sets if one["metadata"]["name"] == f"{name}-{mark}"), None)
        if newest is None:
            newest = self._client.send("POST", f"{APPS}/replicasets", _replica_set(found, mark))
        pods = self._client.items(f"{CORE}/pods", app=name)
        ours = [one for one in pods if one["metadata"]["labels"]["mark"] == mark]
        ours += [self._start(newest, name, mark) for _ in range(spec["replicas"] - len(ours))]
        for pod in ours[spec["replicas"] :] + [one for one in pods if one["metadata"]["labels"]["mark"] != mark]:
            with contextlib.suppress(AssertionError):
                self._client.send("DELETE", f"{CORE}/pods/{pod['metadata']['name']}")
        ours = ours[: spec["replicas"]]
        ready = sum(self._tended(pod) for pod in ours)
        counts = {
            "replicas": len(ours),
            "updatedReplicas": len(ours),
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        status = {"observedGeneration": found["metadata"]["generation"], **counts}
        kept = {key: found.get("status", {}).get(key, 0) for key in status}
        if kept != status:
            self._client.send("PATCH", f"{APPS}/deployments/{name}/status", {"status": status})

    def _start(self, owner: dict[str, Any], app: str, mark: str) -> dict[str, Any]:
        self._names += 1
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"{owner['metadata']['name']}-{self._names}",
                "labels": {"app": app, "mark": mark},
                "ownerReferences": [_owned_by(owner, "ReplicaSet")],
            },
            "spec": owner["spec"]["template"]["spec"],
        }
        made: dict[str, Any] = self._client.send("POST", f"{CORE}/pods", pod)
        return made

    def _tended(self, pod: dict[str, Any]) -> bool:
        """Make a pod ready, or show why it is not; whether it is."""
        ready = not self.broken.is_set()
        seen = {one["type"]: one["status"] for one in pod.get("status", {}).get("conditions") or ()}
        if seen.get("Ready") == ("True" if ready else "False"):
            return ready
        crash = {"waiting": {"reason": "CrashLoopBackOff"}}
        container = {
            "name": "main",
            "ready": ready,
            "restartCount": 0 if ready else 3,
            "image": "registry.test/web:1",
            "imageID": "",
            "state": {"running": {"startedAt": _now()}} if ready else crash,
            "lastState": {} if ready else {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        }
        status = {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": str(ready), "reason": "" if ready else "ContainersNotReady"}],
            "containerStatuses": [container],
        }
        self._client.send("PATCH", f"{CORE}/pods/{pod['metadata']['name']}/status", {"status": status})
        return ready


def _replica_set(found: dict[str, Any], mark: str) -> dict[str, Any]:
    name, template = found["metadata"]["name"], found["spec"]["template"]
    labels = {"app": name, "mark": mark}
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {"name": f"{name}-{mark}", "labels": labels, "ownerReferences": [_owned_by(found, "Deployment")]},
        "spec": {
            "replicas": found["spec"]["replicas"],
            "selector": {"matchLabels": labels},
            "template": {**template, "metadata": {**template["metadata"], "labels": labels}},
        },
    }


def _owned_by(owner: dict[str, Any], kind: str) -> dict[str, Any]:
    named = {"name": owner["metadata"]["name"], "uid": owner["metadata"]["uid"]}
    return {"apiVersion": "apps/v1", "kind": kind, "controller": True, **named}


def until(seen: Any, within_s: float = 30) -> Any:
    """What a function returns, once that is true."""
    end = time.monotonic() + within_s
    while not (found := seen()):
        assert time.monotonic() < end
        time.sleep(0.05)
    return found


@contextlib.contextmanager
def fake_cluster(certificate: Path) -> Iterator[FakeApi]:
    """A fake with the namespace and a node."""
    with FakeApi(certificate) as api:
        client = Client(api.url, certificate)
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        client.send("POST", "/api/v1/namespaces", {"metadata": {"name": NAMESPACE}})
        client.send("POST", "/api/v1/nodes", {"metadata": {"name": "node1"}, "status": ready})
        client.close()
        yield api
