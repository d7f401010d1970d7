"""Programs that only exist as Java: their class paths, resolved by Maven and kept for the next run."""

from __future__ import annotations

import shutil
import subprocess
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


def class_path(name: str, artifacts: list[tuple[str, str, str, str]]) -> str:
    """The class path of a program; the test is skipped where it cannot be had."""
    for program in ("java", "mvn"):
        if shutil.which(program) is None:
            pytest.skip(
                f"{program} is not installed, and {name} is a Java program (Debian: default-jre-headless, maven)"
            )
    folder = KEPT / name
    folder.mkdir(parents=True, exist_ok=True)
    pom, found = folder / "pom.xml", folder / "classpath"
    written = _pom(artifacts)
    if found.is_file() and pom.is_file() and pom.read_text() == written:
        path = found.read_text()
        if all(Path(jar).is_file() for jar in path.split(":")):
            return path
    pom.write_text(written)
    command = ["mvn", "-q", "-B", "-f", str(pom), "dependency:build-classpath", f"-Dmdep.outputFile={found}"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=RESOLVE_S)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        pytest.skip(f"Maven cannot resolve {name}: {str(error)[:200]}")
    return found.read_text()


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
