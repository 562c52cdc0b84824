"""Separate one's own video, or a sound with pictures of its instruments.

from ialcms.separate import Box, separate_file
result = separate_file("duet.mp4", "runs/duet", [Box(20, 30, 200, 280), Box(310, 40, 500, 270)], out="stems")
print(result.stems, result.remainder, result.videos)
"""

from ialcms.separate.pictures import Box, Click
from ialcms.separate.program import Separation, separate_file

__all__ = ["Box", "Click", "Separation", "separate_file"]
