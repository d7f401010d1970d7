"""Programs that only exist as Java: their class paths or folders, resolved by Maven and kept for the next run."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

RESOLVE_S = 300.0
KEPT = Path.home() / ".cache" / "k2run-tests"

KAFKA = [("org.apache.kafka", "kafka_2.13", "3.9.1", "")]
ICEBERG_REST = [
    ("org.apache.iceberg", "iceberg-open-api", "1.10.0", "test-fixtures"),
    ("org.apache.iceberg", "iceberg-core", "1.10.0", ""),
    ("org.apache.iceberg", "iceberg-core", "1.10.0", "tests"),
    ("org.xerial", "sqlite-jdbc", "3.46.0.0", ""),
    ("org.eclipse.jetty", "jetty-server", "11.0.24", ""),
    ("org.eclipse.jetty", "jetty-servlet", "11.0.24", ""),
    ("org.apache.hadoop", "hadoop-client-api", "3.4.1", ""),
    ("org.apache.hadoop", "hadoop-client-runtime", "3.4.1", ""),
    ("org.slf4j", "slf4j-simple", "2.0.13", ""),
]


APICURIO = "io.apicurio:apicurio-registry-app:2.6.13.Final:tar.gz:all"


def class_path(name: str, artifacts: list[tuple[str, str, str, str]]) -> str:
    """The class path of a program; the test is skipped where it cannot be had."""
    _need_java(name)
    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    pom, found = folder / "pom.xml", folder / "classpath"
    written = _pom(artifacts)
    if found.is_file() and pom.is_file() and pom.read_text() == written:
        path = found.read_text()
        if all(Path(jar).is_file() for jar in path.split(":")):
            return path
    pom.write_text(written)
    _resolve(name, "-f", str(pom), "dependency:build-classpath", f"-Dmdep.outputFile={found}")
    return found.read_text()


def unpacked(name: str, artifact: str) -> Path:
    """The folder with a program that is published as an archive; the test is skipped where it cannot be had."""
    _need_java(name)
    folder = KEPT / f"{name}-{artifact.split(':')[2]}"
    if folder.is_dir():
        return folder
    KEPT.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=KEPT) as made:
        _resolve(name, "dependency:unpack", f"-Dartifact={artifact}", f"-DoutputDirectory={made}/all")
        # A rename is whole or not at all, whoever else unpacks the same.
        with contextlib.suppress(OSError):
            Path(made, "all").rename(folder)
    return folder


def _need_java(name: str) -> None:
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            pytest.skip(
                f"{program} is not installed, and {name} is a Java program (Debian: default-jre-headless, maven)"
            )


def _resolve(name: str, *words: str) -> None:
    try:
        # Maven leaves its marks in the folder where it is called.
        subprocess.run(["mvn", "-q", "-B", *words], check=True, capture_output=True, timeout=RESOLVE_S, cwd=KEPT)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Maven cannot resolve {name}: {str(error)[:200]}")


def _pom(artifacts: list[tuple[str, str, str, str]]) -> str:
    listed = "".join(
        f"<dependency><groupId>{group}</groupId><artifactId>{artifact}</artifactId><version>{version}</version>"
        + (f"<classifier>{classifier}</classifier>" if classifier else "")
        + "</dependency>"
        for group, artifact, version, classifier in artifacts
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>k2run</groupId><artifactId>tests</artifactId>"
        f"<version>1</version><dependencies>{listed}</dependencies></project>"
    )
