"""A service that is asked again and again: an error is the finding, not a failure."""

from __future__ import annotations

import socket

import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters.http import actions as http
from k2run.errors import Refused, Unknown
from k2run.language.quantities import Duration

SHORT, OFTEN = Duration(1.5), Duration(0.1)
"""For how long is asked is also how long an answer may take."""


@pytest.fixture(autouse=True)
def _imported(web, services):
    """The client library, which takes its time when it is needed first."""
    http.get(services(""), Deadline(20), url=web.page("/first", "{}"))
    web.asked.clear()


def test_good_answers_are_counted_and_timed(web, services):
    found = http.sample(services(""), Deadline(20), url=web.page("/well", "{}"), during=SHORT, every=OFTEN)
    assert found.requests == len(web.asked)
    assert (found.errors, found.error_percent, found.unanswered) == (0, 0, 0)
    assert found.median_ms is not None
    assert found.slowest_ms is not None
    assert found.slowest_ms >= found.median_ms > 0


def test_errors_of_the_server_are_counted_and_have_no_time(web, services):
    found = http.sample(services(""), Deadline(20), url=web.page("/ill", "{}", status=503), during=SHORT, every=OFTEN)
    assert found.errors == found.requests > 0
    assert (found.error_percent, found.unanswered, found.median_ms) == (100, 0, None)


def test_a_port_where_nobody_listens_gives_no_answer_at_all(services):
    with socket.create_server(("127.0.0.1", 0)) as free:
        url = f"http://127.0.0.1:{free.getsockname()[1]}/"
    found = http.sample(services(""), Deadline(20), url=url, during=SHORT, every=OFTEN)
    assert found.unanswered == found.errors == found.requests > 0


def test_a_wrong_request_is_refused_rather_than_counted(web, services):
    with pytest.raises(Refused, match="answers 404"):
        http.sample(services(""), Deadline(20), url=web.page("/gone", "{}", status=404), during=SHORT, every=OFTEN)


def test_one_request_is_no_share_so_more_are_made_or_nothing_is_said(web, services):
    url = web.page("/well", "{}")
    found = http.sample(services(""), Deadline(20), url=url, during=Duration(0.1), every=Duration(0.2))
    assert found.requests == 3
    with pytest.raises(Unknown, match="of 3 requests were made in time"):
        http.sample(services(""), Deadline(0.5), url=url, during=Duration(0.1), every=Duration(1))
