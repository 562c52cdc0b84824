"""The GPU benchmark itself, on a CPU with small networks: it measures everything, and nothing makes it late."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.gpu.__main__ import PARTS, _Run, main
from benchmarks.gpu.part import Outcome, Part
from benchmarks.gpu.report import format_report
from benchmarks.gpu.setting import Recorder, Setting, read_rows, shown
from benchmarks.gpu.summary import summary_rows
from tests.support import ON_CPU, ROOT, python

# what a machine with torch, torchvision and NumPy has not
EXTRAS = (
    "soundfile,webdataset,av,deepspeed,mir_eval,scipy,yaml,tqdm,tensorboard,matplotlib,jinja2,psutil,pytest,torchaudio"
)


def report_of(folder: Path) -> dict:
    report: dict = json.loads((folder / "report.json").read_text())
    return report


def figures(report: dict, part: str) -> dict[str, object]:
    return {row["name"]: row["value"] for entry in report["parts"] if entry["part"] == part for row in entry["rows"]}


@pytest.mark.slow
@pytest.mark.distributed
def test_all_parts_on_a_cpu(tmp_path: Path) -> None:
    began = time.monotonic()
    options = ["--device", "cpu", "--small", "--minutes", "6", "--out", str(tmp_path)]
    done = python("-m", "benchmarks.gpu", *options, timeout_s=400)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - began < 6 * 60
    report = report_of(tmp_path)
    states = {entry["part"]: entry["status"] for entry in report["parts"]}
    assert set(states) == {part.key for part in PARTS} | {"synthetic_shards"}
    assert states.pop("ranks") == "left out"  # it needs two GPUs
    assert states.pop("steps compiled") == "left out"  # it needs one
    assert set(states.values()) <= {"done", "out of time"}, (tmp_path / "log.txt").read_text()
    assert (
        figures(report, "numbers")["cpu float32 beside float64 on the CPU: outputs and losses in training mode"] < 1e-3
    )  # type: ignore[operator]
    assert figures(report, "numbers")["cpu float32 beside float64 on the CPU: gradient of the critic"] < 1e-3  # type: ignore[operator]
    assert figures(report, "steps eager")["float32, batch 4: rate"] > 0  # type: ignore[operator]
    assert figures(report, "launches")["float32, both learn: operations of torch"] > 100  # type: ignore[operator]
    assert "skipped" in str(figures(report, "gpu_tests")["results"])
    text = (tmp_path / "report.txt").read_text()
    assert "needs 2 GPUs; this machine shows 0 to torch" in text
    assert "needs a GPU; this machine shows 0 to torch" in text
    assert "steps, float32, batch 4" in text


@pytest.mark.slow
@pytest.mark.distributed
def test_two_ranks(tmp_path: Path) -> None:
    options = ["--device", "cpu", "--small", "--minutes", "16", "--parts", "ranks", "--out", str(tmp_path)]
    done = python("-m", "benchmarks.gpu", *options, timeout_s=400)
    assert done.returncode == 0, done.stderr
    found = figures(report_of(tmp_path), "ranks")
    assert found["2 ranks: rate"] > 0  # type: ignore[operator]
    assert found["2 ranks: sent, gradients"] > 0  # type: ignore[operator]


@pytest.mark.slow
def test_a_checkout_with_torch_torchvision_and_numpy_alone(tmp_path: Path) -> None:
    """Parts that need more say so, and the others import nothing else."""
    options = ["--device", "cpu", "--small", "--minutes", "2", "--out", str(tmp_path), "--parts"]
    names = "training,loader,evaluation,gpu_tests,cycle"
    done = python("-m", "tests.blocked", EXTRAS, "-m", "benchmarks.gpu", *options, names)
    assert done.returncode == 0, done.stderr
    reasons = {entry["part"]: entry["reason"] for entry in report_of(tmp_path)["parts"]}
    assert "soundfile, yaml, tqdm, tensorboard, scipy, matplotlib is missing" in reasons["training"]
    assert all("is missing" in reason for reason in reasons.values())
    modules = [f"benchmarks.gpu.parts.{name}" for name in ("environment", "numbers", "steps", "launches", "ranks")]
    done = python("-m", "tests.blocked", EXTRAS, "-c", f"import benchmarks.gpu.child, {', '.join(modules)}")
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_training_imports_without_webdataset_video_and_metrics() -> None:
    """What is needed for shards in a folder only: they are read with soundfile alone."""
    modules = "benchmarks.gpu.parts.training, benchmarks.gpu.parts.loader, ialcms.training.trainer"
    done = python("-m", "tests.blocked", "webdataset,av,deepspeed,mir_eval", "-c", f"import {modules}")
    assert done.returncode == 0, done.stderr


def odd(how: str, seconds: float = 20.0) -> Part:
    return Part(f"odd-{how}", how, 1, seconds, arguments=(how,), module="tests.benchmarks.odd_part")


def run_parts(parts: list[Part], folder: Path, minutes: float = 8.0) -> list[Outcome]:
    (folder / "work").mkdir()
    about = {"device": "cpu", "num_gpus": 0, "small": False, "parts": None, "minutes": minutes, "command": "",
             "started": ""}  # fmt: skip
    with open(folder / "log.txt", "w") as log:
        run = _Run(parts, folder, folder / "work", about, log, time.monotonic() + 60 * minutes)
        try:
            run.all()
        finally:
            run.close()
    return run.outcomes


def test_a_part_that_fails_costs_nothing_but_its_rest(tmp_path: Path) -> None:
    outcomes = run_parts([odd("crashes"), odd("raises"), odd("works")], tmp_path)
    assert [outcome.status for outcome in outcomes] == ["failed", "failed", "done"]
    assert "SIGABRT" in outcomes[0].reason
    assert "exit code 1" in outcomes[1].reason
    assert [[row["name"] for row in outcome.rows] for outcome in outcomes] == [
        ["before"],
        ["before"],
        ["before", "after"],
    ]
    assert outcomes[2].rows[1]["value"] is None  # JSON has no word for it
    assert "not a finite number" in outcomes[2].rows[1]["note"]
    assert "no such luck" in (tmp_path / "log.txt").read_text()


def runs(process: int) -> bool:
    """Whether there is such a process, and it is more than an entry that nobody has asked for."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_part_that_hangs_is_ended_with_what_it_started(tmp_path: Path) -> None:
    hangs, works = run_parts([odd("hangs", seconds=10), odd("works")], tmp_path)
    assert (hangs.status, works.status) == ("out of time", "done")
    assert [row["name"] for row in hangs.rows] == ["before"]
    child = int((tmp_path / "work" / "child").read_text())
    deadline = time.monotonic() + 10
    while runs(child):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_parts_for_which_there_is_no_time(tmp_path: Path) -> None:
    first, second = run_parts([odd("works"), odd("works")], tmp_path, minutes=0.05)
    assert (first.status, second.status) == ("left out", "left out")
    assert "no time is left" in first.reason
    assert "no time is left" in (tmp_path / "report.txt").read_text()


