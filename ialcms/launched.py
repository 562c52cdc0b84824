"""As which of how many ranks this process was started, by the environment that launchers leave; how it ends.

torchrun and launch.local     RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR, MASTER_PORT
Kubernetes' PyTorchJob        RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT; so by hand
srun                          SLURM_PROCID, SLURM_STEP_NUM_TASKS, SLURM_STEP_NODELIST
mpirun                        its own ranks, with MASTER_ADDR and MASTER_PORT from the user

Half of an environment is refused: with variables left over from another job, a rank would wait for others for ever.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ialcms.lease import process_name

_REMEDY = "start with torchrun or launch.local, or unset RANK WORLD_SIZE LOCAL_RANK to use one rank"
_PORTS = range(10_000, 30_000)  # below those that the system gives away
# Rank, number of processes and rank on the machine by Open MPI; MVAPICH; MPICH, Intel MPI
_MPI = (
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)


@dataclass(frozen=True)
class Launched:
    """Which rank of its job this process is. None: the environment does not say."""

    rank: int = 0
    world_size: int = 1
    is_launched: bool = False  # by a launcher; it may start a single rank, too
    local_rank: int | None = 0
    local_world_size: int | None = 1


def launched(environment: Mapping[str, str] | None = None) -> Launched:
    """The rank that the environment names; a single one without any. ValueError for half of an environment."""
    found = os.environ if environment is None else environment
    if "RANK" not in found and "WORLD_SIZE" not in found:
        _refuse_alone(found)
        return Launched()
    if "RANK" not in found and found["WORLD_SIZE"].strip() == "1":
        return Launched()
    for name, other in (("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK")):
        if name not in found:
            raise ValueError(
                f"{other} is set ({found[other]!r}) and {name} is not, as after another job: set both, or {_REMEDY}"
            )
    rank, world_size = _number(found, "RANK"), _number(found, "WORLD_SIZE")
    if not 0 <= rank < world_size:
        raise ValueError(f"RANK is {rank} and WORLD_SIZE {world_size}: ranks go from 0 to WORLD_SIZE-1; {_REMEDY}")
    local_rank = _number(found, "LOCAL_RANK") if "LOCAL_RANK" in found else None
    local_size = _number(found, "LOCAL_WORLD_SIZE") if "LOCAL_WORLD_SIZE" in found else None
    if not (0 <= (local_rank or 0) < (local_size or world_size) <= world_size):
        raise ValueError(
            f"LOCAL_RANK is {local_rank}, LOCAL_WORLD_SIZE {local_size} and WORLD_SIZE {world_size}, which do not fit "
            f"together; {_REMEDY}"
        )
    if world_size == 1:
        local_rank, local_size = local_rank or 0, 1
    return Launched(rank, world_size, True, local_rank=local_rank, local_world_size=local_size)


def adopt_launcher() -> None:
    """Set RANK, WORLD_SIZE, ... from what srun or mpirun gave this process.

    Called once, before anything reads them. ValueError for half of an environment, and where a launcher does not say
    where the ranks meet.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        os.environ.update(_of_srun(os.environ) or _of_mpirun(os.environ) or {})
    launched()


def meeting_point(environment: Mapping[str, str] | None = None) -> tuple[str, int]:
    """Host and port at which the ranks meet: rank 0's. ValueError when the environment does not say."""
    found = os.environ if environment is None else environment
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if not found.get(name, "").strip()]
    if missing:
        raise ValueError(
            f"RANK and WORLD_SIZE are set, {' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} not: the "
            f"ranks do not know where to meet; set the host of rank 0 and a free port there, or {_REMEDY}"
        )
    port = _number(found, "MASTER_PORT")
    if not 0 < port < 65_536:
        raise ValueError(f"MASTER_PORT is {port}; give a port from 1 to 65535, free on the host of rank 0")
    return found["MASTER_ADDR"].strip(), port


def launch_mark(environment: Mapping[str, str] | None = None) -> dict[str, str | int]:
    """What a restart of this launch keeps and a new launch does not have, see `is_restart`.

    torchrun's id is not enough: many launches have the same. But one agent makes all starts of a launch, and SLURM
    counts how often it has put a job back into the queue.
    """
    found = os.environ if environment is None else environment
    agent = f"{found.get('TORCHELASTIC_RUN_ID', '')} {process_name(os.getppid())}"
    job, restarts = found.get("SLURM_JOB_ID", ""), found.get("SLURM_RESTART_COUNT", "")
    return {"agent": agent, "job": job, "restarts": int(restarts) if restarts.isdigit() else 0}


