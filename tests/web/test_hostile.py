"""Requests that no page of ours sends are refused or escaped, and the server stays up."""

from __future__ import annotations

import json
import socket
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from k2run.errors import OperatorError
from k2run.web.guard import SESSION_S, Rate, Role, Tokens

if TYPE_CHECKING:
    from collections.abc import Iterator

SCRIPT = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


@pytest.fixture(autouse=True)
def _stays_up(served):
    yield
    assert served.process.poll() is None, "the server stays up"


@pytest.fixture(scope="module")
def run(served):
    run = served.start_run("short", stack="none")
    served.ended(run)
    return run


@contextmanager
def session(served, token: str = "") -> Iterator[httpx.Client]:
    """A browser that has signed in."""
    with served.anonymous(origin=served.address) as client:
        sign_in(client, token or served.token)
        yield client


def sign_in(client: httpx.Client, token: str) -> None:
    answer = client.post("/enter", data={"token": token, "next": "/"})
    assert answer.status_code == 303
    assert "httponly" in answer.headers["set-cookie"].lower()
    assert "samesite=strict" in answer.headers["set-cookie"].lower()


def csrf(client: httpx.Client) -> str:
    return client.get("/").text.partition('data-csrf="')[2].partition('"')[0]


CHANGES = ("/runbooks/short/start", "/runs/RUN/answer", "/runs/RUN/abort", "/runs/RUN/resume", "/runs/RUN/undo")


@pytest.mark.parametrize("path", CHANGES)
def test_nothing_changes_without_a_token(served, run, path):
    path = path.replace("RUN", run)
    before = sorted((served.home / "runs").iterdir())
    with served.anonymous() as client:
        for headers in ({"origin": served.address}, {"authorization": "Bearer nothing"}, {"authorization": "Basic x"}):
            assert client.post(path, headers=headers, data={"answer": "yes"}).status_code in {401, 403}
    assert sorted((served.home / "runs").iterdir()) == before


def test_a_form_from_another_page_is_refused(served):
    with session(served) as client:
        for headers in (
            {"origin": "http://evil.example"},
            {"origin": "null"},
            {"origin": served.address, "sec-fetch-site": "cross-site"},
        ):
            answer = client.post("/runbooks/short/start", headers=headers, data={"csrf": csrf(client)})
            assert answer.status_code == 403, headers
        del client.headers["origin"]
        assert client.post("/runbooks/short/start", data={"csrf": csrf(client)}).status_code == 403


def test_a_form_without_the_mark_of_its_session_is_refused(served):
    with session(served) as one, session(served) as other:
        for mark in ("", "x", csrf(other)):
            assert one.post("/runbooks/short/start", data={"csrf": mark}).status_code == 403
        assert one.post("/leave", data={"csrf": csrf(one)}).status_code == 303


@pytest.mark.parametrize("cookie", ["", "root", "root::", "a:b:c:d", "\x7f" * 9, "x" * 3000])
def test_a_forged_session_is_anonymous(served, cookie):
    with served.anonymous(cookie=f"k2run={cookie}") as client:
        page = client.get("/")
    assert page.status_code == 200
    assert 'data-role="anonymous"' in page.text


def test_a_page_elsewhere_that_points_its_name_here_gets_nothing(served, run):
    with served.anonymous(host="evil.example") as client:
        answer = client.get(f"/runs/{run}/journal")
    assert answer.status_code == 421
    assert run not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/runs/..%2f..%2f..%2fetc%2fpasswd",
        "/runs/%2e%2e/journal",
        "/runs/../../etc/passwd",
        "/runs/..%5c..%5ctokens/journal",
        "/static/x/../../tokens.py",
        "/static/x/..%2fpages.py",
        "/runbooks/..%2f..%2ftokens",
        "/runs/%00/report",
        "/runs/RUN%2f..%2f..%2ftokens/journal",
    ],
)
def test_no_path_leads_out_of_the_runs(served, run, path):
    with socket.create_connection(("127.0.0.1", int(served.address.rpartition(":")[2]))) as link:
        request = f"GET {path.replace('RUN', run)} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        link.sendall(request.encode())
        answer = b"".join(iter(lambda: link.recv(65536), b"")).decode()
    assert answer.split()[1] in {"404", "400"}, answer[:200]
    assert served.token not in answer
    assert "root:" not in answer


