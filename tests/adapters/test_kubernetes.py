"""The kubernetes actions, with the official client, against a fake of the API server over TLS."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
import yaml
from kubernetes_api import APPS, CORE, NAMESPACE, TOKEN, Client, Controllers, FakeApi, deployment, fake_cluster, until
from msgspec import structs

from k2run.actions.deadline import Deadline
from k2run.adapters.kubernetes import actions
from k2run.adapters.kubernetes.client import Kubernetes, connect, selector_text, workload
from k2run.adapters.kubernetes.results import read_pod, read_rollout
from k2run.errors import AuthorError, Refused, TimedOut, Unknown, Unreachable

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

TESTED_ON = {"kubernetes": "a fake of the API server: see below"}

pytestmark = pytest.mark.xdist_group("kubernetes")

WRONG_END = {
    "action": "kubernetes.health",
    "step": "{}",
    "setting": "connections.kubernetes",
    "connection": 'kubernetes: {{server: "http://127.0.0.1:{port}"}}',
    "client": "kubernetes.client",
}


class Cluster(NamedTuple):
    """A cluster, what reaches it, and what plays the other programs of it."""

    kubernetes: Kubernetes
    client: Client
    controllers: Controllers
    api: FakeApi


@pytest.fixture(scope="module")
def cluster(certificate: Path) -> Iterator[Cluster]:
    with fake_cluster(certificate) as api:
        client = Client(api.url, certificate)
        kubernetes = Kubernetes(server=api.url, token=TOKEN, ca=str(certificate), namespace=NAMESPACE)
        with Controllers(client) as controllers:
            yield Cluster(kubernetes, client, controllers, api)
        client.close()


@pytest.fixture
def web(cluster: Cluster) -> Iterator[Cluster]:
    """A deployment `web` of two pods, which are ready."""
    cluster.client.send("POST", f"{APPS}/deployments", deployment("web", 2))
    try:
        actions.wait_rollout(cluster.kubernetes, soon(), "web")
        yield cluster
    finally:
        cluster.controllers.broken.clear()
        for path in (f"{APPS}/deployments", f"{APPS}/replicasets", f"{CORE}/pods"):
            for one in cluster.client.items(path, app="web"):
                cluster.client.send("DELETE", f"{path}/{one['metadata']['name']}")


def soon(seconds: float = 30) -> Deadline:
    return Deadline(seconds)


def undone(striking: Generator, kubernetes: Kubernetes) -> tuple[object, object]:
    """Inject a fault, then play its undo; both results."""
    plan = next(striking)
    with pytest.raises(StopIteration) as ended:
        next(striking)
    undo = getattr(actions, plan.action.partition(".")[2])
    return ended.value.value, undo(kubernetes, soon(), **plan.args)


def test_a_server_that_is_ready_says_its_version_and_its_nodes(cluster):
    found = actions.health(cluster.kubernetes, soon())
    assert (found.version, found.nodes, found.nodes_ready, found.unready) == (cluster.api.version, 1, 1, [])
    assert found.headline() == f"{cluster.api.version}, 1 of 1 nodes ready"


def test_nodes_that_the_user_may_not_list_are_not_known_and_a_broken_one_is_named(cluster):
    cluster.client.send(
        "PATCH", "/api/v1/nodes/node1/status", {"status": {"conditions": [{"type": "Ready", "status": "Unknown"}]}}
    )
    try:
        assert actions.health(cluster.kubernetes, soon()).unready == ["node1"]
        cluster.api.forbidden.add("nodes")
        found = actions.health(cluster.kubernetes, soon())
        assert (found.nodes, found.nodes_ready, "nodes" in found.unknowable) == (None, None, True)
    finally:
        cluster.api.forbidden.clear()
        cluster.client.send(
            "PATCH", "/api/v1/nodes/node1/status", {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
        )


def test_objects_are_found_by_name_and_by_labels_and_missing_ones_are_unknown(web):
    one = actions.get(web.kubernetes, soon(), "deployment", "web")
    assert one.first["spec"]["replicas"] == 2
    assert "managedFields" not in one.first["metadata"]
    assert one.headline() == "deployment web"
    pods = actions.get(web.kubernetes, soon(), "Pods", selector="app=web")
    assert (pods.kind, pods.count, pods.truncated) == ("pod", 2, False)
    assert actions.get(web.kubernetes, soon(), "pod", selector="app=web", limit=1).truncated
    with pytest.raises(Unknown, match=r"has no deployment gone in shop"):
        actions.get(web.kubernetes, soon(), "deployment", "gone")
    with pytest.raises(Unknown, match=r"has no pod with app=gone in shop"):
        actions.get(web.kubernetes, soon(), "pod", selector="app=gone")
    assert actions.get(web.kubernetes, soon(), "pod", selector="app=gone", allow_missing=True).first is None
    with pytest.raises(AuthorError, match=r"'deploment' is not one of the common kinds.*deployment"):
        actions.get(web.kubernetes, soon(), "deploment", "web")


def test_a_kind_of_another_api_is_found_by_its_api_version(web):
    widget = {"apiVersion": "shop.test/v1", "kind": "Widget", "metadata": {"name": "w1"}, "spec": {"size": 3}}
    web.client.send("POST", f"/apis/shop.test/v1/namespaces/{NAMESPACE}/widgets", widget)
    found = actions.get(web.kubernetes, soon(), "Widget", "w1", api_version="shop.test/v1")
    assert (found.kind, found.first["spec"]) == ("widget", {"size": 3})
    with pytest.raises(Unknown, match=r"has no kind 'gadget'"):
        actions.get(web.kubernetes, soon(), "gadget", api_version="shop.test/v1")
    with pytest.raises(Unknown, match=r"has no API gone.test/v1"):
        actions.get(web.kubernetes, soon(), "gadget", api_version="gone.test/v1")


def test_the_values_of_a_secret_are_never_returned(cluster):
    value = "c2VjcmV0LW9mLXRlc3Rz"
    notes = {"kubectl.kubernetes.io/last-applied-configuration": value, "team": "web"}
    secret = {"metadata": {"name": "login", "annotations": notes}, "data": {"password": value}}
    cluster.client.send("POST", f"{CORE}/secrets", secret)
    found = actions.get(cluster.kubernetes, soon(), "secret", "login")
    assert found.first["data"] == {"password": "***"}
    assert found.first["metadata"]["annotations"] == {"team": "web"}
    assert value not in str(found.plain())


def test_pods_are_counted_and_a_crash_loop_is_told(web):
    found = actions.pods(web.kubernetes, soon(), "app=web")
    assert (found.count, found.ready, found.restarts, found.reasons) == (2, 2, 0, [])
    assert found.pods[0].owner.startswith("ReplicaSet/web-")
    web.controllers.broken.set()
    found = until(lambda: (seen := actions.pods(web.kubernetes, soon(), "app=web")).ready == 0 and seen)
    assert (found.restarts, found.reasons, found.pods[0].last_exit) == (6, ["CrashLoopBackOff"], 137)
    assert found.headline() == "0 of 2 ready, 6 restarts, CrashLoopBackOff"
    with pytest.raises(Unknown):
        actions.pods(web.kubernetes, soon(), "app=gone")


def test_a_wait_ends_when_the_condition_holds_or_says_what_it_waits_for(web):
    assert actions.wait(web.kubernetes, soon(), "pod", "Ready", selector="app=web").count == 2
    web.controllers.broken.set()
    until(lambda: actions.pods(web.kubernetes, soon(), "app=web").ready == 0)
    with pytest.raises(TimedOut, match=r"not ready within 1s: pod web-\S+ \(CrashLoopBackOff\) and 1 more"):
        actions.wait(web.kubernetes, soon(1), "pod", "ready", selector="app=web")
    threading.Timer(0.5, web.controllers.broken.clear).start()
    assert actions.wait(web.kubernetes, soon(), "pod", "ready", selector="app=web").waited_s > 0.3
    with pytest.raises(TimedOut, match=r"there is no pod app=gone"):
        actions.wait(web.kubernetes, soon(0.7), "pod", "Ready", selector="app=gone")
    assert actions.wait(web.kubernetes, soon(), "pod", "deleted", selector="app=gone").count == 0
    with pytest.raises(AuthorError, match="either a name or a selector"):
        actions.wait(web.kubernetes, soon(), "pod", "Ready")


def test_a_restart_replaces_every_pod_and_waits_for_the_new_ones(web):
    before = {one.name for one in actions.pods(web.kubernetes, soon(), "app=web").pods}
    found = actions.restart(web.kubernetes, soon(), "web")
    assert (found.complete, found.ready, found.waits_for) == (True, 2, "")
    after = {one.name for one in actions.pods(web.kubernetes, soon(), "app=web").pods}
    assert len(after) == 2
    assert not before & after


def test_a_rollout_that_cannot_complete_says_what_it_waits_for(web):
    web.controllers.broken.set()
    with pytest.raises(TimedOut, match=r"deployment/web is not complete after 2s: it waits for 2 pods to be available"):
        actions.restart(web.kubernetes, soon(2), "web")
    assert not actions.rollout(web.kubernetes, soon(), "web").complete
    with pytest.raises(AuthorError, match="cannot be done to a pod"):
        actions.rollout(web.kubernetes, soon(), "web", kind="pod")


def test_a_workload_is_scaled_down_as_a_fault_and_has_its_pods_again_after_the_undo(web):
    struck, undo = undone(actions.scale(web.kubernetes, soon(), "web"), web.kubernetes)
    assert (struck.before, struck.replicas, struck.headline()) == (2, 0, "deployment/web from 2 to 0")
    assert (undo.before, undo.replicas) == (0, 2)
    assert actions.pods(web.kubernetes, soon(), "app=web").ready == 2
    assert actions.set_replicas(web.kubernetes, soon(), "web", 2).before == 2  # twice is as good as once


def test_a_workload_counts_the_pods_that_its_whole_selector_means(web):
    """A selector of expressions alone was read as "all pods", so another workload's pods made a rollout complete."""
    odd = deployment("odd", 0)
    odd["spec"]["selector"] = {
        "matchExpressions": [
            {"key": "app", "operator": "In", "values": ["odd", "strange"]},
            {"key": "canary", "operator": "DoesNotExist"},
        ]
    }
    web.client.send("POST", f"{APPS}/deployments", odd)
    try:
        counted = workload(connect(web.kubernetes, soon()), "deployment", "odd", ("deployment",))
        assert counted._ready_pods() == 0
        assert actions.pods(web.kubernetes, soon(), "app in (web,odd),mark,!canary,app notin (odd)").ready == 2
    finally:
        web.client.send("DELETE", f"{APPS}/deployments/odd")


