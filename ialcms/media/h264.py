"""H.264 with the colours of BT.709 (matrix, primaries, transfer; limited range), which the file declares.

Players guess other colours for small videos that declare none.
"""

from __future__ import annotations

from fractions import Fraction

import av

TIME_BASE = Fraction(1, 90_000)  # of the pictures' time stamps, as MPEG has it
_BT709, _LIMITED = 1, 1  # as FFmpeg numbers them


def add_h264(container: av.container.OutputContainer, options: dict[str, str]) -> av.VideoStream:
    """A stream of pictures at any times. The caller sets its width and height before the first one.

    options: of the encoder libx264, like {"crf": "20"}.
    """
    stream = container.add_stream("libx264", rate=30, options=options)
    stream.pix_fmt = "yuv420p"
    context = stream.codec_context
    context.time_base, context.color_range = TIME_BASE, _LIMITED
    context.colorspace = context.color_primaries = context.color_trc = _BT709
    return stream


def for_h264(picture: av.VideoFrame, width: int | None = None, height: int | None = None) -> av.VideoFrame:
    """An RGB picture as the encoder takes it. width, height: in pixels, even; by default the picture's."""
    coded = picture.reformat(
        width=width, height=height, format="yuv420p", dst_colorspace="ITU709", dst_color_range="MPEG"
    )
    coded.color_primaries = coded.color_trc = _BT709
    return coded
