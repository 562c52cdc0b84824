"""How the ranks of a job find each other where no launcher's agent does it: srun, mpirun, PyTorchJob, by hand.

All come to a store at rank 0 and wait there until everybody is present, for a limited time and with a line on who is
missing, before anything is started that would wait for the whole of its own limit.
"""

from __future__ import annotations

import datetime
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
_TOLD_AFTER_S = 8.0  # seconds of waiting after which it is told
_POLL_S = 0.2
_ANSWER_S = 5.0


@dataclass(frozen=True)
class Meeting:
    """All ranks are there."""

    store: dist.Store
    hosts: tuple[str, ...]  # by rank
    devices: tuple[str, ...]  # by rank: the only GPU that it sees, '' for none or several

    def local(self, rank: int) -> tuple[int, int]:
        """A rank's number on its machine, and how many there are on it."""
        host = self.hosts[rank]
        return self.hosts[:rank].count(host), self.hosts.count(host)

    def have_own_devices(self, rank: int) -> bool:
        """Whether each rank of this one's machine sees one GPU, which no other one sees."""
        near = [device for host, device in zip(self.hosts, self.devices) if host == self.hosts[rank]]
        return "" not in near and len(set(near)) == len(near)


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


def meet(place: Launched, host: str, port: int, device: str) -> Meeting:
    """Wait until all ranks have come to HOST:PORT, where rank 0 listens.

    device: name of the only GPU that this rank sees, '' for none or several.
    ValueError in one line when they do not come in `join_s()`, when the port is taken, and when two processes have the
    same rank.
    """
    waiting = _Waiting(place, f"{host}:{port}", join_s())
    try:
        store = _open_store(place, host, port, waiting)
        own = secrets.token_hex(8)
        if store.compare_set(f"claim/{place.rank}", "", own).decode() != own:
            raise ValueError(
                f"two processes say that they are rank {place.rank} (RANK) of the job that meets at {host}:{port}; "
                "give each process a rank of its own, or another MASTER_PORT to another job"
            )
        store.set(f"host/{place.rank}", os.environ.get("SLURMD_NODENAME") or platform.node())
        store.set(f"device/{place.rank}", device)
        store.add("present", 1)
        while (present := store.add("present", 0)) < place.world_size:
            waiting.go_on(f"{present} of {place.world_size} ranks have come")
        hosts = tuple(store.get(f"host/{rank}").decode() for rank in range(place.world_size))
        devices = tuple(store.get(f"device/{rank}").decode() for rank in range(place.world_size))
        store.add("left", 1)
        while place.rank == 0 and store.add("left", 0) < place.world_size:
            waiting.go_on("not all ranks have read who is there")
        return Meeting(store, hosts, devices)
    except dist.DistError as error:  # the store went, and rank 0 with it
        raise ValueError(
            f"rank 0 at {host}:{port} has gone while the ranks met; see what it says, then start all again"
        ) from error


class _Waiting:
    """Pauses, one line when it takes long, and an end."""

    def __init__(self, place: Launched, where: str, limit_s: float) -> None:
        self._place, self._where, self._limit_s = place, where, limit_s
        self._began, self._told = time.monotonic(), False

    def go_on(self, what: str) -> None:
        waited_s = time.monotonic() - self._began
        hint = f"ranks meet at {self._where} (MASTER_ADDR, MASTER_PORT), this is rank {self._place.rank}"
        if waited_s > self._limit_s:
            raise ValueError(
                f"{what} after {self._limit_s:g} s; {hint} of {self._place.world_size} on {platform.node()}: start all "
                "of them, unset what another job has left in the environment (RANK, WORLD_SIZE, SLURM_*), or let them "
                "wait longer with IALCMS_JOIN_S"
            )
        if waited_s > _TOLD_AFTER_S and not self._told:
            self._told = True
            print(f"ialcms: waiting up to {self._limit_s:g} s: {what}; {hint}", file=sys.stderr, flush=True)
        time.sleep(_POLL_S)


def _open_store(place: Launched, host: str, port: int, waiting: _Waiting) -> dist.TCPStore:
    timeout = datetime.timedelta(seconds=join_s())
    if place.rank == 0:
        try:
            return dist.TCPStore(
                "localhost", port, place.world_size, is_master=True, timeout=timeout, wait_for_workers=False
            )
        except dist.DistError as error:
            raise ValueError(
                f"rank 0 cannot listen at port {port} ({str(error).partition(chr(10))[0]}); give a free one of its "
                "host in MASTER_PORT"
            ) from error
    while reason := _why_closed(host, port):  # torch would fill the log with its own tries
        waiting.go_on(f"rank 0 does not answer ({reason})")
    return dist.TCPStore(host, port, place.world_size, is_master=False, timeout=timeout, wait_for_workers=False)


def _why_closed(host: str, port: int) -> str:
    try:
        with socket.create_connection((host, port), timeout=_ANSWER_S):
            return ""
    except socket.gaierror:
        return f"no host name '{host}' is known here"
    except OSError as error:
        return error.strerror or str(error)
