from __future__ import annotations

from k2run.adapters._clients import cause_of


def test_what_a_client_says_is_told_on_one_line_without_secrets():
    error = OSError("login as shop\n  with 'two  spaces' failed")
    assert cause_of(error, "two  spaces", "") == "login as shop with '***' failed"
    assert cause_of(ConnectionResetError()) == "ConnectionResetError"
