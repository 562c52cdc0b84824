"""What clusters and people do to a run, with real processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from ialcms.runs import checkpoint
from ialcms.runs.checkpoint import Progress
from tests.support import ON_CPU, ROOT, ialcms, python, small_config, wait_for, write_small_config

pytestmark = [pytest.mark.distributed]
ENDLESS = {"steps": 100_000, "checkpoint_every": 100_000, "validate_every": 100_000, "visualise_every": 0}


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def start(*arguments: str, cwd: Path = ROOT, **variables: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**ON_CPU, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ends(*processes: subprocess.Popen) -> list[tuple[int, str]]:
    """Exit codes and outputs, read side by side."""
    outputs: dict[int, str] = {}
    threads = [
        threading.Thread(target=lambda n=n, p=p: outputs.update({n: p.communicate(timeout=240)[0]}))
        for n, p in enumerate(processes)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [(process.returncode, outputs[n]) for n, process in enumerate(processes)]


def pair(words: list[str], folders: tuple[Path, Path] = (ROOT, ROOT), **variables: str) -> list[tuple[int, str]]:
    """Two ranks as Kubernetes' PyTorchJob starts them: without LOCAL_RANK."""
    variables = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port(), **variables}
    return ends(*(start("-m", "ialcms", *words, cwd=folders[r], RANK=str(r), **variables) for r in (0, 1)))


def steps(folder: Path) -> list[int]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [row["step"] for row in rows if "lambda/ind" in row]


def losses(folder: Path) -> list[dict[str, float]]:
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k.startswith("loss/")} for row in rows if "lambda/ind" in row]


def logged(folder: Path) -> int:
    path = folder / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0


def test_the_second_training_in_a_folder_is_refused(demo_shards: Path, tmp_path: Path) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards, **ENDLESS)
    words = ["-m", "ialcms", "train", str(config), "--folder", str(tmp_path / "run")]
    first = start(*words)
    wait_for(lambda: logged(tmp_path / "run") > 0, first)
    second = python(*words)
    assert second.returncode == 2
    assert re.fullmatch(
        rf"ialcms: error: the run's folder \S+/run is in use by process {first.pid} on \S+ \(training, since 20.*\n",
        second.stderr,
    )
    first.send_signal(signal.SIGTERM)
    ((code, _),) = ends(first)
    assert code == 0
    assert steps(tmp_path / "run") == list(range(1, len(steps(tmp_path / "run")) + 1))
    assert not (tmp_path / "run" / ".lock").exists()


def test_two_writers_of_one_checkpoint_do_not_mix(tmp_path: Path) -> None:
    """Without a lock, too: one of both is there afterwards."""
    barrier = threading.Barrier(2)

    def write(seed: int) -> None:
        state = {"separator": {"module": {"w": torch.full((2_000_000,), float(seed))}}}
        for _ in range(5):
            barrier.wait()
            with contextlib.suppress(OSError):
                checkpoint.save(tmp_path, small_config(seed=seed), "same shards", state, Progress(10))
            barrier.wait()
            found = checkpoint.newest_intact(tmp_path)
            assert found is not None
            seeds.append(
                (
                    checkpoint.read_meta(found)["config"]["seed"],
                    checkpoint.load_state(found)["separator"]["module"]["w"].unique().tolist(),
                )
            )
            barrier.wait()

    seeds: list = []
    threads = [threading.Thread(target=write, args=(seed,)) for seed in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seeds) == 10
    assert all(values == [float(seed)] for seed, values in seeds)


def test_a_new_launch_with_an_old_id_does_what_was_asked(demo_shards: Path, tmp_path: Path) -> None:
    """torchrun with a fixed --rdzv-id, as tutorials show it, and launch.local."""
    config = write_small_config(
        tmp_path / "small.yaml", demo_shards, steps=3, checkpoint_every=1, keep_checkpoints=5, visualise_every=0
    )
    folder = tmp_path / "run"
    launcher = ["-m", "torch.distributed.run", "--nproc_per_node=1", "--rdzv_backend=c10d", "--rdzv_id=42",
                "--rdzv_endpoint=127.0.0.1:0"]  # fmt: skip
    train = ["train", str(config), "--folder", str(folder)]
    assert python(*launcher, "-m", "ialcms", *train).returncode == 0
    chosen = str(folder / "checkpoints" / "step-00000001")
    again = python(*launcher, "-m", "ialcms", *train, "--resume", chosen)
    assert "resumes from step 1 of 3" in again.stderr, again.stderr
    assert python("-m", "launch.local", "--ranks", "2", *train, "--resume", "none").returncode == 2
    with_local = python("-m", "launch.local", "--ranks", "2", *train, "--resume", chosen)
    assert "resumes from step 1 of 3" in with_local.stderr
    other = ialcms(*train, "--init-from", chosen)
    assert other.returncode == 2
    assert "of a run that did not begin with" in other.stderr


