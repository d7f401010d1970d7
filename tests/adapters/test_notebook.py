"""The notebook actions with a real kernel."""

from __future__ import annotations

import json
import threading
import time
from typing import TYPE_CHECKING

import nbformat
import psutil
import pytest

from k2run.actions.deadline import Deadline
from k2run.adapters import notebook as actions
from k2run.errors import Interrupted, Refused, TimedOut, Unknown

if TYPE_CHECKING:
    from collections.abc import Callable

TESTED_ON = {"notebook": "nbclient with a real ipykernel"}

pytest.importorskip("ipykernel", reason="the extra k2run[notebook] is not installed")


@pytest.fixture
def written(tmp_path) -> Callable[..., str]:
    """Writes a notebook; texts that begin with # are headings, the rest is code."""

    def write(*cells: str) -> str:
        made = nbformat.v4.new_notebook()
        for cell in cells:
            kind = nbformat.v4.new_markdown_cell if cell.startswith("#") else nbformat.v4.new_code_cell
            made.cells.append(kind(cell))
        made.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
        path = tmp_path / "demo.ipynb"
        nbformat.write(made, path)
        return str(path)

    return write


def kernels() -> list[int]:
    return [process.pid for process in psutil.Process().children(recursive=True) if "ipykernel" in _command(process)]


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def test_a_notebook_finds_the_addresses_that_it_is_handed_beside_the_environment_of_k2run(written, monkeypatch):
    monkeypatch.setenv("K2RUN_SET_OUTSIDE", "outside")
    path = written("import os; print('port', os.environ['K2RUN_API_PORT'], os.environ['K2RUN_SET_OUTSIDE'])")
    done = actions.execute(Deadline(60), path, env={"K2RUN_API_PORT": 28000}, values={"port": "port ([0-9]+) outside"})
    assert done.values == {"port": 28000}


def test_a_good_notebook_is_run_in_its_folder_timed_by_section_and_saved(written, tmp_path):
    (tmp_path / "rows.txt").write_text("12")
    path = written(
        "# Storage", "print(open('rows.txt').read(), 'rows')", "## Monitoring", "import time; time.sleep(0.3)"
    )
    done = actions.execute(Deadline(30), path, save=str(tmp_path / "out" / "copy.ipynb"))
    assert (done.cells, done.errors, done.marks) == (2, [], [])
    assert [(section.title, section.cells) for section in done.sections] == [("Storage", 1), ("Monitoring", 1)]
    assert 0.3 <= done.sections[1].seconds < done.seconds
    copy = json.loads((tmp_path / "out" / "copy.ipynb").read_text())
    assert copy["cells"][1]["outputs"][0]["text"] in ("12 rows\n", ["12 rows\n"])
    assert actions.inspect(done.saved).not_executed == 0
    with pytest.raises(Refused, match="2 of 2 code cells were not executed"):
        actions.inspect(path)
    assert kernels() == []


def test_an_exception_fails_the_step_and_the_copy_is_kept(written, tmp_path):
    path = written("# One", "1 / 0", "# Two", "print('goes on')")
    with pytest.raises(Refused, match=r"cell 2 \(One\): ZeroDivisionError: division by zero") as failed:
        actions.execute(Deadline(30), path, save=str(tmp_path / "copy.ipynb"))
    assert "copy.ipynb" in str(failed.value)
    found = actions.inspect(str(tmp_path / "copy.ipynb"), allow_troubles=True)
    assert [trouble.cell for trouble in found.errors] == [2]
    assert found.sections[0].troubles == 1


def test_a_swallowed_exception_fails_the_step_by_its_mark(written):
    path = written(
        "# Query",
        "print('\\x1b[31m✗ Query failed: no such table\\x1b[0m')",
        "print('10 rows')",
        "print('fetched 0 rows')",
        "display('No data yet')",
    )
    with pytest.raises(Refused, match=r"0 errors, 3 marks: cell 2 \(Query\): ✗ Query failed: no such table; cell 4"):
        actions.execute(Deadline(30), path)
    found = actions.execute(Deadline(30), path, marks=["Query failed"], allow_troubles=True)
    assert [trouble.says for trouble in found.marks] == ["✗ Query failed: no such table"]


def test_a_cell_that_hangs_ends_with_the_step_and_leaves_no_kernel(written):
    path = written("import time; time.sleep(60)")
    started = time.monotonic()
    with pytest.raises(TimedOut):
        actions.execute(Deadline(4), path)
    assert time.monotonic() - started < 4.5
    deadline = Deadline(60)
    threading.Timer(3, deadline.stop.set).start()
    started = time.monotonic()
    with pytest.raises(Interrupted):
        actions.execute(deadline, path)
    assert time.monotonic() - started < 3.6
    assert kernels() == []


def test_what_a_library_writes_does_not_reach_our_terminal_and_the_last_of_it_tells_why_a_kernel_died(written, capfd):
    noisy = "import os; os.write(2, b'%3|FAIL|rdkafka\\nout of luck\\n')"
    actions.execute(Deadline(30), written(noisy))
    with pytest.raises(Refused, match="the notebook's kernel died: out of luck"):
        actions.execute(Deadline(30), written(f"{noisy}; os._exit(9)"))
    assert capfd.readouterr() == ("", "")


def test_numbers_are_taken_from_what_a_notebook_prints_and_one_that_it_does_not_print_is_unknown(written):
    path = written("print('rows 1,200 in all'); print('cost: 0.0125 USD')")
    asked = {"rows": "rows ([0-9,]+)", "cost": "([0-9.]+) USD", "euro": "([0-9.]+) EUR"}
    assert actions.execute(Deadline(30), path, values=asked).values == {"rows": 1200, "cost": 0.0125, "euro": None}
    for pattern, said in (
        ("(", "not a regular expression"),
        ("rows", "with a group"),
        ("(rows)", "'rows' is no number"),
    ):
        with pytest.raises(Refused, match=said):
            actions.execute(Deadline(30), path, values={"rows": pattern})


def test_a_kernel_that_dies_a_missing_one_and_what_is_no_notebook_are_told(written, tmp_path):
    with pytest.raises(Refused, match="kernel died"):
        actions.execute(Deadline(30), written("import os; os._exit(9)"))
    with pytest.raises(Refused, match="no Jupyter kernel 'julia'"):
        actions.execute(Deadline(30), written("1"), kernel="julia")
    with pytest.raises(Unknown, match="there is no notebook"):
        actions.inspect(str(tmp_path / "missing.ipynb"))
    (tmp_path / "text.ipynb").write_text("hello")
    with pytest.raises(Refused, match="is not a notebook"):
        actions.inspect(str(tmp_path / "text.ipynb"))
    with pytest.raises(Refused, match="not a regular expression"):
        actions.inspect(written("1"), marks=["("])
