"""Training steps as CUDA graphs (`train.cuda_graphs`): recorded once, then launched as a whole.

Where the program is slower than the GPU, as it is at small batches, a step then takes as long as the GPU computes.

A graph repeats what the device did while it was recorded: the same kernels, with the same numbers from the program, at
the same places in memory. So a step is cut into parts, functions of tensors, and whatever changes from step to step is
one of those tensors: the batch, the pairs, the learning rates and the weights of the losses. What the program decides,
as who is paired with whom, happens between the parts.

One kind of step has one recording: who learns, and the shapes of the batch. Its first steps run as they are, so that
libraries choose their algorithms, optimizers make their moments and constants reach the device; they are training steps
like all others, and compute the same.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, Protocol, TypeVar

import torch
from torch import Tensor

from ialcms.engine import Ranks, Traffic

Result = TypeVar("Result")

# Of a kind, before it is recorded. DDP times its first ten passes, and waits for the device to do so.
_FIRST_STEPS, _FIRST_STEPS_OF_DDP = 2, 11


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
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        torch.cuda.set_stream(stream)
        # Steps never overlap, and a part's tensors are in use until the step's last part is recorded.
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, function: Callable[[], Result]) -> tuple[Result, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        # Other threads, the loader's and NCCL's, go on meanwhile.
        options: dict[str, Any] = {"pool": self._pool, "capture_error_mode": "thread_local"}
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream(), **options):
                result = function()
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            reason = str(error).partition("\n")[0]
            raise RuntimeError(
                f"a step cannot be recorded as a CUDA graph: {reason}; start again with train.cuda_graphs=false"
            ) from error
        return result, graph.replay


class StepRecordings:
    """One recording for each kind of step."""

    def __init__(self, recorder: Recorder, ranks: Ranks) -> None:
        """ranks: in whose traffic a part that is repeated counts what it sends."""
        self._recorder, self._ranks = recorder, ranks
        self._of_kind: dict[Hashable, RecordedStep] = {}

    def begin(self, kind: Hashable) -> RecordedStep:
        """For a step that has just begun."""
        step = self._of_kind.get(kind)
        if step is None:
            step = self._of_kind[kind] = RecordedStep(self._recorder, self._ranks)
        step.begin()
        return step


class RecordedStep:
    """The parts of one kind of step, which run in the same order in each."""

    def __init__(self, recorder: Recorder, ranks: Ranks) -> None:
        self._recorder, self._traffic = recorder, ranks.traffic
        self._first_steps = _FIRST_STEPS_OF_DDP if ranks.distributed else _FIRST_STEPS
        self._begun = 0
        self._parts: dict[str, _Part] = {}

    def begin(self) -> None:
        """Another step of this kind begins."""
        self._begun += 1

    def run(self, name: str, function: Callable[..., Result], *inputs: Tensor) -> Result:
        """function(*inputs); recorded in one step, and from then on repeated without a call.

        name: of the part. function: it may use what an earlier part has made in the same step. Its result holds the
        same tensors in every step from the recording on. RuntimeError where it cannot be recorded.
        """
        if self._begun <= self._first_steps:
            return function(*inputs)
        part = self._parts.get(name)
        if part is None:
            part = self._parts[name] = _Part(self._recorder, function, inputs, traffic=self._traffic)
        else:
            part.take(inputs)
            self._traffic.add(part.sent)
        part.repeat()
        return part.result  # type: ignore[no-any-return]


class _Part:
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
            ours.copy_(given, non_blocking=True)
