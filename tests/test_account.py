"""Whose process it is."""

from __future__ import annotations

import os

import pytest

from k2run.files import account_name

NAMELESS = 54_321
NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become an account that has no name")
def test_an_account_without_a_name_is_called_by_its_number():
    reading, writing = os.pipe()
    if os.fork() == 0:
        for name in NAMES:
            os.environ.pop(name, None)
        os.setuid(NAMELESS)
        os.write(writing, account_name().encode())
        os._exit(0)
    os.close(writing)
    os.wait()
    with os.fdopen(reading) as said:
        assert said.read() == "uid-54321"