def test_a_start_without_a_launchers_agent(demo_shards: Path, tmp_path: Path) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards, steps=2, visualise_every=0)
    done = pair(["train", str(config), "--folder", str(tmp_path / "run")])
    assert [code for code, _ in done] == [0, 0], done
    assert "on 2 ranks" in (tmp_path / "run" / "train.log").read_text()
    task = {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "localhost", "SLURM_JOB_ID": str(os.getpid()),
            "SLURM_STEP_ID": "0"}  # fmt: skip
    words = ["-m", "ialcms", "train", str(config), "--folder", str(tmp_path / "by-srun")]
    done = ends(*(start(*words, SLURM_PROCID=rank, SLURM_LOCALID=rank, **task) for rank in "01"))
    assert [code for code, _ in done] == [0, 0], done
    assert "on 2 ranks" in (tmp_path / "by-srun" / "train.log").read_text()


@pytest.mark.parametrize("rank", ["0", "1"])
def test_a_rank_alone_says_so(demo_shards: Path, tmp_path: Path, rank: str) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards)
    variables = {"WORLD_SIZE": "2", "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    words = ["-m", "ialcms", "train", str(config), "--folder", str(tmp_path / "run")]
    ((code, output),) = ends(start(*words, IALCMS_JOIN_S="2", **variables))
    assert code == 2
    assert "Traceback" not in output
    assert {"0": "1 of 2 ranks have come after 2 s", "1": "rank 0 does not answer"}[rank] in output
    assert not (tmp_path / "run").exists()


def test_launch_local_is_not_misled_by_an_allocation(demo_shards: Path, tmp_path: Path) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards, steps=1, visualise_every=0)
    words = ["-m", "launch.local", "--ranks", "2", "train", str(config), "--folder", str(tmp_path / "run")]
    left = {"SLURM_NODEID": "1", "SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_JOB_ID": "7"}
    ((code, output),) = ends(start(*words, **left))
    assert code == 0, output


def test_other_data_on_one_node(demo_shards: Path, tmp_path: Path) -> None:
    """Two working folders stand for two nodes' disks."""
    nodes = tmp_path / "n1", tmp_path / "n2"
    for node in nodes:
        shutil.copytree(demo_shards, node / "shards")
    manifest = nodes[1] / "shards" / "manifest.json"
    manifest.write_text(manifest.read_text() + "\n")
    config = write_small_config(tmp_path / "small.yaml", Path("shards"), steps=2, visualise_every=0)
    done = pair(["train", str(config), "--folder", str(tmp_path / "run")], nodes)
    assert [code for code, _ in done] == [2, 2]
    assert re.search(
        r"error: the manifest of shards is another one on some nodes: \w+ for rank 1 on \S+, \w+ for "
        r"rank 0",
        done[0][1],
    )
    assert not (tmp_path / "run").exists()
    manifest.unlink()
    done = pair(["train", str(config), "--folder", str(tmp_path / "run")], nodes)
    assert "error: rank 1 on " in done[0][1]
    assert "no manifest.json in 'shards'" in done[0][1]


def test_a_run_folder_that_is_not_shared(demo_shards: Path, tmp_path: Path) -> None:
    nodes = tmp_path / "n1", tmp_path / "n2"
    for node in nodes:
        node.mkdir()
    config = write_small_config(tmp_path / "small.yaml", demo_shards, steps=2, visualise_every=0)
    done = pair(["train", str(config), "--folder", "run"], nodes)
    assert [code for code, _ in done] == [2, 2]
    assert re.search(r"error: the run's folder run is not the same on all nodes: rank 1 on \S+ cannot see", done[0][1])
    assert not (nodes[0] / "run").exists()


