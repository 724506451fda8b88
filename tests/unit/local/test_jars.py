"""The broker's jars: only complete, checked files count as present."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from sluice.errors import OutsideError
from sluice.local import jars
from sluice.local.jars import Jar, ensure_jars, locked


def _jar(name: str) -> Jar:
    return Jar("org.example", name, "1", hashlib.sha256(name.encode()).hexdigest())


class Remote:
    """A repository whose jars contain their own name, unless told otherwise."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: list[str] = []
        self.answers: dict[str, list[bytes | Exception]] = {}

    def download(self, _maven: object, jar: Jar) -> Path:
        """Stand in for the download of one jar."""
        self.asked.append(jar.artifact)
        scripted = self.answers.get(jar.artifact)
        answer = scripted.pop(0) if scripted else jar.artifact.encode()
        if isinstance(answer, Exception):
            raise answer
        path = self.folder / jar.filename
        path.write_bytes(answer)
        return path


@pytest.fixture
def remote(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Remote:
    """A lock of two jars and a repository that has them."""
    (tmp_path / "remote").mkdir()
    remote = Remote(tmp_path / "remote")
    monkeypatch.setattr(jars, "locked", lambda: (_jar("broker"), _jar("clients")))
    monkeypatch.setattr(jars, "_maven", lambda _: None)
    monkeypatch.setattr(jars, "_download", remote.download)
    monkeypatch.setattr(jars.time, "sleep", lambda _: None)
    return remote


def test_fetched_once(remote: Remote, tmp_path: Path) -> None:
    """A complete cache is used without asking the repository again."""
    first = ensure_jars(tmp_path / "cache")
    assert [p.read_text() for p in first] == ["broker", "clients"]
    assert ensure_jars(tmp_path / "cache") == first
    assert sorted(remote.asked) == ["broker", "clients"]


def test_damaged_and_missing_jars_are_fetched_again(remote: Remote, tmp_path: Path) -> None:
    """A cut jar and a deleted jar are both replaced; the intact one is left alone."""
    broker, clients = ensure_jars(tmp_path / "cache")
    remote.asked.clear()
    clients.write_bytes(b"cli")
    ensure_jars(tmp_path / "cache")
    broker.unlink()
    ensure_jars(tmp_path / "cache")
    assert remote.asked == ["clients", "broker"]
    assert clients.read_text() == "clients"


def test_short_trouble_is_retried(remote: Remote, tmp_path: Path) -> None:
    """A broken connection and a cut download are overcome by asking again."""
    remote.answers["broker"] = [ConnectionError("reset"), b"brok"]
    assert ensure_jars(tmp_path / "cache")[0].read_text() == "broker"
    assert remote.asked.count("broker") == 3


def test_wrong_content_never_lands_in_the_cache(remote: Remote, tmp_path: Path) -> None:
    """A jar that differs from the lock is refused and its name stays free."""
    remote.answers["clients"] = [b"x", b"x", b"x"]
    with pytest.raises(OutsideError, match=r"org\.example:clients:1 .*differs from the locked"):
        ensure_jars(tmp_path / "cache")
    assert not (tmp_path / "cache" / "kafka-1" / "clients-1.jar").exists()


def test_no_network_says_what_to_do(remote: Remote, tmp_path: Path) -> None:
    """Without network and cache the sentence names the jar, the cause and both ways out."""
    remote.answers["broker"] = [ConnectionError("no route")] * 3
    with pytest.raises(OutsideError, match=r"no route.*network once.*SLUICE_KAFKA_BOOTSTRAP"):
        ensure_jars(tmp_path / "cache")


def test_nothing_temporary_stays(remote: Remote, tmp_path: Path) -> None:
    """After a fetch the cache folder holds exactly the locked jars."""
    paths = ensure_jars(tmp_path / "cache")
    assert sorted((tmp_path / "cache" / "kafka-1").iterdir()) == sorted(paths)


def test_lock_file_is_whole() -> None:
    """The shipped lock starts with the broker, has the logging bridge, and no name twice."""
    rows = locked()
    assert rows[0].artifact == "kafka_2.13"
    assert "log4j-slf4j-impl" in {jar.artifact for jar in rows}
    assert len({jar.filename for jar in rows}) == len(rows)
    assert all(len(jar.sha256) == 64 for jar in rows)


def test_cache_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SLUICE_CACHE_DIR wins over XDG_CACHE_HOME, which wins over the home folder."""
    monkeypatch.delenv("SLUICE_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert jars.cache_dir() == tmp_path / "xdg" / "sluice"
    monkeypatch.setenv("SLUICE_CACHE_DIR", str(tmp_path / "own"))
    assert jars.cache_dir() == tmp_path / "own"
