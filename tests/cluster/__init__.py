"""A real SLURM cluster on one Debian machine, for tests."""

from tests.cluster.cluster import Cluster, JobState, install

__all__ = ["Cluster", "JobState", "install"]
