"""Batches: the same whatever prepares them."""

from __future__ import annotations

import itertools
import logging
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ialcms.data import clip_store as store
from ialcms.data import train_batches as train_batches_module
from ialcms.data.clip_store import ClipStore
from ialcms.data.manifest import Manifest
from ialcms.data.mixtures import empty_arrays, make_mix
from ialcms.data.plan import Plan
from ialcms.data.prefetch import in_thread
from ialcms.data.train_batches import BadClips, Batch, cached_bytes, loader_workers, normalise_objects, train_batches
from tests.support.data import small_config, write_shards


def take(count: int, batches: Iterator[Batch]) -> list[Batch]:
    taken = list(itertools.islice(batches, count))
    assert isinstance(batches, Generator)
    batches.close()
    return taken


def assert_equal(a: Batch, b: Batch) -> None:
    assert (a.step, a.keys, a.bad) == (b.step, b.keys, b.bad)
    assert torch.equal(a.mix, b.mix)
    assert torch.equal(a.mixtures, b.mixtures)
    assert torch.equal(a.objects, b.objects)


def rows(batch: Batch, start: int, stop: int) -> Batch:
    return replace(
        batch,
        mix=batch.mix[start:stop],
        mixtures=batch.mixtures[start:stop],
        objects=batch.objects[start:stop],
        keys=batch.keys[start:stop],
    )


@pytest.fixture(scope="module")
def whole(shards: Manifest) -> list[Batch]:
    """The first 30 global batches, one rank, no loader workers."""
    return take(30, train_batches(small_config(), shards))


def test_a_batch_holds_the_mixes_of_its_lanes(shards: Manifest, whole: list[Batch]) -> None:
    config = small_config()
    plan, clips = Plan(shards, config.data, config.audio, config.seed, 4), ClipStore(shards, 100, 20)
    for step in (0, 1, 29):
        batch = whole[step]
        assert batch.step == step
        assert batch.mix.shape == (4, 310)
        assert batch.mixtures.shape == (4, 2, 310)
        assert batch.objects.shape == (4, 2, 2, 3, 16, 16)
        assert batch.mix.dtype == batch.mixtures.dtype == torch.float32
        assert batch.objects.dtype == torch.uint8
        for lane in range(4):
            mix = empty_arrays(plan)
            assert batch.keys[lane] == make_mix(plan, clips, lane, step, mix).keys
            assert torch.equal(batch.mix[lane], torch.from_numpy(mix.mix))
            assert torch.equal(batch.mixtures[lane], torch.from_numpy(mix.mixtures))
            assert torch.equal(batch.objects[lane], torch.from_numpy(mix.objects))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_workers_share_the_global_batch_in_order(shards: Manifest, whole: list[Batch], world_size: int) -> None:
    share = 4 // world_size
    for rank in range(world_size):
        batches = take(10, train_batches(small_config(), shards, 0, rank, world_size))
        for batch, expected in zip(batches, whole):
            assert_equal(batch, rows(expected, rank * share, (rank + 1) * share))


@pytest.mark.parametrize("start", [1, 7, 29])
def test_a_start_in_the_middle_gives_what_an_uninterrupted_run_sees(
    shards: Manifest, whole: list[Batch], start: int
) -> None:
    for batch, expected in zip(take(30 - start, train_batches(small_config(), shards, start)), whole[start:]):
        assert_equal(batch, expected)


