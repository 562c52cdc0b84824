"""The networks' passes of a training step: as they are, compiled (`train.compile`), or as CUDA graphs
(`train.cuda_graphs`), which both compute the same up to rounding.

A CUDA graph is launched as a whole: where the program is slower than the GPU, as it is at small batches, a step takes
as long as the GPU computes. It is recorded at the first pass, for the shapes of that pass; other shapes run without it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from ialcms.config import Config
from ialcms.engine import Learner, Ranks
from ialcms.models import Critic, Separator, SeparatorOutput

log = logging.getLogger(__name__)

Call = Callable[..., Any]
BACKEND = "inductor"


class Pieces:
    """What a step calls: each takes what the network's `forward` takes."""

    def __init__(
        self, separator: Learner[Separator], critic: Learner[Critic] | None, config: Config, ranks: Ranks
    ) -> None:
        """separator, critic: learners; critic: None where there is none. config: for `train.compile` and
        `train.cuda_graphs`.
        """
        compiles, records = _supported(config, ranks)
        # Where it does not learn, the plain module runs: no graph, and no gradient reduction waits for a backward.
        self.separate: Call = separator.module
        self.separate_to_learn: Call = separator
        self.score: Call | None = critic.module if critic is not None else None
        self.score_to_learn: Call | None = critic
        if compiles:
            self.separate = self.separate_to_learn = _compiled(separator.module)
            if critic is not None:
                self.score = self.score_to_learn = _compiled(critic.module)
        if records:
            self.separate = _Recorded(self.separate, separator, with_gradient=False)
            self.separate_to_learn = _Recorded(self.separate_to_learn, separator, with_gradient=True)
            if critic is not None and self.score_to_learn is not None:
                self.score_to_learn = _Recorded(self.score_to_learn, critic, with_gradient=True)


def _supported(config: Config, ranks: Ranks) -> tuple[bool, bool]:
    """Whether to compile and whether to record graphs here; a warning for each that is asked for and impossible."""
    train = config.train
    alone = not ranks.distributed and train.engine in ("auto", "single")
    reasons = {
        "train.compile": None if alone else "it needs a single rank without a launcher",
        "train.cuda_graphs": None if alone else "they need a single rank without a launcher",
    }
    if alone and ranks.device.type != "cuda":
        reasons["train.cuda_graphs"] = "they need a GPU"
    elif alone and train.accumulation > 1:
        reasons["train.cuda_graphs"] = "they need train.accumulation=1"
    wanted = {"train.compile": train.compile, "train.cuda_graphs": train.cuda_graphs}
    for name, reason in reasons.items():
        if wanted[name] and reason is not None and ranks.is_first:
            log.warning("%s is left out: %s", name, reason)
    compiles, records = (wanted[name] and reasons[name] is None for name in reasons)
    return compiles, records


def _compiled(module: nn.Module) -> Call:
    """For training only: validation passes the module itself, with other shapes."""
    return torch.compile(module, fullgraph=True, dynamic=False, backend=BACKEND)


class _Recorded:
    """A network's pass as a CUDA graph, and its backward pass as another."""

    def __init__(self, call: Call, learner: Learner[Any], *, with_gradient: bool) -> None:
        self._call, self._learner, self._with_gradient = call, learner, with_gradient
        self._graph: Call | None = None
        self._shapes: list[Any] = []

    def __call__(self, *args: Any) -> Any:
        if self._graph is None:
            self._shapes = _shapes(args)
            self._learner.save_buffers()
            self._graph = self._record(args)
            self._learner.restore_buffers()  # recording makes passes, whose statistics must not count
        if _shapes(args) != self._shapes:
            return self._call(*args)
        tensors = [arg for arg in args if isinstance(arg, Tensor)]
        return self._graph(*tensors)

    def _record(self, args: tuple[Any, ...]) -> Call:
        piece = _Piece(self._call, args)
        tensors = tuple(arg.detach().clone() for arg in args if isinstance(arg, Tensor))
        device_type = tensors[0].device.type
        # Recorded passes must not meet weights that autocast has kept from another pass.
        options: dict[str, Any] = {"enabled": torch.is_autocast_enabled(device_type), "cache_enabled": False}
        with torch.autocast(device_type, torch.bfloat16, **options):
            if not self._with_gradient:
                return _ForwardGraph(piece, tensors)
            piece.adopt(self._learner.module)
            # Recording runs on another stream, which torch would warn about.
            torch.autograd.graph.set_warn_on_accumulate_grad_stream_mismatch(False)
            recorded: Call = torch.cuda.make_graphed_callables(piece, tensors, allow_unused_input=True)
            return recorded


class _Piece(nn.Module):
    """A network's pass as a function of tensors alone, with gradients at what the losses use."""

    def __init__(self, call: Call, args: tuple[Any, ...]) -> None:
        super().__init__()
        self._call = [call]  # in a list: not a child, or a module that is one twice
        self._fixed = [None if isinstance(arg, Tensor) else arg for arg in args]

    def adopt(self, module: nn.Module) -> None:
        """The module whose parameters get gradients."""
        self.network = module

    def forward(self, *tensors: Tensor) -> Any:
        given = iter(tensors)
        output = self._call[0](*(next(given) if fixed is None else fixed for fixed in self._fixed))
        if isinstance(output, SeparatorOutput):
            unused = ("visual", "cosine_map", "localisation", "attended_visual")
            output = output._replace(**{name: getattr(output, name).detach() for name in unused})
        return output


class _ForwardGraph:
    """A pass without gradients. Its output is overwritten by the next one."""

    def __init__(self, piece: _Piece, tensors: tuple[Tensor, ...]) -> None:
        self._inputs = tensors
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):  # libraries choose their algorithms and get their memory in the first passes
                piece(*tensors)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._output = piece(*tensors)

    def __call__(self, *tensors: Tensor) -> Any:
        torch._foreach_copy_(list(self._inputs), list(tensors), non_blocking=True)
        self._graph.replay()
        return self._output


def _shapes(args: tuple[Any, ...]) -> list[Any]:
    return [arg.shape if isinstance(arg, Tensor) else arg for arg in args]
