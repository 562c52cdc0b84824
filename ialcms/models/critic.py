"""The independence critic: does a pair of component spectrograms come from unrelated sounds?

score(x, y) = w . h(g(x), g(y)) + b. g embeds one component, so each distinct component of a step passes it once,
whatever the number of pairs that it is in.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ialcms.config import CriticConfig
from ialcms.models.layout import arrange


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
            sigma = self._sigma(weight.detach().flatten(1))
            # clones: the next pass updates the vectors in place, before this pass's backward may have run
            return _DividedBySigma.apply(weight, sigma, self.u.clone(), self.v.clone())  # type: ignore[no-any-return]

    @torch.no_grad()
    def _sigma(self, matrix: Tensor) -> Tensor:
        """The estimate of the largest singular value, after a power iteration while training."""
        if not self.training:
            return torch.dot(self.u, matrix @ self.v)
        self.v.copy_(F.normalize(matrix.T @ self.u, dim=0))
        image = matrix @ self.v
        sigma = torch.linalg.vector_norm(image)  # = u . image, as u is the image at unit length
        self.u.copy_(image / sigma.clamp(min=1e-12))
        return sigma


class _DividedBySigma(torch.autograd.Function):
    """weight / sigma with sigma = u^T W v, whose derivative by W is u v^T: the gradient of W is
    (G - <G, W / sigma> u v^T) / sigma, one product and one rank-one update."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, sigma: Tensor, u: Tensor, v: Tensor) -> Tensor:
        """weight / sigma.

        weight: (o, ...). sigma: its largest singular value, to which the unit vectors u and v belong.
        """
        normalised = weight / sigma
        ctx.save_for_backward(normalised, sigma, u, v)
        return normalised

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        normalised, sigma, u, v = ctx.saved_tensors
        gradient = gradients[0]
        along = torch.dot(gradient.flatten(), normalised.flatten())
        d_weight = torch.addr(gradient.flatten(1), along * u, v, alpha=-1).div_(sigma)
        return d_weight.view_as(normalised), None, None, None


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

    def forward(
        self, magnitudes: Tensor, pairs: Tensor, with_penalty: bool = False, partners: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """magnitudes (Q, F, T) of distinct components, pairs (P, 2) of indices into them -> scores (P,).

        with_penalty: also `weight_penalty`, which an engine that keeps parameters in shards can only give in a pass.
        partners: (Q', F, T) more components, without gradients; their indices follow on.
        """
        embeddings = self._embed(magnitudes, partners)
        first, second = embeddings[pairs[:, 0]], embeddings[pairs[:, 1]]
        hidden = self.h(torch.cat([first, second], dim=1))
        scores = (self.w(hidden) + self.b).squeeze(1).float()
        return (scores, self.weight_penalty()) if with_penalty else scores

    def _embed(self, magnitudes: Tensor, partners: Tensor | None) -> Tensor:
        """(Q + Q', 16 * width)."""
        learns = torch.is_grad_enabled() and self.w.weight.requires_grad
        if partners is None or learns:
            components = magnitudes if partners is None else torch.cat([magnitudes, partners])
            return self.g(arrange(components.unsqueeze(1), on_cpu=True)).mean(dim=(2, 3))  # type: ignore[no-any-return]
        # Frozen: the partners' half has no gradient, nor activations to keep for one.
        weights = [layer.weight for layer in list(self.g)[::2]]
        return torch.cat([self._pass(weights, magnitudes), self._pass(weights, partners.detach())])

    def _pass(self, weights: list[Any], magnitudes: Tensor) -> Tensor:
        """g with these weights, averaged over the cells."""
        x = arrange(magnitudes.unsqueeze(1), on_cpu=True)
        for weight, activation in zip(weights, list(self.g)[1::2]):
            x = activation(F.conv2d(x, weight, stride=2, padding=1))
        return x.mean(dim=(2, 3))

    def weight_penalty(self) -> Tensor:
        """||w||^2 of the last layer, which is not normalised."""
        return self.w.weight.square().sum()
