"""The audio-visual consistency loss of a whole table of similarities.

Training computes it by rows and columns, spread over the ranks: ialcms/training/consistency.py.
"""

from __future__ import annotations

import torch
from torch import Tensor


def consistency_loss(scores: Tensor, temperature: float = 0.3, excluded_negatives: int = 6) -> Tensor:
    """Audio-visual consistency from the similarities (N, N) of all objects: cross-entropy of the true pair against
    the others, over rows and over columns, half of each.

    The `excluded_negatives` largest negatives of a row are left out, as they are likely to be the same instrument.
    Where none is kept the term is 0, so N <= excluded_negatives + 1 gives 0.
    """
    return 0.5 * (
        _row_loss(scores, temperature, excluded_negatives) + _row_loss(scores.T, temperature, excluded_negatives)
    )


def _row_loss(scores: Tensor, temperature: float, excluded: int) -> Tensor:
    count = len(scores)
    pairs = torch.eye(count, dtype=torch.bool, device=scores.device)
    largest = scores.detach().masked_fill(pairs, -torch.inf).topk(min(excluded, count - 1), dim=1, sorted=False).indices
    logits = scores.scatter(1, largest, -torch.inf) / temperature  # no mask of data-dependent shape: no host waits
    return (logits.logsumexp(dim=1) - logits.diagonal()).mean()
