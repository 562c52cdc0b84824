"""Where metrics are computed, and where the time of an evaluation goes."""

from __future__ import annotations

import time

import pytest
import torch

from ialcms.data.evaluation_mixes import list_mixes
from ialcms.data.manifest import Manifest
from ialcms.evaluation.metrics import METRICS
from ialcms.evaluation.scoring import Scoring, SeparatedMixes, metrics_of
from ialcms.evaluation.timing import EvaluationTime
from tests.support.evaluation import evaluation_config, make_separator, write_evaluation_shards


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    """One clip of the test split is damaged."""
    return write_evaluation_shards(tmp_path_factory.mktemp("scoring") / "shards", damaged=["drum_6"])


def test_metrics_on_the_device_where_there_is_one() -> None:
    gpu, cpu = torch.device("cuda", 1), torch.device("cpu")
    assert evaluation_config().eval.metrics == "auto"
    assert [metrics_of(evaluation_config(), device) for device in (gpu, cpu)] == ["fast", "mir_eval"]
    for name in ("fast", "mir_eval"):
        config = evaluation_config(eval={"metrics": name})
        assert [metrics_of(config, device) for device in (gpu, cpu)] == [name, name]


@pytest.mark.parametrize("metrics", ["fast", "mir_eval"])
def test_every_mix_and_every_second_is_counted(shards: Manifest, metrics: str) -> None:
    config = evaluation_config(shards.folder, eval={"metrics": metrics})
    mixes = list_mixes(shards, "test", 2, 1, 0, 1.2)
    began = time.perf_counter()
    scoring = Scoring(SeparatedMixes(make_separator(config), shards, config), metrics)
    scored = dict(scoring(mixes))
    took, spent = time.perf_counter() - began, scoring.time
    assert sorted(scored) == [mix.index for mix in mixes]
    assert spent.num_mixes == len(mixes)
    assert set(spent.parts_s) == {"reading", "network", "metrics"}
    assert 0 < sum(spent.parts_s.values()) <= spent.elapsed_s <= took
    damaged = [index for index, scores in scored.items() if scores.problem]
    assert 0 < len(damaged) < len(mixes)
    assert all(set(source) == set(METRICS) for n, s in scored.items() if n not in damaged for source in s.sources)
    assert (spent.beside_s > 0) == (metrics == "mir_eval")  # in other processes


def test_a_part_counts_where_it_fails_too() -> None:
    spent = EvaluationTime()
    with pytest.raises(KeyError), spent.of("reading"):
        raise KeyError
    assert set(spent.parts_s) == {"reading"}


def test_times_of_all_ranks() -> None:
    first = EvaluationTime(num_mixes=10, elapsed_s=4.0, parts_s={"network": 1.0, "metrics": 2.0}, beside_s=6.0)
    second = EvaluationTime(num_mixes=6, elapsed_s=2.0, parts_s={"network": 1.0})
    both = EvaluationTime.total([first, second])
    assert (both.num_mixes, both.elapsed_s, both.num_ranks) == (16, 4.0, 2)
    assert both.shares() == {"network": 0.25, "metrics": 0.25}  # of twice 4 s
    assert str(both) == (
        "16 mixes in 4.0 s (4 mixes/s): network 25%, metrics 25%; the metrics' processes took 0.38 s a mix"
    )
    assert str(second) == "6 mixes in 2.0 s (3 mixes/s): network 50%"
    assert str(EvaluationTime.total([])) == "0 mixes"
    assert first.since(EvaluationTime(num_mixes=4, elapsed_s=3.0, parts_s={"metrics": 0.5}, beside_s=2.0)) == (
        EvaluationTime(num_mixes=6, elapsed_s=1.0, parts_s={"network": 1.0, "metrics": 1.5}, beside_s=4.0)
    )
