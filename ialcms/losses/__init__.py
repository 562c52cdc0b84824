"""Losses of the separator and the critic."""

from ialcms.losses.consistency import consistency_loss
from ialcms.losses.cosines import BestCells, EmbeddingGradients, best_cells, embedding_gradients, similarity
from ialcms.losses.independence import critic_loss, independence_loss, mean_score
from ialcms.losses.separation import separation_loss, si_snr
from ialcms.losses.spectral import spectral_loss

__all__ = [
    "BestCells",
    "EmbeddingGradients",
    "best_cells",
    "consistency_loss",
    "critic_loss",
    "embedding_gradients",
    "independence_loss",
    "mean_score",
    "separation_loss",
    "si_snr",
    "similarity",
    "spectral_loss",
]
