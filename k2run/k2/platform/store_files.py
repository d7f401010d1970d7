"""Where the tables are: the object store as options of a program, the locations of its files, and reading these.

A file of a table never changes, so what the API has read once is kept: data files on the local disk, within a bound,
the ones unused for longest leaving first. DuckDB only ever opens those copies.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import threading
from collections import OrderedDict
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from pyarrow.fs import FileSystem
    from pyiceberg.io import FileIO

_SCHEME = "file:"


def local_path(location: str) -> Path:
    """The path of a location on this machine.

    A path is taken as it stands, after `file:` too: pyiceberg, which writes the files, decodes no `%20` either.

    Raises:
        ValueError: It is on another file system.
    """
    if not is_local(location):
        raise ValueError(f"{location} is not on the local file system")
    return Path(store_path(location))


def is_local(location: str) -> bool:
    """Whether it is a file of this machine."""
    return location.startswith(_SCHEME) or "://" not in location


def store_path(location: str) -> str:
    """A location as Arrow's file systems name it: a path, or bucket and key."""
    if location.startswith(_SCHEME):
        return location.removeprefix(_SCHEME).removeprefix("//")
    return location.partition("://")[2] or location


ACCESS_KEY, SECRET_KEY = "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"
REGION = "us-east-1"
CONNECT_S, REQUEST_S = 1.0, 4.0
"""A store that is paused still takes connections: what it does not answer within these seconds has failed."""
_REFUSED = re.compile(r"(?i)ACCESS_?DENIED|INVALID_?ACCESS_?KEY_?ID|SIGNATURE_?DOES_?NOT_?MATCH")


def add_catalog(parser: argparse.ArgumentParser) -> None:
    """The option that names the catalog."""
    parser.add_argument(
        "--catalog", default="http://127.0.0.1:18181", help="the REST catalog (default: http://127.0.0.1:18181)"
    )


def add_store(parser: argparse.ArgumentParser) -> None:
    """The option that names the object store."""
    parser.add_argument(
        "--s3-endpoint",
        default="",
        help=f"the object store, with the credentials in {ACCESS_KEY} and {SECRET_KEY}; without it tables are in files",
    )


def store_properties(endpoint: str) -> dict[str, str]:
    """Settings of pyiceberg for the object store; none for tables in files."""
    if not endpoint:
        return {}
    return {
        "s3.endpoint": endpoint,
        "s3.access-key-id": os.environ.get(ACCESS_KEY, ""),
        "s3.secret-access-key": os.environ.get(SECRET_KEY, ""),
        "s3.region": REGION,
        "s3.force-virtual-addressing": "false",
        "s3.connect-timeout": str(CONNECT_S),
        "s3.request-timeout": str(REQUEST_S),
        "s3.retry-strategy-impl": "k2run.k2.platform.table.Twice",
    }


def refuses_credentials(said: str) -> bool:
    """Whether an error of an S3 store says that it does not take the key, which no waiting changes."""
    return bool(_REFUSED.search(said))


MOST_CACHED = 512 * 1024 * 1024
_REQUEST_S = 2.0


class Stored(Protocol):
    """A file that a manifest names, with its size in bytes."""

    @property
    def location(self) -> str: ...  # noqa: D102  see above

    @property
    def size(self) -> int: ...  # noqa: D102  see above


