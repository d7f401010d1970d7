from __future__ import annotations

import gzip
import json
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.http import actions as http
from k2run.adapters.http.endpoint import Tls
from k2run.errors import Interrupted, NotApplicable, Refused, TimedOut, Unreachable
from k2run.language.json_schema import JsonSchema
from k2run.language.quantities import Duration

TESTED_ON = {"http": "real HTTP and HTTPS servers, including silent and broken ones"}


def test_a_service_is_asked_with_the_headers_of_the_stack(web, services):
    web.page("/v1/trades", '{"data": [1, 2]}', Content_Type="application/json")
    stack = services(f"api: {{url: '{web.url}/', headers: {{X-API-Key: sesame}}}}")
    result = http.get(stack, Deadline(5), service="api", path="/v1/trades", params={"symbol": "BTCUSDT", "n": [1, 2]})
    assert (result.status, result.body, result.size) == (200, {"data": [1, 2]}, 16)
    _, path, headers, _ = web.asked[0]
    assert path == "/v1/trades?symbol=BTCUSDT&n=1&n=2"
    assert headers["X-API-Key"] == "sesame"


def test_an_unknown_service_is_not_applicable_with_the_nearest_name(services):
    with pytest.raises(NotApplicable, match="api"):
        http.get(services("api: {url: 'http://127.0.0.1:1'}"), Deadline(5), service="apy")


def test_a_service_without_a_url_is_not_applicable(services):
    with pytest.raises(NotApplicable, match="no url"):
        http.get(services("api: {title: nowhere}"), Deadline(5), service="api")


def test_either_a_service_or_a_url_has_to_be_given(services):
    with pytest.raises(Refused, match="either"):
        http.get(services(""), Deadline(5))


def test_another_status_is_a_failure_that_quotes_the_answer(web, services):
    url = web.page("/down", '{"error": "HYBRID_QUERY_FAILED"}', status=500)
    with pytest.raises(Refused, match=r"answered 500 Internal Server Error, expected 2xx: .*HYBRID_QUERY_FAILED"):
        http.get(services(""), Deadline(5), url=url)


def test_a_status_can_be_wanted(web, services):
    url = web.page("/secret", "no", status=403)
    assert http.get(services(""), Deadline(5), url=url, status=403).status == 403
    with pytest.raises(Refused, match="expected 401 or 404"):
        http.get(services(""), Deadline(5), url=url, status=[401, 404])


def test_what_is_not_json_is_text(web, services):
    result = http.get(services(""), Deadline(5), url=web.page("/-/healthy", "Prometheus is Healthy."))
    assert (result.body, result.text) == (None, "Prometheus is Healthy.")


def test_a_zipped_answer_is_unzipped(web, services):
    url = web.page("/z", gzip.compress(b'{"n": 1}' * 1), Content_Encoding="gzip", Content_Type="application/json")
    assert http.get(services(""), Deadline(5), url=url).body == {"n": 1}


def test_a_redirect_is_followed_but_takes_no_key_to_another_server(web, services):
    with socket.create_server(("127.0.0.1", 0)) as other:
        seen = []

        def answer():
            connection, _ = other.accept()
            with connection:
                seen.append(connection.recv(65536))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")

        threading.Thread(target=answer, daemon=True).start()
        url = web.page("/old", "", status=302, Location=f"http://127.0.0.1:{other.getsockname()[1]}/new")
        result = http.get(services(""), Deadline(5), url=url, headers={"X-API-Key": "sesame"})
    assert result.text == "ok"
    assert b"sesame" not in seen[0]
    assert http.get(services(""), Deadline(5), url=url, follow_redirects=False, status=302).status == 302


def test_post_sends_json_and_never_twice(web, services):
    url = web.page("/v1", "", status=503)
    with pytest.raises(Refused, match="503"):
        http.post(services(""), Deadline(5), url=url, json={"symbols": ["BTCUSDT"]})
    assert [(method, json.loads(content)) for method, _, _, content in web.asked] == [
        ("POST", {"symbols": ["BTCUSDT"]})
    ]


def test_an_idempotent_request_is_tried_again(web, services):
    turns = iter([503, 503, 200])
    web.pages["/flaky"] = lambda _: (next(turns), {}, b"{}")
    assert http.get(services(""), Deadline(5), url=f"{web.url}/flaky", retries=3).status == 200
    assert len(web.asked) == 3


