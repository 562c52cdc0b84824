"""How a video looks: player, instrument and room; their motion in a clip; frames and the exact boxes.

Coordinates are pixels of the frame, x to the right and y down; angles are clockwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

from ialcms.demo.background import draw_background
from ialcms.demo.canvas import BLACK, Colour, draw_colour, hsv, shade
from ialcms.demo.drawing import DRAWINGS

FRAMES_PER_SECOND = 8
_MARGIN = 0.05  # of the frame height: what the shaking camera sees beyond the steady frame
_ZOOM = 1.15  # a sprite is stored so much larger than it is shown: frames only ever scale it down
_OPAQUE = 60  # alpha, of 255, from which a pixel belongs to the instrument
_NUM_GRAINS = 4  # pictures of film grain that a clip cycles through


@dataclass(frozen=True, eq=False)
class Sprite:
    """A cut-out instrument."""

    image: Image.Image  # RGBA
    outline: np.ndarray  # (N, 2), corners of its convex hull from the middle of the image


@dataclass(frozen=True, eq=False)
class Player:
    """A person who holds an instrument."""

    image: Image.Image  # RGBA, upper body
    skin: Colour
    shirt: Colour


@dataclass(frozen=True, eq=False)
class Look:
    """What all clips of a video share."""

    frame_size: tuple[int, int]  # width, height
    sprite: Sprite
    centre: tuple[float, float]  # of the instrument
    angle_deg: float
    is_squeezed: bool  # an accordion changes its width
    player: Player | None
    player_offset: tuple[float, float]
    shows_hands: bool
    background: Image.Image  # larger than the frame by the margin at all sides
    brightness: float
    colour_cast: tuple[float, float, float]
    grain: float
    shake_px: float


@dataclass(frozen=True, eq=False)
class _Motion:
    """Of a clip; all arrays have a row per frame."""

    centre: np.ndarray  # (n, 2)
    angle_rad: np.ndarray
    scale: np.ndarray  # (n, 2), across and along
    camera: np.ndarray  # (n, 2), whole pixels that the picture is shifted by
    brightness: np.ndarray


def draw_look(rng: np.random.Generator, instrument_name: str, frame_size: tuple[int, int]) -> Look:
    """How a video looks, drawn at random. frame_size: width and height in pixels."""
    width, height = frame_size
    margin = _margin_px(height)
    drawing = DRAWINGS[instrument_name]
    picture = drawing.draw(rng)
    lowest, highest = drawing.hold_deg
    if rng.random() < 0.2:  # an unusual way to hold it
        lowest, highest = lowest - 40, highest + 40
    angle_deg = rng.uniform(lowest, highest)
    if rng.random() < 0.4:  # left-handed, or a mirrored video
        picture, angle_deg = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), -angle_deg
    extent_px = rng.uniform(*drawing.extent) * height
    blur_px = rng.uniform(0, 0.9)
    player = _draw_player(rng, height * rng.uniform(0.95, 1.35)) if rng.random() < 0.75 else None
    return Look(
        frame_size=frame_size,
        sprite=make_sprite(picture, extent_px, blur_px),
        centre=(rng.uniform(0.4, 0.6) * width, rng.uniform(0.5, 0.66) * height),
        angle_deg=angle_deg,
        is_squeezed=instrument_name == "accordion",
        player=player,
        player_offset=(rng.normal(0, 0.05) * width, rng.uniform(0, 0.12) * height),
        shows_hands=bool(rng.random() < 0.7) and player is not None,
        background=draw_background(rng, width + 2 * margin, height + 2 * margin),
        brightness=rng.uniform(0.75, 1.2),
        colour_cast=tuple(rng.normal(1, 0.05, 3)),
        grain=rng.uniform(1, 7),
        shake_px=float(rng.choice([0, 0.5, 2.0])) * height / 240,
    )


def make_sprite(picture: Image.Image, extent_px: float, blur_px: float = 0.0) -> Sprite:
    """Scale an RGBA picture so that its longer side is shown `extent_px` long, and find its outline."""
    factor = _ZOOM * extent_px / max(picture.size)
    size = (max(4, round(picture.width * factor)), max(4, round(picture.height * factor)))
    image = picture.resize(size, Image.Resampling.LANCZOS)
    if blur_px > 0.35:
        image = image.filter(ImageFilter.GaussianBlur(_ZOOM * blur_px))
    rows, columns = np.nonzero(np.asarray(image.getchannel("A")) > _OPAQUE)
    offsets = np.stack([columns + 0.5 - image.width / 2, rows + 0.5 - image.height / 2], 1)
    directions = np.linspace(0, 2 * np.pi, 180, endpoint=False)
    reach = offsets @ np.stack([np.cos(directions), np.sin(directions)])
    return Sprite(image, offsets[np.unique(reach.argmax(0))])


def render_frames(rng: np.random.Generator, look: Look, loudness: np.ndarray) -> tuple[list[Image.Image], np.ndarray]:
    """A frame for each value of `loudness`, 0 .. 1, to which the player moves.

    Returns RGB frames and the exact boxes of the instrument, float32 (n, 4): x1, y1, x2, y2, within the frame.
    """
    width, height = look.frame_size
    motion = _draw_motion(rng, look, loudness)
    grains = [_draw_grain(rng, look) for _ in range(_NUM_GRAINS)]
    frames = []
    boxes = np.empty((len(loudness), 4), np.float32)
    for index in range(len(loudness)):
        frame, box = _compose_frame(look, motion, index)
        channels = [np.arange(256) * motion.brightness[index] * cast for cast in look.colour_cast]
        frame = frame.point(np.concatenate(channels).clip(0, 255).astype(int).tolist())
        frames.append(ImageChops.add(frame, grains[index % _NUM_GRAINS], 1, -128))
        boxes[index] = np.clip(box, 0, [width, height, width, height])
    return frames, boxes


def paste_sprite(
    frame: Image.Image, sprite: Sprite, centre: np.ndarray, angle_rad: float, scale: np.ndarray
) -> np.ndarray:
    """Draw the sprite into the frame; returns its exact box (x1, y1, x2, y2), which may reach out of the frame.

    `scale` is (across, along) the sprite, of the size that it was made for.

    centre: (x, y) in the frame. angle_rad: turn of the sprite.
    """
    cos, sin = np.cos(angle_rad), np.sin(angle_rad)
    to_frame = np.array([[cos, -sin], [sin, cos]]) @ np.diag(scale / _ZOOM)
    outline = sprite.outline @ to_frame.T + centre
    upper_left = np.floor(outline.min(0)) - 2
    patch_size = np.ceil(outline.max(0)) + 2 - upper_left
    # Image.transform asks where in the sprite each pixel of the patch comes from
    to_sprite = np.linalg.inv(to_frame)
    shift = to_sprite @ (upper_left - centre) + np.array(sprite.image.size) / 2
    patch = sprite.image.transform(
        (int(patch_size[0]), int(patch_size[1])),
        Image.Transform.AFFINE,
        (*to_sprite[0], shift[0], *to_sprite[1], shift[1]),
        Image.Resampling.BILINEAR,
    )
    frame.paste(patch, (int(upper_left[0]), int(upper_left[1])), patch)
    half_pixel = 0.5 * np.abs(to_frame).sum(1)  # the outline runs through the middles of pixels
    return np.concatenate([outline.min(0) - half_pixel, outline.max(0) + half_pixel])


def _margin_px(frame_height: int) -> int:
    return round(_MARGIN * frame_height)


# ---------------------------------------------------------------- motion


def _draw_motion(rng: np.random.Generator, look: Look, loudness: np.ndarray) -> _Motion:
    """Swaying, turning, coming nearer; loud notes lift and turn the instrument; hands and lamps are unsteady."""
    width, height = look.frame_size
    num_frames = len(loudness)
    t = np.arange(num_frames) / FRAMES_PER_SECOND
    centre = np.stack(
        [
            look.centre[0] + _sway(rng, t, 0.025 * width),
            look.centre[1] + _sway(rng, t, 0.015 * height) - 0.03 * height * loudness,
        ],
        1,
    )
    angle_deg = look.angle_deg + _sway(rng, t, rng.uniform(1, 5)) + 3 * rng.choice([-1, 1]) * loudness
    zoom = np.clip(1 + _sway(rng, t, 0.02, lowest_hz=0.03, highest_hz=0.15), 0.9, _ZOOM)
    across = zoom * (1 + _sway(rng, t, 0.07, lowest_hz=0.2, highest_hz=0.5)) if look.is_squeezed else zoom
    walk = np.cumsum(rng.normal(0, look.shake_px, (num_frames, 2)), 0)
    margin = _margin_px(height)
    camera = np.clip(walk - walk.mean(0), -margin, margin).astype(int)
    brightness = look.brightness * rng.normal(1, 0.015, num_frames)
    return _Motion(centre, np.deg2rad(angle_deg), np.stack([across, zoom], 1), camera=camera, brightness=brightness)


def _sway(
    rng: np.random.Generator, t: np.ndarray, amplitude: float, lowest_hz: float = 0.15, highest_hz: float = 1.1
) -> np.ndarray:
    """The sum of three slow swings.

    t: seconds. amplitude: of the sum. lowest_hz, highest_hz: range of the swings.
    """
    swings = (
        rng.uniform(0.3, 1) * np.sin(2 * np.pi * (rng.uniform(lowest_hz, highest_hz) * t + rng.random()))
        for _ in range(3)
    )
    return amplitude / 1.6 * sum(swings, start=np.zeros_like(t))


# ---------------------------------------------------------------- pictures


def _compose_frame(look: Look, motion: _Motion, index: int) -> tuple[Image.Image, np.ndarray]:
    """Room, player, instrument, hands. Returns the frame and the exact box."""
    width, height = look.frame_size
    margin = _margin_px(height)
    shift = motion.camera[index]
    left, top = margin - int(shift[0]), margin - int(shift[1])
    frame = look.background.crop((left, top, left + width, top + height))
    centre = motion.centre[index] + shift
    player_corner = np.zeros(2)
    if look.player:
        body = look.player.image
        sway = motion.centre[index] - np.array(look.centre)  # the body moves less than the instrument
        resting = np.array([look.centre[0] - body.width / 2, height - 0.97 * body.height])
        player_corner = np.floor(resting + np.array(look.player_offset) + sway * [0.6, 0.4] + shift)
        frame.paste(body, (int(player_corner[0]), int(player_corner[1])), body)
    box = paste_sprite(frame, look.sprite, centre, angle_rad=motion.angle_rad[index], scale=motion.scale[index])
    if look.shows_hands:
        _draw_arms(frame, look, player_corner, centre=centre, angle_rad=motion.angle_rad[index])
    return frame, box


def _draw_player(rng: np.random.Generator, body_height: float) -> Player:
    """Head and shoulders, seen from the front."""
    height, width = int(body_height), int(0.8 * body_height)
    image = Image.new("RGBA", (width, height))
    pen = ImageDraw.Draw(image)
    skin = hsv(rng.uniform(0.04, 0.09), rng.uniform(0.25, 0.6), rng.uniform(0.35, 0.95))
    hair = hsv(rng.uniform(0.02, 0.12), rng.uniform(0.1, 0.7), rng.uniform(0.05, 0.6))
    shirt = draw_colour(rng, 0.1, 0.9, strongest=0.8)
    x = width / 2
    right_half = [(0.08, 0.31), (0.24, 0.36), (0.36, 0.5), (0.3, 1.0)]
    left_half = [(-side, down) for side, down in reversed(right_half)]
    pen.polygon([(x + side * width, down * height) for side, down in left_half + right_half], fill=shirt)
    if rng.random() < 0.4:  # a striped shirt
        for stripe in range(6):
            y = height * (0.42 + 0.1 * stripe)
            pen.line([(x - 0.3 * width, y), (x + 0.3 * width, y)], shade(shirt, 0.6), max(2, height // 50))
    head = 0.115 * height
    pen.rectangle([x - 0.4 * head, 0.24 * height, x + 0.4 * head, 0.34 * height], fill=shade(skin, 0.85))
    if rng.random() < 0.5:  # long hair
        pen.ellipse([x - 1.15 * head, 0.02 * height, x + 1.15 * head, 0.36 * height], fill=hair)
    pen.ellipse([x - 0.88 * head, 0.05 * height, x + 0.88 * head, 0.29 * height], fill=skin)
    pen.pieslice([x - head, 0.03 * height, x + head, 0.26 * height], 185, 355, fill=hair)
    eye = max(1.5, 0.007 * height)
    for side in (-1, 1):
        eye_x, eye_y = x + side * 0.35 * head, 0.17 * height
        pen.ellipse([eye_x - eye, eye_y - eye, eye_x + eye, eye_y + eye], fill=BLACK)
    return Player(image.filter(ImageFilter.GaussianBlur(0.6)), skin, shirt)


def _draw_arms(frame: Image.Image, look: Look, player_corner: np.ndarray, centre: np.ndarray, angle_rad: float) -> None:
    """From the shoulders over the elbows to two points on the instrument's long axis.

    frame: that is drawn on. look: sizes and colours. player_corner: of the player in the frame. centre, angle_rad: of
    the instrument.
    """
    assert look.player is not None
    pen = ImageDraw.Draw(frame)
    body_size = np.array(look.player.image.size)
    sprite_size = look.sprite.image.size
    drawn_rad = np.pi / 2 if sprite_size[1] > sprite_size[0] else 0.0  # of the long axis in the sprite
    axis_rad = angle_rad + drawn_rad
    if np.cos(np.deg2rad(look.angle_deg) + drawn_rad) < 0:  # arms neither cross nor swap when it sways
        axis_rad += np.pi
    reach = 0.31 * max(sprite_size) / _ZOOM * np.array([np.cos(axis_rad), np.sin(axis_rad)])
    radius = max(3.0, 0.028 * look.frame_size[1])
    sleeve = shade(look.player.shirt, 0.85)
    for side in (-1, 1):
        shoulder = player_corner + body_size * [0.5 + 0.3 * side, 0.44]
        hand = centre + side * reach
        elbow = (shoulder + hand) / 2 + body_size * [0.06 * side, 0.1]
        pen.line([tuple(shoulder), tuple(elbow), tuple(hand)], sleeve, round(1.7 * radius), joint="curve")
        pen.ellipse([*(hand - radius), *(hand + radius)], fill=look.player.skin)


def _draw_grain(rng: np.random.Generator, look: Look) -> Image.Image:
    """Grey noise around 128."""
    width, height = look.frame_size
    noise = 128 + look.grain * rng.standard_normal((height, width), dtype=np.float32)
    return Image.fromarray(noise.clip(0, 255).astype(np.uint8)).convert("RGB")
