from __future__ import annotations

import http.server
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace

from k2run.app.diagnose import checked
from k2run.errors import RunbookInvalid
from k2run.recovery.diagnosis import Verdict
from k2run.recovery.symptoms import Presence, Sighting, believed

if TYPE_CHECKING:
    from collections.abc import Iterator


class Counting(http.server.BaseHTTPRequestHandler):
    asked = 0

    def do_GET(self) -> None:
        type(self).asked += 1
        time.sleep(0.3)
        self.send_response(200)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def page() -> Iterator[str]:
    Counting.asked = 0
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Counting)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.fixture
def closed() -> str:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return f"http://127.0.0.1:{free.getsockname()[1]}/"


def test_a_healthy_stack_is_healthy_every_time(site):
    runbooks = [site.repair("store"), site.repair("worker")]
    found = [site.diagnose(*runbooks) for _ in range(20)]
    assert all(each.healthy for each in found)


def test_a_killed_service_is_recognised_with_its_evidence(site):
    site.kill("worker")
    found = site.diagnose(site.repair("store"), site.repair("worker"))
    assert [suspect.runbook for suspect in found.matches] == ["worker-down"]
    [sighting] = found.matches[0].sightings
    assert sighting.presence is Presence.PRESENT
    assert "stopped" in sighting.evidence
    assert [suspect.runbook for suspect in found.having(Verdict.RULED_OUT)] == ["store-down"]
    assert not found.healthy


def test_of_two_failures_the_one_that_others_need_comes_first(site):
    site.kill("worker")
    site.kill("store")
    found = site.diagnose(site.repair("worker"), site.repair("store"))
    assert [suspect.runbook for suspect in found.matches] == ["store-down", "worker-down"]


def test_identical_probes_are_made_once_and_different_ones_at_once(site, page):
    look = f"- http.get: {{url: '{page}', params: {{n: 1}}}}\n"
    others = "".join(f"- http.get: {{url: '{page}', params: {{n: {number}}}}}\n" for number in range(2, 12))
    runbooks = [site.symptoms(name, look + others) for name in ("one", "two", "three")]
    began = time.monotonic()
    found = site.diagnose(*runbooks)
    assert Counting.asked == 11
    assert time.monotonic() - began < 2
    assert {sighting.weight for suspect in found.suspects for sighting in suspect.sightings} == {round(1 / 3, 4)}


def test_what_cannot_be_seen_is_neither_found_nor_ruled_out(site, closed):
    found = site.diagnose(site.symptoms("hidden", f"- http.get: {{url: '{closed}'}}\n"))
    assert [suspect.runbook for suspect in found.having(Verdict.UNSEEN)] == ["hidden"]
    assert not found.matches
    assert not found.healthy


def test_an_absent_decisive_symptom_rules_out_and_a_supporting_one_only_weighs(site):
    stopped = "service.status: {service: worker}\n  expect: result.state == 'stopped'\n"
    runs = "- service.status: {service: worker}\n  expect: result.running\n"
    decisive = site.symptoms("decisive", f"{runs}- {stopped}")
    supporting = site.symptoms("supporting", f"{runs}- severity: info\n  {stopped}")
    found = {suspect.runbook: suspect for suspect in site.diagnose(decisive, supporting).suspects}
    assert found["decisive"].verdict is Verdict.RULED_OUT
    assert found["supporting"].verdict is Verdict.MATCHES
    assert found["supporting"].share == 0.5


def test_a_runbook_for_a_service_that_the_stack_has_not_does_not_apply(site):
    look = "- service.probe: {service: registry}\n  expect: not result.answered\n"
    found = site.diagnose(site.symptoms("registry-down", look, "requires: [registry]\n"))
    assert [suspect.verdict for suspect in found.suspects] == [Verdict.NOT_APPLICABLE]
    assert found.healthy


def test_a_service_whose_program_is_not_here_is_no_failure_and_no_recovery_of_it_is_offered(site):
    graphs = "  graphs: {run: process, command: [graphs], program: no-such-program, ports: [9]}\n"
    connection = "connections: {prometheus: {url: 'http://127.0.0.1:9'}}\n"
    (site.folder / "stack.yaml").write_text((site.folder / "stack.yaml").read_text() + graphs + connection)
    look = "- service.probe: {service: graphs}\n  expect: not result.answered\n"
    query = "- prometheus.targets: {}\n  expect: result.down > 0\n"
    runbooks = [site.symptoms("one", look, "requires: [graphs]\n"), site.symptoms("two", look + query)]
    found = site.diagnose(*runbooks)
    assert [suspect.verdict for suspect in found.suspects] == [Verdict.NOT_APPLICABLE] * 2
    assert {sighting.evidence for sighting in found.suspects[1].sightings} == {"no-such-program is not installed"}
    assert found.healthy
    site.kill("worker")
    found = site.diagnose(*runbooks, site.repair("worker"))
    assert [suspect.runbook for suspect in found.matches] == ["worker-down"]