class StoreFiles:
    """Reads files by their location. Safe to share between threads."""

    def __init__(self, s3_endpoint: str) -> None:
        self._endpoint = s3_endpoint
        self._making = threading.Lock()
        self._store: FileSystem | None = None

    def read(self, location: str) -> bytes:
        """A whole file.

        Raises:
            OSError: It cannot be read.
        """
        if is_local(location):
            return local_path(location).read_bytes()
        with _telling_refusals(), self._s3().open_input_file(store_path(location)) as file:
            return cast("bytes", file.read())

    def require(self, location: str, size: int | None = None) -> None:
        """Prove that a file is there (and of this size in bytes), without reading it.

        Raises:
            OSError: It is not, or the store does not answer.
        """
        if is_local(location):
            found = local_path(location).stat().st_size
        else:
            from pyarrow.fs import FileType

            with _telling_refusals():
                told = self._s3().get_file_info(store_path(location))
            if told.type == FileType.NotFound:
                raise FileNotFoundError(2, "no such object", location)
            found = told.size
        if size not in (None, found):
            raise OSError(f"{location} has {found} bytes instead of {size}")

    def manifests(self) -> FileIO:
        """What pyiceberg reads manifests through; its own costs another 0.4 s of imports at start-up."""
        from io import BytesIO

        from pyiceberg.io import FileIO, InputFile, InputStream, OutputFile

        files = self

        class WholeFile(InputFile):
            def __len__(self) -> int:
                return len(files.read(self.location))

            def exists(self) -> bool:
                try:
                    files.require(self.location)
                except FileNotFoundError:
                    return False
                return True

            def open(self, seekable: bool = True) -> InputStream:  # noqa: ARG002  bytes always are
                return cast("InputStream", BytesIO(files.read(self.location)))

        class WholeFiles(FileIO):
            def new_input(self, location: str) -> InputFile:
                return WholeFile(location)

            def new_output(self, location: str) -> OutputFile:
                raise NotImplementedError(f"read only: {location}")

            def delete(self, location: str | InputFile | OutputFile) -> None:
                raise NotImplementedError(f"read only: {location}")

        return WholeFiles()

    def _s3(self) -> FileSystem:
        from pyarrow.fs import AwsStandardS3RetryStrategy, S3FileSystem

        with self._making:
            if self._store is None:
                said = store_properties(self._endpoint)
                if not said:
                    raise OSError("the table is in an object store, and --s3-endpoint names none")
                self._store = S3FileSystem(
                    endpoint_override=said["s3.endpoint"],
                    access_key=said["s3.access-key-id"],
                    secret_key=said["s3.secret-access-key"],
                    region=said["s3.region"],
                    connect_timeout=CONNECT_S,
                    request_timeout=_REQUEST_S,
                    retry_strategy=AwsStandardS3RetryStrategy(max_attempts=1),
                )
            return self._store


@contextmanager
def _telling_refusals() -> Iterator[None]:
    """Say it in words when the store does not take the key.

    Raises:
        OSError: It does not.
    """
    try:
        yield
    except OSError as problem:
        if refuses_credentials(str(problem)):
            raise OSError(f"the object store refuses the credentials: {problem}") from problem
        raise


class FileCache:
    """Local copies of data files. Safe to share between threads."""

    def __init__(self, store: StoreFiles, folder: Path, most: int = MOST_CACHED) -> None:
        """Keep copies of at most `most` bytes in `folder`, which is emptied first."""
        self._store, self._folder, self._most = store, folder, most
        self._turn = threading.Lock()
        self._sizes: OrderedDict[str, int] = OrderedDict()  # by location, the one used last at the end
        shutil.rmtree(folder, ignore_errors=True)

    def paths(self, files: Iterable[Stored]) -> list[str]:
        """The paths of these files on this machine, fetched where they are not there yet.

        Raises:
            OSError: A file cannot be read, or is not as long as its manifest says.
        """
        return [str(local_path(file.location)) if is_local(file.location) else str(self._copy(file)) for file in files]

    def _copy(self, file: Stored) -> Path:
        path = self._folder / f"{hashlib.sha256(file.location.encode()).hexdigest()[:32]}.parquet"
        with self._turn:
            if file.location in self._sizes and path.exists():
                self._sizes.move_to_end(file.location)
                return path
        content = self._store.read(file.location)
        if len(content) != file.size:
            raise OSError(f"{file.location} has {len(content)} bytes, its manifest says {file.size}")
        with self._turn:
            self._folder.mkdir(parents=True, exist_ok=True)
            new = path.with_suffix(f".{threading.get_ident()}")
            new.write_bytes(content)
            new.rename(path)
            self._sizes[file.location] = file.size
            self._make_room(file.location)
        return path

    def _make_room(self, newest: str) -> None:
        """Delete the copies unused for longest, down to the bound; DuckDB reads on in one that it has open."""
        while sum(self._sizes.values()) > self._most and next(iter(self._sizes)) != newest:
            location, _ = self._sizes.popitem(last=False)
            (self._folder / f"{hashlib.sha256(location.encode()).hexdigest()[:32]}.parquet").unlink(missing_ok=True)
