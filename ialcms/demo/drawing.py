"""One picture per instrument, and how players hold it: every random generator gives another specimen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ialcms.demo.drawing_keys import draw_accordion, draw_xylophone
from ialcms.demo.drawing_strings import draw_cello, draw_erhu, draw_guitar, draw_violin
from ialcms.demo.drawing_winds import draw_clarinet, draw_flute, draw_saxophone, draw_trumpet, draw_tuba


@dataclass(frozen=True)
class Drawing:
    """How an instrument looks and is held."""

    draw: Callable[[np.random.Generator], Image.Image]  # RGBA, cropped to the instrument
    hold_deg: tuple[float, float]  # clockwise turn of the drawing when it is played
    extent: tuple[float, float]  # longer side of the drawing, in frame heights


DRAWINGS: dict[str, Drawing] = {
    "acoustic_guitar": Drawing(draw_guitar, (35, 80), (0.75, 1.05)),
    "clarinet": Drawing(draw_clarinet, (55, 100), (0.6, 0.9)),
    "saxophone": Drawing(draw_saxophone, (-20, 20), (0.6, 0.95)),
    "violin": Drawing(draw_violin, (-95, -35), (0.45, 0.8)),
    "flute": Drawing(draw_flute, (-15, 15), (0.6, 0.95)),
    "cello": Drawing(draw_cello, (-15, 12), (0.85, 1.15)),
    "trumpet": Drawing(draw_trumpet, (-15, 15), (0.5, 0.85)),
    "tuba": Drawing(draw_tuba, (-15, 15), (0.65, 1.0)),
    "accordion": Drawing(draw_accordion, (-10, 10), (0.55, 0.85)),
    "xylophone": Drawing(draw_xylophone, (-8, 8), (0.7, 1.2)),
    "erhu": Drawing(draw_erhu, (-12, 10), (0.75, 1.0)),
}