def test_every_operator_of_a_selector_is_written_as_the_api_takes_it():
    found = selector_text(
        {
            "matchLabels": {"app": "web"},
            "matchExpressions": [
                {"key": "tier", "operator": "NotIn", "values": ["cache", "queue"]},
                {"key": "mark", "operator": "Exists"},
            ],
        }
    )
    assert found == "app=web,tier notin (cache,queue),mark"
    with pytest.raises(Refused, match="operator 'Near'"):
        selector_text({"matchExpressions": [{"key": "zone", "operator": "Near"}]})


def test_a_pod_is_deleted_and_the_undo_waits_for_its_successor(web):
    first = actions.pods(web.kubernetes, soon(), "app=web").pods[0].name
    struck, undo = undone(actions.delete_pod(web.kubernetes, soon(), selector="app=web"), web.kubernetes)
    assert (struck.pod, struck.owner) == (first, "deployment/web")
    assert undo.complete
    names = [one.name for one in actions.pods(web.kubernetes, soon(), "app=web").pods]
    assert len(names) == 2
    assert first not in names


def test_a_pod_that_nothing_starts_again_is_not_deleted(cluster):
    bare = {"metadata": {"name": "bare", "labels": {"app": "bare"}}, "spec": {}}
    cluster.client.send("POST", f"{CORE}/pods", bare)
    with pytest.raises(Refused, match=r"pod bare belongs to nothing, which would not start it again"):
        next(actions.delete_pod(cluster.kubernetes, soon(), pod="bare"))
    assert actions.pods(cluster.kubernetes, soon(), "app=bare").count == 1