@pytest.mark.parametrize("launcher", [[], ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"],
                                      ["-m", "launch.local", "--ranks", "2"]])  # fmt: skip
def test_a_closed_terminal_saves(demo_shards: Path, tmp_path: Path, launcher: list[str]) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards, **ENDLESS)
    folder = tmp_path / "run"
    program = [] if "launch.local" in launcher else ["-m", "ialcms"]
    command = [sys.executable, *launcher, *program, "train", str(config), "--folder", str(folder)]
    master, slave = os.openpty()
    process = subprocess.Popen(  # a session of its own, whose terminal this is
        # the suite itself may run under nohup, which its children would inherit
        [
            sys.executable,
            "-c",
            "import fcntl, os, signal, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
            "signal.signal(signal.SIGHUP, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])",
            *command,
        ],
        cwd=ROOT,
        env=ON_CPU,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    )
    os.close(slave)
    drain = threading.Thread(target=_drain, args=(master, lambda: logged(folder) > 1), daemon=True)
    drain.start()
    wait_for(lambda: not drain.is_alive(), process)
    os.close(master)
    process.wait(timeout=120)
    deadline = time.monotonic() + 30
    while not (saved := checkpoint.newest(folder / "checkpoints")) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert saved is not None
    assert "stopped on request" in (folder / "train.log").read_text()


def _drain(master: int, over: object) -> None:
    """Read what comes, as a terminal does, until it is over."""
    import select

    assert callable(over)
    while not over():
        if select.select([master], [], [], 0.1)[0]:
            os.read(master, 1 << 16)


def test_nohup_is_respected(demo_shards: Path, tmp_path: Path) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards, **ENDLESS)
    folder = tmp_path / "run"
    code = "import os, signal, sys; signal.signal(signal.SIGHUP, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    process = start("-c", code, sys.executable, "-m", "ialcms", "train", str(config), "--folder", str(folder))
    wait_for(lambda: logged(folder) > 0, process)
    process.send_signal(signal.SIGHUP)
    at = logged(folder)
    wait_for(lambda: logged(folder) > at + 3, process)
    process.send_signal(signal.SIGTERM)
    assert ends(process)[0][0] == 0


def test_a_long_folder_for_temporary_files(demo_shards: Path, tmp_path: Path) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards, steps=1, visualise_every=0)
    folder = tmp_path / ("t" * 90)
    folder.mkdir()
    for verb in (["train", str(config), "data.loader_workers=2", "--folder", str(tmp_path / "run")],
                 ["evaluate", str(tmp_path / "run")]):  # fmt: skip
        ((code, output),) = ends(start("-m", "ialcms", *verb, TMPDIR=str(folder)))
        assert code == 0, output


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("unshare"), reason="a small /dev/shm takes root to mount")
@pytest.mark.parametrize("limit", ["mount -t tmpfs -o size=64k tmpfs /dev/shm", "ulimit -n 64"])
def test_little_shared_memory_and_few_open_files(demo_shards: Path, tmp_path: Path, limit: str) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards, steps=3, visualise_every=0)
    words = [sys.executable, "-m", "ialcms", "train", str(config), "data.prefetch=8"]
    shell = ["unshare", "--mount", "bash", "-c", f'{limit} && exec "$@"', "bash"]
    done = subprocess.run(
        [*shell, *words, "data.loader_workers=4", "--folder", str(tmp_path / "little")],
        cwd=ROOT, env=ON_CPU, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "batches come through pipes" in done.stderr
    straight = python(*words[1:], "--folder", str(tmp_path / "straight"))
    assert straight.returncode == 0
    little, as_ever = losses(tmp_path / "little"), losses(tmp_path / "straight")
    assert len(little) == 3
    assert little == as_ever


def test_too_little_memory_is_one_line(demo_shards: Path, tmp_path: Path) -> None:
    config = write_small_config(tmp_path / "small.yaml", demo_shards)
    done = subprocess.run(
        ["bash", "-c", 'ulimit -v 1500000; exec "$@"', "bash", sys.executable, "-m", "ialcms", "train", str(config),
         "--folder", str(tmp_path / "run")],
        cwd=ROOT, env=ON_CPU, capture_output=True, text=True, timeout=240,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "ulimit -v" in done.stderr