def test_a_body_that_is_too_big_is_refused_however_it_comes(served):
    with served.client() as client:
        assert client.post("/runbooks/short/start", content=b"x" * 200_000).status_code == 413

    def pieces():
        for _ in range(40):
            yield b"x" * 8192

    with served.client() as client, suppress(httpx.TransportError):  # it may be cut off while it is still sending
        assert client.post("/runbooks/short/start", content=pieces()).status_code == 413


def test_script_in_every_field_is_shown_as_text(served):
    fields = {"stack": SCRIPT, "tags": SCRIPT, "input.level": SCRIPT, "input.note": SCRIPT, "input.key": SCRIPT}
    with served.client() as client:
        for name in fields:
            page = client.post("/runbooks/scenario/start", data={"stack": "sleepers", name: SCRIPT})
            if name in {"input.note", "input.key"}:
                run = page.headers["location"].rpartition("/")[2]
                client.post(f"/runs/{run}/abort")
                served.ended(run)
                pages = [client.get(f"/runs/{run}{view}").text for view in ("", "/report", "/presenter", "/oncall")]
            else:
                assert page.status_code == 400, name
                pages = [page.text]
            for text in pages:
                assert "<script>alert" not in text
                assert "<img src=x" not in text
        wrong = client.post("/enter", data={"token": SCRIPT})
        assert "<script>alert" not in wrong.text


def test_every_answer_carries_a_strict_policy(served, run):
    with served.anonymous() as client:
        for path in ("/", "/runs", f"/runs/{run}", "/nowhere", "/static/x/k2run.js", "/enter"):
            headers = client.get(path).headers
            policy = headers["content-security-policy"]
            assert "default-src 'none'" in policy
            assert "unsafe" not in policy
            assert "frame-ancestors 'none'" in policy
            assert headers["x-content-type-options"] == "nosniff"


def test_slow_clients_keep_nobody_else_waiting(served):
    port = int(served.address.rpartition(":")[2])
    links = [socket.create_connection(("127.0.0.1", port)) for _ in range(150)]
    try:
        for number, link in enumerate(links):
            half = b"GET / HTTP/1.1\r\nHost: 127" if number % 2 else b"POST /enter HTTP/1.1\r\nHost: 127.0.0.1\r\n"
            link.sendall(half)
        began = time.monotonic()
        with served.anonymous() as client:
            assert client.get("/healthz").status_code == 200
        assert time.monotonic() - began < 10
    finally:
        for link in links:
            link.close()


