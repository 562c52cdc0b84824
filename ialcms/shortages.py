"""Errors of libraries that mean a shortage (memory, files, threads), as one line that says which limit to raise."""

from __future__ import annotations

import re

_MEMORY = (
    "not enough memory; lower train.global_batch, the networks' widths, data.loader_workers or data.window, or raise "
    "the limit (ulimit -v, sbatch --mem, the container's)"
)
_SHORTAGES = (
    (r"received 0 items of ancdata|too many open files",
     "too many open files for this process's limit; raise it (ulimit -n 4096, LimitNOFILE of a service, --ulimit "
     "nofile=4096 of a container)"),
    (r"shared memory|/dev/shm|/torch_\d+_",
     "there is too little shared memory; raise /dev/shm (--shm-size=2g of a container, a Kubernetes emptyDir with "
     "medium: Memory), or set data.loader_workers=0"),
    (r"CUDA out of memory|CUDA error: out of memory",
     "the GPU's memory ran out; lower train.global_batch or use more GPUs (--batch-windows to separate)"),
    (r"can't start new thread|can't create new thread|pthread_create",
     "no further thread or process can be started; raise the limit (ulimit -u, ulimit -v, the container's pids limit)"),
    (r"out of memory|(can't|cannot|could not|failed to|unable to) (allocate|map)|bad_alloc|enforce fail at alloc|"
     r"create a primitive",
     _MEMORY),
)  # fmt: skip


def shortage(error: BaseException) -> str:
    """One line on what has run out and what to raise; '' for an error of another kind."""
    text = " ".join(str(error).split())[:200]
    if isinstance(error, MemoryError):
        return _with_words(_MEMORY, text or "it is all in use")
    if not isinstance(error, (OSError, RuntimeError, ImportError)):
        return ""
    for pattern, line in _SHORTAGES:
        if re.search(pattern, text, re.IGNORECASE):
            return _with_words(line, text)
    return ""


def _with_words(line: str, words: str) -> str:
    """The line with the library's message in brackets."""
    what, _, remedy = line.partition("; ")
    return f"{what} ({words}); {remedy}"
