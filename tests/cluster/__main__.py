"""python -m tests.cluster [NODES]: a cluster for as long as the shell on its login node is open."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from tests.cluster.cluster import Cluster, install


def main() -> int:
    if reason := install():
        print(reason, file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="slurm-") as folder:
        num_nodes = int(sys.argv[1]) if len(sys.argv) > 1 else 4
        with Cluster(Path(folder) / "cluster", num_nodes) as cluster:
            print(f"{num_nodes} nodes; logs in {cluster.root / 'log'}; try: sinfo")
            return subprocess.run(cluster.command("bash")).returncode


if __name__ == "__main__":
    sys.exit(main())