def test_a_watcher_that_reads_nothing_keeps_nobody_else_waiting(served):
    run = served.start_run("short", stack="none")
    port = int(served.address.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as link:
        link.sendall(f"GET /runs/{run}/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        served.ended(run)
        with served.anonymous() as client:
            assert "PASSED" in client.get(f"/runs/{run}").text


def test_roles_bound_what_somebody_may_do(served, run):
    path = served.home / "tokens"
    before = path.read_text()
    path.write_text(before + "viewer vera k2_viewer_0123456789\noperator ole k2_operator_0123456789\n")
    try:
        with served.client("k2_viewer_0123456789") as vera:
            assert vera.get("/").status_code == 200
            assert vera.post("/runbooks/short/start", data={"stack": "none"}).status_code == 403
        with served.client("k2_operator_0123456789") as ole:
            scenario = ole.post("/runbooks/scenario/start", data={"stack": "sleepers"}).headers["location"]
            name = scenario.rpartition("/")[2]
            question = served.wait_for(name, lambda event: type(event).__name__ == "Asked")
            refused = ole.post(f"{scenario}/answer", data={"question": str(question.seq), "answer": "yes"})
            assert refused.status_code == 403
            assert "Only an approver" in refused.text
            assert ole.post(f"{scenario}/abort").status_code == 303
        served.ended(name)
        assert served.events(name)[0].by == "ole"
        audit = [json.loads(line) for line in (served.home / "serve" / "audit.jsonl").read_text().splitlines()]
        assert ("ole", "operator", "abort", name) in {
            (entry["who"], entry["role"], entry["what"], entry["of"]) for entry in audit
        }
        with session(served, "k2_viewer_0123456789") as vera:
            assert 'data-role="viewer"' in vera.get("/").text
            path.write_text(before)
            assert 'data-role="anonymous"' in vera.get("/").text, "a token that is taken away ends its sessions"
    finally:
        path.write_text(before)


def test_a_token_file_that_others_can_read_is_not_used(tmp_path):
    tokens = Tokens(tmp_path)
    entry = tokens.ensure()
    assert tokens.path.stat().st_mode & 0o777 == 0o600
    assert tokens.by_token(entry.token).role is Role.APPROVER
    tokens.path.chmod(0o644)
    with pytest.raises(OperatorError, match="can be read by others"):
        tokens.by_token(entry.token)


def test_a_session_ends_at_the_server_when_it_is_signed_out(served):
    with session(served) as client, served.anonymous(cookie=f"k2run={client.cookies['k2run']}") as kept:
        assert 'data-role="approver"' in kept.get("/").text
        assert client.post("/leave", data={"csrf": csrf(client)}).status_code == 303
        assert 'data-role="anonymous"' in kept.get("/").text
    assert Tokens(served.home).by_session(kept.headers["cookie"].partition("=")[2], time.time()).role is Role.ANONYMOUS


@pytest.fixture(scope="module")
def private(lay_out, tmp_path_factory):
    """A server on which looking needs a token, too."""
    made = lay_out(tmp_path_factory.mktemp("private"))
    made.start("--private")
    yield made
    made.end_all()
    made.stop()


@pytest.mark.parametrize("path", ["/runs/RUN/events", "/runs/RUN/events?layout=oncall", "/incidents/events"])
@pytest.mark.parametrize("ends", ["signed out", "token taken away", "twelve hours"])
def test_an_open_stream_of_a_private_page_ends_with_its_session(private, ends, path):
    """Whoever keeps a page open sees nothing of what happens afterwards."""
    run = private.start_run("short", stack="none")
    private.ended(run)
    tokens = (private.home / "tokens").read_text()
    with session(private) as client:
        if ends == "twelve hours":
            client.cookies = {"k2run": Tokens(private.home).open_session(private.token, time.time() - SESSION_S + 3)}
        mark = csrf(client)
        with client.stream("GET", path.replace("RUN", run)) as stream:
            assert stream.status_code == 200
            lines = stream.iter_raw()
            assert b"data: " in next(lines)
            if ends == "signed out":
                assert client.post("/leave", data={"csrf": mark}).status_code == 303
            elif ends == "token taken away":
                (private.home / "tokens").write_text("viewer vera k2_viewer_0123456789\n")
            began = time.monotonic()
            for _ in lines:  # what was on its way
                pass
            assert time.monotonic() - began < 8
        assert client.get(path.replace("RUN", run)).status_code == 401
    (private.home / "tokens").write_text(tokens)


def test_an_open_stream_that_anybody_may_watch_goes_on_when_a_session_ends(served, run):
    with session(served) as client, client.stream("GET", f"/runs/{run}/events", timeout=3) as stream:
        lines = stream.iter_raw()
        assert b"data: " in next(lines)
        assert client.post("/leave", data={"csrf": csrf(client)}).status_code == 303
        with pytest.raises(httpx.ReadTimeout):
            b"".join(lines)


def test_a_session_ends_at_the_server_after_twelve_hours(tmp_path):
    tokens = Tokens(tmp_path)
    cookie = tokens.open_session(tokens.ensure().token, now := time.time())
    assert tokens.by_session(cookie, now + 11.9 * 3600).role is Role.APPROVER
    for other in (now + 12 * 3600, now - 3600):
        assert tokens.by_session(cookie, other).role is Role.ANONYMOUS
    name, mark, signature = cookie.split(":")
    for forged in (f"{int(now) + 9999}.{mark[11:]}", f"{'9' * 400}.x", "\u0661.x"):
        assert tokens.by_session(f"{name}:{forged}:{signature}", now).role is Role.ANONYMOUS


@pytest.mark.parametrize("headers", [{"origin": "https://HOST"}, {"x-forwarded-proto": "https"}])
def test_the_cookie_is_for_tls_alone_where_the_browser_speaks_it(served, headers):
    host = served.address.partition("//")[2]
    with served.anonymous(**{"origin": served.address, **headers}) as client:
        client.headers["origin"] = client.headers["origin"].replace("HOST", host)
        answer = client.post("/enter", data={"token": served.token, "next": "/"})
    assert "secure" in answer.headers["set-cookie"].lower()


def test_a_guess_with_a_bearer_token_counts_like_a_sign_in(served):
    with served.client("k2_wrong_0123456789") as client:
        answers = [client.get("/").status_code for _ in range(30)]
        assert answers[0] == 401
        assert answers[-1] == 429
        client.headers["authorization"] = f"Bearer {served.token}"
        assert client.get("/").status_code == 429, "the right one is not told from the others meanwhile"
        del client.headers["authorization"]
        assert client.get("/").status_code == 200, "looking goes on"
        guesses = [client.post("/hooks/alertmanager", headers={"authorization": "Bearer x"}) for _ in range(4)]
        assert 429 in [answer.status_code for answer in guesses], "one may be tried again each second"


def test_who_may_not_look_is_not_told_what_there_is(served, lay_out, tmp_path):
    closed = lay_out(tmp_path)
    closed.start("--private")
    try:
        with closed.anonymous() as client:
            for path in ("/runs/x", "/runs/x/report", "/incidents/x", "/runbooks/x", "/diagnosis/x"):
                assert client.get(path).status_code == 303, path
            for path in ("/runs/x/events", "/incidents/x/events"):
                assert client.get(path).status_code == 401, path
            for path in ("/runs/x/abort", "/runbooks/x/start", "/incidents/x/approve"):
                assert client.post(path, headers={"origin": closed.address}).status_code == 401, path
    finally:
        closed.stop()
    with served.client() as client:
        for path in ("/runs/x", "/runs/x/events", "/incidents/x", "/runbooks/x", "/diagnosis/x"):
            assert client.get(path).status_code == 404, path
        for path in ("/runs/x/abort", "/runs/x/answer", "/runs/x/resume", "/runbooks/x/start", "/incidents/x/approve"):
            assert client.post(path).status_code == 404, path


def test_a_diagnosis_costs_something_and_wants_a_token(served):
    with served.anonymous() as client:
        assert client.get("/diagnosis/none").headers["location"] == "/enter"
        assert client.get("/diagnosis/none/events").status_code == 401
    with served.client() as client:
        assert client.get("/diagnosis/none").status_code == 200


def test_looking_needs_a_token_where_the_server_is_private(lay_out, tmp_path):
    served = lay_out(tmp_path)
    served.start("--private")
    try:
        with served.anonymous() as client:
            assert client.get("/").headers["location"] == "/enter"
            assert client.get("/runs").status_code == 303
            assert client.get("/runs/x/events").status_code == 401
        with served.client() as client:
            assert client.get("/").status_code == 200
    finally:
        served.stop()


def test_a_rate_lets_a_burst_through_and_then_makes_wait():
    rate = Rate(per_s=1, burst=10)
    assert [rate.wait("a") for _ in range(10)] == [0.0] * 10
    assert 0 < rate.wait("a") <= 1
    assert rate.wait("b") == 0, "another address is not held up"
    time.sleep(1.01)
    assert rate.wait("a") == 0


def test_a_rate_remembers_only_so_many_addresses():
    rate = Rate(per_s=1, burst=1)
    for number in range(Rate.REMEMBERED + 100):
        rate.wait(str(number))
    assert len(rate._left) == Rate.REMEMBERED
