"""What a run shows: read back from TensorBoard's event files, metrics.jsonl, the log and the terminal."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from torch import Tensor

from ialcms.config import Config, flatten, to_dict
from ialcms.data.manifest import Manifest
from ialcms.engine import Ranks
from ialcms.engine.traffic import Traffic
from ialcms.models.build import build_networks, critic_optimizer, separator_optimizer
from ialcms.monitoring.measurements import TimeLeft, learning_rates
from ialcms.monitoring.monitor import Monitor
from ialcms.monitoring.records import drop_records_after
from ialcms.runs.run_folder import RunFolder
from ialcms.training.step import Experiment
from ialcms.training.validation import Validation, ValidationResult
from tests.support import ON_CPU, make_batch, small_config
from tests.support.evaluation import evaluation_config, make_separator, write_evaluation_shards


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    path = tmp_path / "run"
    path.mkdir()
    return RunFolder(path)


def events(folder: RunFolder) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder.tensorboard), STORE_EVERYTHING_SIZE_GUIDANCE)
    accumulator.Reload()
    return accumulator


def curve(folder: RunFolder, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in events(folder).Scalars(tag)]


def await_next_second() -> None:
    """Event files are read in the order of their names, which hold the second and, as text, how many there were."""
    time.sleep(1 - time.time() % 1)


def rows_of(folder: RunFolder) -> list[dict]:
    return [json.loads(line) for line in folder.metrics.read_text().splitlines()]


def train(monitor: Monitor, first: int, last: int, offset: float = 0.0) -> None:
    """Steps from `first` to before `last`; the loss of a step is its number, the critic learns at every third only."""
    for step in range(first, last):
        scalars: dict[str, Tensor] = {"loss/separation": torch.tensor(step + offset)}
        if step % 3 == 0:
            scalars["loss/critic"] = torch.tensor(10.0 * step)
        monitor.step(step, scalars, {"lambda/ind": 0.5}, waited_s=0.0)


def test_means_since_the_last_record(folder: RunFolder) -> None:
    """Scalars of steps between two records are not lost."""
    monitor = Monitor(folder, small_config(train={"log_every": 4, "steps": 10}), Ranks(), 0)
    train(monitor, 0, 10)
    monitor.close()
    assert curve(folder, "loss/separation") == [(4, 1.5), (8, 5.5)]
    assert curve(folder, "loss/critic") == [(4, 15.0), (8, 60.0)]  # steps 0 and 3; step 6
    assert curve(folder, "lambda/ind") == [(4, 0.5), (8, 0.5)]
    rows = rows_of(folder)
    assert [row["step"] for row in rows] == [4, 8]
    assert rows[0]["loss/critic"] == 15.0
    for name in (
        "speed/mixes_per_second", "speed/step_seconds", "speed/slowest_rank_step_seconds", "speed/slowest_rank",
        "speed/fastest_rank_step_seconds", "speed/share_waiting_for_data", "speed/share_waiting_for_ranks",
        "memory/process_gb",
    ):  # fmt: skip
        assert rows[0][name] >= 0
    assert rows[0]["speed/mixes_per_second"] == pytest.approx(4 / rows[0]["speed/step_seconds"])
    assert 0.05 < rows[0]["memory/process_gb"] < 50


def test_nothing_reaches_the_host_between_records(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = Monitor(folder, small_config(train={"log_every": 5}), Ranks(), 0)
    synchronised = []
    for name in ("item", "tolist", "cpu", "__float__", "numpy"):
        original = getattr(Tensor, name)
        monkeypatch.setattr(
            Tensor, name, lambda *a, _n=name, _o=original, **k: (synchronised.append(_n), _o(*a, **k))[1]
        )
    train(monitor, 0, 4)
    assert synchronised == []
    train(monitor, 4, 5)
    assert synchronised == ["tolist"]  # all scalars in one
    monitor.close()


def test_share_of_time_waiting_for_data(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monitor = Monitor(folder, small_config(train={"log_every": 4, "global_batch": 8}), Ranks(), 0)
    for step in range(4):
        now[0] += 0.5
        monitor.step(step, {}, {}, waited_s=0.125)
    (row,) = rows_of(folder)
    assert row["speed/share_waiting_for_data"] == pytest.approx(0.25)
    assert row["speed/step_seconds"] == pytest.approx(0.5)
    assert row["speed/mixes_per_second"] == pytest.approx(16)
    # what is not training does not count
    now[0] += 1000
    monitor.pause()
    for step in range(4, 8):
        now[0] += 0.25
        monitor.step(step, {}, {}, waited_s=0.0)
    assert rows_of(folder)[1]["speed/mixes_per_second"] == pytest.approx(32)
    monitor.close()


def test_one_curve_over_restarts(folder: RunFolder) -> None:
    """Killed at step 9, it resumes from the checkpoint of step 6: what comes after that is written again."""
    config = small_config(train={"log_every": 2, "steps": 12})
    monitor = Monitor(folder, config, Ranks(), 0)
    train(monitor, 0, 6)
    monitor.record_validation(6, {"validation/SDR": 3.0}, "")
    monitor.flush(6)
    train(monitor, 6, 9, offset=100)
    monitor.flush(9)  # killed here: nothing closes it
    with open(folder.metrics, "a") as file:
        file.write('{"step": 9, "loss/sepa')
    await_next_second()
    monitor = Monitor(folder, config, Ranks(), 6)
    train(monitor, 6, 12)
    monitor.close()
    expected = [(2, 0.5), (4, 2.5), (6, 4.5), (8, 6.5), (10, 8.5), (12, 10.5)]
    assert curve(folder, "loss/separation") == expected
    assert curve(folder, "validation/SDR") == [(6, 3.0)]
    rows = rows_of(folder)
    assert [(row["step"], row["loss/separation"]) for row in rows if "loss/separation" in row] == expected
    assert [row["step"] for row in rows if "validation/SDR" in row] == [6]


def test_a_validation_that_is_repeated_is_recorded_once(folder: RunFolder) -> None:
    """Killed between the record and the checkpoint."""
    config = small_config(train={"log_every": 2})
    for again in (False, True):
        monitor = Monitor(folder, config, Ranks(), 2 if again else 0, validates_again=again)
        if not again:
            train(monitor, 0, 2)
        monitor.record_validation(2, {"validation/SDR": 3.0}, "")
        monitor.record_best(2, 3.0)
        monitor.close()
    rows = rows_of(folder)
    assert [next(iter(row.keys() - {"step", "time"})) for row in rows[1:]] == ["validation/SDR", "best/SDR"]
    assert rows[0]["loss/separation"] == 0.5


def test_a_long_validation_shows_how_far_it_is(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monitor = Monitor(folder, small_config(), Ranks(), 0)
    for done in range(41):
        monitor.show_validation(80, done, 40)
        now[0] += 2
    monitor.close()
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "validation after step 80: 8/40 mixes  0:01:04 left"
    assert len(lines) == 4


def test_a_restart_before_the_first_checkpoint(folder: RunFolder) -> None:
    config = small_config(train={"log_every": 2})
    for offset in (100.0, 0.0):
        monitor = Monitor(folder, config, Ranks(), 0)
        train(monitor, 0, 4, offset)
        monitor.close()
        await_next_second()
    assert curve(folder, "loss/separation") == [(2, 0.5), (4, 2.5)]
    assert len(rows_of(folder)) == 2


def test_records_without_a_file(tmp_path: Path) -> None:
    drop_records_after(tmp_path / "metrics.jsonl", 3)
    assert not list(tmp_path.iterdir())


def test_numbers_that_json_has_no_word_for(folder: RunFolder) -> None:
    monitor = Monitor(folder, small_config(train={"log_every": 1}), Ranks(), 0)
    monitor.step(0, {"loss/separation": torch.tensor(float("nan"))}, {}, 0.0)
    monitor.close()
    (row,) = (json.loads(line, parse_constant=pytest.fail) for line in folder.metrics.read_text().splitlines())
    assert row["loss/separation"] is None
    assert np.isnan(curve(folder, "loss/separation")[0][1])


def test_configuration_hparams_and_best_score(folder: RunFolder) -> None:
    config = small_config(optim={"lr_visual": 0.002}, data={"instruments": ["cello", "tuba"]})
    monitor = Monitor(folder, config, Ranks(), 0)
    monitor.record_best(10, 4.5)
    monitor.record_best(20, 5.25)
    monitor.finish()
    monitor.close()
    read = events(folder)
    (text,) = read.Tensors("configuration/text_summary")
    (content,) = text.tensor_proto.string_val
    assert b"    lr_visual: 0.002\n" in content
    assert [event.value for event in read.Scalars("best/SDR")] == [4.5, 5.25]

    def hparams(tag: str) -> plugin_data_pb2.HParamsPluginData:
        content = read.SummaryMetadata(f"_hparams_/{tag}").plugin_data.content
        return plugin_data_pb2.HParamsPluginData.FromString(content)

    values = hparams("session_start_info").session_start_info.hparams
    assert values.keys() == flatten(to_dict(config)).keys()
    assert values["optim.lr_visual"].number_value == 0.002
    assert values["data.instruments"].string_value == "['cello', 'tuba']"
    assert {setting.name for setting in hparams("experiment").experiment.hparam_infos if setting.differs} == {
        "optim.lr_audio", "optim.lr_visual", "optim.lr_critic", "loss.lambda_ind", "loss.lambda_avc",
        "train.global_batch", "train.steps",
    }  # fmt: skip
    metrics = hparams("experiment").experiment.metric_infos
    assert [metric.name.tag for metric in metrics] == ["best/SDR"]
    assert hparams("session_end_info").session_end_info.status == 1  # success


def test_an_interrupted_run_is_not_marked_complete(folder: RunFolder) -> None:
    Monitor(folder, small_config(), Ranks(), 0).close()
    with pytest.raises(KeyError):
        events(folder).SummaryMetadata("_hparams_/session_end_info")


def recorded_tags(folder: RunFolder) -> set[str]:
    return set(events(folder).Tags()["scalars"])


def test_every_chart_of_the_layout_shows_something(folder: RunFolder) -> None:
    """With the names that steps and validation really use."""
    config = small_config(train={"log_every": 1, "separator_every": 1})
    experiment = Experiment(config, Ranks(), pretrained=False)
    assert experiment.critic is not None
    rates = learning_rates(experiment.separator.optimizer, experiment.critic.optimizer)
    ranks = Ranks()
    ranks.traffic = Traffic(world_size=2)  # one rank sends nothing
    ranks.traffic.all_reduce("gradients", 1_000)
    monitor = Monitor(folder, config, ranks, 0)
    monitor.step(0, experiment.step(make_batch(config, 0)), {"lambda/ind": 1.0, "lambda/avc": 1.0, **rates}, 0.0)
    scores = {name: 1.0 for name in ("SDR", "SIR", "SAR", "SDRi", "SIRi")}
    monitor.record_validation(1, ValidationResult(4, scores, {"tuba": scores}, ()).scalars(), "")
    monitor.record_best(1, 1.0)
    monitor.close()
    tags = recorded_tags(folder)
    (layout,) = events(folder).Tensors("custom_scalars__config__")
    (content,) = layout.tensor_proto.string_val
    pages = layout_pb2.Layout.FromString(content).category
    assert len(pages) >= 3
    for page in pages:
        for chart in page.chart:
            for pattern in chart.multiline.tag:
                assert any(re.match(pattern, tag) for tag in tags), (page.title, chart.title, pattern)
            for series in chart.margin.series:
                assert series.value == series.lower == series.upper
                assert series.value in tags
    assert [chart.title for chart in pages[0].chart][-1] == "Validation SDR (dB)"  # shown first


def test_learning_rates_of_both_optimizers() -> None:
    config = small_config(optim={"lr_audio": 0.1, "lr_visual": 0.2, "lr_critic": 0.3})
    separator, critic = build_networks(config, pretrained=False)
    assert critic is not None
    optimizer = separator_optimizer(separator, config)
    assert learning_rates(optimizer, critic_optimizer(critic, config)) == {
        "learning_rate/audio": 0.1,
        "learning_rate/visual": 0.2,
        "learning_rate/critic": 0.3,
    }
    assert learning_rates(optimizer, None).keys() == {"learning_rate/audio", "learning_rate/visual"}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    return write_evaluation_shards(tmp_path_factory.mktemp("monitor") / "shards", silent=["drum_3"])


@pytest.fixture(scope="module")
def config(shards: Manifest) -> Config:
    return evaluation_config(shards.folder)


def test_pictures_and_sounds_of_validation_mixes(folder: RunFolder, shards: Manifest, config: Config) -> None:
    separator = make_separator(config)
    views = Validation(config, shards, Ranks()).views(separator)
    assert len(views) == 2
    assert views[0].names != views[1].names
    for view in views:
        np.testing.assert_allclose(
            view.waves["mix"], sum(view.waves[f"{name} target"] for name in view.names), atol=1e-6
        )
        assert view.levels.keys() == view.waves.keys()
        assert view.masks.shape == (2, 32, 32)
        assert view.masks.min() >= 0
        assert view.localisation.shape == (2, 2, 2)
    monitor = Monitor(folder, config, Ranks(), 0)
    monitor.show(800, views)
    monitor.close()
    read = events(folder)
    tags = read.Tags()
    assert len(tags["images"]) == 2
    assert len(tags["audio"]) == 2 * (2 + 2 * 2)  # mix, sum of estimates, target and estimate of each
    (image,) = read.Images(tags["images"][0])
    assert image.step == 800
    assert image.width > 1000
    (sound,) = read.Audio(f"1: {' + '.join(views[0].names)}/mix")
    assert sound.sample_rate == 1000
    assert sound.length_frames == 310


def test_validation_by_instrument(shards: Manifest, config: Config) -> None:
    result = Validation(evaluation_config(shards.folder, eval={"validation_draws": 2}), shards, Ranks()).run(
        make_separator(config)
    )
    scalars = result.scalars()
    for metric in ("SDR", "SIR", "SAR", "SDRi", "SIRi"):
        for instrument in ("bell", "drum", "flute", "harp"):
            assert f"validation_by_instrument/{metric}/{instrument}" in scalars
    assert scalars["validation/unscored_mixes"] == 3
    assert "could not be scored: " in str(result)
    assert "drum_3" in str(result)


class Other(Ranks):
    """The second of two ranks that do the same, alone."""

    def __init__(self) -> None:
        super().__init__()
        self.rank, self.world_size = 1, 2

    def sum(self, values: Tensor) -> Tensor:
        return 2 * values

    def largest(self, values: Tensor) -> Tensor:
        return values


def test_other_ranks_write_nothing_but_warnings(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    monitor = Monitor(folder, small_config(train={"log_every": 1}), Other(), 0)
    train(monitor, 0, 3)
    monitor.record_validation(3, {"validation/SDR": 1.0}, "text")
    monitor.record_best(3, 1.0)
    monitor.show(3, [])
    logging.getLogger("ialcms.data").info("a line")
    logging.getLogger("ialcms.data").warning("a clip is bad")
    monitor.finish()
    monitor.close()
    assert not list(folder.path.iterdir())
    assert capsys.readouterr().err == "[rank 1] a clip is bad\n"


def test_terminal_and_log_file_show_the_same(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a terminal there are lines instead of the bar; the log file always has them."""
    monitor = Monitor(folder, small_config(train={"log_every": 2, "steps": 8}), Ranks(), 0)
    train(monitor, 0, 2)
    monitor.record_validation(2, {"validation/SDR": 3.25}, "fine")
    train(monitor, 2, 4)
    monitor.close()
    errors = capsys.readouterr().err.splitlines()
    assert errors[1] == "validation after step 2: fine"
    assert re.fullmatch(r"step 4/8  \d:\d\d:\d\d left  [\d.]+ mixes/s  SDR 3.25  sep 2.500  critic 30.000", errors[2])
    logged = folder.log.read_text().splitlines()
    assert [line.partition(" INFO ")[2] for line in logged] == errors


