"""The plan: which clips, windows and crops every sample is made of, as a pure function of (manifest, seed, lane, draw).

A global batch of G mixes has G lanes; draw d of a lane is its mix of step d. A lane reads the clips of its split over
and over. Every pass goes through the shards in another order (keyed by seed, lane and pass) and through each shard from
front to back. This endless stream of clips is cut into windows, which overlap and move forward as draws go by:

    stream of lane b   | shard 7           | shard 2           | shard 9           | shard 4           |  pass 0, then
    position           0                   500                 1000                1500                   pass 1, ...

    round 0            [------ window ------]                      R = window // K draws of K clips each, from these
    round 1                 [------ window ------]                 K clips a draw, `reuse` uses a clip:
    round 2                      [------ window ------]            it moves R K / reuse clips from round to round

    draw d             is number d % R of round d // R; its clips are of K different instruments:

                       round's table     draw 0   draw 1   draw 2   ...  draw R-1
                       (deal.py)         violin   tuba     violin        flute
                                         flute    cello    harp          violin
                                         tuba     harp     cello         cello        K = M * O = 4
                                         cello    flute    tuba          harp

Nothing is carried from draw to draw: a run can start at any step, and the plan is the same for any number of ranks and
loader workers. A round deals the clips of its window out like cards. Where no instrument has more than 1/K of the
window, each clip is used once a round, and `reuse` times (give or take one) before the window has left it behind.

  * An instrument with more than 1/K of the window is in every draw of the round, with some of its clips left out.
  * A window that cannot give every slot of the round a clip of its own reaches further. Instruments that are so
    rare that twice the window would not do (on average over the split) may use a clip several times a round.

Over a first pass of eight lanes (`8 * reuse` uses of a clip on average), for 600 clips of instruments in shares like
MUSIC's, two or three mixtures of two objects and the default window, every clip has 0.3 to 1.7 times the average; with
balance "instruments", 0.2 to 2.6 times the average of its instrument. More clips and later passes even that out.
tests/data/test_plan.py holds the plan to these bounds.

While a clip is in a lane's window, the lane takes pictures of `pictures_per_clip` of its detections only, so that each
is decoded once and used several times; the next time that the clip comes by, it takes others.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from ialcms.config import AudioConfig, DataConfig
from ialcms.data.deal import deal
from ialcms.data.manifest import Manifest
from ialcms.data.selection import require_instruments, select_clips
from ialcms.rng import permutation, uniforms

GOLDEN_RATIO = (5**0.5 - 1) / 2
_SPLIT = "train"


@dataclass(frozen=True)
class PlannedClip:
    """How one clip enters a training mix."""

    clip: int  # index into manifest.clips
    row: int  # detection, one of `rows`
    rows: tuple[int, ...]  # detections that the lane takes pictures of while the clip is in its window
    start: int  # first sample of the window; 0 for a clip that is not longer than the window
    gain: float
    top: int  # of the crop in the resized picture, pixels
    left: int
    flip: bool  # mirrored horizontally
    other_rows: tuple[int, ...] = ()  # with `row`, the `pictures_per_object` detections that the separator sees


@dataclass(frozen=True)
class PlannedMix:
    """What a training mix is made of."""

    lane: int
    draw: int  # = global step
    clips: tuple[PlannedClip, ...]  # M * O of different instruments; mixture m has clips [m * O, (m + 1) * O)


@dataclass(frozen=True)
class _Round:
    number: int
    end: int  # first stream position after the window
    window: np.ndarray  # indices into manifest.clips, in stream order
    passes: dict[int, int]  # by clip of the window: pass of the lane that its position in the window belongs to
    table: np.ndarray  # (draws of the round, K) indices into manifest.clips


class Plan:
    """The plan of the training split for G lanes; lane b is the same whatever G is."""

    def __init__(
        self,
        manifest: Manifest,
        data: DataConfig,
        audio: AudioConfig,
        seed: int,
        num_lanes: int,
    ) -> None:
        """Raises ValueError with a remedy when the training split cannot give mixes of M * O different instruments.

        seed: of all draws. num_lanes: mixes of the global batch. data, audio: of the configuration.
        """
        self.manifest, self.data, self.audio = manifest, data, audio
        self.seed, self.num_lanes = seed, num_lanes
        self.clips_per_mix = data.num_mixtures * data.num_objects
        selected = select_clips(manifest, _SPLIT, data.instruments).astype(np.int32)
        self.clip_indices = selected  # into manifest.clips; int32
        self.num_clips = len(selected)
        table = manifest.table
        names = table.distinct("instrument", selected)
        require_instruments(
            manifest, _SPLIT, names, needed=self.clips_per_mix, fields="data.num_mixtures x data.num_objects"
        )
        codes = {name: code for code, name in enumerate(names)}
        self._code_of = np.array([codes.get(name, -1) for name in table.names["instrument"]])  # by the table's code
        self._shards = _by_shard(selected, table.numbers["shard"][selected])
        self.window = min(max(data.window, self.clips_per_mix), self.num_clips)
        self.draws_per_round = max(self.window // self.clips_per_mix, 1)
        slots = self.draws_per_round * self.clips_per_mix
        self._most_slots = self.draws_per_round if data.balance == "clips" else -(-slots // len(names))  # rounded up
        self._usual_uses = self._find_usual_uses(np.bincount(self._codes(selected)))
        self._orders: dict[tuple[int, int], tuple[np.ndarray, np.ndarray]] = {}
        self._rounds: dict[int, _Round] = {}

    def __reduce__(self) -> Any:
        """A plan is pickled as its arguments: some kilobytes where the manifest is mapped."""
        return Plan, (self.manifest, self.data, self.audio, self.seed, self.num_lanes)

    def mix(self, lane: int, draw: int) -> PlannedMix:
        """The plan of draw `draw` (the global step) in a lane."""
        assert 0 <= lane < self.num_lanes, lane
        assert draw >= 0, draw
        current = self._round(lane, draw // self.draws_per_round)
        clips = current.table[draw % self.draws_per_round].tolist()
        numbers = uniforms(7 * len(clips), self.seed, "draw", lane, draw).reshape(7, -1)
        order = np.argsort(numbers[0], kind="stable")
        return PlannedMix(
            lane,
            draw,
            tuple(
                self._planned_clip(lane, current.passes[clips[number]], clips[number], numbers=numbers[1:, number])
                for number in order.tolist()
            ),
        )

    def window_clips(self, lane: int, draw: int) -> np.ndarray:
        """Indices into manifest.clips of the window that a draw takes its clips from."""
        return self._round(lane, draw // self.draws_per_round).window

    def shards_to_prefetch(self, lane: int, draw: int) -> list[int]:
        """Indices into manifest.shards: those of a draw's window in reading order, and the one that comes after it."""
        current = self._round(lane, draw // self.draws_per_round)
        shard_of = self.manifest.table.numbers["shard"]
        shards = dict.fromkeys(shard_of[current.window].tolist())
        in_window = len(shards)
        for _, block in self._stream_blocks(lane, current.end):
            shards[int(shard_of[block[0]])] = None
            if len(shards) > in_window:
                break
        return list(shards)

    def alternates(self, lane: int, draw: int, slot: int, taken: Collection[str]) -> Iterator[PlannedClip]:
        """Next choices for a slot of a mix whose clip cannot be used: a fixed order, first clips of its instrument.

        lane, draw, slot: the mix and the index into its clips. taken: instruments of the mix's other clips. After
        the clips of the same instrument in the window come the clips behind it, of any instrument that is not taken,
        until all clips have been named.
        """
        current = self._round(lane, draw // self.draws_per_round)
        failed = self.mix(lane, draw).clips[slot].clip
        key = (self.seed, "alternate", lane, draw, slot)
        same = current.window[self._codes(current.window) == self._codes(failed)]
        order = permutation(len(same), *key)
        seen = {failed}
        in_window = ((current.passes[index], index) for index in same[order].tolist())
        behind = (
            (number, index) for number, block in self._stream_blocks(lane, current.end) for index in block.tolist()
        )
        for attempt, (number, index) in enumerate(itertools.chain(in_window, behind)):
            if index not in seen and self.manifest.clips[index].instrument not in taken:
                yield self._planned_clip(lane, number, index, numbers=uniforms(6, *key, attempt))
            seen.add(index)

    def _planned_clip(self, lane: int, number: int, index: int, numbers: np.ndarray) -> PlannedClip:
        """Row, window, gain, crop and flip from six numbers in [0, 1); number: of the lane's pass.

        index: of the clip in the manifest.
        """
        table = self.manifest.table
        num_boxes, num_samples = int(table.numbers["num_boxes"][index]), int(table.numbers["num_samples"][index])
        rows = permutation(num_boxes, self.seed, "pictures", lane, number, index)[: self.data.pictures_per_clip]
        lowest, highest = self.data.gain
        first = int(numbers[0] * len(rows))  # the others come after it, over again where there are too few
        others = [int(rows[(first + n) % len(rows)]) for n in range(1, self.data.pictures_per_object)]
        offsets = self.data.image_resize - self.data.image_crop + 1
        return PlannedClip(
            clip=index,
            row=int(rows[first]),
            rows=tuple(rows.tolist()),
            start=int(numbers[1] * max(num_samples - self.audio.num_samples + 1, 1)),
            gain=float(lowest + (highest - lowest) * numbers[2]),
            top=int(numbers[3] * offsets),
            left=int(numbers[4] * offsets),
            flip=bool(numbers[5] < 0.5),
            other_rows=tuple(others),
        )

    def _codes(self, clips: np.ndarray | int) -> np.ndarray:
        """Codes of the instruments of clips, in the order of the names of the split's instruments."""
        return self._code_of[self.manifest.table.codes["instrument"][clips]]

    # The stream of a lane

    def _order(self, lane: int, number: int) -> tuple[np.ndarray, np.ndarray]:
        """Order of the shards in a pass of a lane, and the position in the pass where each of them ends."""
        if (lane, number) not in self._orders:
            shards = permutation(len(self._shards), self.seed, "shards", lane, number)
            ends = np.cumsum([len(self._shards[shard]) for shard in shards])
            for old in [key for key in self._orders if key[0] == lane and abs(key[1] - number) > 1]:
                del self._orders[old]
            self._orders[lane, number] = shards, ends
        return self._orders[lane, number]

    def _stream_blocks(self, lane: int, start: int) -> Iterator[tuple[int, np.ndarray]]:
        """Clips of a lane's stream from position `start` on, in blocks that lie in one shard each, and their pass.

        Two passes: from the middle of a pass on, it takes that much to meet every clip. Each lane has another entry
        into the order of the shards, where its passes begin and end: otherwise all lanes would see the same window of
        a single shard.
        """
        entry = int((uniforms(1, self.seed, "entry")[0] + lane * GOLDEN_RATIO) % 1.0 * self.num_clips)
        position, stop = start, start + 2 * self.num_clips
        while position < stop:
            number, index = divmod(position, self.num_clips)
            shards, ends = self._order(lane, number)
            position_in_order = (index + entry) % self.num_clips
            slot = int(np.searchsorted(ends, position_in_order, side="right"))
            end_of_pass = (number + 1) * self.num_clips
            count = min(int(ends[slot]) - position_in_order, end_of_pass - position, stop - position)
            clips = self._shards[shards[slot]]
            first = position_in_order - (int(ends[slot]) - len(clips))
            yield number, clips[first : first + count]
            position += count

    def _stream(self, lane: int, start: int, count: int) -> np.ndarray:
        """`count` clips (at most two passes) of a lane's stream from position `start` on."""
        blocks: list[np.ndarray] = []
        missing = min(count, 2 * self.num_clips)
        for _, block in self._stream_blocks(lane, start):
            blocks.append(block[:missing])
            missing -= len(blocks[-1])
            if not missing:
                break
        return np.concatenate(blocks)

    # Rounds

    def _round(self, lane: int, number: int) -> _Round:
        current = self._rounds.get(lane)
        if current is None or current.number != number:
            start = int(number * self.draws_per_round * self.clips_per_mix / self.data.reuse)
            window = self._window(lane, start)
            table = deal(
                window,
                self._codes(window),
                self.draws_per_round,
                clips_per_draw=self.clips_per_mix,
                balance=self.data.balance,
                key=(self.seed, "round", lane, number),
            )
            # the first position counts where a small set comes by twice
            positions = range(start + len(window) - 1, start - 1, -1)
            passes = {clip: position // self.num_clips for position, clip in zip(positions, window[::-1].tolist())}
            current = _Round(number, start + len(window), window, passes=passes, table=table)
            self._rounds[lane] = current
        return current

    def _window(self, lane: int, start: int) -> np.ndarray:
        """The stream from `start` on, as long as a round needs, so that no clip has too many of its slots."""
        slots = self.draws_per_round * self.clips_per_mix
        longest, uses = 2 * self.window, self._usual_uses
        while True:
            clips = self._stream(lane, start, longest)
            seen: Counter[int] = Counter()
            supply = 0
            for length, code in enumerate(self._codes(clips).tolist(), start=1):
                supply += min(max(self._most_slots - uses * seen[code], 0), uses)
                seen[code] += 1
                if supply >= slots and length >= self.window:
                    return clips[:length]
            if len(clips) == longest:
                longest *= 2
            else:
                assert uses < self._most_slots, "two passes have M * O instruments"
                uses *= 2

    def _find_usual_uses(self, counts: np.ndarray) -> int:
        """Uses of a clip in a round that the rarest instruments cannot do without: 1 unless they are very rare.

        counts: clips per instrument. The smallest number with which a window of twice the normal length, drawn like
        the whole split, has a clip for every slot.
        """
        uses = 1
        # everything times the number of clips: whole numbers come out the same on every machine
        expected, most = 2 * self.window * counts, self._most_slots * self.num_clips
        slots = self.draws_per_round * self.clips_per_mix * self.num_clips
        while uses < self._most_slots and np.minimum(uses * expected, most).sum() < slots:
            uses += 1
        return uses


def _by_shard(clips: np.ndarray, shards: np.ndarray) -> list[np.ndarray]:
    """The clips of every shard that has some, in the order of the shards. shards: of each clip."""
    if (shards[1:] < shards[:-1]).any():
        order = np.argsort(shards, kind="stable")
        clips, shards = clips[order], shards[order]
    return np.split(clips, np.flatnonzero(shards[1:] != shards[:-1]) + 1)