@pytest.mark.parametrize("start", [0, 1_003, 10**7])
def test_a_start_reads_the_clips_of_its_batch_and_nothing_else(
    shards: Manifest, start: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    read_clip = store.read_clip

    def counted(manifest: Manifest, index: int, *args: object, **options: object) -> object:
        reads.append(manifest.clips[index].key)
        return read_clip(manifest, index, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "read_clip", counted)
    (batch,) = take(1, train_batches(small_config(), shards, start))
    assert batch.step == start
    assert set(reads) == {key for keys in batch.keys for key in keys}
    assert len(reads) <= 16  # 4 mixes of 4 clips


@pytest.mark.distributed
@pytest.mark.filterwarnings("ignore:This DataLoader will create")
@pytest.mark.parametrize(("workers", "rank", "world_size"), [(1, 0, 1), (2, 0, 1), (3, 0, 1), (4, 0, 1), (3, 1, 2)])
def test_loader_workers_change_nothing(
    shards: Manifest, whole: list[Batch], workers: int, rank: int, world_size: int
) -> None:
    # 3 workers for 4 lanes: uneven parts; for 2 lanes: only as many workers as lanes
    share = 4 // world_size
    config = small_config(loader_workers=workers, prefetch=2)
    random_state = torch.get_rng_state()
    for batch, expected in zip(take(9, train_batches(config, shards, 5, rank, world_size)), whole[5:]):
        assert_equal(batch, rows(expected, rank * share, (rank + 1) * share))
    assert torch.equal(torch.get_rng_state(), random_state)


@pytest.mark.parametrize(
    ("wanted", "cores", "lanes", "expected"),
    [
        ("auto", 16, 8, 8),
        ("auto", 4, 8, 3),
        ("auto", 2, 8, 1),
        ("auto", 1, 8, 1),
        (0, 16, 8, 0),
        (5, 1, 8, 5),
        (5, 16, 4, 4),
    ],
)
def test_loader_workers(
    monkeypatch: pytest.MonkeyPatch, wanted: int | str, cores: int, lanes: int, expected: int
) -> None:
    monkeypatch.setattr(train_batches_module, "cores_of_a_rank", lambda: cores)
    assert loader_workers(small_config(loader_workers=wanted), lanes) == expected


def test_one_shard_and_fewer_shards_than_ranks(tmp_path: Path) -> None:
    manifest = write_shards(tmp_path, [20])
    expected = take(6, train_batches(small_config(), manifest))
    for rank in range(4):
        for batch, one in zip(take(6, train_batches(small_config(), manifest, 0, rank, 4)), expected):
            assert_equal(batch, rows(one, rank, rank + 1))


def test_seed_and_data_configuration_change_the_batches(shards: Manifest, whole: list[Batch]) -> None:
    for config in (replace(small_config(), seed=8), small_config(window=20)):
        assert next(iter(train_batches(config, shards))).keys != whole[0].keys
    gain = next(iter(train_batches(small_config(gain=(1.0, 1.0)), shards)))
    assert gain.keys == whole[0].keys
    assert not torch.equal(gain.mix, whole[0].mix)


def test_normalise_objects() -> None:
    objects = torch.randint(0, 256, (2, 2, 2, 3, 8, 8), dtype=torch.uint8)
    normalised = normalise_objects(objects)
    assert normalised.dtype == torch.float32
    assert normalised.shape == objects.shape
    for channel, (mean, std) in enumerate(((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))):
        expected = (objects[..., channel, :, :].double() / 255 - mean) / std
        assert (normalised[..., channel, :, :] - expected).abs().max() < 1e-5


class TestBadClips:
    broken = {"bell_000": {"wav": b"broken"}, "tuba_019": {"npy": b"broken"}}  # noqa: RUF012

    def test_named_once_and_counted(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        manifest = write_shards(tmp_path, [25, 5, 30], replace=self.broken)
        config = small_config(max_bad_fraction=0.04)
        with caplog.at_level(logging.WARNING, logger="ialcms.data"):
            batches = take(60, train_batches(config, manifest))
            bad, silent = BadClips(config, manifest), BadClips(config, manifest, logs=False)
            for batch in batches:
                bad.add(batch.step, batch.bad)
                silent.add(batch.step, batch.bad)
        assert set(bad.keys) == set(silent.keys) == set(self.broken)
        assert {key for batch in batches for key in batch.bad} == set(self.broken)
        assert sum(len(batch.bad) for batch in batches) > 4
        warnings = [record.getMessage() for record in caplog.records]
        assert len(warnings) == 2
        assert {key for key in self.broken for line in warnings if key in line} == set(self.broken)

    def test_equal_on_every_rank(self, tmp_path: Path) -> None:
        manifest = write_shards(tmp_path, [25, 5, 30], replace=self.broken)
        config = small_config(max_bad_fraction=1.0)
        expected = take(20, train_batches(config, manifest))
        assert any(batch.bad for batch in expected)
        for rank in range(2):
            for batch, one in zip(take(12, train_batches(config, manifest, 8, rank, 2)), expected[8:]):
                half = rows(one, 2 * rank, 2 * rank + 2)
                assert_equal(replace(batch, bad={}), replace(half, bad={}))
                assert set(batch.bad) <= set(one.bad)

    def test_many_share_a_line(self, shards: Manifest, caplog: pytest.LogCaptureFixture) -> None:
        now = 0.0
        with caplog.at_level(logging.WARNING, logger="ialcms.data"):
            bad = BadClips(small_config(max_bad_fraction=2.0), shards, clock=lambda: now)
            for step in range(8):
                bad.add(step, {f"clip{step}": f"reason {step}", "clip0": "reason 0"})
            assert len(caplog.records) == 8
            for step in range(8, 100):  # a second a step
                now = float(step)
                bad.add(step, {f"clip{step}": f"reason {step}"})
            assert len(caplog.records) == 8 + 2 + 1
            bad.log_new()
            bad.log_new()
        assert len(caplog.records) == 12
        assert len(bad.keys) == 100
        for number in range(100):
            assert len([r for r in caplog.records if re.search(rf"\b(clip|reason ){number}\b", r.getMessage())]) == 1
        assert "replaced clips clip10, clip11" in caplog.records[10].getMessage()
        assert "(70 so far); the last: reason 69" in caplog.records[10].getMessage()

    def test_too_many_stop_the_run(self, tmp_path: Path) -> None:
        manifest = write_shards(tmp_path, [25, 5, 30], replace=self.broken)
        config = small_config(max_bad_fraction=0.02)
        bad = BadClips(config, manifest)
        batch = next(batch for batch in take(60, train_batches(config, manifest)) if len(batch.bad) == 2)
        message = r"^2 of 60 training clips cannot be used, more than data.max_bad_fraction=0.02; .*clip (bell|tuba)_0"
        with pytest.raises(ValueError, match=message):
            bad.add(batch.step, batch.bad)

    def test_a_start_goes_on_counting(self, shards: Manifest) -> None:
        config = small_config(max_bad_fraction=0.02)
        bad = BadClips(config, shards)
        bad.add(3, {"bell_000": "clip bell_000"})
        again = BadClips(config, shards, bad.keys)
        assert not again.has_new({"bell_000": "clip bell_000"})
        assert again.has_new({"bell_001": "clip bell_001"})
        with pytest.raises(ValueError, match=r"^2 of 60 .* the last, in step 8: clip bell_001; run"):
            again.add(8, {"bell_001": "clip bell_001"})

    @pytest.mark.distributed
    def test_a_lost_shard_is_named_in_one_line(self, tmp_path: Path) -> None:
        manifest = write_shards(tmp_path, [25, 5, 30])
        (tmp_path / "clips-002.tar").unlink()
        with pytest.raises(ValueError, match=r"^shard .*clips-002.tar is missing; .*pack again$") as raised:
            take(60, train_batches(small_config(loader_workers=2), manifest))
        assert "\n" not in str(raised.value)


class TestErrors:
    def test_other_rate(self, shards: Manifest) -> None:
        config = small_config()
        config = replace(config, audio=replace(config.audio, sample_rate=11_025))
        with pytest.raises(ValueError, match=r"have 1000 Hz, audio.sample_rate is 11025.*set audio.sample_rate=1000"):
            train_batches(config, shards)

    def test_workers_that_cannot_share(self, shards: Manifest) -> None:
        with pytest.raises(ValueError, match=r"global_batch is 4, which 3 ranks cannot share"):
            train_batches(small_config(), shards, 0, 0, 3)

    def test_plan_errors_come_at_once(self, shards: Manifest) -> None:
        with pytest.raises(ValueError, match=r"needs 6 different instruments"):
            train_batches(small_config(num_mixtures=3), shards)


class TestInThread:
    def test_order_and_end(self, whole: list[Batch]) -> None:
        assert [batch.step for batch in in_thread(batch for batch in whole)] == list(range(30))

    def test_errors_arrive_at_their_position(self, whole: list[Batch]) -> None:
        def failing() -> Generator[Batch]:
            yield whole[0]
            yield whole[1]
            raise ValueError("after two")

        batches = in_thread(failing())
        assert [next(batches).step, next(batches).step] == [0, 1]
        with pytest.raises(ValueError, match="after two"):
            next(batches)

    def test_does_not_run_far_ahead_and_closes(self, whole: list[Batch]) -> None:
        made, closed = [], []

        def endless() -> Generator[Batch]:
            try:
                while True:
                    made.append(1)
                    yield whole[0]
            finally:
                closed.append(True)

        batches = in_thread(endless(), depth=2)
        next(batches)
        time.sleep(0.3)
        assert len(made) <= 4
        batches.close()
        assert closed == [True]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_batches_are_prefetched_to_the_gpu(shards: Manifest, whole: list[Batch]) -> None:
    device = torch.device("cuda", 0)
    for batch, expected in zip(take(20, train_batches(small_config(), shards, device=device)), whole):
        assert batch.mix.device == batch.objects.device == device
        assert_equal(batch.to("cpu"), expected)


def test_memory_is_bounded_and_reported(shards: Manifest, caplog: pytest.LogCaptureFixture) -> None:
    config = small_config()
    plan = Plan(shards, config.data, config.audio, config.seed, 4)
    with caplog.at_level(logging.INFO, logger="ialcms.data"):
        batches = take(100, train_batches(config, shards))
    # every clip is in reach of four lanes with windows of 16 of 60 clips
    assert "60 clips in 3 shards; lanes 0 to 3 in the training process; at most 60 clips" in caplog.text
    cached = [batch.cached_bytes for batch in batches]
    assert 0 < cached[0] < max(cached) <= cached_bytes(plan, 4, 0)


@pytest.mark.distributed
def test_the_log_says_how_many_loader_workers_were_chosen(
    shards: Manifest, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ialcms.data.train_batches.cores_of_a_rank", lambda: 3)
    for wanted, said in (
        ("auto", "2 loader workers (auto)"),
        (1, "1 loader worker;"),
        (0, "the training process;"),
    ):
        with caplog.at_level(logging.INFO, logger="ialcms.data"):
            take(1, train_batches(small_config(loader_workers=wanted), shards))
        assert f"lanes 0 to 3 in {said}" in caplog.records[-1].message


PROGRAM = """
import multiprocessing, os, sys, time
from tests.support.data import small_config
from ialcms.data.train_batches import train_batches
from ialcms.data.manifest import read_manifest

def children(pid):
    direct = open(f"/proc/{{pid}}/task/{{pid}}/children").read().split()
    return [pid for child in direct for pid in [child, *children(child)]]

if __name__ == "__main__":
    batches = train_batches(small_config(loader_workers=2), read_manifest({folder!r}))
    next(batches)
    print(*children(os.getpid()), flush=True)
    for batch in batches:
        print(batch.step, flush=True)
        time.sleep(0.02)
"""


@pytest.mark.distributed
@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="reads /proc")
def test_loader_workers_ignore_stop_signals_and_end_with_a_killed_run(tmp_path: Path, shards: Manifest) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(folder=str(shards.folder)))
    root = str(Path(__file__).parents[2])
    run = subprocess.Popen(
        [sys.executable, str(program)], stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": root}
    )
    assert run.stdout is not None
    try:
        children = [int(pid) for pid in run.stdout.readline().split()]
        loaders = [pid for pid in children if "forkserver" in Path(f"/proc/{pid}/cmdline").read_text()]
        assert len(loaders) == 3  # the server and two processes
        for pid in loaders:
            os.kill(pid, signal.SIGTERM)
            os.kill(pid, signal.SIGINT)
            os.kill(pid, signal.SIGUSR1)
        steps = [int(run.stdout.readline()) for _ in range(40)]  # more than what was prefetched
        assert steps == list(range(1, 41))
    finally:
        run.kill()
        run.wait()
        run.stdout.close()
    deadline = time.monotonic() + 20
    while any(is_running(pid) for pid in loaders) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in loaders if is_running(pid)]


@pytest.mark.distributed
def test_a_lost_loader_process_is_an_error_and_nothing_stays_behind(shards: Manifest) -> None:
    before = set(multiprocessing.active_children())
    batches = train_batches(small_config(loader_workers=2), shards)
    next(batches)
    processes = set(multiprocessing.active_children()) - before
    assert len(processes) == 2
    processes.pop().kill()
    with pytest.raises(RuntimeError, match=r"a loader worker was lost .*lower data.window or data.loader_workers"):
        take(100, batches)
    assert set(multiprocessing.active_children()) <= before


@pytest.mark.distributed
def test_a_program_can_end_with_its_loader_open(tmp_path: Path, shards: Manifest) -> None:
    program = tmp_path / "program.py"
    text = PROGRAM.format(folder=str(shards.folder))
    program.write_text(text.replace("    for batch in batches:", "    sys.exit(3)\n    for batch in batches:"))
    root = str(Path(__file__).parents[2])
    run = subprocess.run(
        [sys.executable, str(program)], env={**os.environ, "PYTHONPATH": root}, timeout=240, check=False
    )
    assert run.returncode == 3


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False
