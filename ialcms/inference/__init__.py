"""Your own sound: a trained separator applied to a wave in memory, a recording, or a video.

from ialcms.inference import load_model
model = load_model("duet.pt")
stems = model.separate(wave, 44_100, pictures)  # (C, n) floats, (K, 3, S, S) uint8 -> (K, C, n)

from ialcms.inference import Box, separate_file
result = separate_file("duet.mp4", "runs/duet", [Box(20, 30, 200, 280), Box(310, 40, 500, 270)], out="stems")
print(result.stems, result.remainder, result.videos)
"""

from ialcms.inference.model import Model, choose_device, load_model
from ialcms.inference.objects import Box, Click
from ialcms.inference.separate_file import Separation, separate_file
from ialcms.inference.stems import PROTOCOLS

__all__ = ["PROTOCOLS", "Box", "Click", "Model", "Separation", "choose_device", "load_model", "separate_file"]