def test_logs_are_searched_pod_by_pod(web):
    first, second = (one.name for one in actions.pods(web.kubernetes, soon(), "app=web").pods)
    web.api.logs |= {(first, "main"): "started\nERROR one\n", (second, "main"): "started\nfine\n"}
    web.api.logs[first, "main before"] = "out of memory\n"
    found = actions.logs(web.kubernetes, soon(), selector="app=web", pattern="ERROR")
    assert (found.pods, found.matches, found.searched, found.lines) == ([first, second], 1, 4, ["ERROR one"])
    assert actions.logs(web.kubernetes, soon(), pod=first, lines=1).lines == ["ERROR one"]
    assert actions.logs(web.kubernetes, soon(), pod=first, previous=True).lines == ["out of memory"]
    web.api.logs[first, "proxy"] = ""
    with pytest.raises(Refused, match="a container name must be specified"):
        actions.logs(web.kubernetes, soon(), pod=first)
    assert actions.logs(web.kubernetes, soon(), pod=first, container="main").searched == 2
    with pytest.raises(Unknown, match="has no pod gone in shop"):
        actions.logs(web.kubernetes, soon(), pod="gone")
    with pytest.raises(AuthorError, match="not a regular expression"):
        actions.logs(web.kubernetes, soon(), pod=first, pattern="(")


