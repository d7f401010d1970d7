"""What the stack keeps on this machine's disk: hide it, damage it, lock it; and give it back as it was."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from k2run.actions.action import Blast, Effect, Result, Striking, Undo, action, fault
from k2run.actions.deadline import Deadline
from k2run.adapters._command import Ended, run
from k2run.adapters.host.stress import LONGEST, Burdened, begin, name_of, relief
from k2run.errors import NotApplicable, Refused, Unknown
from k2run.language.quantities import Duration, Size
from k2run.stack.services import Services

if TYPE_CHECKING:
    from collections.abc import Iterator

KEPT = ".k2run-kept"
"""Added to the name of what is put aside."""
SMALL_DISK = Size(2**30)
"""Bytes; what is larger is hardly a disk that one folder has for itself."""
_COMMAND_S = 5.0
DISPLACED = ".k2run-displaced"
"""Added to the name of what took its place meanwhile."""


class Kept(Result, frozen=True, kw_only=True):
    """Something is not where, or what, it was; it is kept beside its place.

    Attributes:
        path: Where it was.
        kept: Where it is meanwhile.
    """

    path: str
    kept: str


class Returned(Result, frozen=True, kw_only=True):
    """Something is as it was.

    Attributes:
        changed: It was not before.
        displaced: Where that is which took its place meanwhile; empty when nothing did.
    """

    path: str
    changed: bool
    displaced: str = ""


class Forbidden(Result, frozen=True, kw_only=True):
    """Nothing can be written in a folder any more.

    Attributes:
        folders: How many folders that is, with those in it.
    """

    path: str
    folders: int


class Writable(Result, frozen=True, kw_only=True):
    """A folder can be written.

    Attributes:
        changed: It (or a folder in it) could not be before.
        folders: Those that were given the right back.
    """

    path: str
    changed: bool
    folders: list[str] = []


@fault("storage.hide", blast=Blast.DATA, undone_by="storage.put_back")
def hide(services: Services, path: str) -> Striking[Kept]:
    """Take a file or folder away, as if its disk (or object store) were gone. Undone by putting it back.

    Blast radius: every service that reads or writes it.

    Args:
        path: The file or folder; below the stack's state folder when it is relative.

    Raises:
        Unknown: There is nothing.
        Refused: It is hidden already.
    """
    place, kept = _places(services, path)
    yield _put_back(path)
    place.rename(kept)
    return Kept(path=str(place), kept=str(kept), source=str(place.parent))


@fault("storage.damage", blast=Blast.DATA, undone_by="storage.put_back")
def damage(services: Services, path: str, content: str = "damaged by k2run\n") -> Striking[Kept]:
    """Replace what is in a file, such as a configuration, by something else. Undone by putting the original back.

    Blast radius: every service that reads the file.

    Args:
        path: The file; below the stack's state folder when it is relative.
        content: What is to be in it.

    Raises:
        Unknown: There is nothing.
        Refused: It is no file, or damaged already.
    """
    place, kept = _places(services, path)
    if not place.is_file():
        raise Refused(f"{place} is not a file", hint="storage.hide takes folders")
    yield _put_back(path)
    place.rename(kept)
    place.write_text(content, encoding="utf-8")
    shutil.copymode(kept, place)
    return Kept(path=str(place), kept=str(kept), source=str(place.parent))


@action("storage.put_back", effect=Effect.CHANGES)
def put_back(services: Services, path: str) -> Returned:
    """Put back what was hidden or damaged; nothing happens when nothing was. What took its place is kept beside it.

    Args:
        path: The file or folder; below the stack's state folder when it is relative.

    Raises:
        Unknown: It is neither in its place nor beside it.
    """
    place = _place(services, path)
    kept, displaced = _beside(place, KEPT), _beside(place, DISPLACED)
    if not kept.exists():
        if not place.exists():
            raise Unknown(f"neither {place} nor {kept.name} is there", hint="restore it from a backup")
        return Returned(path=str(place), changed=False, source=str(place.parent))
    in_the_way = place.exists()
    if in_the_way:
        if displaced.is_dir():
            shutil.rmtree(displaced)
        place.rename(displaced)
    kept.rename(place)
    if in_the_way and displaced.is_file():
        displaced.unlink()  # the damage itself
        in_the_way = False
    return Returned(
        path=str(place), changed=True, displaced=str(displaced) if in_the_way else "", source=str(place.parent)
    )


@action("storage.allow_writing", effect=Effect.CHANGES)
def allow_writing(services: Services, deadline: Deadline, path: str, except_for: list[str] = []) -> Writable:
    """Give the owner of a folder, and of the folders in it, the right to write back; nothing happens when it is there.

    A read-only mount that `storage.forbid_writing` made is taken away; no other is.

    Args:
        path: The folder; below the stack's state folder when it is relative.
        except_for: Folders that could not be written before, and stay so.

    Raises:
        Unknown: There is no such folder.
        Refused: Its file system is mounted read-only, or it belongs to another user.
    """
    place = _place(services, path)
    if not place.is_dir():
        raise Unknown(f"there is no folder {place}")
    unmounted = [str(place)] if _unmounted(services, place, deadline) else []
    kept = {*except_for}
    wanted = (folder for folder in (place, *_folders(place)) if str(folder) not in kept)
    changed = list(dict.fromkeys([*unmounted, *(str(folder) for folder in wanted if _allow(folder))]))
    if os.access(place, os.W_OK):
        return Writable(path=str(place), changed=bool(changed), folders=changed, source=str(place))
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        raise Refused(
            f"{place} is on a file system that is mounted read-only",
            hint="find out why (the kernel's log; a disk that fails is mounted so), then mount it for writing",
        )
    raise Refused(
        f"{place} cannot be written by this user", hint="`ls -ld` and `lsattr -d` show its owner and attributes"
    )


@fault("storage.lock", blast=Blast.DATA, undone_by="host.relieve")
def lock(services: Services, deadline: Deadline, path: str, at_most: Duration = LONGEST) -> Striking[Burdened]:
    """Hold the write lock of an SQLite database, such as that of a table catalog. Undone by letting it go.

    Blast radius: every service that writes to the database waits, and gives up in the end.

    Args:
        path: The database; below the stack's state folder when it is relative.
        at_most: When the lock is released by itself.

    Raises:
        Unknown: There is nothing.
        Refused: Another process holds the lock, or it is no such database.
    """
    place = _place(services, path)
    if not place.is_file():
        raise Unknown(f"there is no database at {place}")
    burden = name_of("lock")
    yield relief(burden, f"unlock {place.name}")
    return begin(services, deadline, burden, [str(place)], at_most)


@fault("storage.fill", blast=Blast.DATA, undone_by="host.relieve")
def fill(
    services: Services,
    deadline: Deadline,
    path: str,
    largest: Size = SMALL_DISK,
    at_most: Duration = LONGEST,
) -> Striking[Burdened]:
    """Fill a small disk that the stack has for itself to the last byte. Undone by giving the room back.

    Blast radius: everything that writes to that disk. The room is taken by a file without a name: it comes back when
    the process that holds it ends, whatever ends it.

    Args:
        path: A folder on the disk; below the stack's state folder when it is relative.
        largest: A larger disk, in bytes, is not filled.
        at_most: When the room is given back by itself.

    Raises:
        NotApplicable: The disk is larger, or k2run keeps its own records on it.
    """
    place = _place(services, path)
    if not place.is_dir():
        raise Unknown(f"there is no folder {place}")
    if place.stat().st_dev == Path(services.stack.state).stat().st_dev:
        raise NotApplicable(
            f"{place} is on the disk on which k2run keeps its own records",
            hint="only a disk of the folder's own is filled: mount one there (a tmpfs, a volume)",
        )
    size = Size(shutil.disk_usage(place).total)
    if size > largest:
        raise NotApplicable(f"the disk of {place} has {size}, more than {largest}", hint="raise `largest`")
    burden = name_of("fill")
    yield relief(burden, f"free the disk of {place.name}")
    return begin(services, deadline, burden, [str(place)], at_most)


@fault("storage.forbid_writing", blast=Blast.DATA, undone_by="storage.allow_writing")
def forbid_writing(services: Services, deadline: Deadline, path: str) -> Striking[Forbidden]:
    """Take the right to write from a folder and the folders in it. Undone by giving it back.

    Blast radius: every service that writes there. For root, whom no right stops, the folder is mounted over itself
    read-only; files that are open for writing stay so.

    Args:
        path: The folder; below the stack's state folder when it is relative.

    Raises:
        Unknown: There is no such folder.
        Refused: It cannot be written already.
        NotApplicable: Nothing stops this user from writing there.
    """
    place = _place(services, path)
    if not place.is_dir():
        raise Unknown(f"there is no folder {place}")
    if not os.access(place, os.W_OK):
        raise Refused(f"{place} is already read-only", hint=f"storage.allow_writing: {{path: {path}}}")
    folders = [place, *_folders(place)]
    lacking = [str(folder) for folder in folders if not folder.stat().st_mode & stat.S_IWUSR]
    yield Undo(
        action="storage.allow_writing",
        args={"path": path, "except_for": lacking},
        says=f"allow writing in {place.name}",
    )
    for folder in reversed(folders):
        folder.chmod(folder.stat().st_mode & ~(stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH))
    if os.access(place, os.W_OK):
        _mount_read_only(services, place, deadline)
    return Forbidden(path=str(place), folders=len(folders), source=str(place.parent))


def _mount_read_only(services: Services, place: Path, deadline: Deadline) -> None:
    """Mount a folder over itself read-only, and note that it was k2run.

    Raises:
        NotApplicable: It may not be mounted here.
    """
    note = _mount_note(services, place)
    note.parent.mkdir(parents=True, exist_ok=True)
    note.write_text(str(_mounts_at(place)), encoding="utf-8")
    for words in (["--bind", str(place), str(place)], ["-o", "remount,bind,ro", str(place)]):
        done = _run(["mount", *words], deadline)
        if done is None or done.exit_code:
            why = "there is no `mount`" if done is None else done.stderr.strip()
            raise NotApplicable(f"nothing stops this user from writing in {place}, and it cannot be mounted: {why}")


def _unmounted(services: Services, place: Path, deadline: Deadline) -> bool:
    """Take a read-only mount of ours away; whether there was one."""
    note = _mount_note(services, place)
    if not note.exists():
        return False
    ours = _mounts_at(place) > int(note.read_text(encoding="utf-8") or 0)
    if ours:
        done = _run(["umount", "-l", str(place)], deadline)
        if done is None or done.exit_code:
            raise Refused(f"{place} cannot be unmounted: {done.stderr.strip() if done else 'there is no `umount`'}")
    note.unlink()
    return ours


def _mounts_at(place: Path) -> int:
    """How often something is mounted there; 0 where the system does not say."""
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    wanted = str(place.resolve()).replace(" ", r"\040")
    return sum(line.split()[4] == wanted for line in lines)


def _mount_note(services: Services, place: Path) -> Path:
    name = hashlib.sha256(str(place).encode()).hexdigest()[:16]
    return Path(services.stack.state) / "scratch" / f"read-only-{name}.k2run"


def _run(words: list[str], deadline: Deadline) -> Ended | None:
    """A short command of the system; None where there is none."""
    if shutil.which(words[0]) is None:
        return None
    return run(words, Deadline(deadline.at_most(_COMMAND_S), deadline.stop))


def _folders(place: Path) -> Iterator[Path]:
    for folder, below, _ in os.walk(place):
        yield from (Path(folder) / name for name in below)


def _allow(folder: Path) -> bool:
    """Add the owner's right to write and enter; whether it was missing."""
    mode = folder.stat().st_mode
    wanted = mode | stat.S_IWUSR | stat.S_IXUSR
    if mode == wanted:
        return False
    with suppress(OSError):
        folder.chmod(wanted)
    return folder.stat().st_mode == wanted


def _put_back(path: str) -> Undo:
    return Undo(action="storage.put_back", args={"path": path}, says=f"restore {Path(path).name}")


def _places(services: Services, path: str) -> tuple[Path, Path]:
    """Where it is, and where it is to be kept.

    Raises:
        Unknown: There is nothing.
        Refused: Something is kept there already.
    """
    place = _place(services, path)
    kept = _beside(place, KEPT)
    if kept.exists():
        raise Refused(f"{place} is already put aside", hint=f"storage.put_back: {{path: {path}}}")
    if not place.exists():
        raise Unknown(f"{place} does not exist")
    return place, kept


def _place(services: Services, path: str) -> Path:
    state = Path(services.stack.state)
    place = state / Path(path).expanduser()
    if place == state or place in state.parents:
        raise Refused(f"{place} holds k2run's own state", hint="name a file or folder of one service")
    return place


def _beside(place: Path, ending: str) -> Path:
    return place.with_name(place.name + ending)
