"""The consistency loss over the objects of all ranks, by rows and columns of the N x N scores of pictures and sounds.

Each rank scores its n pictures against the gathered sounds: it has n whole rows, and n entries of each column. A column
is summarised by its n entries' largest negatives and the logsumexp of the rest. Its rank, the one whose sound it is,
gets the summaries of all ranks by an all-to-all, decides which negatives are excluded, and answers with the column's
logsumexp and the number of its negatives that are excluded on each rank. The sum and its gradient at the rank's rows
follow in closed form. No rank has an N x N table, and a score itself is never sent.

Shapes: B mixes of this rank, n of the N components are local, k excluded negatives, D channels and H x W cells of the
visual feature.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from ialcms import losses
from ialcms.config import Config
from ialcms.engine import Arriving, Ranks, all_to_all, start_reduce_scatter
from ialcms.losses import EmbeddingGradients
from ialcms.models import SeparatorOutput
from ialcms.training.micro_batches import Components, split


class ConsistencyLoss:
    """The loss over the objects of all ranks and micro-batches, and its gradient at this rank's embeddings.

    The embeddings are gathered when it is made. `start` compares them and begins to sum the gradients of the gathered
    sounds over the ranks, which the critic's update can hide; without it that is done when the result is needed, and
    memory for the gradients no earlier.

    Each micro-batch gets its share of the gradient when its graph is there. `loss` and gradients are scaled so that
    their means over the ranks are those of the global batch, as an engine averages them.

    With train.precision=bf16 the embeddings are sent and multiplied in bfloat16, and sums are float32; with many pairs
    those of the gradients are rounded to bfloat16 before the ranks add them (`losses/cosines.py`).
    """

    def __init__(self, components: Components, config: Config, ranks: Ranks) -> None:
        self._components, self._config, self._ranks = components, config, ranks
        visual, audio = components.visual.flatten(0, 2), components.audio.flatten(0, 2)
        if config.train.precision == "bf16":
            visual, audio = visual.bfloat16(), audio.bfloat16()
        self._visual, self._gathered = visual, ranks.gather(audio, "features")

    def start(self) -> None:
        """Compare now."""
        assert self._compared is not None

    @property
    def loss(self) -> Tensor:
        """Scalar."""
        return self._compared.loss

    def gradients(self) -> EmbeddingGradients:
        """At this rank's embeddings, in the shapes of `Components`."""
        visual, audio = self._compared.visual_gradient, self._compared.audio_gradient.wait()
        return EmbeddingGradients(visual.view(self._components.visual.shape), audio.view(self._components.audio.shape))

    @functools.cached_property
    def _compared(self) -> _Compared:
        """This rank's pictures with all sounds."""
        visual, gathered, loss = self._visual, self._gathered, self._config.loss
        best = losses.best_cells(visual, gathered)
        terms = row_and_column_terms(best.scores, self._ranks, loss.temperature, excluded=loss.excluded_negatives)
        gradients = losses.embedding_gradients(visual, gathered, best.cells, score_gradient=terms.gradient)
        del self._visual, self._gathered
        summed = start_reduce_scatter(gradients.audio, self._ranks, "features")
        return _Compared(terms.loss, gradients.visual, summed)

    def share(self, output: SeparatorOutput, part: int, count: int) -> Tensor:
        """A scalar with the gradient that the loss has at the embeddings of micro-batch `part` of `count`."""
        gradients = self.gradients()
        visual = output.visual_for_loss * split(gradients.visual, count)[part]
        return visual.sum() + (output.audio_embedding * split(gradients.audio, count)[part]).sum()


@dataclass(frozen=True)
class _Compared:
    loss: Tensor  # scalar
    visual_gradient: Tensor  # (n, D, H, W)
    audio_gradient: Arriving  # (n, D)


@dataclass(frozen=True)
class Terms:
    """One rank's rows and columns of the loss; the mean over the ranks is the global batch's."""

    loss: Tensor  # scalar
    gradient: Tensor  # (n, N), at this rank's rows of the scores


