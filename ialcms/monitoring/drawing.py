"""The picture of a `View`: spectrograms, masks and where the separator looks, with axes and units.

Shapes: F x T log-frequency spectrograms, h x w cells of the localisation map.
"""

from __future__ import annotations

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from ialcms.heatmap import COLOUR_MAP, LEVEL_RANGE_DB, lay_heat
from ialcms.monitoring.visuals import View
from ialcms.names import for_matplotlib

_TILE_INCHES, _DPI = 2.4, 100
_TICKS_HZ = (100, 200, 500, 1_000, 2_000, 5_000, 10_000)

Picture = NDArray[np.uint8]  # (height, width, 3)


def draw_view(view: View) -> Picture:
    """All of a view in one picture: the mix in the first row, then a row per source.

    Spectrograms share one scale, the brightest colour being the mix's loudest cell; masks are dark at 0 and brightest
    at 1 and above. Axes are in seconds and kHz.
    """
    top = float(view.levels["mix"].max())
    rows, columns = 1 + len(view.names), 5
    size = (_TILE_INCHES * columns + 0.8, _TILE_INCHES * rows + 0.4)
    figure = Figure(figsize=size, dpi=_DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    in_levels = (top - LEVEL_RANGE_DB, top)
    levels = _spectrogram(axes[0, 2], view, view.levels["mix"], title="mix", limits=in_levels)
    together = "sum of estimates"
    _spectrogram(axes[0, 3], view, view.levels[together], title=together, limits=in_levels)
    for column in (0, 1, 4):
        axes[0, column].set_axis_off()
    for row, name in enumerate(view.names, start=1):
        n = row - 1
        picture = view.pictures[n].transpose(1, 2, 0)
        lowest, highest = float(view.localisation[n].min()), float(view.localisation[n].max())
        _picture(axes[row, 0], picture, name)
        _picture(axes[row, 1], _with_heat(picture, view.localisation[n]), f"where: {lowest:.2f} to {highest:.2f}")
        for column, kind in ((2, "target"), (3, "estimate")):
            title = f"{name} {kind}"
            _spectrogram(axes[row, column], view, view.levels[title], title=title, limits=in_levels)
        title = f"{name} mask, up to {np.nanmax(view.masks[n]):.2f}"
        _spectrogram(axes[row, 4], view, view.masks[n], title=title, limits=(0.0, 1.0))
    for column in (2, 3, 4):
        axes[-1, column].set_xlabel("time (s)", fontsize=7)
    for row in range(rows):
        axes[row, 2].set_ylabel("frequency (kHz)", fontsize=7)
    figure.colorbar(levels, ax=axes[:, 4].tolist(), label="level (dB); masks from 0 to 1", shrink=0.8, aspect=40)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()


def _with_heat(picture: Picture, localisation: NDArray[np.floating]) -> Picture:
    """The picture with a localisation map (h, w) in 0..1 over it: clear where it is lowest, bright where highest."""
    return lay_heat(torch.tensor(picture), torch.tensor(localisation)).numpy()


def _picture(axes: Axes, picture: Picture, title: str) -> None:
    axes.imshow(picture)
    axes.set_title(for_matplotlib(title), fontsize=8)
    axes.set_axis_off()


def _spectrogram(
    axes: Axes, view: View, values: NDArray[np.floating], title: str, limits: tuple[float, float]
) -> AxesImage:
    """values (F, T), the lowest frequency in row 0; rows are evenly spaced, and the ticks say where a frequency is.

    axes: that are drawn on. view: for the frequencies. title: above it. limits: of the colours.
    """
    num_rows = len(values)
    image = axes.imshow(
        np.nan_to_num(values),
        origin="lower",
        aspect="auto",
        extent=(0.0, view.seconds, -0.5, num_rows - 0.5),
        cmap=COLOUR_MAP,
        vmin=limits[0],
        vmax=limits[1],
        interpolation="nearest",
    )
    shown = [hz for hz in _TICKS_HZ if view.row_hz[0] <= hz <= view.row_hz[-1]]
    axes.set_yticks(np.interp(shown, view.row_hz, np.arange(num_rows)), [f"{hz / 1000:g}" for hz in shown])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda second, _: f"{second:g}"))
    axes.tick_params(labelsize=7)
    axes.set_title(for_matplotlib(title), fontsize=8)
    return image
