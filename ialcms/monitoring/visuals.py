"""Pictures of what a separator does: spectrograms, masks, where it looks. As arrays; nothing here writes files.

Shapes: M sources of L samples, F x T log-frequency spectrograms, h x w cells of the localisation map.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ialcms import heatmap
from ialcms.data.evaluation_mixes import EvaluationItem
from ialcms.data.train_batches import normalise_objects
from ialcms.heatmap import palette
from ialcms.models import Separator

RANGE_DB = 72.0  # of the spectrograms, from the darkest to the brightest colour
_TILE = 200  # side in px
_GAP = 6
_LABEL_HEIGHT = 18
_PALETTE = palette(256)

Picture = NDArray[np.uint8]  # (height, width, 3)


@dataclass(frozen=True)
class View:
    """One window of a mix as the separator hears and sees it; arrays on the host."""

    names: tuple[str, ...]  # M instruments
    pictures: NDArray[np.uint8]  # (M, 3, side, side)
    localisation: NDArray[np.float32]  # (M, h, w) in (0, 1)
    waves: dict[str, NDArray[np.float32]]  # "mix", "violin target", "violin estimate", ...: (L,)
    levels: dict[str, NDArray[np.float32]]  # the same names: (F, T) in dB
    masks: NDArray[np.float32]  # (M, F, T), at least 0


@torch.inference_mode()
def view_mix(separator: Separator, item: EvaluationItem, device: torch.device) -> View:
    """Pass one window, item.sources (M, L), through a separator in evaluation mode."""
    sources = torch.as_tensor(item.sources).to(device)
    pictures = torch.as_tensor(item.pictures).to(device)
    output = separator(sources.sum(0, keepdim=True), normalise_objects(pictures)[None, :, None])
    estimates = separator.component_waves(output, sources.shape[1])[0, :, 0]
    waves = {"mix": sources.sum(0), "sum of estimates": estimates.sum(0)}
    for n, name in enumerate(item.instruments):
        waves |= {f"{name} target": sources[n], f"{name} estimate": estimates[n]}
    magnitudes = separator.spectrogram.to_log(separator.spectrogram.stft(torch.stack(list(waves.values()))).abs())
    levels = 20 * torch.log10(magnitudes + 1e-7)
    return View(
        item.instruments,
        item.pictures,
        output.localisation[0, :, 0].cpu().numpy(),
        {name: wave.cpu().numpy() for name, wave in waves.items()},
        {name: level.cpu().numpy() for name, level in zip(waves, levels)},
        output.mask[0, :, 0].float().cpu().numpy(),
    )


def draw_view(view: View) -> Picture:
    """All of a view in one picture: the mix in the first row, then a row per source.

    Spectrograms share one scale, the brightest colour being the mix's loudest cell; masks are dark at 0 and brightest
    at 1 and above.
    """
    top = float(view.levels["mix"].max())

    def level(name: str) -> Image.Image:
        return _coloured((view.levels[name] - top) / RANGE_DB + 1)

    rows = [[None, None, ("mix", level("mix")), ("sum of estimates", level("sum of estimates")), None]]
    for n, name in enumerate(view.names):
        picture = view.pictures[n].transpose(1, 2, 0)
        lowest, highest = float(view.localisation[n].min()), float(view.localisation[n].max())
        rows.append([
            (name, Image.fromarray(np.ascontiguousarray(picture))),
            (f"localisation {lowest:.2f} to {highest:.2f}", Image.fromarray(lay_heat(picture, view.localisation[n]))),
            (f"{name} target", level(f"{name} target")),
            (f"{name} estimate", level(f"{name} estimate")),
            (f"{name} mask, up to {view.masks[n].max():.2f}", _coloured(view.masks[n])),
        ])  # fmt: skip
    return _montage(rows)


def lay_heat(
    picture: Picture, localisation: NDArray[np.floating], limits: tuple[float, float] | None = None
) -> Picture:
    """The picture with a localisation map (h, w) in 0..1 over it: clear where it is lowest, bright where highest.

    limits: lowest and highest value of the maps that are to be compared, where it is not this one alone.
    """
    laid = heatmap.lay_heat(torch.tensor(picture), torch.tensor(localisation), limits)
    return laid.numpy()


def _coloured(values: NDArray[np.floating]) -> Image.Image:
    """(F, T) with 0 darkest and 1 brightest, the lowest frequency in row 0 -> a tile, the lowest at the bottom."""
    shade = np.round(255 * np.nan_to_num(values[::-1]).clip(0, 1)).astype(np.uint8)
    return Image.fromarray(_PALETTE[shade])


def _montage(rows: Sequence[Sequence[tuple[str, Image.Image] | None]]) -> Picture:
    """Tiles with a label above each, on white; None leaves a place empty."""
    step_x, step_y = _TILE + _GAP, _TILE + _LABEL_HEIGHT + _GAP
    sheet = Image.new("RGB", (step_x * max(map(len, rows)) + _GAP, step_y * len(rows) + _GAP), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for row, tiles in enumerate(rows):
        for column, tile in enumerate(tiles):
            if tile is not None:
                x, y = _GAP + column * step_x, _GAP + row * step_y
                draw.text((x, y), tile[0], fill="black", font=font)
                sheet.paste(tile[1].resize((_TILE, _TILE), Image.Resampling.BILINEAR), (x, y + _LABEL_HEIGHT))
    return np.asarray(sheet)