KUBECONFIG = {
    "apiVersion": "v1",
    "kind": "Config",
    "current-context": "tested",
    "users": [{"name": "tester", "user": {"token": TOKEN}}],
    "contexts": [{"name": "tested", "context": {"cluster": "tested", "user": "tester", "namespace": NAMESPACE}}],
}


def test_a_kubeconfig_gives_server_user_and_namespace(web, tmp_path):
    named = {"server": web.kubernetes.server, "certificate-authority": web.kubernetes.ca}
    path = tmp_path / "config"
    path.write_text(yaml.safe_dump({**KUBECONFIG, "clusters": [{"name": "tested", "cluster": named}]}))
    assert actions.pods(Kubernetes(kubeconfig=str(path)), soon(), "app=web").count == 2
    assert actions.pods(Kubernetes(kubeconfig=str(path), context="tested"), soon(), "app=web").count == 2
    with pytest.raises(Unknown, match="in elsewhere"):
        actions.pods(Kubernetes(kubeconfig=str(path), namespace="elsewhere"), soon(), "app=web")
    with pytest.raises(Refused, match=r"cannot be used.*gone.*connections\.kubernetes"):
        actions.health(Kubernetes(kubeconfig=str(path), context="gone"), soon())
    with pytest.raises(Refused, match=r"no-such-file cannot be used.*connections\.kubernetes"):
        actions.health(Kubernetes(kubeconfig=str(tmp_path / "no-such-file")), soon())


