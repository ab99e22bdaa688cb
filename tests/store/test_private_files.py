"""Files of a store's owner: who may not read a store may not read what is made of it, and nothing is left lying."""

from __future__ import annotations

import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from gpuscout.store.transfer.whole_file import whole_file, working_folder
from tests.support.forked import FORKS, start_server
from tests.support.in_process import gpuscout

OLD_STORE = Path(__file__).parents[1] / "assets" / "store-0001.sqlite"


@pytest.fixture(autouse=True)
def umask() -> None:
    os.umask(0o022)


def mode(file: Path) -> int:
    return file.stat().st_mode & 0o777


def test_what_is_made_of_a_private_store_is_private(tmp_path: Path) -> None:
    shutil.copy(OLD_STORE, tmp_path / "old.db")
    (tmp_path / "old.db").chmod(0o600)
    assert gpuscout("db", "upgrade", "--db", "old.db", cwd=tmp_path).returncode == 0
    [backup] = tmp_path.glob("old.db.backup-*")
    assert mode(backup) == 0o600
    assert gpuscout("db", "copy", "old.db", "copy.db", cwd=tmp_path).returncode == 0
    assert gpuscout("export", "-o", "new.csv", "--db", "old.db", cwd=tmp_path).returncode == 0
    assert mode(tmp_path / "copy.db") == mode(tmp_path / "new.csv") == 0o600
    (tmp_path / "copy.db").chmod(0o644)
    for name, was in {"open.csv": 0o644, "shut.jsonl": 0o600, "group.parquet": 0o640}.items():
        (tmp_path / name).touch()
        (tmp_path / name).chmod(was)
        assert gpuscout("export", "-o", name, "--force", "--db", "copy.db", cwd=tmp_path).returncode == 0
        assert mode(tmp_path / name) == was
        assert (tmp_path / name).stat().st_size
    assert sorted(file.name for file in tmp_path.glob("*.part-*")) == []


def test_a_link_that_somebody_planted_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    monkeypatch.setattr("secrets.token_hex", lambda size: "guessed")
    (tmp_path / "x.csv.part-guessed").symlink_to(victim)
    with pytest.raises(FileExistsError), whole_file(tmp_path / "x.csv"):
        pass
    assert victim.read_text() == "precious"


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "[odd]*.csv"
    target.write_bytes(b"before")
    with pytest.raises(TypeError), whole_file(target) as stream:
        stream.writelines([b"half", "text"])  # type: ignore[list-item]
    assert target.read_bytes() == b"before"
    assert list(tmp_path.iterdir()) == [target]


def _die_at_work(target: Path) -> None:
    with whole_file(target) as stream, working_folder("gpuscout-test-") as folder:
        stream.write(b"half")
        stream.flush()
        (folder / "large").touch()
        os.kill(os.getpid(), signal.SIGKILL)


def test_the_litter_of_the_dead_is_removed_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    start_server()  # whose own folder is elsewhere
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    target = tmp_path / "x.csv"
    process = FORKS.Process(target=_die_at_work, args=(target,))
    process.start()
    process.join()
    litter = [*tmp_path.glob("x.csv.part-*"), *tmp_path.glob("gpuscout-test-*")]
    assert len(litter) >= 1
    long_ago = time.time() - 3600
    with whole_file(target) as alive:  # is not taken for litter
        for file in tmp_path.iterdir():
            os.utime(file, (long_ago, long_ago))
        with whole_file(target) as stream, working_folder("gpuscout-test-"):
            stream.write(b"whole")
        alive.write(b"later")
    assert target.read_bytes() == b"later"
    assert list(tmp_path.iterdir()) == [target]