def test_every_method_can_be_sent(web, services):
    url = web.page("/thing", "done")
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD"):
        http.request(services(""), Deadline(5), method=method, url=url)
    assert [method for method, *_ in web.asked] == ["PUT", "DELETE", "OPTIONS", "HEAD"]


def test_nobody_there_is_unreachable(services):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unreachable, match=f"127.0.0.1:{port}.*refused"):
        http.get(services(""), Deadline(5), url=f"http://127.0.0.1:{port}/")
    with pytest.raises(Unreachable, match=r"nowhere\.invalid"):
        http.get(services(""), Deadline(10), url="http://nowhere.invalid/")


def test_a_url_that_is_none_is_refused(services):
    for url in ("ftp://x/", "127.0.0.1:80", "http://127.0.0.1:notaport/"):
        with pytest.raises(Refused, match="cannot be asked"):
            http.get(services(""), Deadline(5), url=url)


def test_a_password_in_a_url_is_used_and_never_shown(web, services):
    url = web.page("/login", "no", status=401).replace("http://", "http://admin:sesame@")
    with pytest.raises(Refused) as refused:
        http.get(services(""), Deadline(5), url=url)
    assert "sesame" not in str(refused.value)
    assert web.asked[0][2]["Authorization"].startswith("Basic ")


def test_cookies_do_not_reach_the_journal(web, services):
    url = web.page("/", "{}", Set_Cookie="session=sesame")
    assert "sesame" not in str(http.get(services(""), Deadline(5), url=url).plain())


def drip(first: bytes, drops: bytes):
    def speak(connection):
        connection.recv(65536)
        connection.sendall(first)
        while True:
            connection.sendall(drops)
            time.sleep(0.1)

    return speak