def test_a_resumed_run_shows_its_scores_again(folder: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    config = small_config(train={"log_every": 2, "steps": 8})
    monitor = Monitor(folder, config, Ranks(), 0)
    for step, score in ((2, 4.5), (4, 3.25)):
        monitor.record_validation(step, {"validation/SDR": score}, "")
    monitor.record_best(2, 4.5)
    monitor.record_validation(6, {"validation/SDR": 9.0}, "")
    monitor.close()
    monitor = Monitor(folder, config, Ranks(), 4)
    train(monitor, 4, 6)
    monitor.close()
    assert "  SDR 3.25 (best 4.50)  " in capsys.readouterr().err.splitlines()[-1]


def test_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """From the steps behind the first one, which sets things up."""
    now = [500.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    left = TimeLeft(steps=5_000)
    left.count(1_001)
    assert left.text(1_001) == ""
    for step in range(1_002, 1_012):
        now[0] += 3
        left.count(step)
    assert left.text(1_011) == "3:19:27 left"


@pytest.mark.distributed
def test_two_ranks_on_a_terminal(tmp_path: Path) -> None:
    """80 columns wide: the bar fits, and of the second rank, the slower one, only a warning is seen."""
    script = tmp_path / "program.py"
    script.write_text(_PROGRAM)
    folder, config = RunFolder(tmp_path), small_config()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", str(script)]
    terminal, inside = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    with subprocess.Popen(
        [*command, str(tmp_path)], cwd=tmp_path, env=ON_CPU, stdout=inside, stderr=inside, start_new_session=True
    ) as process:
        os.close(inside)
        shown = _read_all(terminal)
    assert process.returncode == 0, shown
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", shown) if line.strip()]
    bars = [line for line in lines if "%|" in line]
    assert bars[0].startswith("  0%|            | 0/10")
    assert re.fullmatch(r"100%\|█{12}\| 10/10  0:00:00 left  [\d.]+ mixes/s  SDR 3.25  sep 1.500  a.*", bars[-1])
    assert len(bars[-1]) <= 80
    assert "first" in shown
    assert "step 10/10" not in shown  # the log's lines, where the bar is
    assert shown.count("rank 1") == shown.count("\r\x1b[K[rank 1] a warning") == 1
    assert "silent" not in shown
    logged = folder.log.read_text()
    assert re.search(
        r"INFO step 10/10  0:00:00 left .* SDR 3.25  sep 1.500  avc 2.500  ind 3.500  critic 4.500$", logged, re.M
    )
    rows = [row for row in rows_of(folder) if "speed/slowest_rank" in row]
    assert [row["step"] for row in rows] == [5, 10]
    assert [row["speed/slowest_rank"] for row in rows] == [1, 1]
    slowest_s, fastest_s = (rows[0][f"speed/{name}_rank_step_seconds"] for name in ("slowest", "fastest"))
    assert slowest_s > max(0.2, fastest_s)  # without waiting for the other
    assert rows[0]["speed/step_seconds"] > slowest_s / 2  # rank 0 waits for it; roughly, on a machine that does more
    assert rows[0]["speed/mixes_per_second"] == pytest.approx(config.train.global_batch / rows[0]["speed/step_seconds"])
    assert rows[0]["loss/separation"] == 1.5  # mean of 1 and 2
    with pytest.MonkeyPatch.context() as alone:  # records do not grow with the number of ranks
        alone.setattr(sys, "argv", ["program", str(tmp_path / "alone")])
        (tmp_path / "alone").mkdir()
        exec(_PROGRAM, {})
    assert rows[0].keys() == rows_of(RunFolder(tmp_path / "alone"))[0].keys()


def _read_all(terminal: int) -> str:
    content = b""
    while True:
        try:
            part = os.read(terminal, 65_536)
        except OSError:  # how Linux says that all writers have closed it
            part = b""
        if not part:
            os.close(terminal)
            return content.decode()
        content += part


_PROGRAM = """
import logging, sys, time
import torch
from ialcms.engine import Ranks
from ialcms.monitoring.monitor import Monitor
from ialcms.runs.run_folder import RunFolder
from tests.support import small_config

log = logging.getLogger("ialcms")
names = "separation", "consistency", "independence", "critic"
with Ranks() as ranks:
    config = small_config(train={"log_every": 5, "steps": 10})
    monitor = Monitor(RunFolder(sys.argv[1]), config, ranks, 0)
    log.info("first" if ranks.is_first else "silent")
    if not ranks.is_first:
        log.warning("a warning")
    for step in range(10):
        time.sleep(0.25 * ranks.rank)
        ranks.any(False)
        scalars = {f"loss/{name}": torch.tensor(n + 1.0 + ranks.rank) for n, name in enumerate(names)}
        monitor.step(step, scalars, {}, 0.0)
        if step == 4:
            monitor.record_validation(5, {"validation/SDR": 3.25}, "fine")
    monitor.close()
"""
