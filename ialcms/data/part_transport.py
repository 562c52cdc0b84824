"""How parts of batches come from loader workers: by shared memory, or by pipes where there is too little of it.

torch hands tensors over in shared memory, as a file and an open file each. Containers have 64 MB of it unless they ask
for more, and a process may be allowed few open files. Both end a run in the middle, with a bus error or worse. Through
pipes the bytes are copied twice more, which is slower; what they hold is the same.
"""

from __future__ import annotations

import os
import resource
import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from ialcms.data.batch import Batch

SHARED_MEMORY = Path("/dev/shm")
_SPARE = 2.0  # times what is needed that has to be free: others of this machine take some, too
_FILES_OF_OTHERS = 256  # of the training process itself


@dataclass(frozen=True)
class PipedPart:
    """A part of a batch whose tensors are plain arrays, which torch does not move to shared memory."""

    part: Batch  # without its tensors
    arrays: tuple[np.ndarray, np.ndarray, np.ndarray]

    @classmethod
    def of(cls, part: Batch) -> PipedPart:
        nothing = torch.empty(0)
        arrays = part.mix.numpy(), part.mixtures.numpy(), part.objects.numpy()
        return cls(replace(part, mix=nothing, mixtures=nothing, objects=nothing), arrays)

    def unpacked(self) -> Batch:
        mix, mixtures, objects = map(torch.from_numpy, self.arrays)
        return replace(self.part, mix=mix, mixtures=mixtures, objects=objects)

    def __reduce__(self) -> tuple:
        part = self.part
        return _unpickled, (part.step, part.keys, part.bad, part.cached_bytes, self.arrays)


def _unpickled(step: int, keys: list, bad: dict, cached_bytes: int, arrays: tuple) -> PipedPart:
    """A part whose `arrays` come through the pipe; the other arguments are those of `Batch`."""
    nothing = torch.empty(0)
    return PipedPart(
        Batch(step, nothing, nothing, objects=nothing, keys=keys, bad=bad, cached_bytes=cached_bytes), arrays
    )


def why_pipes(part_bytes: int, num_parts: int) -> str:
    """Why parts must go through pipes, '' where shared memory will do.

    part_bytes: of one; num_parts: that all loader workers of this rank have ready at most.
    """
    ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    needed = part_bytes * num_parts * ranks * _SPARE
    if SHARED_MEMORY.is_dir() and (free := shutil.disk_usage(SHARED_MEMORY).free) < needed:
        return (
            f"{SHARED_MEMORY} has {free / 1e6:.1f} MB free, {needed / 1e6:.0f} MB are needed (a container gets more by "
            "--shm-size=2g, a Kubernetes pod by an emptyDir with medium: Memory)"
        )
    allowed, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = 3 * num_parts + _FILES_OF_OTHERS
    if allowed != resource.RLIM_INFINITY and allowed < files:
        return f"{allowed} open files are allowed, {files} are needed (ulimit -n 4096)"
    return ""
