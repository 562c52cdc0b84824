"""The independence critic: does a pair of component spectrograms come from unrelated sounds?

score(x, y) = w . h(g(x), g(y)) + b. g embeds one component, so each distinct component of a step passes it once,
whatever the number of pairs that it is in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ialcms.config import CriticConfig


class SpectralNorm(nn.Module):
    """Weight divided by its largest singular value; one power iteration a pass while training (Miyato et al. 2018).

    Left vector last, as in the published networks; torch's own parametrization updates them the other way round,
    which gives another norm until the vectors have converged.
    """

    u: Tensor
    v: Tensor

    def __init__(self, weight: Tensor, warm_up: int = 15) -> None:
        super().__init__()
        matrix = weight.detach().flatten(1)
        self.register_buffer("u", F.normalize(torch.randn(matrix.shape[0]), dim=0))
        self.register_buffer("v", F.normalize(torch.randn(matrix.shape[1]), dim=0))
        self._iterate(matrix, warm_up)

    @torch.no_grad()
    def _iterate(self, matrix: Tensor, times: int = 1) -> None:
        for _ in range(times):
            self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
            self.u.copy_(F.normalize(matrix @ self.v, dim=0))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            matrix = weight.flatten(1)
            if self.training:
                self._iterate(matrix.detach())
            # clones: the next pass updates the vectors in place, before this pass's backward may have run
            sigma = torch.dot(self.u.clone(), matrix @ self.v.clone())
            return weight / sigma


def spectral_norm(layer: nn.Conv2d | nn.Linear) -> nn.Module:
    return parametrize.register_parametrization(layer, "weight", SpectralNorm(layer.weight))


class Critic(nn.Module):
    """Scores pairs of component magnitudes; high for independent pairs, low for dependent ones."""

    def __init__(self, config: CriticConfig) -> None:
        super().__init__()
        channels = [config.width * n for n in (1, 2, 4, 8, 16, 16)]
        hidden = channels[-1]
        layers: list[nn.Module] = []
        for inputs, outputs in zip([1, *channels], channels):
            conv = nn.Conv2d(inputs, outputs, 4, 2, padding=1, bias=False)
            layers += [spectral_norm(conv), nn.LeakyReLU(0.2, inplace=True)]
        self.g = nn.Sequential(*layers)
        self.h = nn.Sequential(
            spectral_norm(nn.Linear(2 * hidden, hidden)),
            nn.LeakyReLU(0.2, inplace=True),
            spectral_norm(nn.Linear(hidden, hidden)),
            nn.LeakyReLU(0.2, inplace=True),
        )
        self.w = nn.Linear(hidden, 1, bias=False)
        self.b = nn.Parameter(torch.zeros(1))

    def forward(self, magnitudes: Tensor, pairs: Tensor, with_penalty: bool = False) -> Tensor | tuple[Tensor, Tensor]:
        """magnitudes (K, F, T) of distinct components, pairs (P, 2) of indices into them -> scores (P,).

        with_penalty: also `weight_penalty`, which an engine that keeps parameters in shards can only give in a pass.
        """
        embeddings = self.g(magnitudes.unsqueeze(1)).mean(dim=(2, 3))  # (K, 16 * width)
        first, second = embeddings[pairs[:, 0]], embeddings[pairs[:, 1]]
        hidden = self.h(torch.cat([first, second], dim=1))
        scores = (self.w(hidden) + self.b).squeeze(1).float()
        return (scores, self.weight_penalty()) if with_penalty else scores

    def weight_penalty(self) -> Tensor:
        """||w||^2 of the last layer, which is not normalised."""
        return self.w.weight.square().sum()