@pytest.mark.parametrize(
    "speak",
    [
        pytest.param(lambda connection: connection.recv(65536) and time.sleep(30), id="says nothing"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\n", b"X-More: 1\r\n"), id="never ends its headers"),
        pytest.param(drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n", b"x"), id="drips its body"),
    ],
)
def test_a_server_that_stretches_its_answer_does_not_stretch_the_deadline(speaker, services, speak):
    url = speaker(speak)
    started = time.monotonic()
    with pytest.raises(TimedOut):
        http.get(services(""), Deadline(0.6), url=url)
    assert time.monotonic() - started < 1.1


def test_a_request_to_stop_ends_the_wait(speaker, services):
    url = speaker(lambda _: time.sleep(30))
    deadline = Deadline(30)
    threading.Timer(0.2, deadline.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        http.get(services(""), deadline, url=url)
    assert time.monotonic() - started < 0.8


def test_an_answer_that_breaks_off_is_unreachable(speaker, services):
    def half(connection):
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf")
        connection.close()

    with pytest.raises(Unreachable, match="broke off"):
        http.get(services(""), Deadline(5), url=speaker(half))


def test_a_server_that_is_not_http_is_unreachable(speaker, services):
    def other(connection):
        connection.sendall(b"220 mail.example ESMTP\r\n")
        connection.recv(65536)
        connection.close()

    with pytest.raises(Unreachable):
        http.get(services(""), Deadline(5), url=speaker(other))


def test_an_https_server_must_be_trusted(web, services, certificate):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    web.server.socket = context.wrap_socket(web.server.socket, server_side=True)
    url = web.page("/", "safe").replace("http:", "https:")
    with pytest.raises(Refused, match="not trusted"):
        http.get(services(""), Deadline(5), url=url)
    assert http.get(services(""), Deadline(5), url=url, tls=Tls(ca=str(certificate))).text == "safe"
    assert http.get(services(""), Deadline(5), url=url, tls=Tls(verify=False)).text == "safe"


def test_many_checks_at_once_share_the_pool_and_take_little_more_than_one(web, services):
    def slowly(_):
        time.sleep(0.05)
        return 200, {}, b"{}"

    web.pages["/slow"] = slowly
    stack = services("")
    with ThreadPoolExecutor(25) as several:
        started = time.monotonic()
        answers = list(several.map(lambda _: http.get(stack, Deadline(10), url=f"{web.url}/slow"), range(50)))
    assert [answer.status for answer in answers] == [200] * 50
    assert time.monotonic() - started < 1.5


def test_poll_asks_until_the_answer_is_as_it_should_be(web, services):
    answers = [(503, b""), (200, b'{"status": "degraded"}'), (200, b'{"status": "healthy"}')]
    web.pages["/health"] = lambda _: (*(each := answers.pop(0))[:1], {}, each[1])
    stack = services(f"api: {{url: '{web.url}'}}")
    every, body = Duration(0.02), {"status": "healthy"}
    found = http.poll(stack, Deadline(10), service="api", path="/health", body=body, every=every)
    assert (found.tries, found.status, found.body) == (3, 200, body)
    web.page("/health", '{"status": "degraded"}')
    started = time.monotonic()
    with pytest.raises(TimedOut, match=r"\(\d+ attempts\): its body lacks status: healthy \(it is 'degraded'\)"):
        http.poll(stack, Deadline(0.4), service="api", path="/health", body=body, every=every)
    assert time.monotonic() - started < 0.9
    with pytest.raises(TimedOut, match=r"attempts\): .*Connection refused"):
        http.poll(stack, Deadline(0.3), url="http://127.0.0.1:1", every=every)


def test_a_byte_order_mark_is_not_part_of_an_answer(web, services):
    url = web.page("/bom", '\ufeff{"rows": 3}', Content_Type="application/json")
    assert http.get(services(""), Deadline(5), url=url).body == {"rows": 3}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('{"rows":\n NaN}', "JSON knows no NaN at line 2, column 2"),
        ('{"rows": -Infinity}', "JSON knows no -Infinity at line 1"),
        ('{"rows": 1e400}', "out of range"),
        ('{"rows" 1}', "expected ':' at line 1, column 9"),
        ("[" * 100_000, "nested too deep"),
        (b'{"name":\n"caf\xe9"}', "not UTF-8: byte 0xe9 at line 2, column 5"),
        ('{"rows": 1}'.encode("utf-16"), "it is UTF-16"),
    ],
)
def test_json_that_cannot_be_read_says_why_and_where(web, services, body, said):
    content = body if isinstance(body, bytes) else body.encode()
    web.pages["/odd"] = lambda _: (200, {"Content-Type": "application/json"}, content)
    result = http.get(services(""), Deadline(5), url=f"{web.url}/odd")
    assert result.body is None
    assert said in result.body_error
    assert said in result.headline()


def test_an_empty_answer_is_no_unreadable_one(web, services):
    result = http.get(services(""), Deadline(5), url=web.page("/none", "", Content_Type="application/json"))
    assert (result.body, result.body_error) == (None, "")


TRADES = JsonSchema.parse(
    {
        "required": ["data"],
        "properties": {"data": {"type": "array", "items": {"properties": {"price": {"exclusiveMinimum": 0}}}}},
    }
)


def test_a_body_conforms_to_a_schema_or_every_violation_is_told_with_its_path(web, services):
    good = web.page("/good", '{"data": [{"price": 1}]}', Content_Type="application/json")
    assert http.get(services(""), Deadline(5), url=good, conforms_to=TRADES).body["data"] == [{"price": 1}]
    bad = web.page("/bad", '{"data": [{"price": 1}, {"price": 0}, {"price": -1}]}', Content_Type="application/json")
    with pytest.raises(Refused, match=r"2 violations: \$\.data\[1\]\.price: is 0.*; \$\.data\[2\]\.price") as caught:
        http.get(services(""), Deadline(5), url=bad, conforms_to=TRADES)
    assert caught.value.result.status == 200
    with pytest.raises(Refused, match=r"lacks `data`"):
        http.post(services(""), Deadline(5), url=web.page("/empty", "{}"), json={}, conforms_to=TRADES)
    with pytest.raises(Refused, match="is not JSON: text/plain"):
        http.get(services(""), Deadline(5), url=web.page("/text", "up", Content_Type="text/plain"), conforms_to=TRADES)


def test_polling_waits_for_a_body_that_conforms(web, services):
    answers = iter(['{"data": 5}', '{"data": []}'])
    web.pages["/soon"] = lambda _: (200, {"Content-Type": "application/json"}, next(answers).encode())
    found = http.poll(services(""), Deadline(5), url=f"{web.url}/soon", every=Duration(0.01), conforms_to=TRADES)
    assert (found.tries, found.body) == (2, {"data": []})