def test_a_symptom_that_would_change_something_is_a_problem_of_its_runbook(site):
    with pytest.raises(RunbookInvalid) as caught:
        site.symptoms("careless", "- service.restart: {service: worker}\n")
    [problem] = caught.value.problems
    assert (problem.code, problem.place.line) == ("K306", 5)
    assert "a symptom only observes" in problem.message


def test_a_failure_that_no_runbook_knows_is_not_called_healthy(site):
    site.kill("worker")
    found = site.diagnose(site.repair("store"))
    assert not found.matches
    assert not found.healthy
    assert [one.service for one in found.ailing] == ["worker"]


def test_a_probe_that_hangs_costs_its_own_time_and_nobody_elses(site):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        hanging = site.symptoms("hanging", f"- timeout: 1s\n  http.get: {{url: '{url}'}}\n")
        site.kill("worker")
        began = time.monotonic()
        found = site.diagnose(hanging, site.repair("worker"))
    assert time.monotonic() - began < 2.5
    assert [suspect.runbook for suspect in found.matches] == ["worker-down"]


def test_only_symptoms_that_apply_are_counted_as_checked_and_those_that_do_not_are_told(site, page, closed):
    look = "service.status: {service: worker}\n  expect: result.state == 'paused'\n"
    found = site.diagnose(
        site.symptoms("here", f"- {look}- http.get: {{url: '{closed}'}}\n"),
        site.symptoms("elsewhere", f"- http.get: {{url: '{page}'}}\n- {look}", "requires: [registry]\n"),
    )
    assert (found.probes, found.unseen, found.not_applicable) == (1, 1, 2)
    assert Counting.asked == 0, "what does not apply is not asked"
    said = "1 symptom checked in 1s; 1 could not be seen; 2 do not apply to this stack"
    assert checked(replace(found, seconds=1.0)) == said
    assert checked(replace(found, seconds=1.0, looks=3)).startswith("1 symptom checked 3 times in 1s; ")


def test_a_service_that_answers_yields_to_one_that_is_down_when_its_recovery_works_with_that(site):
    idle = """
        runbook: 1
        kind: recovery
        name: store-idle
        requires: [store]
        symptoms:
          - name: It does nothing
            service.resources: {service: store, over: 200ms}
            expect: result.cpu_percent < 50
        sections:
          - steps:
              - service.status: {service: SERVICE}
                expect: result.running
    """
    proven_by_worker, alone = (site.runbook(idle.replace("SERVICE", service)) for service in ("worker", "store"))
    site.kill("worker")
    names = [suspect.runbook for suspect in site.diagnose(proven_by_worker, site.repair("worker")).matches]
    assert names == ["worker-down", "store-idle"]
    names = [suspect.runbook for suspect in site.diagnose(alone, site.repair("worker")).matches]
    assert names == ["store-idle", "worker-down"], "what others need comes first"
    site.kill("store")
    names = [suspect.runbook for suspect in site.diagnose(site.repair("store"), site.repair("worker")).matches]
    assert names == ["store-down", "worker-down"]


def test_a_command_that_only_observes_may_be_a_symptom(site, tmp_path):
    log = tmp_path / "log"
    look = (
        f"- shell.probe: {{command: [grep, -c, ERROR, '{log}'], ok_codes: [0, 1]}}\n  expect: result.exit_code == 0\n"
    )
    for text, presence in ((None, Presence.UNSEEN), ("fine\n", Presence.ABSENT), ("ERROR\n", Presence.PRESENT)):
        if text is not None:
            log.write_text(text)
        [suspect] = site.diagnose(site.symptoms("noisy", look)).suspects
        assert [sighting.presence for sighting in suspect.sightings] == [presence]


def test_a_service_that_was_slow_and_answered_on_the_data_path_is_not_silent() -> None:
    def seen(presence: Presence, service: str, *, slow: bool = False) -> Sighting:
        return Sighting(
            runbook="api-down",
            symptom="it does not answer",
            presence=presence,
            evidence="api not ready: no answer within 2s",
            expected="not result.answered",
            decisive=True,
            weight=1.0,
            service=service,
            slow=slow,
        )

    path = [seen(Presence.PRESENT, "api")]
    slow, refused = seen(Presence.PRESENT, "api", slow=True), seen(Presence.PRESENT, "api")
    other = seen(Presence.PRESENT, "stream", slow=True)
    assert [one.presence for one in believed([slow, refused, other], path)] == ["unseen", "present", "present"]
    assert believed([slow], [seen(Presence.ABSENT, "api")]) == [slow]
