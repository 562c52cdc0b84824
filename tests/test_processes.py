from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ialcms import processes
from ialcms.processes import _quota, asset, cores_of_a_rank, map_ordered, map_threads
from ialcms.progress import Progress


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({"cpu.max": "250000 100000"}, 2.5),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "400000\n"}, None),
        ({"cpu.max": ""}, None),
        ({}, None),
    ],
)
def test_cores_of_a_container(tmp_path: Path, files: dict[str, str], cores: float | None):
    (tmp_path / "cpu").mkdir()
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    assert _quota(tmp_path) == cores


@pytest.mark.parametrize(
    ("own", "quota", "ranks", "expected"),
    [
        (16, None, None, 16),
        (16, None, "8", 2),
        (16, 4.0, "2", 2),
        (4, 64.0, "2", 2),
        (2, None, "8", 1),
        (16, 0.4, None, 1),
    ],
)
def test_cores_of_a_rank(
    monkeypatch: pytest.MonkeyPatch, own: int, quota: float | None, ranks: str | None, expected: int
):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(own)))
    monkeypatch.setattr(processes, "_quota", lambda: quota)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if ranks:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", ranks)
    assert cores_of_a_rank() == expected


def _own_asset(item: int) -> tuple[int, str]:
    return item, asset()


@pytest.mark.parametrize("assets", [["x"], ["x", "y"]])
def test_every_process_has_an_asset_of_its_own(assets: list[str]):
    results = list(map_ordered(_own_asset, range(40), len(assets), assets))
    assert [item for item, _ in results] == list(range(40))
    assert {name for _, name in results} <= set(assets)
    assert None not in {name for _, name in results}


def _square(item: int) -> int:
    return item * item


def _fail_at_seven(item: int) -> int:
    if item == 7:
        raise ValueError("seven")
    return item


def _die(item: int) -> int:
    os._exit(1)


def test_only_a_few_items_are_taken_in_advance():
    taken = []

    def items() -> Iterator[int]:
        for item in range(1000):
            taken.append(item)
            yield item

    results = map_ordered(_square, items(), 2)
    assert [next(results) for _ in range(3)] == [0, 1, 4]
    assert len(taken) < 20
    results.close()


def test_an_error_of_a_process_comes_through():
    results = map_ordered(_fail_at_seven, range(100), 2)
    with pytest.raises(ValueError, match="seven"):
        list(results)


def test_a_process_that_dies_is_reported():
    with pytest.raises(ValueError, match="fewer --jobs"):
        list(map_ordered(_die, range(10), 2))


def test_progress_in_a_log_file_is_lines(capsys, monkeypatch):
    monkeypatch.setattr("ialcms.progress.LOG_INTERVAL_S", -1.0)
    with Progress(4, "pack") as progress:
        progress.advance()
        progress.advance(2)
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines] == ["pack: 1/4 clips", "pack: 3/4 clips"]
    assert all("\r" not in line for line in lines)


def test_what_was_done_before_does_not_count_for_the_rate(capsys, monkeypatch):
    monkeypatch.setattr("ialcms.progress.LOG_INTERVAL_S", -1.0)
    with Progress(1000, "pack") as progress:
        progress.skip(990)
        progress.advance(0)  # no rate is known yet
        progress._start -= 10
        progress.advance(5)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("pack: 995/1000 clips, 0.5/s, ")


def test_threads_keep_the_order(capsys):
    assert map_threads(_square, range(50), 4, "scan", "folder") == [n * n for n in range(50)]
    assert map_threads(_square, [], 2, "scan", "folder") == []
    with pytest.raises(ValueError, match="seven"):
        map_threads(_fail_at_seven, range(50), 4, "scan", "folder")
