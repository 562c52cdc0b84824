"""The independence critic: does a pair of component spectrograms come from unrelated sounds?

score(x, y) = w . h(g(x), g(y)) + b. g embeds one component, so each distinct component of a step passes it once,
whatever the number of pairs that it is in.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from ialcms.config import CriticConfig
from ialcms.models.constants import constant
from ialcms.models.layout import arrange
from ialcms.models.shards import in_shards
from ialcms.models.strided_conv import KERNEL, PADDING, STRIDE, halving_conv

Partners = Tensor | Callable[[], Tensor]

# Layers of g that components pass before partners that are waited for. They are nine tenths of its multiply-adds; the
# sixth has half of its weights, whose gradient a pass of both gives early in the backward pass.
_APART = 5


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
    def _iterate(self, matrix: Tensor, times: int) -> None:
        for _ in range(times):
            _power_iteration([self], [matrix])

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):
            return _divided(weight, _singular_values([self], [weight])[0], weight.dtype)


@dataclass(frozen=True)
class _SingularValue:
    sigma: Tensor  # scalar: the estimate of a matrix's largest singular value
    u: Tensor  # (rows,) of unit length, as v
    v: Tensor  # (columns,)


def _divided(weight: Tensor, value: _SingularValue, dtype: torch.dtype) -> Tensor:
    """A weight (o, ...) by its spectral norm. dtype: of the result."""
    return _DividedBySigma.apply(weight, value.sigma, value.u, value.v, dtype)  # type: ignore[no-any-return]


@torch.no_grad()
def _singular_values(norms: Sequence[SpectralNorm], weights: Sequence[Tensor]) -> list[_SingularValue]:
    """After a power iteration while training.

    The next power iteration may come before the backward pass of this one, and does not change what is returned.
    """
    matrices = [weight.detach().flatten(1) for weight in weights]
    if norms[0].training:
        return _power_iteration(norms, matrices)
    values = []
    for norm, matrix, weight in zip(norms, matrices, weights):
        sigma = torch.dot(norm.u, matrix @ norm.v)
        u, v = (norm.u.clone(), norm.v.clone()) if weight.requires_grad else (norm.u, norm.v)
        values.append(_SingularValue(sigma, u, v))
    return values


def _power_iteration(norms: Sequence[SpectralNorm], matrices: Sequence[Tensor]) -> list[_SingularValue]:
    right = _units([matrix.T @ norm.u for norm, matrix in zip(norms, matrices)])
    left = _units([matrix @ v for matrix, v in zip(matrices, right.vectors)])
    vectors = [norm.u for norm in norms] + [norm.v for norm in norms]
    torch._foreach_copy_(vectors, left.vectors + right.vectors)
    # sigma = u . (matrix @ v), and u is matrix @ v at unit length
    return [_SingularValue(*each) for each in zip(left.lengths, left.vectors, right.vectors)]


@dataclass(frozen=True)
class _Units:
    vectors: list[Tensor]  # of unit length
    lengths: tuple[Tensor, ...]  # before, scalars


def _units(vectors: list[Tensor]) -> _Units:
    sizes = tuple(len(vector) for vector in vectors)
    lengths = torch.stack(torch._foreach_norm(vectors))
    divisors = lengths.clamp(min=1e-12).index_select(0, _number_of_vector(sizes, lengths.device))
    return _Units(list((torch.cat(vectors) / divisors).split(sizes)), lengths.unbind())


@constant
def _number_of_vector(sizes: tuple[int, ...], device: torch.device) -> Tensor:
    """Of vectors of these sizes end to end, for each value the number of its vector."""
    return torch.cat([torch.full((size,), number) for number, size in enumerate(sizes)]).to(device)


class _DividedBySigma(torch.autograd.Function):
    """weight / sigma with sigma = u^T W v, whose derivative by W is u v^T: the gradient of W is
    (G - <G, W / sigma> u v^T) / sigma, one product and one rank-one update."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, sigma: Tensor, u: Tensor, v: Tensor, dtype: torch.dtype) -> Tensor:
        """weight / sigma.

        weight: (o, ...). sigma: its largest singular value, to which the unit vectors u and v belong. dtype: of the
        result.
        """
        ctx.save_for_backward(weight, sigma, u, v)
        if dtype == weight.dtype:
            return weight / sigma
        if torch.compiler.is_compiling():
            return (weight / sigma).to(dtype)
        return torch.div(weight, sigma, out=torch.empty_like(weight, dtype=dtype))  # it casts on its way

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        weight, sigma, u, v = ctx.saved_tensors
        gradient = gradients[0].to(weight.dtype)
        along = torch.dot(gradient.flatten(), weight.flatten()) / sigma
        d_weight = torch.addr(gradient.flatten(1), along * u, v, alpha=-1).div_(sigma)
        return d_weight.view_as(weight), None, None, None, None


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
            conv = nn.Conv2d(inputs, outputs, KERNEL, STRIDE, padding=PADDING, bias=False)
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
        self, magnitudes: Tensor, pairs: Tensor, with_penalty: bool = False, partners: Partners | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """magnitudes (Q, F, T) of distinct components, pairs (P, 2) of indices into them -> scores (P,).

        with_penalty: also `weight_penalty`, which an engine that keeps parameters in shards can only give in a pass.
        partners: (Q', F, T) more components, without gradients; their indices follow on. Or what gives them when it is
        called, and may have to wait for them: then much of g is computed for the others before.
        """
        weights = self._weights()
        embeddings = self._embed(weights, magnitudes, partners)
        hidden = _Rows.apply(embeddings, pairs.flatten()).view(len(pairs), -1)  # both of a pair side by side
        h: list[Any] = list(self.h)
        for layer, activation in zip(h[::2], h[1::2]):
            hidden = activation(F.linear(hidden, next(weights), layer.bias))
        scores = (self.w(hidden) + self.b).squeeze(1).float()
        return (scores, self.weight_penalty()) if with_penalty else scores

    def _weights(self) -> Iterator[Tensor]:
        """The normalised weights of g and h, in the type that autocast computes in.

        The power iterations of all come first, together. A weight is divided when it is asked for, right before it is
        used: the backward pass goes in the reverse order, and its gradient is to be there, and on its way to the other
        ranks, as soon as it has left the layer.
        """
        layers: list[Any] = [*list(self.g)[::2], *list(self.h)[::2]]
        weights: list[Tensor] = [layer.parametrizations.weight.original for layer in layers]
        if in_shards(weights):
            for layer in layers:
                yield layer.weight
            return
        device = weights[0].device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weights[0].dtype
        with torch.autocast(device, enabled=False):
            values = _singular_values([layer.parametrizations.weight[0] for layer in layers], weights)
        for weight, value in zip(weights, values):
            yield _divided(weight, value, dtype)

    def _embed(self, weights: Iterator[Tensor], magnitudes: Tensor, partners: Partners | None) -> Tensor:
        """(Q + Q', 16 * width). weights: of g, and then others, which stay."""
        if partners is None:
            return self._pass(magnitudes.unsqueeze(1), weights)
        learns = torch.is_grad_enabled() and self.w.weight.requires_grad
        if learns and isinstance(partners, Tensor):
            return self._pass(torch.cat([magnitudes, partners]).unsqueeze(1), weights)
        used: list[Tensor] = []

        def noted(count: int) -> Iterator[Tensor]:
            for weight in itertools.islice(weights, count):
                used.append(weight)
                yield weight

        # Frozen, the partners' half has no gradient, nor activations to keep for one.
        apart = _APART if learns else len(self._activations())
        own = self._convolve(magnitudes.unsqueeze(1), noted(apart), first=0)
        given = partners if isinstance(partners, Tensor) else partners()
        theirs = self._convolve(given.detach().unsqueeze(1), used, first=0)
        return self._pass(torch.cat([own, theirs]), weights, first=apart)

    def _pass(self, x: Tensor, weights: Iterable[Tensor], *, first: int = 0) -> Tensor:
        """The layers of g from `first` on, averaged over the cells."""
        return self._convolve(x, weights, first=first).mean(dim=(2, 3))

    def _convolve(self, x: Tensor, weights: Iterable[Tensor], *, first: int) -> Tensor:
        """Layers of g from `first` on, as long as there are weights."""
        x = arrange(x, on_cpu=True)
        for activation, weight in zip(self._activations()[first:], weights):  # takes no weight behind the last layer
            x = activation(halving_conv(x, weight))
        return x

    def _activations(self) -> list[nn.Module]:
        return list(self.g)[1::2]

    def weight_penalty(self) -> Tensor:
        """||w||^2 of the last layer, which is not normalised."""
        return self.w.weight.square().sum()


class _Rows(torch.autograd.Function):
    """Rows of a table by their indices. The gradient is a matrix product: torch's own sorts the indices for it."""

    @staticmethod
    def forward(ctx: Any, table: Tensor, index: Tensor) -> Tensor:
        """table (Q, c), index (P,) -> (P, c)."""
        ctx.save_for_backward(index)
        ctx.count = len(table)
        return table.index_select(0, index)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (index,) = ctx.saved_tensors
        rows = torch.arange(ctx.count, device=index.device)
        return (rows.unsqueeze(1) == index).to(gradients[0].dtype) @ gradients[0], None
