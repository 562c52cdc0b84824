"""Published figures of this method and its peers, to set one's own beside. SDR, SIR, SAR in dB; None: not published.

From "Independency Adversarial Learning for Cross-Modal Sound Separation" (AAAI 2024) and the papers that it compares
with. They hold for their authors' data and splits only.
"""

from __future__ import annotations

Figures = tuple[float, float, float | None]

PUBLISHED: dict[str, dict[str, Figures]] = {
    "MUSIC, 2-mix": {
        "SOP": (7.30, 11.9, 11.9),
        "MP-Net": (7.00, 10.39, 15.31),
        "Co-Separation": (7.38, 13.7, 10.8),
        "SepFusion": (8.76, 16.65, 11.81),
        "FCSN": (11.74, 16.23, None),
        "iQuery": (11.17, 15.84, 14.27),
        "IAL-CMS, unsupervised": (10.22, 17.08, 12.82),
        "IAL-CMS, supervised": (12.26, 17.93, 15.40),
    },
    "MUSIC, 3-mix": {
        "SOP": (3.65, 8.77, 8.48),
        "MP-Net": (5.75, 5.37, 13.68),
        "Co-Separation": (3.94, 8.93, None),
        "FCSN": (6.30, 11.47, None),
        "IAL-CMS, unsupervised": (6.29, 10.73, 10.37),
        "IAL-CMS, supervised": (6.54, 11.31, 10.43),
    },
    "VGGSound-15, 2-mix": {
        "SOP": (3.67, 6.51, None),
        "MP-Net": (2.76, 3.43, None),
        "Co-Separation": (3.32, 7.15, None),
        "FCSN": (6.39, 10.14, None),
        "IAL-CMS, supervised": (9.96, 14.74, None),
    },
}


def published_tables(num_sources: int) -> dict[str, dict[str, Figures]]:
    """Data set -> method -> figures, of mixes of `num_sources` sources; {} where nothing was published."""
    return {title: rows for title, rows in PUBLISHED.items() if title.endswith(f", {num_sources}-mix")}
