"""Separating and scoring mixes: the metrics on the device where there is one, else by mir_eval in a pool of processes.

`eval.metrics`: `mir_eval` is the reference and runs beside the separation, one BLAS thread a process; `fast` gives the
same to 1e-6 dB and runs where the separator does. `auto` is fast on a GPU and mir_eval without one.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace

import torch
from numpy.typing import NDArray

from ialcms.config import PUBLISHED, Config, ProtocolConfig
from ialcms.data.clip_reader import BadClip
from ialcms.data.evaluation_mixes import EvaluationItem, EvaluationMix, load_mix
from ialcms.data.manifest import Manifest
from ialcms.evaluation.bss_eval import score_mix_fast
from ialcms.evaluation.metrics import MixScores, score_mix
from ialcms.evaluation.timing import EvaluationTime
from ialcms.evaluation.windows import MixSeparator, Separated
from ialcms.models import Separator
from ialcms.processes import cores_of_a_rank, worker_pool
from ialcms.progress import Progress

_Scored = tuple[MixScores, float]  # and the seconds that another process took for them
_Submit = Callable[[EvaluationItem, Sequence[Separated]], "Future[_Scored]"]


def metrics_of(config: Config, device: torch.device) -> str:
    """`eval.metrics`, auto resolved."""
    chosen = config.eval.metrics
    if chosen != "auto":
        return chosen
    return "fast" if device.type == "cuda" else "mir_eval"


def protocols_of(config: Config) -> list[ProtocolConfig]:
    """The published protocol, and `eval.protocol` where it is another one."""
    return [PUBLISHED] if config.eval.protocol == PUBLISHED else [PUBLISHED, config.eval.protocol]


class SeparatedMixes:
    """Reads mixes and separates them: one object for validation, the scores and the page of an evaluation."""

    def __init__(
        self,
        separator: Separator,
        manifest: Manifest,
        config: Config,
        *,
        seconds: float | None = None,
        hop: int | None = None,
        protocols: Sequence[ProtocolConfig] | None = None,
    ) -> None:
        """separator: in evaluation mode, with the windows of `config.audio`. manifest: of the mixes' clips.

        seconds: of a mix. hop: samples between windows. protocols: from masks to sounds. What is not given is as in
        `config.eval`.
        """
        self.sample_rate = config.audio.sample_rate
        self.device = separator.spectrogram.window.device
        self._manifest, self._data = manifest, config.data
        self._protocols = protocols or protocols_of(config)
        self._num_samples = round((seconds or config.eval.seconds) * config.audio.sample_rate)
        self._separate = MixSeparator(separator, config, hop or config.eval.hop)

    def load(self, mix: EvaluationMix) -> EvaluationItem:
        """Read and decode a mix, with the pictures that the protocols need. BadClip for one that cannot be used."""
        num_pictures = max(protocol.pictures for protocol in self._protocols)
        return load_mix(self._manifest, mix, self._data, num_samples=self._num_samples, num_pictures=num_pictures)

    def separate(self, item: EvaluationItem) -> list[Separated]:
        """The separated sounds on the device, by each of the protocols."""
        mix, pictures = torch.as_tensor(item.sources).sum(0), torch.as_tensor(item.pictures)
        return self._separate(mix.to(self.device), pictures.to(self.device), self._protocols)


class Scoring:
    """Scores mixes one after the other. `time` says where the time went so far."""

    def __init__(self, mixes: SeparatedMixes, metrics: str, show_progress: bool = False) -> None:
        """metrics: fast or mir_eval."""
        self.time = EvaluationTime(mixes.device)
        self._mixes, self._metrics, self._show_progress = mixes, metrics, show_progress

    def __call__(self, wanted: Sequence[EvaluationMix]) -> Generator[tuple[int, MixScores], None, None]:
        """Index and scores of these mixes, in their order. A clip that cannot be used makes its mix an unscored one."""
        began, spent = time.perf_counter(), self.time
        with (
            _scorer(self._metrics, self._mixes.device) as submit,
            Progress(len(wanted), "evaluate", unit="mix", is_shown=self._show_progress) as bar,
        ):
            pending: deque[tuple[int, Future[_Scored]]] = deque()

            def finished() -> tuple[int, MixScores]:
                index, future = pending.popleft()
                with spent.of("metrics"):
                    scores, seconds = future.result()
                spent.beside_s += seconds
                return index, scores

            def counted(index: int, scores: MixScores) -> tuple[int, MixScores]:
                spent.num_mixes += 1
                spent.elapsed_s = time.perf_counter() - began
                bar.advance()
                return index, scores

            for mix in wanted:
                try:
                    with spent.of("reading"):
                        item = self._mixes.load(mix)
                except BadClip as error:
                    yield counted(mix.index, MixScores(tuple({} for _ in mix.clips), str(error)))
                    continue
                with spent.of("network"):
                    separated = self._mixes.separate(item)
                with spent.of("metrics"):
                    pending.append((mix.index, submit(item, separated)))
                while pending and (pending[0][1].done() or len(pending) > 2 * cores_of_a_rank()):
                    yield counted(*finished())
            while pending:
                yield counted(*finished())


@contextmanager
def _scorer(metrics: str, device: torch.device) -> Iterator[_Submit]:
    """A function that scores a separated mix: at once on the device (fast), or in another process (mir_eval)."""
    if metrics == "fast":

        def score(item: EvaluationItem, separated: Sequence[Separated]) -> Future[_Scored]:
            future: Future[_Scored] = Future()
            sources = torch.as_tensor(item.sources).to(device)
            scores = [score_mix_fast(sources, one.estimates) for one in separated]
            future.set_result((_together(scores), 0.0))
            return future

        yield score
        return
    with worker_pool(cores_of_a_rank(), start="forkserver") as pool:

        def submit(item: EvaluationItem, separated: Sequence[Separated]) -> Future[_Scored]:
            estimates = [one.estimates.cpu().numpy() for one in separated]
            return pool.submit(_timed_score, item.sources, estimates)

        yield submit


def _timed_score(references: NDArray, estimates: Sequence[NDArray]) -> _Scored:
    began = time.perf_counter()
    scores = _together([score_mix(references, one) for one in estimates])
    return scores, time.perf_counter() - began


def _together(scores: Sequence[MixScores]) -> MixScores:
    """Of the published protocol, and of the best one if it was used and could be scored."""
    published, *others = scores
    best = others[0].sources if others and not others[0].problem else ()
    return replace(published, best=best)
