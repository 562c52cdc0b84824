"""Stands in for the program in tests of the launchers: counts steps in lockstep, knows how to stop, refuse and crash.

python -m ialcms VERB ... --folder FOLDER steps=20 [step_s=0.1] [refuse=1] [crash_at=3 [crashes=2]] [kill_at=3] [deaf=1]

Its ranks meet in a real socket at every step, like in a collective: one that loses a peer fails, one whose peer's
machine has lost power waits for ever.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path


class Peers:
    """The ranks of a job, connected with the first."""

    def __init__(self) -> None:
        self.rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]) + 1
        if self.rank == 0:
            server = socket.create_server(("", address[1]))
            self.links = [server.accept()[0] for _ in range(size - 1)]
            return
        while True:
            try:
                self.links = [socket.create_connection(address)]
                return
            except ConnectionRefusedError:
                time.sleep(0.05)

    def any(self, flag: bool) -> bool:
        mine = b"1" if flag else b"0"
        if self.rank:
            self.links[0].sendall(mine)
            return self._read(self.links[0]) == b"1"
        all_of_them = max([mine, *(self._read(link) for link in self.links)])
        for link in self.links:
            link.sendall(all_of_them)
        return all_of_them == b"1"

    @staticmethod
    def _read(link: socket.socket) -> bytes:
        received = link.recv(1)
        if not received:
            raise RuntimeError("connection closed by peer")
        return received


def main() -> int:
    words = sys.argv[1:]
    options = dict(word.split("=", 1) for word in words if "=" in word)
    rank, start = os.environ["RANK"], int(os.environ.get("SLURM_RESTART_COUNT", 0))
    if "refuse" in options:
        if rank != "0":
            time.sleep(15)  # as the program's ranks do: torchrun ends all as soon as one has ended
        else:
            print("ialcms: error: there is no such thing", file=sys.stderr)
        return 2
    stop: list[int] = []
    for number in () if "deaf" in options else (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):

        def request(number: int, frame: object) -> None:
            stop.append(number)
            signal.signal(number, signal.SIG_DFL)

        signal.signal(number, request)
    folder = Path(words[len(words) - words[::-1].index("--folder")])
    folder.mkdir(parents=True, exist_ok=True)
    peers = Peers()
    saved, progress = folder / "saved", folder / "progress"
    step = int(saved.read_text()) if saved.exists() else 0
    print(f"rank {rank} of {os.environ['WORLD_SIZE']} on {os.uname().nodename}: from step {step}", flush=True)
    if rank == "0":
        (folder / "arguments").write_text("\n".join(words))
    while step < int(options["steps"]):
        time.sleep(float(options.get("step_s", 0.1)))
        step += 1
        if rank == "0":
            progress.write_text(str(step))
        if rank == "1" and start < int(options.get("crashes", 1)):
            if options.get("crash_at") == str(step):
                return 3
            if options.get("kill_at") == str(step):
                os.kill(os.getpid(), signal.SIGKILL)
        if peers.any(bool(stop)):
            if rank == "0":
                saved.write_text(str(step))
            print(f"rank {rank}: stopped at step {step}", flush=True)
            return 0
    if rank == "0":
        (folder / "finished").touch()
    return 0


if __name__ == "__main__":
    sys.exit(main())
