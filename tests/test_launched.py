"""As which rank a process was started: half of an environment is refused, whole ones of other launchers work."""

from __future__ import annotations

import os

import pytest

from ialcms.launched import Launched, adopt_launcher, first_host, is_restart, launch_mark, launched, meeting_point

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "ENVIRONMENT")
STARTS = ("SLURM_", "OMPI_", "PMI_", "MV2_", "TORCHELASTIC_", "MPI_")
STEP = {"SLURM_PROCID": "1", "SLURM_STEP_NUM_TASKS": "3", "SLURM_LOCALID": "0", "SLURM_STEP_NODELIST": "n[07-9,11]",
        "SLURM_JOB_ID": "70", "SLURM_STEP_ID": "2"}  # fmt: skip


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in list(os.environ):
        if name in NAMES or name.startswith(STARTS):
            monkeypatch.delenv(name)
    for name in NAMES:  # so that what adopt_launcher sets goes again
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    return monkeypatch


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"WORLD_SIZE": "2"}, r"WORLD_SIZE is set \('2'\) and RANK is not"),
        ({"RANK": "1"}, r"RANK is set \('1'\) and WORLD_SIZE is not"),
        ({"RANK": "0"}, r"RANK is set \('0'\) and WORLD_SIZE is not"),
        ({"RANK": "", "WORLD_SIZE": "2"}, "RANK is '' in the environment, which is no whole number"),
        ({"RANK": "0", "WORLD_SIZE": ""}, "WORLD_SIZE is ''"),
        ({"RANK": "", "WORLD_SIZE": ""}, "RANK is ''"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, "RANK is 'one'"),
        ({"RANK": "-1", "WORLD_SIZE": "2"}, "RANK is '-1'"),
        ({"RANK": "2", "WORLD_SIZE": "2"}, "RANK is 2 and WORLD_SIZE 2"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": ""}, "LOCAL_RANK is ''"),
        ({"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "3"}, "LOCAL_RANK is 3"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK is '1' and RANK and WORLD_SIZE are not set"),
    ],
)
def test_half_an_environment(values: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        launched(values)


def test_whole_ones() -> None:
    assert launched({}) == Launched()
    assert launched({"WORLD_SIZE": "1"}) == Launched()
    assert launched({"RANK": "0", "WORLD_SIZE": "1"}) == Launched(0, 1, True, 0, 1)
    assert launched({"RANK": "3", "WORLD_SIZE": "4"}) == Launched(3, 4, True, None, None)  # PyTorchJob
    local = {"LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2"}
    assert launched({"RANK": "3", "WORLD_SIZE": "4", **local}) == Launched(3, 4, True, 1, 2)


@pytest.mark.parametrize("missing", ["MASTER_ADDR", "MASTER_PORT"])
def test_no_place_to_meet(missing: str) -> None:
    values = {"MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    assert meeting_point(values) == ("n1", 29_500)
    with pytest.raises(ValueError, match=f"{missing} is not"):
        meeting_point({**values, missing: ""})


def test_a_task_of_srun(environment: pytest.MonkeyPatch) -> None:
    for name, value in STEP.items():
        environment.setenv(name, value)
    adopt_launcher()
    assert launched() == Launched(1, 3, True, 0, None)
    assert meeting_point() == ("n07", 10_000 + 70 * 16 + 2)


@pytest.mark.parametrize(
    "values",
    [
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "3", "ENVIRONMENT": "BATCH"},  # a batch script
        {"SLURM_NTASKS": "3", "SLURM_NODEID": "1"},  # salloc's shell
        {"SLURM_PROCID": "0", "SLURM_NTASKS": "3", "SLURM_STEP_NUM_TASKS": "1"},  # an interactive step
    ],
)
def test_within_a_job_but_not_one_of_many(environment: pytest.MonkeyPatch, values: dict[str, str]) -> None:
    for name, value in values.items():
        environment.setenv(name, value)
    adopt_launcher()
    assert launched() == Launched()


@pytest.mark.parametrize(("rank", "size"), [("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"), ("PMI_RANK", "PMI_SIZE")])
def test_mpirun(environment: pytest.MonkeyPatch, rank: str, size: str) -> None:
    environment.setenv(rank, "1")
    environment.setenv(size, "2")
    with pytest.raises(
        ValueError, match=f"process 1 of 2 by mpirun's {rank} .*MASTER_ADDR and MASTER_PORT are not set"
    ):
        adopt_launcher()
    environment.setenv("MASTER_ADDR", "n1")
    environment.setenv("MASTER_PORT", "29500")
    adopt_launcher()
    assert launched() == Launched(1, 2, True, None, None)


def test_hosts() -> None:
    assert [first_host(text) for text in ("n1", "n1,n2", "n[03-05,9],x", "n[3,9]-gpu,x", "a-b[1-2]")] == [
        "n1", "n1", "n03", "n3-gpu", "a-b1",
    ]  # fmt: skip


def test_restarts() -> None:
    torchrun = {"TORCHELASTIC_RUN_ID": "local"}
    one = launch_mark(torchrun)
    other = {**one, "agent": "local another process"}
    assert is_restart([one], [one], torchrun)
    assert is_restart([one, other], [other], torchrun)  # a node has left
    assert not is_restart([one], [other], torchrun)  # the same id, by another agent
    assert not is_restart([one], [one], {})  # typed twice in a shell
    first, again = ({"agent": "x", "job": "7", "restarts": count} for count in (0, 1))
    assert is_restart([first], [{**again, "agent": "y"}], {})
    assert not is_restart([first], [{**first, "agent": "y"}], {})  # the second step of a job's script
    assert not is_restart([{**first, "job": "6"}], [{**again, "agent": "y"}], {})
