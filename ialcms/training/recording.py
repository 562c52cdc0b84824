"""Training steps as CUDA graphs (`train.cuda_graphs`): recorded once, then launched as a whole.

Where the program is slower than the GPU, as it is at small batches, a step then takes as long as the GPU computes.

A graph repeats what the device did while it was recorded: the same kernels, with the same numbers from the program, at
the same places in memory. So a step is cut into sections, functions of tensors, and whatever changes from step to step
is one of those tensors: the batch, the pairs, the learning rates and the weights of the losses. What the program
decides, as who is paired with whom, happens between the sections.

One kind of step has one recording: who learns, and the shapes of the batch. Its first steps run as they are, so that
libraries choose their algorithms, optimizers make their moments and constants reach the device; they are training steps
like all others, and compute the same.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ialcms.engine import Ranks, Traffic

Result = TypeVar("Result")

# Of a kind, before it is recorded. DDP times its first ten passes, and waits for the device to do so.
FIRST_STEPS, FIRST_STEPS_OF_DDP = 2, 11


class Recorder(Protocol):
    """Calls a function of no arguments; returns its result, and what computes it anew, into the same tensors.

    Whether the tensors of the result are filled in by the first call is not said: repeat it before use.
    """

    def __call__(self, function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]: ...


class CudaGraphs:
    """The recorder of a GPU. From its making on, this thread issues all its work to the stream on which it records.

    Gradients are added up on the stream on which their parameters were first used, and DDP uses them when it is made:
    so make networks after it.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = _recorded_stream(device)
        self._stream.wait_stream(torch.cuda.current_stream(device))
        torch.cuda.set_stream(self._stream)
        # Steps never overlap, and a section's tensors are in use until the step's last section is recorded.
        self._pool = torch.cuda.graph_pool_handle()
        self._graphs: list[torch.cuda.CUDAGraph] = []

    def __call__(self, function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        self._graphs.append(graph)
        try:
            # Other threads, the loader's and NCCL's, go on meanwhile.
            with torch.cuda.graph(graph, self._pool, stream=self._stream, capture_error_mode="thread_local"):
                result = function()
        except RuntimeError as error:
            raise _first(error) from error
        return result, graph.replay

    def close(self) -> None:
        """Before the process group is torn down: NCCL waits for the end of every graph that it is in."""
        if self._graphs:
            torch.cuda.synchronize()
        while self._graphs:
            self._graphs.pop().reset()


@functools.cache
def _recorded_stream(device: torch.device) -> torch.cuda.Stream:
    """One for the whole process: networks that were made on it stay there."""
    return torch.cuda.Stream(device)


def _first(error: BaseException) -> BaseException:
    """The error that ended a recording; the last one only says that it has ended."""
    while error.__context__ is not None:
        error = error.__context__
    if isinstance(error, torch.OutOfMemoryError):
        return error
    reason = str(error).partition("\n")[0]
    return RuntimeError(f"a step cannot be recorded as a CUDA graph: {reason}; start with train.cuda_graphs=false")


class StepRecordings:
    """One recording for each kind of step."""

    def __init__(self, recorder: Recorder, ranks: Ranks) -> None:
        """ranks: in whose traffic a section that is repeated counts what it sends.

        first_steps: how many of a kind run as they are.
        """
        self._recorder, self._ranks = recorder, ranks
        self.first_steps = FIRST_STEPS_OF_DDP if ranks.distributed else FIRST_STEPS
        self._of_kind: dict[Hashable, RecordedStep] = {}

    def begin(self, kind: Hashable) -> RecordedStep:
        """For a step that has just begun."""
        step = self._of_kind.get(kind)
        if step is None:
            step = self._of_kind[kind] = RecordedStep(self._recorder, self._ranks.traffic, self.first_steps)
        step.begin()
        return step


class RecordedStep:
    """The sections of one kind of step, which run in the same order in each."""

    def __init__(self, recorder: Recorder, traffic: Traffic, first_steps: int) -> None:
        self._recorder, self._traffic, self._first_steps = recorder, traffic, first_steps
        self._begun = 0
        self._sections: dict[str, _Section] = {}

    def begin(self) -> None:
        """Another step of this kind begins."""
        self._begun += 1

    def run(self, name: str, function: Callable[..., Result], *inputs: Tensor) -> Result:
        """function(*inputs); recorded in one step, and from then on repeated without a call.

        name: of the section. function: it may use what an earlier section has made in the same step. Its result holds
        the same tensors in every step from the recording on. RuntimeError where it cannot be recorded.
        """
        if self._begun <= self._first_steps:
            return function(*inputs)
        section = self._sections.get(name)
        if section is None:
            section = self._sections[name] = _Section(self._recorder, function, inputs, traffic=self._traffic)
        else:
            section.take(inputs)
            self._traffic.add(section.sent)
        section.repeat()
        return section.result  # type: ignore[no-any-return]


class _Section:
    """A recorded function, with the tensors from which it reads its inputs."""

    def __init__(
        self, recorder: Recorder, function: Callable[..., Any], inputs: tuple[Tensor, ...], traffic: Traffic
    ) -> None:
        self._inputs = tuple(tensor.detach().clone() for tensor in inputs)
        with traffic.noting() as self.sent:
            self.result, self.repeat = recorder(lambda: function(*self._inputs))
        traffic.add(self.sent)

    def take(self, inputs: tuple[Tensor, ...]) -> None:
        for ours, given in zip(self._inputs, inputs, strict=True):
            assert ours.shape == given.shape, "a recording is of one kind of step"
            ours.copy_(given, non_blocking=True)