def test_what_keeps_us_out_is_told_with_what_to_check(cluster, certificate, speaker):
    cases = {
        r"refuses the login.*connections\.kubernetes": {"token": "wrong-secret"},
        r"is not trusted.*connections\.kubernetes": {"ca": ""},
        r"ca \S+gone is missing": {"ca": str(certificate.with_name("gone"))},
    }
    for told, settings in cases.items():
        with pytest.raises(Refused, match=told) as refused:
            actions.health(structs.replace(cluster.kubernetes, **settings), soon())
        assert "wrong-secret" not in str(refused.value)
    with pytest.raises(Unreachable, match=r"127\.0\.0\.1:1 does not answer.*connections\.kubernetes"):
        actions.health(structs.replace(cluster.kubernetes, server="https://127.0.0.1:1"), soon())
    cluster.api.forbidden.add("pods")
    try:
        with pytest.raises(Refused, match=r"forbids it: pods is forbidden.*another user"):
            actions.pods(cluster.kubernetes, soon())
    finally:
        cluster.api.forbidden.clear()
    address = speaker(lambda link: link.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\nno"))
    with pytest.raises(Refused, match=r"is no Kubernetes API: it answers 404 Not Found"):
        actions.health(Kubernetes(server=f"http://{address.rpartition('/')[2]}"), soon(3))


def test_a_silent_server_does_not_hold_the_step(speaker):
    address = speaker(lambda _: time.sleep(30)).rpartition("/")[2]
    started = time.monotonic()
    with pytest.raises((TimedOut, Unreachable), match=r"127\.0\.0\.1"):
        actions.health(Kubernetes(server=f"http://{address}"), soon(0.6))
    assert time.monotonic() - started < 3


ROLLOUTS = {
    "stateful set, all updated": (
        "statefulset",
        {"replicas": 3},
        {"replicas": 3, "readyReplicas": 3, "availableReplicas": 3, "updatedReplicas": 3},
        "",
    ),
    "stateful set, one left old on purpose": (
        "statefulset",
        {"replicas": 3, "updateStrategy": {"rollingUpdate": {"partition": 1}}},
        {"replicas": 3, "readyReplicas": 3, "availableReplicas": 3, "updatedReplicas": 2},
        "",
    ),
    "stateful set, one to update": (
        "statefulset",
        {"replicas": 3},
        {"replicas": 3, "readyReplicas": 3, "availableReplicas": 3, "updatedReplicas": 2},
        "1 updated pods",
    ),
    "daemon set, one node without": (
        "daemonset",
        {},
        {"desiredNumberScheduled": 2, "updatedNumberScheduled": 2, "numberReady": 1, "numberAvailable": 1},
        "1 pods to be available",
    ),
    "replica set": ("replicaset", {"replicas": 1}, {"replicas": 1, "readyReplicas": 1, "availableReplicas": 1}, ""),
    "deployment, an old pod ends": (
        "deployment",
        {"replicas": 2},
        {"replicas": 3, "readyReplicas": 3, "availableReplicas": 3, "updatedReplicas": 2},
        "1 old pods to end",
    ),
    "deployment, not seen yet": (
        "deployment",
        {"replicas": 0},
        {"observedGeneration": 1},
        "its controller to see the change",
    ),
}


@pytest.mark.parametrize("case", ROLLOUTS)
def test_a_rollout_is_read_by_the_rules_of_its_kind(case):
    kind, spec, status, waits_for = ROLLOUTS[case]
    meta = {"name": "web", "namespace": NAMESPACE, "generation": 2}
    found = read_rollout(kind, {"metadata": meta, "spec": spec, "status": {"observedGeneration": 2, **status}}, "")
    assert (found.waits_for, found.complete, found.stalled) == (waits_for, not waits_for, False)


def test_a_rollout_that_kubernetes_has_given_up_is_stalled_once_the_change_was_seen():
    condition = {"type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded"}
    found = {"metadata": {"name": "web", "generation": 2}, "spec": {"replicas": 1}}
    status = {"observedGeneration": 2, "conditions": [condition]}
    assert read_rollout("deployment", {**found, "status": status}, "").stalled
    assert not read_rollout("deployment", {**found, "status": {**status, "observedGeneration": 1}}, "").stalled


def test_a_pod_says_why_it_is_not_ready():
    pod = {"metadata": {"name": "web-1"}, "status": {"phase": "Pending"}}
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    assert read_pod({**pod, "status": {"phase": "Pending", "conditions": [unscheduled]}}).reason == "Unschedulable"
    assert read_pod({**pod, "status": {"phase": "Failed", "reason": "Evicted"}}).reason == "Evicted"
    leaving = {"metadata": {"name": "web-1", "deletionTimestamp": "2026-01-01T00:00:00Z"}}
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    assert (read_pod({**leaving, "status": ready}).ready, read_pod({**leaving, "status": ready}).reason) == (
        False,
        "Terminating",
    )
    assert read_pod(pod).reason == ""