@torch.no_grad()
def row_and_column_terms(scores: Tensor, ranks: Ranks, temperature: float, excluded: int) -> Terms:
    """What `losses.consistency_loss` computes from the whole table, from this rank's rows of it.

    scores: (n, N). temperature, excluded: of the loss. Equal scores may be excluded in another order than there.

    ranks: whose rows make up the table.
    """
    count, total = scores.shape
    first = ranks.rank * count  # the sound of row i is column first + i
    negatives = scores.clone()
    negatives.diagonal(first).fill_(-torch.inf)

    largest = negatives.topk(min(excluded, total - 1), dim=1, sorted=False).indices
    logits = scores.scatter(1, largest, -torch.inf).div_(temperature)
    positive = logits.diagonal(first)
    shares = logits.log_softmax(dim=1)
    of_rows = -shares.diagonal(first)  # logsumexp of a row, less the true pair's
    gradient = shares.exp()

    top = negatives.topk(min(excluded, count), dim=0)
    columns = _columns(scores, top.values, top.indices, ranks=ranks, temperature=temperature, excluded=excluded)
    rank_in_top = torch.arange(len(top.values), device=scores.device).unsqueeze(1)
    kept = top.values.masked_fill(rank_in_top < columns.num_excluded, -torch.inf)
    of_columns = _with_diagonal(scores.scatter(0, top.indices, kept), scores, first).div_(temperature)
    gradient += of_columns.sub_(columns.logsumexp).exp_()

    gradient.diagonal(first).sub_(2)
    local = slice(first, first + count)
    terms = of_rows + columns.logsumexp[local] - positive
    return Terms(loss=0.5 * terms.mean(), gradient=gradient.mul_(0.5 / (count * temperature)))


@dataclass(frozen=True)
class _Columns:
    """The answers of the ranks that own the columns."""

    logsumexp: Tensor  # (N,) over the kept scores of all ranks, divided by the temperature
    num_excluded: Tensor  # (N,) how many of this rank's largest negatives are excluded


def _columns(
    scores: Tensor, top: Tensor, indices: Tensor, ranks: Ranks, *, temperature: float, excluded: int
) -> _Columns:
    """Combine the columns' summaries of all ranks.

    scores: (n, N). top, indices: (k, N), this rank's largest negatives of each column in descending order, and their
    rows. temperature, excluded: of the loss.
    """
    count, total = scores.shape
    rest = scores.scatter(0, indices, -torch.inf)
    rest = _with_diagonal(rest, scores, ranks.rank * count).div_(temperature).logsumexp(dim=0)
    summary = torch.cat([top, rest.unsqueeze(0)]).T  # (N, k + 1)
    received = all_to_all(summary, ranks, "features").view(ranks.world_size, count, -1).transpose(0, 1)

    candidates = received[..., :-1].flatten(1)  # (n, W * k)
    chosen = torch.zeros_like(candidates, dtype=torch.bool)
    chosen.scatter_(1, candidates.topk(min(excluded, total - 1), dim=1, sorted=False).indices, True)
    kept = candidates.masked_fill(chosen, -torch.inf) / temperature
    logsumexp = torch.cat([kept, received[..., -1]], dim=1).logsumexp(dim=1)
    num_excluded = chosen.view(count, ranks.world_size, -1).sum(dim=2)  # a prefix of each rank's descending order

    answer = torch.stack([logsumexp.unsqueeze(1).expand_as(num_excluded), num_excluded.to(scores.dtype)], dim=2)
    answer = all_to_all(answer.transpose(0, 1).reshape(total, 2), ranks, "features")
    return _Columns(answer[:, 0], answer[:, 1])


def _with_diagonal(table: Tensor, scores: Tensor, first: int) -> Tensor:
    """The table (n, N) with the scores of the true pairs."""
    table.diagonal(first).copy_(scores.diagonal(first))
    return table