def test_time_is_kept_for_the_parts_behind(tmp_path: Path) -> None:
    module = "tests.benchmarks.odd_part"
    parts = [Part("odd", "greedy", 10, 1000, module=module), Part("odd", "modest", 60, 60, module=module)]
    about = {"device": "cpu", "num_gpus": 0, "small": False, "parts": None, "minutes": 8}
    parts = [
        Part(part.name, part.title, part.least_s, part.most_s, module="tests.benchmarks.odd_part") for part in parts
    ]
    with open(tmp_path / "log.txt", "w") as log:
        run = _Run(parts, tmp_path, tmp_path, about, log, time.monotonic() + 480)
    greedy = run._left.pop(0)
    assert 380 < run._seconds_for(greedy) < 410  # 480 without 60 and what lies between parts
    run = _Run(parts, tmp_path, tmp_path, about, log, time.monotonic() + 40)
    assert 10 <= run._seconds_for(run._left.pop(0)) < 11  # its least goes before that of those behind


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--parts", "nummbers"], "--parts has no part 'nummbers'; choose from environment, numbers, "),
        (["--minutes", "0"], "--minutes is 0; give at least 0.2"),
        (["--minutes", "nan"], "--minutes is nan; give at least 0.2"),
    ],
)
def test_bad_options(tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str) -> None:
    assert main(["--device", "cpu", "--out", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_gpu(tmp_path: Path) -> None:
    done = python("-m", "benchmarks.gpu", "--device", "cuda", "--out", str(tmp_path / "out"))
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("benchmarks.gpu: error: torch sees no GPU here")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_request_to_end_leaves_a_whole_report(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--small", "--out", str(tmp_path),
               "--parts", "environment,numbers"]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, env=ON_CPU, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()  # the first part runs
    process.terminate()
    assert process.wait(60) == 0
    states = [entry["status"] for entry in report_of(tmp_path)["parts"]]
    assert states[-1] == "left out"


def test_rows_of_a_part_that_was_killed_in_the_middle_of_a_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    recorder = Recorder(Setting("cpu", True, 10, str(tmp_path), str(path), time.monotonic()))
    recorder.add("rate", 3.0, "mixes/s")
    recorder.missing("graphs", RuntimeError("two\nlines"))
    with open(path, "a") as file:
        file.write('{"name": "cut o')
    assert [(row["name"], row["value"], row["note"]) for row in read_rows(path)] == [
        ("rate", 3.0, ""),
        ("graphs", None, "RuntimeError: two lines"),
    ]


def test_rates_beside_the_naive_form() -> None:
    def row(name: str, value: float | None, unit: str) -> dict:
        return {"name": name, "value": value, "unit": unit, "note": ""}

    outcomes = [
        Outcome("cycle", "", "done", rows=[row("naive, float32, batch 8: cycle", 240.0, "ms")]),
        Outcome(
            "steps graphs",
            "",
            "done",
            rows=[
                row("bf16, graphs, batch 8: rate", 800.0, "mixes/s"),
                row("bf16, graphs, batch 32: rate", 900.0, "mixes/s"),
                row("TF32, graphs, batch 8", None, ""),
            ],
        ),
    ]
    # 3 steps of 8 mixes in 0.24 s are 100 mixes a second
    notes = {entry["name"]: entry["note"] for entry in summary_rows(outcomes)}
    assert notes == {
        "steps, bf16, graphs, batch 8": "8.00 times naive float32 of the same batch",
        "steps, bf16, graphs, batch 32": "",
    }


def test_a_report_of_nothing() -> None:
    about = {"command": "python -m benchmarks.gpu", "started": "now", "elapsed_s": 1.0}
    text = format_report(about, [Outcome("steps eager", "steps", "left out", "no time is left")])
    assert "left out: no time is left" in text
    assert [shown(value) for value in (None, True, 12_345, 12_345.6, 0.012345, "x")] == [
        "-", "yes", "12,345", "12,346", "0.01235", "x",
    ]  # fmt: skip
