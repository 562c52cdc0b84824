"""Evaluation and validation end to end on a tiny data set, on one rank and on two."""

from __future__ import annotations

import contextlib
import csv
import json
import os
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from ialcms.cli import main
from ialcms.data.evaluation_mixes import list_mixes
from ialcms.data.manifest import Manifest
from ialcms.data.mix_list import read_mix_list
from ialcms.engine import Ranks
from ialcms.evaluation.evaluate import _Inputs, _key, evaluate
from ialcms.evaluation.journal import Journal, read_journal, start_journal
from ialcms.evaluation.metrics import METRICS, MixScores
from ialcms.runs.run_folder import RunFolder
from ialcms.runs.separators import LoadedSeparator
from ialcms.training.validation import Validation
from tests.support import ON_CPU, ROOT, ialcms, torchrun
from tests.support.evaluation import evaluation_config, make_run, make_separator, write_evaluation_shards


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def assert_same_scores(ours: Path, theirs: Path) -> None:
    """Up to rounding, which depends on where arrays lie in memory; everything else to the letter."""
    for a, b in zip(rows_of(ours / "mixes.csv"), rows_of(theirs / "mixes.csv"), strict=True):
        for name, value in b.items():
            if name in METRICS and value:
                assert float(a[name]) == pytest.approx(float(value), abs=1e-5)
            else:
                assert a[name] == value


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """The test split's second drum clip is silent."""
    return write_evaluation_shards(tmp_path_factory.mktemp("evaluation") / "shards", silent=["drum_6", "drum_4"])


@pytest.fixture(scope="module")
def run(shards: Manifest, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("run"), evaluation_config(shards.folder), shards)


