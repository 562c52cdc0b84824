"""Training as a user starts it: the command line, real shards, one and two ranks, resuming, faults in the input."""

from __future__ import annotations

import importlib.metadata
import json
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from ialcms.cli import main
from tests.support import ON_CPU, ROOT, ialcms, python, torchrun, write_small_config

STEPS = 6


@pytest.fixture(scope="module")
def config_file(tmp_path_factory: pytest.TempPathFactory, demo_shards: Path) -> Path:
    path = tmp_path_factory.mktemp("config") / "small.yaml"
    return write_small_config(path, demo_shards, steps=STEPS, validate_every=4, checkpoint_every=2)


def losses(folder: Path) -> list[dict]:
    """The scalars of every logged training step, without what measures time."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    kept = ("loss/", "weighted_loss/", "critic/", "gradient_norm/", "validation/", "lambda/")
    return [{name: value for name, value in row.items() if name == "step" or name.startswith(kept)} for row in rows]


def state(folder: Path, step: int) -> dict:
    return torch.load(folder / "checkpoints" / f"step-{step:08d}" / "state.pt", weights_only=True)


def flat(tree: object, name: str = "") -> dict[str, object]:
    if isinstance(tree, dict):
        return {key: value for k, v in tree.items() for key, value in flat(v, f"{name}/{k}").items()}
    if isinstance(tree, list):
        return {key: value for n, v in enumerate(tree) for key, value in flat(v, f"{name}/{n}").items()}
    return {name: tree}


@pytest.fixture(scope="module")
def whole_run(config_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run on one rank."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    result = ialcms("train", str(config_file), "--folder", str(folder))
    assert result.returncode == 0, result.stderr
    return folder


def test_a_run_leaves_everything_in_its_folder(whole_run: Path) -> None:
    config = yaml.safe_load((whole_run / "config.yaml").read_text())
    assert config["train"]["steps"] == STEPS
    assert config["optim"]["critic_betas"] == [0.0, 0.9]  # resolved: values that the file does not name, too
    environment = json.loads((whole_run / "environment.json").read_text().splitlines()[0])
    assert environment["versions"]["torch"] == importlib.metadata.version("torch")
    assert re.fullmatch(r"[0-9a-f]{12}(-dirty)?|unknown", environment["git"])
    names = sorted(path.name for path in (whole_run / "checkpoints").iterdir())
    assert names[1:] == ["step-00000004", "step-00000006"]  # the two newest and the best
    assert names[0] in ("best-00000004", "best-00000006")
    assert (whole_run / "finished").read_text() == f"{STEPS}\n"
    assert "validation after step 4" in (whole_run / "train.log").read_text()


def test_tensorboard_of_a_run(whole_run: Path) -> None:
    """Read back: everything that the page is to show."""
    events = EventAccumulator(str(whole_run))
    events.Reload()
    tags = events.Tags()
    losses = ("separation", "consistency", "independence")
    metrics = ("SDR", "SIR", "SAR", "SDRi", "SIRi")
    instruments = ("violin", "flute", "tuba", "xylophone", "accordion")
    expected = {
        *(f"loss/{name}" for name in (*losses, "separator", "critic")),
        *(f"weighted_loss/{name}" for name in losses),
        *("lambda/ind", "lambda/avc", "critic/independent_score", "critic/dependent_score"),
        *("gradient_norm/separator", "gradient_norm/critic"),
        *(f"learning_rate/{name}" for name in ("audio", "visual", "critic")),
        *(f"speed/{name}" for name in ("mixes_per_second", "step_seconds", "slowest_rank_step_seconds",
                                       "slowest_rank", "share_waiting_for_data")),
        *("memory/process_gb", "best/SDR"),
        *(f"validation/{metric}" for metric in metrics),
        *(f"validation_by_instrument/{metric}/{name}" for metric in metrics for name in instruments),
    }  # fmt: skip
    assert expected <= set(tags["scalars"])
    assert len(tags["images"]) == 2
    assert {tag.split("/")[1].split()[-1] for tag in tags["audio"]} == {"mix", "estimates", "target", "estimate"}
    assert {"configuration/text_summary", "custom_scalars__config__"} <= set(tags["tensors"])


def test_both_networks_optimizers_and_bank_are_in_a_checkpoint(whole_run: Path) -> None:
    names = flat(state(whole_run, STEPS))
    for part in ("/separator/module/", "/separator/optimizer/state/", "/critic/module/", "/critic/optimizer/state/"):
        assert any(name.startswith(part) for name in names), part
    assert int(names["/bank/filled"]) == 24  # type: ignore[call-overload]
    meta = json.loads((whole_run / "checkpoints" / f"step-{STEPS:08d}" / "meta.json").read_text())
    assert meta["progress"]["step"] == STEPS
    assert meta["progress"]["best_step"] in (4, 6)


def test_critic_and_separator_learn_by_the_step_schedule(whole_run: Path) -> None:
    rows = [row for row in losses(whole_run) if "lambda/ind" in row]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert all("loss/critic" in row for row in rows)
    assert ["loss/separator" in row for row in rows] == [True, False, True, False, True, False]
    # lambda_ind_steps [2, 4], lambda_avc_steps [1, 3]: tenfold after each, counted in 0-based global steps
    assert [row["lambda/ind"] for row in rows] == pytest.approx([1e-4, 1e-4, 1e-4, 1e-3, 1e-3, 1e-2])
    assert [row["lambda/avc"] for row in rows] == pytest.approx([5e-4, 5e-4, 5e-3, 5e-3, 5e-2, 5e-2])


def test_same_seed_same_losses(whole_run: Path, config_file: Path, tmp_path: Path) -> None:
    assert ialcms("train", str(config_file), "--folder", str(tmp_path / "again")).returncode == 0
    assert losses(tmp_path / "again") == losses(whole_run)
    other = ialcms("train", str(config_file), "--folder", str(tmp_path / "other"), "seed=1", "train.steps=1")
    assert other.returncode == 0
    assert losses(tmp_path / "other")[0] != losses(whole_run)[0]


def test_started_again_it_resumes_where_it_was(whole_run: Path, config_file: Path, tmp_path: Path) -> None:
    folder = str(tmp_path / "run")
    assert ialcms("train", str(config_file), "--folder", folder, "train.steps=3").returncode == 0
    result = ialcms("train", str(config_file), "--folder", folder)
    assert result.returncode == 0
    assert f"resumes from step 3 of {STEPS}" in result.stderr
    by_step = {row["step"]: row for row in losses(whole_run) if "lambda/ind" in row}
    resumed = [row for row in losses(tmp_path / "run") if "lambda/ind" in row]
    assert [row["step"] for row in resumed] == [1, 2, 3, 4, 5, 6]
    assert all(row == by_step[row["step"]] for row in resumed)  # bit by bit, on one rank
    ours, theirs = flat(state(tmp_path / "run", STEPS)), flat(state(whole_run, STEPS))
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        assert torch.equal(value, theirs[name]) if isinstance(value, torch.Tensor) else value == theirs[name], name


@pytest.mark.distributed
def test_two_ranks_train_the_same_run(whole_run: Path, config_file: Path, tmp_path: Path) -> None:
    result = torchrun(2, "-m", "ialcms", "train", str(config_file), "--folder", str(tmp_path / "run"))
    assert result.returncode == 0, result.stderr
    assert "on 2 ranks" in result.stderr
    single = {row["step"]: row for row in losses(whole_run) if "lambda/ind" in row}
    double = [row for row in losses(tmp_path / "run") if "lambda/ind" in row]
    assert [row["step"] for row in double] == list(single)
    for row in double:
        # float32 sums in another order, and Adam makes rounding into steps where a gradient is nearly zero
        expected = single[row["step"]]
        assert row.keys() == expected.keys()
        assert row == pytest.approx(expected, rel=0.03, abs=2e-3)
    sent = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    both, critic_only = ({key for key in row if key.startswith("sent_mb/")} for row in sent[:2])
    assert both == {"sent_mb/gradients", "sent_mb/batchnorm", "sent_mb/features", "sent_mb/bank"}
    assert critic_only == both - {"sent_mb/features"}
    rows = sent[1]["sent_mb/bank"] / (64 * 64 * 2 / 1e6)  # components of 16 bits that the other rank uses, up to its 8
    assert rows == pytest.approx(round(rows))
    assert 0 < rows < 8.5


@pytest.mark.distributed
def test_deepspeed_and_its_launcher_train_the_same_run(whole_run: Path, config_file: Path, tmp_path: Path) -> None:
    pytest.importorskip("deepspeed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    launcher = ["-m", "deepspeed.launcher.runner", "--num_gpus", "2", "--master_port", str(port)]
    program = ["--module", "ialcms", "train", str(config_file), "--folder", str(tmp_path / "run")]
    result = python(*launcher, *program, "train.engine=deepspeed", "train.steps=3")
    assert result.returncode == 0, result.stderr
    expected = {row["step"]: row for row in losses(whole_run) if "lambda/ind" in row}
    got = [row for row in losses(tmp_path / "run") if "lambda/ind" in row]
    assert [row["step"] for row in got] == [1, 2, 3]
    for row in got:
        assert row == pytest.approx(expected[row["step"]], rel=0.03, abs=2e-3)


@pytest.mark.distributed
def test_a_sleeping_rank_ends_the_run(config_file: Path, tmp_path: Path) -> None:
    """Rank 1 falls asleep in step 2, rank 0 waits for it in its pass: both say where they are."""
    folder, values = tmp_path / "run", ["train.timeout_s=12", "train.validate_every=100"]
    result = torchrun(
        2, str(ROOT / "tests/training/sleepy.py"), "train", str(config_file), "--folder", str(folder), *values
    )
    assert result.returncode != 0
    for rank, function in ((0, "_separate"), (1, "fall_asleep")):
        assert f"step 2 took longer than 12 s (train.timeout_s) on rank {rank}; its stacks are in" in result.stderr
        stacks = (folder / f"stacks-rank{rank}.txt").read_text()
        assert f" in {function}\n" in stacks
        assert re.search(r"Thread 0x\w+ \(most recent call first\):\n", stacks)


@pytest.mark.parametrize(
    ("environment", "arguments", "message"),
    [
        ("2", ["train.engine=single"], "train.engine is 'single', but 2 ranks were started"),
        ("3", [], "train.global_batch is 4, which 3 ranks cannot share evenly"),
        ("2", ["train.engine=deepspeed", "optim.clip_norm=2"], "gradient_clipping is 1.0, but optim.clip_norm is 2"),
        ("", ["train.engine=deepspeed"], "train.engine is 'deepspeed', which needs a launcher"),
    ],
)
def test_engines_that_cannot_be(
    config_file: Path,
    tmp_path: Path,
    environment: str,
    arguments: list[str],
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if environment:
        monkeypatch.setenv("RANK", "0")
        monkeypatch.setenv("WORLD_SIZE", environment)
    settings = tmp_path / "zero.json"
    settings.write_text('{"gradient_clipping": 1.0, "zero_optimization": {"stage": 2}}')
    values = ["--folder", str(tmp_path / "run"), f"train.deepspeed_config={settings}", *arguments]
    assert main(["train", str(config_file), *values]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ialcms: error: ")
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.distributed
def test_termination_saves_and_the_run_can_be_resumed(config_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "ialcms", "train", str(config_file), "--folder", str(folder)]
    more = ["train.steps=10000", "train.validate_every=10000", "train.checkpoint_every=10000"]
    with subprocess.Popen([*command, *more], cwd=ROOT, env=ON_CPU, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGTERM):  # by a cluster and by its launcher, too
            process.send_signal(number)
            time.sleep(0.05)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "stopped on request after step" in errors
    (saved,) = (folder / "checkpoints").glob("step-*")
    result = ialcms(*command[3:], f"train.steps={int(saved.name[5:]) + 1}", "train.validate_every=10000")
    assert f"resumes from step {int(saved.name[5:])} of" in result.stderr


def evaluate_scores(folder: Path) -> dict:
    return json.loads((folder / "evaluation" / "test-2mix" / "summary.json").read_text())


def test_evaluation_writes_table_and_page(whole_run: Path) -> None:
    result = ialcms("evaluate", str(whole_run))
    assert result.returncode == 0, result.stderr
    assert re.search(r"^all +10 ( +-?\d+\.\d\d){5}$", result.stdout, re.MULTILINE), result.stdout
    summary = evaluate_scores(whole_run)
    assert summary["mixes"] == 10  # every pair of 5 instruments
    assert len(summary["per_instrument"]) == 5
    page = (whole_run / "evaluation" / "test-2mix" / "report.html").read_text()
    assert "accordion" in page


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train.stepz=3"], "unknown key 'train.stepz'.*did you mean 'steps'"),
        (["data.shards=nowhere"], "no manifest.json in 'nowhere'; pack shards with 'ialcms data pack'"),
        (["data.num_mixtures=3"], "a mix needs 6 different instruments"),
        (["model.visual.weights=none.pt"], "backbone weights none.pt do not exist"),
    ],
)
def test_faults_are_one_line_and_exit_code_2(
    config_file: Path, tmp_path: Path, arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(config_file), "--folder", str(tmp_path / "run"), *arguments]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert line.startswith("ialcms: error: ")
    assert re.search(message, line)
    assert not (tmp_path / "run").exists()  # nothing half-written


def test_manifest_of_other_shards(
    config_file: Path, demo_shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(demo_shards, tmp_path / "shards")
    shard = next((tmp_path / "shards").glob("train-*.tar"))
    shard.write_bytes(shard.read_bytes()[:-512])
    values = [f"data.shards={tmp_path / 'shards'}", "--folder", str(tmp_path / "run")]
    assert main(["train", str(config_file), *values]) == 2
    errors = capsys.readouterr().err
    assert f"{shard.name} has" in errors
    assert "manifest and shards do not belong together" in errors


def test_checkpoint_of_another_configuration(whole_run: Path, config_file: Path) -> None:
    result = ialcms("train", str(config_file), "--folder", str(whole_run), "optim.lr_audio=0.5")
    assert result.returncode == 2
    assert "is of another configuration: optim.lr_audio was 0.0001, now 0.5" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.distributed
def test_world_size_that_does_not_divide_the_batch(config_file: Path, tmp_path: Path) -> None:
    result = torchrun(3, "-m", "ialcms", "train", str(config_file), "--folder", str(tmp_path / "run"))
    assert result.returncode != 0
    ours = [line for line in result.stderr.splitlines() if line.startswith("ialcms: error:")]
    assert ours == [
        "ialcms: error: train.global_batch is 4, which 3 ranks cannot share evenly; "
        "use 1, 2, 4 ranks or another train.global_batch"
    ]
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("verb", ["train", "evaluate", "info", "demo", "pretrain"])
def test_help_shows_an_example(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([verb, "--help"])
    assert ended.value.code == 0
    assert re.search(rf"examples?:\n.*ialcms {verb}", capsys.readouterr().out, re.DOTALL)


def test_info_does_the_arithmetic(config_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(config_file), "--ranks", "2"]) == 0
    text = capsys.readouterr().out
    assert "a step: 4 mixes, 16 components; 2 mixes on each of 2 ranks" in text
    assert "an epoch: 12 steps" in text  # 10 mixes for each of 5 clips, 4 a step
    assert re.search(r"^  tuba +1 \(1\) +1 \(1\) +1 \(1\)$", text, re.MULTILINE)


def test_info_counts_the_published_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(ROOT / "configs" / "duet.yaml")]) == 0
    text = capsys.readouterr().out
    # of the published 30,391,383, the 960 offsets in front of an instance normalisation have no effect: not trained
    assert re.search(r"^separator +41,567,895 +30,390,423$", text, re.MULTILINE)
    assert re.search(r"^critic +31,068,161", text, re.MULTILINE)


@pytest.mark.distributed
def test_resuming_with_another_number_of_ranks(whole_run: Path, config_file: Path, tmp_path: Path) -> None:
    """Two ranks take over from one or four, and one from two: equal to rounding, as the order of sums changes."""
    for first, second in ((1, 2), (2, 1), (4, 2)):
        folder = tmp_path / f"from{first}to{second}"
        for ranks, more in ((first, ["train.steps=3"]), (second, [])):
            arguments = ["train", str(config_file), "--folder", str(folder), *more]
            result = ialcms(*arguments) if ranks == 1 else torchrun(ranks, "-m", "ialcms", *arguments)
            assert result.returncode == 0, result.stderr
        expected = {row["step"]: row for row in losses(whole_run) if "lambda/ind" in row}
        got = {row["step"]: row for row in losses(folder) if "lambda/ind" in row}
        assert list(got) == list(expected)
        for step, row in got.items():
            assert row == pytest.approx(expected[step], rel=0.03, abs=2e-3)


@pytest.mark.distributed
def test_resuming_with_another_engine(whole_run: Path, config_file: Path, tmp_path: Path) -> None:
    """DDP, ZeRO 1, ZeRO 2 and DDP again take over from each other: one format of checkpoints, equal to rounding."""
    pytest.importorskip("deepspeed")
    folder = tmp_path / "run"
    for steps, engine in ((2, "ddp"), (3, "zero1"), (5, "zero2"), (STEPS, "ddp")):
        values = [f"train.steps={steps}"]
        if engine != "ddp":
            values += ["train.engine=deepspeed", f"train.deepspeed_config=configs/deepspeed/{engine}.json"]
        result = torchrun(2, "-m", "ialcms", "train", str(config_file), "--folder", str(folder), *values)
        assert result.returncode == 0, result.stderr
    expected = {row["step"]: row for row in losses(whole_run) if "lambda/ind" in row}
    got = {row["step"]: row for row in losses(folder) if "lambda/ind" in row}
    assert list(got) == list(expected)
    for step, row in got.items():
        assert row == pytest.approx(expected[step], rel=0.03, abs=2e-3), step
    ours, theirs = flat(state(folder, STEPS)), flat(state(whole_run, STEPS))
    assert ours.keys() == theirs.keys()  # nothing got lost: moments of every parameter, bank, statistics
    steps = [name for name in ours if name.endswith("/step") and "/optimizer/" in name]
    assert steps
    assert all(float(ours[name]) == float(theirs[name]) for name in steps)  # type: ignore[arg-type]


def test_explicit_resume_sets_the_abandoned_future_aside(
    whole_run: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    shutil.copytree(whole_run, folder)
    start = ["train", str(config_file), "--folder", str(folder)]
    assert main([*start, "--resume", "none"]) == 2
    assert "has checkpoints already; --resume none needs another --folder" in capsys.readouterr().err
    assert main([*start, "--resume", str(folder / "checkpoints" / "step-00000004")]) == 0
    assert (folder / "checkpoints" / "abandoned-step-00000006").is_dir()
    assert flat(state(folder, STEPS)).keys() == flat(state(whole_run, STEPS)).keys()
    rows = [row["step"] for row in losses(folder) if "lambda/ind" in row]
    assert rows == [1, 2, 3, 4, 5, 6]


def test_starting_with_the_weights_of_a_run(
    whole_run: Path, config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = ["train", str(config_file), "train.steps=1", "--folder", str(tmp_path / "run")]
    assert main([*start, "--init-from", str(whole_run), "optim.lr_audio=1e-9", "optim.lr_visual=1e-9"]) == 0
    begun, source = state(tmp_path / "run", 1)["separator"]["module"], _best_state(whole_run)["separator"]["module"]
    assert torch.allclose(begun["decoder.score.weight"], source["decoder.score.weight"], atol=1e-6)
    assert "starts with networks of" in (tmp_path / "run" / "train.log").read_text()

    published = tmp_path / "authors.ckpt"
    assert main(["checkpoint", "export", str(whole_run), "--out", str(published)]) == 0
    assert main([*start[:-1], str(tmp_path / "again"), "--init-from", str(published), "optim.lr_audio=1e-9"]) == 0
    begun, source = state(tmp_path / "again", 1)["separator"]["module"], state(whole_run, STEPS)["separator"]["module"]
    assert torch.allclose(begun["decoder.score.weight"], source["decoder.score.weight"], atol=1e-6)
    assert main([*start[:-1], str(tmp_path / "x"), "--init-from", str(tmp_path / "absent")]) == 2
    assert "does not exist" in capsys.readouterr().err


def test_weights_that_share_a_mix_are_exported_with_a_word(
    config_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = str(tmp_path / "run"), str(tmp_path / "authors.ckpt")
    assert main(["train", str(config_file), "train.steps=1", "model.masks=shares", "--folder", folder]) == 0
    assert main(["checkpoint", "export", folder, "--out", out]) == 0
    assert "authors' programs do not share a mix among its masks" in capsys.readouterr().out


def _best_state(folder: Path) -> dict:
    (best,) = (folder / "checkpoints").glob("best-*")
    return torch.load(best / "state.pt", weights_only=True)


def test_checkpoint_show_and_diff(whole_run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["checkpoint", "show", str(whole_run)]) == 0
    text = capsys.readouterr().out
    assert f"finished steps   {STEPS}" in text
    assert re.search(r"^bank/slots +1 +98,304 +0\.2$", text, re.MULTILINE)  # 24 slots of 64 x 64 in float16
    earlier = str(whole_run / "checkpoints" / "step-00000004")
    assert main(["checkpoint", "diff", earlier, str(whole_run)]) == 0
    text = capsys.readouterr().out
    assert "step: 4  6" in text
    assert re.search(r"^\d\.\d+e[+-]\d+  (separator|critic|bank)/", text, re.MULTILINE)
    assert main(["checkpoint", "diff", str(whole_run), str(whole_run)]) == 0
    same = re.search(r"(\d+) of (\d+) common tensors are equal", capsys.readouterr().out)
    assert same is not None
    assert same[1] == same[2]


def test_a_stop_file_ends_the_run(config_file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "ialcms", "train", str(config_file), "--folder", str(folder)]
    more = ["train.steps=100000", "train.validate_every=100000"]
    with subprocess.Popen([*command, *more], cwd=ROOT, env=ON_CPU, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 120
        while not (folder / "metrics.jsonl").exists() and time.monotonic() < deadline:
            time.sleep(0.2)
        (folder / "stop").touch()
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "stopped on request after step" in errors
    assert not (folder / "finished").exists()
