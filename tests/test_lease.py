"""One job in a folder: who comes second is refused, who died is taken over, whoever was taken over notices."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ialcms import lease as lease_module
from ialcms.lease import FILE_NAME, Lease, read_owner
from tests.support import ON_CPU, ROOT, wait_for


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_S", 0.1)
    monkeypatch.setattr(lease_module, "STALE_S", 1.5)
    monkeypatch.setattr(lease_module, "_POLL_S", 0.05)


def lease(folder: Path) -> Lease:
    return Lease(folder, "a test", "--out", name="the folder")


def foreign(folder: Path, count: int = 0) -> None:
    """The lock of a process that nobody here can look at."""
    folder.mkdir(exist_ok=True)
    values = {"count": f"{count:012d}", "token": "abc", "purpose": "training", "host": "n7", "process": 12}
    content = json.dumps({**values, "machine": "n7 boot", "born": "1", "since": "2026-11-26 04:00:00"})
    (folder / FILE_NAME).write_text(content)


HOLDER = """
import sys, time
from pathlib import Path
from ialcms.lease import Lease
with Lease(Path(sys.argv[1]), "a test", "--out", name="the folder"):
    time.sleep(1000)
"""


def holder(folder: Path) -> subprocess.Popen:
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(folder)], cwd=ROOT, env=ON_CPU)
    wait_for((folder / FILE_NAME).exists, process)
    return process


def test_a_second_one_is_refused_and_the_third_is_not(tmp_path: Path) -> None:
    process = holder(tmp_path / "out")
    try:
        with pytest.raises(ValueError, match=rf"in use by process {process.pid} on \S+ \(a test, since 20.*--out$"):
            lease(tmp_path / "out").__enter__()
    finally:
        process.kill()
        process.wait()
    with lease(tmp_path / "out"):
        assert (tmp_path / "out" / FILE_NAME).exists()
    assert not (tmp_path / "out" / FILE_NAME).exists()


def test_a_killed_one_is_taken_over_at_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    process = holder(tmp_path)
    process.kill()
    assert (tmp_path / FILE_NAME).exists()  # a zombie yet: it has ended
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="ialcms"), lease(tmp_path):
        assert time.monotonic() - began < 1.0
    process.wait()
    assert f"was held by process {process.pid}" in caplog.text


def test_one_on_another_machine_that_renews_is_waited_for_and_refused(tmp_path: Path) -> None:
    foreign(tmp_path)
    thread = threading.Timer(0.7, foreign, (tmp_path, 1))
    thread.start()
    with pytest.raises(ValueError, match=r"in use by process 12 on n7 \(training, since 2026-11-26 04:00:00\)"):
        lease(tmp_path).__enter__()
    thread.join()


def test_one_on_another_machine_that_stands_still_is_taken_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    foreign(tmp_path)
    os.utime(tmp_path / FILE_NAME, (2e9, 2e9))  # its clock is of no account
    began = time.monotonic()
    with caplog.at_level(logging.WARNING, logger="ialcms"), lease(tmp_path) as ours:
        assert time.monotonic() - began > 1.4
        found = read_owner(tmp_path / FILE_NAME)
        assert found is not None
        assert found.token == ours.token
    assert "was held by process 12 on n7" in caplog.text
    assert "taken over" in caplog.text
    assert not list(tmp_path.iterdir())


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(lease_module.os, "link", no_links)
    with lease(tmp_path), pytest.raises(ValueError, match="in use"):
        lease(tmp_path).__enter__()


def test_it_is_renewed_and_comes_back_when_it_was_deleted(tmp_path: Path) -> None:
    path = tmp_path / FILE_NAME
    with lease(tmp_path) as ours:
        first = path.read_bytes()
        time.sleep(0.5)
        assert path.read_bytes() != first
        assert len(path.read_bytes()) == len(first)
        path.unlink()
        time.sleep(0.5)
        assert path.exists()
        ours.check()


def test_whoever_was_taken_over_notices_and_leaves_the_file(tmp_path: Path) -> None:
    with lease(tmp_path) as ours:
        (tmp_path / FILE_NAME).unlink()
        foreign(tmp_path)
        with pytest.raises(ValueError, match=r"was taken over by process 12 on n7 .*writes nothing more there"):
            ours.check()
        assert ours.lost
    assert (tmp_path / FILE_NAME).exists()


def test_of_many_at_once_one_gets_it(tmp_path: Path) -> None:
    """Also when all of them find a stale one and want to take it over."""
    foreign(tmp_path)
    got: list[Lease] = []
    refused: list[str] = []

    def try_it() -> None:
        ours = lease(tmp_path)
        try:
            ours.__enter__()
            got.append(ours)
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=try_it) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    time.sleep(0.3)  # a renewal
    holders = [ours for ours in got if not ours.lost]
    for ours in got:
        ours.__exit__(None, None, None)
    assert len(holders) == 1
    assert len(got) + len(refused) == 8


def test_folders_that_it_has_made_go_when_nothing_was_put_there(tmp_path: Path) -> None:
    with lease(tmp_path / "a" / "b"):
        pass
    assert not (tmp_path / "a").exists()
    with lease(tmp_path / "a" / "b"):
        (tmp_path / "a" / "b" / "result").touch()
    assert [path.name for path in (tmp_path / "a" / "b").iterdir()] == ["result"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ValueError, match=r"^the folder \S+/file/out cannot be written \(Not a directory\).*--out$"):
        lease(tmp_path / "file" / "out").__enter__()