@pytest.fixture(scope="module")
def evaluated(run: RunFolder, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Results and what was printed."""
    out = tmp_path_factory.mktemp("evaluated")
    result = ialcms("evaluate", str(run.path), "--out", str(out))
    assert result.returncode == 0, result.stderr
    return out, result.stdout


def test_every_mix_of_the_list_is_scored_once(evaluated: tuple[Path, str]) -> None:
    rows = rows_of(evaluated[0] / "mixes.csv")
    assert [int(row["mix"]) for row in rows] == [n // 2 for n in range(24)]  # 6 pairs of 4 instruments, 2 draws
    scored = [row for row in rows if not row["problem"]]
    assert all(-60 < float(row["SDR"]) < 60 for row in scored)
    assert len({row["SDR"] for row in scored}) > len(scored) // 2


def test_both_protocols_are_scored_and_shown(evaluated: tuple[Path, str]) -> None:
    folder, printed = evaluated
    assert re.search(r"^best - published +\d+( +-?\d+\.\d\d){5}$", printed, re.MULTILINE)
    rows = [row for row in rows_of(folder / "mixes.csv") if not row["problem"]]
    assert all(row["best_SDR"] != row["SDR"] for row in rows)
    summary = json.loads((folder / "summary.json").read_text())
    mean = sum(float(row["best_SDR"]) for row in rows) / len(rows)
    assert summary["best_protocol"]["overall"]["SDR"] == pytest.approx(mean, abs=1e-5)
    assert summary["protocol"]["masks"] == "wiener"
    page = (folder / "report.html").read_text()
    assert page.count('class="role">Best protocol<') == 2 * page.count('class="example"')


def test_it_says_where_the_time_went(evaluated: tuple[Path, str]) -> None:
    assert re.search(
        r"^mir_eval metrics: 12 mixes in [\d.]+ s \([\d.]+ mixes/s\): reading \d+%, network \d+%, metrics \d+%; "
        r"the metrics' processes took [\d.]+ s a mix$",
        evaluated[1],
        re.MULTILINE,
    )


def test_silent_references_are_counted_and_listed(evaluated: tuple[Path, str]) -> None:
    out, printed = evaluated
    rows = rows_of(out / "mixes.csv")
    silent = {row["mix"] for row in rows if row["clip"] == "drum_6"}
    assert len(silent) == 3  # with each of the three others, at one of the two draws
    assert {row["mix"] for row in rows if row["problem"]} == silent
    summary = json.loads((out / "summary.json").read_text())
    assert {str(entry["mix"]) for entry in summary["unscored"]} == silent
    assert all(f"not scored: mix {mix} " in printed for mix in silent)
    page = (out / "report.html").read_text()
    assert "mixes not scored" in page
    assert len(re.findall(r"silent reference \d", page)) == 3
    assert not (out / "scores").exists()  # from which a killed evaluation resumes


@pytest.mark.distributed
def test_three_ranks_give_the_same_scores(run: RunFolder, evaluated: tuple[Path, str], tmp_path: Path) -> None:
    result = torchrun(3, "-m", "ialcms", "evaluate", str(run.path), "--out", str(tmp_path / "three"))
    assert result.returncode == 0, result.stderr
    assert_same_scores(tmp_path / "three", evaluated[0])
    assert result.stdout.count("overall") == 1


def test_scoring_processes_have_one_thread() -> None:
    """As a program of its own: here another test may have started the server of forked processes already."""
    program = """
import os
from ialcms.processes import worker_pool
with worker_pool(1, start="forkserver") as pool:
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        print(pool.submit(os.getenv, name).result())
"""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    result = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert result.stdout.split() == ["1", "1", "1"], result.stderr


def test_the_page_again(
    run: RunFolder, evaluated: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With other examples and the same figures."""
    out = tmp_path / "out"
    shutil.copytree(evaluated[0], out)
    before = (out / "report.html").read_text()
    assert main(["evaluate", str(run.path), "--report", "--out", str(out), "eval.examples=5", "eval.seconds=9"]) == 0
    page = (out / "report.html").read_text()
    assert (before.count("<article"), page.count("<article")) == (3, 5)
    tables = [re.sub(r"[\d.]+", "", text[text.index('<section id="tables"') :]) for text in (before, page)]
    assert tables[0] == tables[1]  # but for digits: the files hold six decimals
    assert capsys.readouterr().out == f"report: {out / 'report.html'}\n"


def test_a_page_that_cannot_be_made(
    run: RunFolder, shards: Manifest, evaluated: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["evaluate", str(run.path), "--report", "--out"]
    assert main([*command, str(tmp_path / "none")]) == 2
    assert "there is no evaluation in" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    other = make_run(tmp_path / "other", evaluation_config(shards.folder), shards, seed=1, step=8)
    assert main(["evaluate", str(other.path), "--report", "--out", str(evaluated[0])]) == 2
    message = capsys.readouterr().err
    assert "is of step 7, but" in message
    assert "evaluate the run again" in message


def test_results_that_cannot_be_written(run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["evaluate", str(run.path), "--out", str(tmp_path / "file")]) == 2
    assert "no results can be written to" in capsys.readouterr().err


def descendants(pid: int) -> list[int]:
    """Processes that this one started, and theirs."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
    found = [child for child, parent in parents.items() if parent == pid]
    return found + [other for child in found for other in descendants(child)]


@pytest.mark.slow
@pytest.mark.distributed
def test_a_killed_evaluation_resumes(run: RunFolder, evaluated: tuple[Path, str], tmp_path: Path) -> None:
    """Started on one rank, killed, ended on two: every mix scored once, the same scores."""
    out = tmp_path / "out"
    command = [sys.executable, "-m", "ialcms", "evaluate", str(run.path), "--out", str(out)]
    with subprocess.Popen(command, cwd=ROOT, env=ON_CPU, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        journal, deadline = out / "scores" / "rank-0.jsonl", time.monotonic() + 120
        while time.monotonic() < deadline and not (journal.exists() and journal.read_text().count("\n") > 3):
            time.sleep(0.01)
        started = descendants(process.pid)
        process.kill()
    assert started
    while any(Path(f"/proc/{pid}").exists() for pid in started) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in started if Path(f"/proc/{pid}").exists()]  # nobody is left to wait for work
    assert not (out / "mixes.csv").exists()
    with open(journal, "a") as file:
        file.write('{"mix": 11, "sour')  # as if killed in the middle of a line
    before = {json.loads(line)["mix"] for line in journal.read_text().splitlines()[1:-1]}
    result = torchrun(2, "-m", "ialcms", "evaluate", str(run.path), "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert f"resuming: {len(before)} of 12 mixes are scored already" in result.stdout
    assert_same_scores(out, evaluated[0])


def test_scores_of_another_evaluation_are_not_used(tmp_path: Path) -> None:
    start_journal(tmp_path / "scores", "key", {})
    with Journal(tmp_path / "scores", "rank-0", "key") as journal:
        journal.write(4, MixScores(({"SDR": 1 / 3}, {}), "problem"))
    assert read_journal(tmp_path / "scores", "key") == {4: MixScores(({"SDR": 1 / 3}, {}), "problem")}
    assert read_journal(tmp_path / "scores", "other") == {}
    assert read_journal(tmp_path / "nowhere", "key") == {}
    start_journal(tmp_path / "scores", "other", {})
    assert read_journal(tmp_path / "scores", "key") == {}


def test_key_of_an_evaluation(shards: Manifest) -> None:
    """It changes with all that changes scores."""
    config, device = evaluation_config(shards.folder), torch.device("cpu")
    loaded = LoadedSeparator(make_separator(config), config, 7, device=device, digest="sha")
    inputs = _Inputs(shards, list_mixes(shards, "test", 2, 2, 0, 1.2), loaded)
    protocol = {"protocol": {"pictures": 2}}
    keys = {
        _key(config, inputs, "mir_eval"),
        _key(config, inputs, "fast"),
        _key(config, replace(inputs, loaded=replace(loaded, digest="another")), "mir_eval"),
        _key(config, replace(inputs, mixes=inputs.mixes[1:]), "mir_eval"),
        _key(config, replace(inputs, mixes=list_mixes(shards, "test", 2, 2, 1, 1.2)), "mir_eval"),
        *(
            _key(evaluation_config(shards.folder, eval=values), inputs, "mir_eval")
            for values in ({"hop": 50}, {"seconds": 1.1}, protocol)
        ),
    }
    assert len(keys) == 8
    assert _key(evaluation_config(shards.folder, eval={"examples": 1}), inputs, "mir_eval") in keys


def evaluate_here(run: RunFolder, out: Path, overrides: list[str] | None = None, mixes: Path | None = None) -> Path:
    config = run.read_config(["eval.metrics=fast", "eval.examples=0", *(overrides or [])])
    page = evaluate(config, run.path, Ranks(), out=out, mix_list=mixes)
    assert page is not None
    return page


def test_fast_metrics_are_the_same(run: RunFolder, evaluated: tuple[Path, str], tmp_path: Path) -> None:
    evaluate_here(run, tmp_path / "fast")
    assert_same_scores(tmp_path / "fast", evaluated[0])


def test_three_mixes(run: RunFolder, tmp_path: Path) -> None:
    evaluate_here(run, tmp_path / "out", ["eval.num_sources=3", "eval.draws=1"])
    rows = rows_of(tmp_path / "out" / "mixes.csv")
    assert [int(row["mix"]) for row in rows] == [n // 3 for n in range(12)]  # 4 triples


def test_an_evaluations_own_list_gives_its_scores_again(run: RunFolder, tmp_path: Path) -> None:
    evaluate_here(run, tmp_path / "first")
    evaluate_here(run, tmp_path / "again", mixes=tmp_path / "first" / "mixes.csv")
    assert (tmp_path / "again" / "mixes.csv").read_text() == (tmp_path / "first" / "mixes.csv").read_text()
    summary = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert summary["list"] == "mixes.csv"


def test_a_list_of_ones_own(run: RunFolder, shards: Manifest, tmp_path: Path) -> None:
    """Of any clips, with two or more sources, also two of one instrument."""
    path = tmp_path / "own.csv"
    path.write_text("clip,mix,start,note\nbell_5,a,30,x\nbell_6,a,,\nflute_0,b,0,\nharp_1,b,0,\nbell_2,b,7,\n")
    evaluate_here(run, tmp_path / "out", mixes=path)
    rows = rows_of(tmp_path / "out" / "mixes.csv")
    assert [(row["mix"], row["clip"], row["start"]) for row in rows] == [
        ("0", "bell_5", "30"), ("0", "bell_6", "0"), ("1", "flute_0", "0"), ("1", "harp_1", "0"), ("1", "bell_2", "7"),
    ]  # fmt: skip
    assert all(row["SDR"] for row in rows)
    by_name = {row["instrument"]: row for row in rows_of(tmp_path / "out" / "instruments.csv")}
    assert by_name["bell"]["mixes"] == "2"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("mix,clips\n", "has no column 'clip'; its first line must be like mix,clip,box,start"),
        ("mix,clip\n", "lists no mixes"),
        ("mix,clip\n1,bell_5\n1,gong_1\n", "own.csv, line 3: there is no clip 'gong_1' in"),
        ("mix,clip\n1,bell_5\n", "mix 1 has one source only"),
        ("mix,clip,box\n1,bell_5,2\n", "line 2: clip 'bell_5' has no box 2; give 0 to 1"),
        ("mix,clip,box\n1,bell_5,-1\n", "line 2: box is '-1'; it must be a whole number, 0 or more"),
        ("mix,clip,start\n1,bell_5,1300\n", "has 1300 samples, none from 1300 on"),
        ("mix,clip,start\n1,bell_5,x\n", "start is 'x'"),
        (
            "mix,clip,start\n1,bell_5,0\n1,harp_5,0\n1,bell_5,7\n",
            "line 4: mix 1 has clip 'bell_5' already; name another",
        ),
        ("mix, clip\n1, bell_5\n1, bell_5\n", "line 3: mix 1 has clip 'bell_5' already; name another"),
    ],
)
def test_faults_of_a_list(shards: Manifest, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "own.csv").write_text(text)
    with pytest.raises(ValueError, match=re.escape(message)):
        read_mix_list(tmp_path / "own.csv", shards)


def test_a_quote_left_open(shards: Manifest, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_text('mix,clip\n1,"' + "x" * 200_000)
    with pytest.raises(ValueError, match=r"own\.csv is no CSV file \(field larger .*\); look for a quote"):
        read_mix_list(tmp_path / "own.csv", shards)


def test_a_list_that_is_not_text(shards: Manifest, tmp_path: Path) -> None:
    (tmp_path / "own.csv").write_bytes("mix,clip\n1,h\u00f6rn\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"own\.csv is not UTF-8 text"):
        read_mix_list(tmp_path / "own.csv", shards)


def test_no_such_list(shards: Manifest, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"list of mixes .* does not exist"):
        read_mix_list(tmp_path / "own.csv", shards)


def test_a_damaged_clip_is_listed_and_the_rest_scored(tmp_path: Path) -> None:
    shards = write_evaluation_shards(tmp_path / "shards", damaged=["harp_5"])
    run = make_run(tmp_path / "run", evaluation_config(shards.folder), shards)
    evaluate_here(run, tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "mixes.csv")
    damaged = {row["mix"] for row in rows if row["clip"] == "harp_5"}
    assert damaged == {row["mix"] for row in rows if row["problem"]}
    assert all("clip harp_5 in" in row["problem"] for row in rows if row["mix"] in damaged)


def test_a_run_without_checkpoint(shards: Manifest, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "run")
    folder.create(evaluation_config(shards.folder), 1)
    result = ialcms("evaluate", str(folder.path))
    assert result.returncode == 2
    assert "there is no best checkpoint in" in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"silent": ["drum_4"]}, r"drum_4.*: silent reference \d"),
        ({"damaged": ["drum_4"]}, r"drum_4.*: clip drum_4 in"),
    ],
)
def test_validation_counts_what_it_cannot_score(tmp_path: Path, broken: dict[str, list[str]], reason: str) -> None:
    shards = write_evaluation_shards(tmp_path / "shards", **broken)
    config = evaluation_config(shards.folder, eval={"validation_draws": 2})
    separator = make_separator(config).train()
    before = {name: value.clone() for name, value in separator.state_dict().items()}
    validation = Validation(config, shards, Ranks())
    result = validation.run(separator)
    assert separator.training
    assert all(torch.equal(value, before[name]) for name, value in separator.state_dict().items())
    assert result.num_mixes == 12
    assert len(result.problems) == 3
    assert all(re.search(reason, line) for line in result.problems)
    assert result.means.keys() == {"SDR", "SIR", "SAR", "SDRi", "SIRi"}
    assert result.per_instrument.keys() == {"bell", "drum", "flute", "harp"}
    assert "over 9 mixes; 3 could not be scored" in str(result)
    assert result == validation.run(separator)
    assert len(validation.views(separator, count=result.num_mixes)) == 12 - 3 * ("damaged" in broken)
    assert len(validation.views(separator)) == 2
