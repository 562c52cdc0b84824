"""Installs, starts and stops a real SLURM cluster on one Debian machine, as root, without systemd.

    python -m tests.cluster 4                     # four nodes and a shell on the "login node"; exit ends them

The login node and every node are network namespaces, joined by a bridge, with no way out: nothing listens on the
machine itself. A node is a process namespace too, so that killing its first process is a power cut. All share the
machine's files, as nodes share a parallel file system.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")
PROGRAMS = ("slurmctld", "slurmd", "sbatch", "munged", "ip")
_NETWORK = "198.51.100"  # reserved for documentation
_HERE = Path(__file__).parent
_PENDING = {"PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "SIGNALING", "REQUEUED", "SUSPENDED"}


def install() -> str:
    """Install SLURM where it is missing; returns why there can be no cluster here, '' if there can."""
    if os.geteuid() != 0:
        return "a SLURM cluster for tests needs root"
    if all(shutil.which(program) for program in PROGRAMS):
        return ""
    if not shutil.which("apt-get"):
        return "SLURM is not installed, and there is no apt-get to install it"
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", *PACKAGES]):
        # somebody else may be installing something
        program = ["apt-get", "-o", "DPkg::Lock::Timeout=300", *command]
        result = subprocess.run(program, env=environment, capture_output=True, text=True)
    # old package lists can do: what counts is the last command
    return f"apt-get cannot install SLURM: {result.stderr.strip().splitlines()[-1:]}" if result.returncode else ""


@dataclass(frozen=True)
class JobState:
    """What SLURM says about a job."""

    state: str
    exit_code: int
    restarts: int
    nodes: str
    reason: str

    @property
    def ended(self) -> bool:
        return self.state not in _PENDING


class Cluster:
    """A running cluster; use as a context manager. Nodes are named n1, n2, ...

    root: a new folder for configuration, state and logs; num_nodes: of compute nodes; kill_wait_s: SLURM's KillWait,
    between TERM and KILL. RuntimeError when it does not come up, which names the log to read.
    """

    def __init__(self, root: Path, num_nodes: int = 4, kill_wait_s: int = 30) -> None:
        self.root, self.num_nodes, self.kill_wait_s = root, num_nodes, kill_wait_s
        self.names = [f"n{number}" for number in range(1, num_nodes + 1)]
        self._prefix = f"slurm{os.getpid()}-"
        self._nodes: dict[str, subprocess.Popen] = {}
        self._daemons: list[subprocess.Popen] = []

    def __enter__(self) -> Cluster:
        try:
            self._write_files()
            self._lay_network()
            self._start_daemons()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # What a user does

    def run(self, *command: str, cwd: Path | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """A command on the login node; `variables` are added to its environment."""
        return subprocess.run(
            self.command(*command), cwd=cwd, env={**os.environ, **variables}, capture_output=True, text=True
        )

    def command(self, *command: str) -> list[str]:
        return ["ip", "netns", "exec", f"{self._prefix}head", "env", f"SLURM_CONF={self.conf}", *command]

    def submit(self, *arguments: str, cwd: Path, **variables: str) -> str:
        """sbatch with these arguments in the folder `cwd`; the job's id."""
        result = self.run("sbatch", "--parsable", *arguments, cwd=cwd, **variables)
        if result.returncode:
            raise RuntimeError(f"sbatch refused: {result.stderr}")
        return result.stdout.strip()

    def job(self, number: str) -> JobState:
        """The job, or array task, as it stands."""
        text = self.run("scontrol", "show", "job", "-o", number).stdout
        fields = dict(re.findall(r"(\w+)=(\S*)", text))
        if "JobState" not in fields:
            raise RuntimeError(f"SLURM does not know job {number}: {text}")
        exit_code = int(fields["ExitCode"].partition(":")[0])
        return JobState(fields["JobState"], exit_code, int(fields["Restarts"]), fields["NodeList"], fields["Reason"])

    def wait(self, number: str, timeout_s: float = 120) -> JobState:
        """The job when it has ended."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            job = self.job(number)
            if job.ended:
                return job
            time.sleep(0.2)
        raise TimeoutError(f"job {number} has not ended in {timeout_s} s: {self.job(number)}")

    # What happens to a cluster

    def cut_power(self, node: str) -> None:
        """All processes of the node end at once, without notice."""
        process = self._nodes.pop(node)
        self._ip("-n", f"{self._prefix}head", "link", "set", f"v-{node}", "down")
        process.kill()
        process.wait()

    def boot(self, node: str) -> None:
        """Start a node and wait until SLURM counts it in."""
        self._ip("-n", f"{self._prefix}head", "link", "set", f"v-{node}", "up")
        self._start_node(node)
        self._wait_up([node])

    def resume(self, node: str) -> None:
        """Count a node in again that was set down."""
        self.run("scontrol", "update", f"nodename={node}", "state=resume")
        self._wait_up([node])

    def expand(self, nodes: str) -> list[str]:
        """'n[1-2]' -> ['n1', 'n2']"""
        return self.run("scontrol", "show", "hostnames", nodes).stdout.split()

    def processes(self, pattern: str, node: str = "") -> list[int]:
        """Ids of the processes, on one node or all, whose command line matches."""
        networks = {os.stat(f"/run/netns/{self._prefix}{name}").st_ino for name in ([node] if node else self._nodes)}
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):  # it has just ended
                command = (folder / "cmdline").read_text().replace("\0", " ").strip()
                if os.stat(folder / "ns" / "net").st_ino in networks and re.search(pattern, command):
                    found.append(int(folder.name))
        return found

    # Starting and stopping

    @property
    def conf(self) -> Path:
        return self.root / "slurm.conf"

    def stop(self) -> None:
        """End every process of the cluster and remove its networks; folders stay."""
        for node in self._nodes.values():
            node.kill()
            node.wait()
        for daemon in reversed(self._daemons):
            daemon.terminate()  # TERM first: slurmctld has a child of its own
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        self._nodes.clear()
        self._daemons.clear()
        for name in ("head", *self.names):
            subprocess.run(["ip", "netns", "delete", self._prefix + name], capture_output=True)
            shutil.rmtree(f"/etc/netns/{self._prefix}{name}", ignore_errors=True)

    def _write_files(self) -> None:
        for folder in ("log", "state", "munge", "spool"):
            (self.root / folder).mkdir(parents=True, mode=0o755 if folder != "munge" else 0o700)
        key = self.root / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(secrets.token_bytes(1024))
        text = (_HERE / "slurm.conf").read_text()
        self.conf.write_text(
            text.format(
                root=self.root,
                nodes=self.num_nodes,
                head=f"{_NETWORK}.1",
                first_job=int(time.time()) % 1_000_000 + 1_000,
                kill_wait_s=self.kill_wait_s,
            )
        )
        for gpu in range(2):
            (self.root / f"gpu{gpu}").symlink_to("/dev/null")  # must be a device
        (self.root / "gres.conf").write_text(f"NodeName=n[1-{self.num_nodes}] Name=gpu File={self.root}/gpu[0-1]\n")
        (self.root / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # not used; keeps slurmd from looking
        addresses = [f"{_NETWORK}.1 head {os.uname().nodename}"]
        addresses += [f"{_NETWORK}.{10 + number} {name}" for number, name in enumerate(self.names, 1)]
        hosts = "\n".join(["127.0.0.1 localhost", *addresses, ""])
        for name in ("head", *self.names):
            folder = Path("/etc/netns") / (self._prefix + name)  # `ip netns exec` puts it over /etc
            folder.mkdir(parents=True)
            (folder / "hosts").write_text(hosts)

    def _lay_network(self) -> None:
        head = f"{self._prefix}head"
        self._ip("netns", "add", head)
        self._ip("-n", head, "link", "set", "lo", "up")
        self._ip("-n", head, "link", "add", "bridge", "type", "bridge")
        self._ip("-n", head, "address", "add", f"{_NETWORK}.1/24", "dev", "bridge")
        self._ip("-n", head, "link", "set", "bridge", "up")
        for number, name in enumerate(self.names, 1):
            space = self._prefix + name
            self._ip("netns", "add", space)
            self._ip("-n", head, "link", "add", f"v-{name}", "type", "veth", "peer", "name", "eth0", "netns", space)
            self._ip("-n", head, "link", "set", f"v-{name}", "master", "bridge", "up")
            self._ip("-n", space, "address", "add", f"{_NETWORK}.{10 + number}/24", "dev", "eth0")
            for device in ("lo", "eth0"):
                self._ip("-n", space, "link", "set", device, "up")

    def _start_daemons(self) -> None:
        munge = self.root / "munge"
        self._start_daemon(
            "munged",
            "--foreground",
            "--force",
            f"--socket={munge}/socket",
            f"--key-file={munge}/key",
            f"--pid-file={munge}/pid",
            f"--log-file={munge}/log",
            f"--seed-file={munge}/seed",
        )
        self._wait_for((munge / "socket").exists, "munged", munge / "log")
        self._start_daemon(*self.command("slurmctld", "-D", "-i", "-f", str(self.conf)))
        for name in self.names:
            self._start_node(name)
        self._wait_up(self.names)

    def _start_daemon(self, *command: str) -> None:
        with open(self.root / "log" / "daemons.log", "a") as log:
            self._daemons.append(
                subprocess.Popen([*_DIE_WITH_US, *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )

    def _start_node(self, name: str) -> None:
        (self.root / "spool" / name).mkdir(exist_ok=True)
        # The shell is the node's first process: it takes in orphans, and with it all the others end.
        script = f"hostname {name}; slurmd -N {name} -f {self.conf} || exit 1; sleep infinity & wait"
        space = ["ip", "netns", "exec", self._prefix + name]
        own = ["unshare", "--pid", "--fork", "--kill-child", "--uts", "--mount-proc", "--propagation", "private"]
        with open(self.root / "log" / f"{name}.log", "a") as log:
            self._nodes[name] = subprocess.Popen(
                [*_DIE_WITH_US, *space, *own, "env", f"SLURM_CONF={self.conf}", "bash", "-c", script],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _wait_up(self, names: list[str]) -> None:
        def all_up() -> bool:
            states = self.run("sinfo", "-h", "-N", "-p", "main", "-n", ",".join(names), "-o", "%T").stdout.split()
            return len(states) == len(names) and set(states) <= {"idle", "mixed", "allocated"}

        self._wait_for(all_up, f"nodes {', '.join(names)}", self.root / "log")

    def _wait_for(self, ready: object, what: str, log: Path, timeout_s: float = 60) -> None:
        assert callable(ready)
        deadline = time.monotonic() + timeout_s
        while not ready():
            if time.monotonic() > deadline:
                raise RuntimeError(f"{what} did not come up in {timeout_s:.0f} s, see {log}")
            time.sleep(0.1)

    def _ip(self, *arguments: str) -> None:
        result = subprocess.run(["ip", *arguments], capture_output=True, text=True)
        if result.returncode:
            raise RuntimeError(f"ip {' '.join(arguments)}: {result.stderr.strip()}")


_DIE_WITH_US = ("setpriv", "--pdeathsig", "KILL")  # also when the tests are killed