def is_restart(
    before: Sequence[Mapping[str, str | int]],
    now: Sequence[Mapping[str, str | int]],
    environment: Mapping[str, str] | None = None,
) -> bool:
    """Whether the launcher of the start `before` has made this one, too. Both: marks of all ranks."""
    found = os.environ if environment is None else environment
    has_agent = "TORCHELASTIC_RUN_ID" in found or found.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    # after a node was lost and another one came, some of the agents are the same
    agents = {mark.get("agent") for mark in before} & {mark.get("agent") for mark in now}
    return (has_agent and bool(agents)) or _is_requeued(before, now)


def _is_requeued(before: Sequence[Mapping[str, str | int]], now: Sequence[Mapping[str, str | int]]) -> bool:
    """Whether SLURM has put the job of the start `before` back into the queue and started it again."""
    if not before or not now:
        return False
    old, new = before[0], now[0]
    return old.get("job") == new["job"] != "" and int(old.get("restarts", 0)) < int(new["restarts"])


def first_host(nodes: str) -> str:
    """The first host of SLURM's list: 'n[03-05,9],x' -> 'n03'."""
    match = re.match(r"([^\[,]*)(?:\[(\w+)[^\]]*\]([^,]*))?", nodes)
    assert match is not None
    return "".join(part or "" for part in match.groups())


def _of_srun(found: Mapping[str, str]) -> dict[str, str] | None:
    """The variables of a task of `srun python -m ialcms ...`; None outside of one and in a step of one task.

    A batch script and a shell have some of the variables, too: a batch script is not one of the tasks that it asks
    for, and a terminal means `srun --pty`.
    """
    size = found.get("SLURM_STEP_NUM_TASKS") or (
        "" if found.get("ENVIRONMENT") == "BATCH" else found.get("SLURM_NTASKS")
    )
    if "SLURM_PROCID" not in found or not size or size == "1" or _on_terminal():
        return None
    host = first_host(found.get("SLURM_STEP_NODELIST") or found.get("SLURM_NODELIST", ""))
    job, step = (int(re.sub(r"\D", "", found.get(name, "")) or 0) for name in ("SLURM_JOB_ID", "SLURM_STEP_ID"))
    number = 16 * job + step
    variables = {
        "RANK": found["SLURM_PROCID"],
        "WORLD_SIZE": size,
        "MASTER_ADDR": host,
        "MASTER_PORT": str(_PORTS[number % len(_PORTS)]),
    }
    if "SLURM_LOCALID" in found:
        variables["LOCAL_RANK"] = found["SLURM_LOCALID"]
    return variables | {name: found[name] for name in ("MASTER_ADDR", "MASTER_PORT") if found.get(name)}


def _of_mpirun(found: Mapping[str, str]) -> dict[str, str] | None:
    for rank, size, local_rank in _MPI:
        if found.get(size, "1") == "1" and found.get(rank, "0") == "0":
            continue
        sources = {"RANK": rank, "WORLD_SIZE": size, "LOCAL_RANK": local_rank}
        variables = {name: found[source] for name, source in sources.items() if source in found}
        if missing := [name for name in ("MASTER_ADDR", "MASTER_PORT") if not found.get(name)]:
            verb = "is" if len(missing) == 1 else "are"
            raise ValueError(
                f"this is process {found.get(rank, '?')} of {found.get(size, '?')} by mpirun's {rank} and {size}, "
                f"but {' and '.join(missing)} {verb} not set: pass them on (mpirun -x MASTER_ADDR=HOST "
                "-x MASTER_PORT=29500, the host of process 0 and a free port there), start with torchrun, or unset "
                f"{size} and {rank} to use one rank"
            )
        return variables
    return None


def _refuse_alone(found: Mapping[str, str]) -> None:
    if "LOCAL_RANK" in found and found["LOCAL_RANK"].strip() not in ("", "0"):
        raise ValueError(
            f"LOCAL_RANK is {found['LOCAL_RANK']!r} and RANK and WORLD_SIZE are not set, as after some job; {_REMEDY}"
        )


def _number(found: Mapping[str, str], name: str) -> int:
    if not re.fullmatch(r"\s*\d{1,9}\s*", found[name]):
        raise ValueError(f"{name} is {found[name]!r} in the environment, which is no whole number; {_REMEDY}")
    return int(found[name])


def _on_terminal() -> bool:
    return sys.stdin is not None and not sys.stdin.closed and sys.stdin.isatty()


def end_process(code: int) -> NoReturn:
    """End this process with an exit code, after its work.

    torch does not end gloo's threads where DDP has used the group. One of these that releases a tensor while Python
    takes itself apart aborts the process ("terminate called without an active exception"), after the work is done: seen
    on busy machines. So one of several ranks ends without taking Python apart.
    """
    if os.environ.get("WORLD_SIZE", "1") == "1":
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)
