"""The jars of Apache Kafka: an exact, checksummed list, fetched once into the user's cache.

`kafka.lock` names every jar with its SHA-256; `python -m sluice.local.jars VERSION` writes it anew.
"""

from __future__ import annotations

import hashlib
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from sluice.errors import OutsideError

if TYPE_CHECKING:
    from jgo.maven import MavenContext

Tell = Callable[[str], None]

_LOCK = Path(__file__).with_name("kafka.lock")
_BROKER = "org.apache.kafka:kafka_2.13"
# Kafka logs through SLF4J; its distribution adds this bridge to Log4j, its POM does not name it.
_BRIDGE = "org.apache.logging.log4j:log4j-slf4j-impl"
_PARALLEL = 6
_TRIES = 3
_TIMEOUT_S = 30


@dataclass(frozen=True, slots=True)
class Jar:
    """One locked jar: Maven coordinate and SHA-256 in hex."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def filename(self) -> str:
        """Name in the cache folder, unique within one lock."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def coordinate(self) -> str:
        """Maven coordinate `group:artifact:version`."""
        return f"{self.group}:{self.artifact}:{self.version}"


def locked(path: Path = _LOCK) -> tuple[Jar, ...]:
    """Every jar of the lock file, the broker's own first."""
    return tuple(_parsed(line) for line in path.read_text().splitlines())


def _parsed(line: str) -> Jar:
    sha256, coordinate = line.split()
    group, artifact, version = coordinate.split(":")
    return Jar(group, artifact, version, sha256)


def kafka_version() -> str:
    """Version of Apache Kafka that the lock file pins."""
    return locked()[0].version


def cache_dir() -> Path:
    """Folder for fetched files: $SLUICE_CACHE_DIR, else the user's cache folder."""
    if chosen := os.environ.get("SLUICE_CACHE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "sluice"


def ensure_jars(cache: Path | None = None, tell: Tell = lambda _: None) -> list[Path]:
    """Class path of the broker, complete and checked; fetches what is missing or damaged.

    Raises OutsideError when a jar can be had neither from the cache nor from the network.
    """
    folder = (cache or cache_dir()) / f"kafka-{kafka_version()}"
    jars = locked()
    missing = [jar for jar in jars if not _intact(folder / jar.filename, jar.sha256)]
    if missing:
        tell(f"fetching Apache Kafka {kafka_version()}: {len(missing)} jars into {folder}")
        _fetch(missing, folder)
    return [folder / jar.filename for jar in jars]


def _intact(path: Path, sha256: str) -> bool:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _fetch(jars: Iterable[Jar], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    # Downloads land beside the cache and move in when their checksum fits, so that a broken
    # connection or a second process never leaves a half jar under its final name.
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        maven = _maven(Path(scratch))
        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(lambda jar: _fetch_one(maven, jar, folder), jars))


def _fetch_one(maven: MavenContext, jar: Jar, folder: Path) -> None:
    for attempt in range(1, _TRIES + 1):
        try:
            path = _download(maven, jar)
        except Exception as error:  # the downloader raises whatever its HTTP stack does
            if attempt == _TRIES:
                raise OutsideError(_unfetched(jar, f"{type(error).__name__}: {error}")) from error
            time.sleep(attempt)
            continue
        if _intact(path, jar.sha256):
            path.replace(folder / jar.filename)
            return
        path.unlink()
    raise OutsideError(_unfetched(jar, "its content differs from the locked checksum"))


def _download(maven: MavenContext, jar: Jar) -> Path:
    artifact = maven.project(jar.group, jar.artifact).at_version(jar.version).artifact()
    # A torn file of an earlier attempt would count as present.
    if artifact.cached_path is not None:
        artifact.cached_path.unlink(missing_ok=True)
    return Path(artifact.resolve())


def _unfetched(jar: Jar, why: str) -> str:
    return (
        f"Apache Kafka's jar {jar.coordinate} could not be fetched ({why}): connect to the network "
        "once and start again, or set SLUICE_KAFKA_BOOTSTRAP to a running broker"
    )


def _maven(repository: Path) -> MavenContext:
    # Only a fetch needs the resolver and its HTTP stack.
    from jgo.config import GlobalSettings  # noqa: PLC0415
    from jgo.constants import MAVEN_CENTRAL_URL  # noqa: PLC0415
    from jgo.maven import MavenContext  # noqa: PLC0415

    # jgo's own configuration file may name a mirror, also under the name `central`.
    remotes = {"central": MAVEN_CENTRAL_URL, **GlobalSettings.load().repositories}
    return MavenContext(repo_cache=repository, remote_repos=remotes, timeout=_TIMEOUT_S)


def resolve_lock(version: str, scratch: Path) -> str:
    """Text of a lock file for `version`, its dependencies resolved from their POMs into `scratch`.

    Needs the network and takes about half a minute.
    """
    maven = _maven(scratch)
    broker = maven.create_dependency(f"{_BROKER}:{version}")
    _, needed = maven.resolver.resolve([broker])
    log4j = next(d.version for d in needed if d.artifactId == "log4j-core")
    runtime = [d for d in needed if d.scope in ("compile", "runtime")]
    every = [broker, *runtime, maven.create_dependency(f"{_BRIDGE}:{log4j}")]
    with ThreadPoolExecutor(_PARALLEL) as pool:
        paths = list(pool.map(lambda d: d.artifact.resolve(), every))
    rows = zip(every, paths, strict=True)
    return "".join(
        f"{hashlib.sha256(path.read_bytes()).hexdigest()} {d.groupId}:{d.artifactId}:{d.version}\n"
        for d, path in rows
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder_name:
        _LOCK.write_text(resolve_lock(sys.argv[1], Path(folder_name)))
