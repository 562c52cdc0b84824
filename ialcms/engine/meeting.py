"""How the ranks of a job find each other where no launcher's agent does it: srun, mpirun, PyTorchJob, by hand.

They meet at a store on rank 0 and wait until all are present, for a limited time and with a line on how many are
missing. Only then is anything started that would wait for its whole, longer limit.
"""

from __future__ import annotations

import dataclasses
import datetime
import json
import os
import platform
import secrets
import socket
import sys
import time
from dataclasses import dataclass

import torch.distributed as dist

from ialcms.launched import Launched

JOIN_S = 120.0
_REPORTED_AFTER_S = 8.0  # seconds of waiting after which it is reported
_POLL_S = 0.2
_ANSWER_S = 5.0


@dataclass(frozen=True)
class Meeting:
    """All ranks are there; what a rank has to know of the others."""

    store: dist.Store
    local_rank: int  # its number on its machine
    local_world_size: int  # how many ranks are on that machine
    has_own_device: bool  # whether each rank of that machine sees one GPU that no other one sees

    @classmethod
    def of(cls, store: dist.Store, rank: int, roster: Roster) -> Meeting:
        host = roster.hosts[rank]
        devices = [device for other, device in zip(roster.hosts, roster.devices) if other == host]
        is_own = "" not in devices and len(set(devices)) == len(devices)
        return cls(store, roster.hosts[:rank].count(host), len(devices), has_own_device=is_own)


@dataclass(frozen=True)
class Roster:
    """Who has come, by rank."""

    hosts: list[str]
    devices: list[str]  # the only GPU that it sees, '' for none or several


def join_s() -> float:
    """How long ranks wait for the last one to come: JOIN_S, or $IALCMS_JOIN_S."""
    text = os.environ.get("IALCMS_JOIN_S", str(JOIN_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0
    if not 0 < seconds < 1e6:
        raise ValueError(f"IALCMS_JOIN_S is {text!r}; give the seconds to wait for all ranks, like 600")
    return seconds


def meet(launch: Launched, host: str, port: int, device: str) -> Meeting:
    """Wait until all ranks have come to HOST:PORT, where rank 0 listens.

    device: name of the only GPU that this rank sees, '' for none or several.
    ValueError in one line when they do not come in `join_s()`, when the port is taken, and when two processes have the
    same rank.

    launch: rank and number of ranks. host: of rank 0.
    """
    waiting = _Waiting(launch, f"{host}:{port}", join_s())
    try:
        store = _open_store(launch, host, port, waiting=waiting)
        token = secrets.token_hex(8)
        if store.compare_set(f"claim/{launch.rank}", "", token).decode() != token:
            raise ValueError(
                f"two processes say that they are rank {launch.rank} (RANK) of the job that meets at {host}:{port}; "
                "give each process a rank of its own, or another MASTER_PORT to another job"
            )
        store.set(f"host/{launch.rank}", os.environ.get("SLURMD_NODENAME") or platform.node())
        store.set(f"device/{launch.rank}", device)
        store.add("present", 1)
        while (present := store.add("present", 0)) < launch.world_size:
            waiting.pause(f"{present} of {launch.world_size} ranks have come")
        if launch.rank == 0:
            store.set("roster", json.dumps(dataclasses.asdict(_read_roster(store, launch.world_size))))
        meeting = Meeting.of(store, launch.rank, Roster(**json.loads(store.get("roster"))))
        store.add("left", 1)
        while launch.rank == 0 and store.add("left", 0) < launch.world_size:
            waiting.pause("not all ranks have read who is there")
        return meeting
    except dist.DistError as error:  # the store went, and rank 0 with it
        raise ValueError(
            f"rank 0 at {host}:{port} has gone while the ranks met; see what it says, then start all again"
        ) from error


def _read_roster(store: dist.Store, world_size: int) -> Roster:
    """On rank 0 alone, where the store is: if all ranks asked for each other, it would answer W^2 questions."""
    hosts = [store.get(f"host/{rank}").decode() for rank in range(world_size)]
    return Roster(hosts, [store.get(f"device/{rank}").decode() for rank in range(world_size)])


class _Waiting:
    """Pauses, one line when it takes long, and an end."""

    def __init__(self, launch: Launched, where: str, limit_s: float) -> None:
        self._launch, self._where, self._limit_s = launch, where, limit_s
        self._began, self._reported = time.monotonic(), False

    def pause(self, what: str) -> None:
        waited_s = time.monotonic() - self._began
        hint = f"ranks meet at {self._where} (MASTER_ADDR, MASTER_PORT), this is rank {self._launch.rank}"
        if waited_s > self._limit_s:
            raise ValueError(
                f"{what} after {self._limit_s:g} s; {hint} of {self._launch.world_size} on {platform.node()}: start "
                "all of them, unset what another job has left in the environment (RANK, WORLD_SIZE, SLURM_*), or let "
                "them wait longer with IALCMS_JOIN_S"
            )
        if waited_s > _REPORTED_AFTER_S and not self._reported:
            self._reported = True
            print(f"ialcms: waiting up to {self._limit_s:g} s: {what}; {hint}", file=sys.stderr, flush=True)
        time.sleep(_POLL_S)


def _open_store(launch: Launched, host: str, port: int, waiting: _Waiting) -> dist.TCPStore:
    """The store of all ranks at HOST:PORT; of rank 0 it listens there. waiting: to report how long it takes."""
    timeout = datetime.timedelta(seconds=join_s())
    if launch.rank == 0:
        try:
            return dist.TCPStore(
                "localhost", port, launch.world_size, is_master=True, timeout=timeout, wait_for_workers=False
            )
        except dist.DistError as error:
            raise ValueError(
                f"rank 0 cannot listen at port {port} ({str(error).partition(chr(10))[0]}); give a free one of its "
                "host in MASTER_PORT"
            ) from error
    while reason := _why_closed(host, port):  # torch would fill the log with its own tries
        waiting.pause(f"rank 0 does not answer ({reason})")
    return dist.TCPStore(host, port, launch.world_size, is_master=False, timeout=timeout, wait_for_workers=False)


def _why_closed(host: str, port: int) -> str:
    try:
        with socket.create_connection((host, port), timeout=_ANSWER_S):
            return ""
    except socket.gaierror:
        return f"no host name '{host}' is known here"
    except OSError as error:
        return error.strerror or str(error)
