"""Properties of the plan: pure, in order, even."""

from __future__ import annotations

import hashlib
import itertools
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from ialcms.config import AudioConfig, DataConfig
from ialcms.data.deal import split_slots
from ialcms.data.evaluation_mixes import list_mixes
from ialcms.data.manifest import Manifest
from ialcms.data.plan import Plan
from ialcms.rng import permutation, uniforms
from tests.support.data import make_manifest, small_config

EVEN = [[6] * 5, [2] * 5, [12] * 5]  # 100 clips of 5 instruments in 3 uneven shards
# shares as in MUSIC, 11 instruments
SHARES = [0.18, 0.1, 0.09, 0.12, 0.1, 0.1, 0.09, 0.05, 0.07, 0.06, 0.04]
FIVE = ("i03", "i01", "i00", "i10", "i05")
UNEVEN = [np.random.default_rng(shard).multinomial(60, SHARES).tolist() for shard in range(10)]


def plan_of(manifest: Manifest, num_lanes: int = 8, seed: int = 7, **data: object) -> Plan:
    config = small_config(**data)
    return Plan(manifest, config.data, config.audio, seed, num_lanes)


def uses_of_a_pass(plan: Plan, lane: int, passes: int = 1) -> np.ndarray:
    """How often each clip is used in the draws of so many passes of a lane."""
    uses = np.zeros(len(plan.manifest.clips), dtype=int)
    for draw in range(int(passes * plan.num_clips * plan.data.reuse / plan.clips_per_mix)):
        for clip in plan.mix(lane, draw).clips:
            uses[clip.clip] += 1
    return uses


def test_uniforms_are_fixed_for_all_time() -> None:
    # what a seed means must not change with NumPy, with Python or with the platform; these are the first words of
    # Philox4x64-10 at counter 1, computed in whole numbers after its paper
    assert uniforms(3, 7, "draw", 2).tolist() == [0.6640112462298956, 0.46284050826079115, 0.6383311286345827]
    assert uniforms(2, 7, "draw", 2).tolist() == uniforms(3, 7, "draw", 2).tolist()[:2]
    assert uniforms(3, 7, "draw", 3).tolist() != uniforms(3, 7, "draw", 2).tolist()
    numbers = uniforms(10_000, "mean")
    assert 0 <= numbers.min() < 0.001
    assert 0.999 < numbers.max() < 1
    assert numbers.mean() == pytest.approx(0.5, abs=0.015)


def test_permutation_is_one() -> None:
    assert sorted(permutation(50, 1).tolist()) == list(range(50))
    assert permutation(50, 1).tolist() != permutation(50, 2).tolist()


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6, 8])
def test_a_lane_does_not_depend_on_who_plans_it_or_when(world_size: int) -> None:
    manifest = make_manifest(UNEVEN)
    steps, num_lanes = range(11), 24
    whole = plan_of(manifest, num_lanes)
    expected = {(lane, step): whole.mix(lane, step) for step in steps for lane in range(num_lanes)}
    share = num_lanes // world_size
    for rank in range(world_size):
        # one plan object per rank, its lanes asked for in another order and from the last step to the first
        plan = plan_of(manifest, num_lanes)
        for lane in range(rank * share, (rank + 1) * share):
            for step in reversed(steps):
                assert plan.mix(lane, step) == expected[lane, step]


@pytest.mark.parametrize(
    ("counts", "seed", "data", "expected"),
    [
        (EVEN, 7, {}, "cab5c5f289ec222c"),
        (UNEVEN, 0, {}, "8189094cfa2cf1b0"),
        (UNEVEN, 1, {"balance": "instruments", "num_mixtures": 1}, "5aab75d2ee1fde06"),
        (UNEVEN, 2, {"instruments": FIVE, "window": 64, "reuse": 10.0}, "fd4b2304f69bec55"),
        ([[1, 1, 1, 1]], 3, {}, "2546506901fc253f"),
        ([[44, 22, 22, 16, 6]] * 4, 4, {"window": 64, "reuse": 10.0}, "3132e0bbbefe8a6a"),
    ],
)
def test_the_plan_of_a_seed_is_fixed_for_all_time(
    counts: list[list[int]], seed: int, data: dict[str, object], expected: str
) -> None:
    """Digests of what the plan was when manifests were tuples of objects: runs that began then resume to the bit."""
    manifest = make_manifest(counts)
    plan = plan_of(manifest, 6, seed, **data)
    found = hashlib.sha256()
    for lane, draw in itertools.product((0, 3, 5), (0, 1, 40, 777, 100_003)):
        found.update(_as_before(plan.mix(lane, draw)))
        found.update(repr(plan.window_clips(lane, draw).tolist()).encode())
        found.update(repr(plan.shards_to_prefetch(lane, draw)).encode())
        found.update(_as_before(list(itertools.islice(plan.alternates(lane, draw, 1, {"i00"}), 20))))
    found.update(repr(list_mixes(manifest, "train", 2, 3, seed, 0.03)).encode())
    assert found.hexdigest()[:16] == expected


def _as_before(planned: object) -> bytes:
    """The text of planned clips from when they had one picture each."""
    return repr(planned).replace(", other_rows=()", "").encode()


def test_a_lane_does_not_depend_on_the_number_of_lanes() -> None:
    manifest = make_manifest(EVEN)
    assert plan_of(manifest, 2).mix(1, 33) == plan_of(manifest, 8).mix(1, 33)


@pytest.mark.parametrize("step", [0, 1, 77, 5_000, 10**9])
def test_any_step_at_once(step: int) -> None:
    manifest = make_manifest(UNEVEN)
    plan = plan_of(manifest)
    for earlier in (0, 3, 70, 71):
        plan.mix(3, earlier)
    assert plan.mix(3, step) == plan_of(manifest).mix(3, step)


def test_lanes_steps_and_seeds_differ() -> None:
    manifest = make_manifest(UNEVEN)
    plan, other = plan_of(manifest), plan_of(manifest, seed=8)
    mixes = [plan.mix(lane, draw).clips for lane in range(8) for draw in range(50)]
    mixes += [other.mix(lane, draw).clips for lane in range(8) for draw in range(50)]
    assert len(set(mixes)) == len(mixes)
    gains = np.array([[clip.gain for clip in mix] for mix in mixes])
    assert len(np.unique(gains)) == gains.size
    correlation = np.corrcoef(gains[:399].ravel(), gains[1:400].ravel())[0, 1]
    assert abs(correlation) < 0.1


def test_lanes_see_different_clips_of_a_single_shard() -> None:
    plan = plan_of(make_manifest([[40] * 5]), window=16)
    windows = [set(plan.window_clips(lane, 0).tolist()) for lane in range(8)]
    assert all(not (a & b) for a, b in itertools.pairwise(windows))
    assert len(set().union(*windows)) > 80


@pytest.mark.parametrize("counts", [EVEN, UNEVEN, [[5, 1, 2, 3]], [[1, 1, 1, 1]], [[30, 1, 1, 1], [30, 0, 0, 0]]])
@pytest.mark.parametrize("balance", ["clips", "instruments"])
def test_instruments_of_a_mix_differ(counts: list[list[int]], balance: str) -> None:
    manifest = make_manifest(counts)
    for seed in range(3):
        plan = plan_of(manifest, seed=seed, balance=balance)
        for lane in range(2):
            for draw in range(120):
                clips = [manifest.clips[clip.clip] for clip in plan.mix(lane, draw).clips]
                assert len({clip.instrument for clip in clips}) == len(clips) == 4


def test_numbers_are_in_their_ranges_and_reach_the_ends() -> None:
    manifest = make_manifest(UNEVEN)
    plan = plan_of(manifest, gain=(0.5, 1.5))
    clips = [clip for lane in range(8) for draw in range(150) for clip in plan.mix(lane, draw).clips]
    rows: dict[int, set[int]] = {}
    for clip in clips:
        described = manifest.clips[clip.clip]
        assert 0 <= clip.row < described.num_boxes
        assert 0 <= clip.start <= max(described.num_samples - 310, 0)
        rows.setdefault(described.num_boxes, set()).add(clip.row)
    assert rows == {boxes: set(range(boxes)) for boxes in (1, 2, 3, 4)}
    assert {clip.top for clip in clips} == {clip.left for clip in clips} == set(range(5))
    gains = np.array([clip.gain for clip in clips])
    assert 0.5 <= gains.min() < 0.51
    assert 1.49 < gains.max() <= 1.5
    assert np.mean([clip.flip for clip in clips]) == pytest.approx(0.5, abs=0.03)
    # the longest clips have 570 samples: windows of 310 start at 0 to 260
    long_starts = {clip.start for clip in clips if manifest.clips[clip.clip].num_samples == 570}
    assert 0 <= min(long_starts) < 10
    assert 250 < max(long_starts) <= 260


def test_short_clips_start_at_their_beginning() -> None:
    manifest = make_manifest(EVEN)
    plan = plan_of(manifest)
    short = [
        clip for draw in range(100) for clip in plan.mix(0, draw).clips if manifest.clips[clip.clip].num_samples <= 310
    ]
    assert short
    assert {clip.start for clip in short} == {0}


def test_every_clip_is_used_alike_where_no_instrument_fills_the_mixes() -> None:
    # one shard: every pass has the same order, so that the ends of a pass even out
    plan = plan_of(make_manifest([[40] * 5]), num_mixtures=1, window=20, reuse=5.0)
    uses = uses_of_a_pass(plan, lane=0, passes=4)
    assert uses.sum() == 4 * 200 * 5
    # 4 passes x reuse 5, give or take one use a pass and the edges of the first and the last window
    assert uses.min() >= 14
    assert uses.max() <= 24


def uses_of_eight_lanes(seed: int, num_mixtures: int, balance: str) -> tuple[Manifest, np.ndarray]:
    """600 clips of 11 instruments in uneven numbers, others for every seed, their uses in a pass over the average."""
    counts = [np.random.default_rng([seed, shard]).multinomial(60, SHARES).tolist() for shard in range(10)]
    manifest = make_manifest(counts)
    window, reuse = DataConfig().window, DataConfig().reuse
    plan = plan_of(manifest, seed=seed, num_mixtures=num_mixtures, balance=balance, window=window, reuse=reuse)
    draws = round(plan.num_clips * reuse / plan.clips_per_mix)
    uses = np.zeros(600, int)
    for lane in range(8):
        tables = [plan._round(lane, number).table for number in range(-(-draws // plan.draws_per_round))]
        np.add.at(uses, np.concatenate(tables)[:draws], 1)
    assert uses.mean() == pytest.approx(8 * reuse, rel=0.001)
    return manifest, uses / uses.mean()


several = pytest.mark.parametrize(("seed", "num_mixtures"), [(0, 2), (1, 2), (2, 2), (0, 3), (1, 3), (2, 3)])


@several
def test_no_clip_starves_or_dominates(seed: int, num_mixtures: int) -> None:
    _, uses = uses_of_eight_lanes(seed, num_mixtures, "clips")
    assert uses.min() >= 0.3
    assert uses.max() <= 1.7


@several
def test_balanced_instruments_do_not_starve_their_own_clips(seed: int, num_mixtures: int) -> None:
    manifest, uses = uses_of_eight_lanes(seed, num_mixtures, "instruments")
    names = np.array([clip.instrument for clip in manifest.clips])
    for name in np.unique(names):
        own = uses[names == name]
        assert own.sum() / uses.sum() == pytest.approx(1 / 11, abs=0.01)
        assert 0.2 * own.mean() <= own.min()
        assert own.max() <= 2.6 * own.mean()


@pytest.mark.parametrize("pictures", [1, 3, 100])
def test_a_lane_takes_few_pictures_of_a_clip_while_it_is_in_the_window(pictures: int) -> None:
    manifest = make_manifest(UNEVEN)
    clips = tuple(replace(clip, num_boxes=40 if number % 3 else 2) for number, clip in enumerate(manifest.clips))
    plan = plan_of(replace(manifest, clips=clips), window=64, reuse=10.0, pictures_per_clip=pictures)
    stays: dict[int, list[tuple[int, ...]]] = {}  # by clip: the rows of each time that it was in the window
    every: dict[int, set[int]] = {}
    for draw in range(4 * 1_500):  # four passes
        for clip in plan.mix(0, draw).clips:
            assert clip.row in clip.rows
            assert len(set(clip.rows)) == len(clip.rows) == min(pictures, clips[clip.clip].num_boxes)
            assert 0 <= min(clip.rows) <= max(clip.rows) < clips[clip.clip].num_boxes
            own = stays.setdefault(clip.clip, [])
            if not own or own[-1] != clip.rows:
                own.append(clip.rows)
            every.setdefault(clip.clip, set()).update(clip.rows)
    # four or five stays, each with other rows (with two boxes they can be the same ones)
    assert max(len(own) for own in stays.values()) <= 5
    if pictures == 3:
        long = [clip for clip in stays if clips[clip].num_boxes == 40]
        assert np.mean([len(set(stays[clip])) for clip in long]) > 3.9
        assert np.mean([len(every[clip]) for clip in long]) > 9  # 4 times 3 of 40, less what comes twice
    # another lane takes pictures of other boxes of the same clip, where it cannot take all
    others = {clip.clip: set(clip.rows) for draw in range(1_500) for clip in plan.mix(1, draw).clips}
    differ = [others[clip] != set(stays[clip][0]) for clip in stays if clips[clip].num_boxes == 40 and clip in others]
    assert len(differ) > 100
    assert np.mean(differ) > 0.9 if pictures < 40 else not any(differ)


def test_company_changes() -> None:
    manifest = make_manifest(UNEVEN)
    plan = plan_of(manifest, window=64, reuse=10.0)
    mixes = [[clip.clip for clip in plan.mix(0, draw).clips] for draw in range(1_500)]
    # consecutive draws have nothing to do with each other
    names = [{manifest.clips[index].instrument for index in mix} for mix in mixes]
    assert np.mean([a == b for a, b in itertools.pairwise(names)]) < 0.02
    # 10 uses with 3 others each: 30 of about 120 clips that come within reach, 26 of them different if drawn blindly
    company: dict[int, set[int]] = {}
    for mix in mixes:
        for index in mix:
            company.setdefault(index, set()).update(set(mix) - {index})
    assert np.mean([len(others) for others in company.values()]) > 22


def test_an_instrument_that_fills_more_than_its_share_does_not_starve_the_others() -> None:
    # 40 % of the clips, but a mix takes at most 1 of 4 from an instrument
    manifest = make_manifest([[44, 22, 22, 16, 6]] * 4)
    plan = plan_of(manifest, window=64, reuse=10.0)
    uses = np.sum([uses_of_a_pass(plan, lane) for lane in range(4)], axis=0)
    assert uses.min() >= 0.3 * 40
    assert uses.max() <= 2.5 * 40
    by_instrument: Counter[str] = Counter()
    for count, clip in zip(uses.tolist(), manifest.clips):
        by_instrument[clip.instrument] += count
    assert by_instrument["i00"] / uses.sum() == pytest.approx(0.25, abs=0.01)


def test_balance_by_instruments() -> None:
    manifest = make_manifest([[20, 10, 10, 5, 5]] * 4)
    by_clips, evenly = (
        Counter(
            manifest.clips[clip.clip].instrument
            for lane in range(4)
            for draw in range(400)
            for clip in plan.mix(lane, draw).clips
        )
        for plan in (
            plan_of(manifest, window=50, num_mixtures=1, balance="clips"),
            plan_of(manifest, window=50, num_mixtures=1, balance="instruments"),
        )
    )
    total = by_clips.total()
    assert by_clips["i00"] / total == pytest.approx(0.4, abs=0.03)
    assert by_clips["i04"] / total == pytest.approx(0.1, abs=0.03)
    assert all(count / total == pytest.approx(0.2, abs=0.01) for count in evenly.values())


def test_the_window_is_bounded_and_moves_on() -> None:
    plan = plan_of(make_manifest(UNEVEN), window=64, reuse=10.0)
    sizes = [len(plan.window_clips(0, draw)) for draw in range(0, 3_000, 16)]
    assert 64 <= min(sizes) <= max(sizes) <= 128
    # 4 clips a draw at 10 uses each: the window moves by 400 clips in 1,000 draws, in steps of a round of 16 draws
    start = int(1_000 // 16 * 16 * 4 / 10)
    late = plan.window_clips(0, 1_000).tolist()
    assert 390 <= start <= 400
    assert late == plan._stream(0, start, len(late)).tolist()
    assert not set(plan.window_clips(0, 0).tolist()) & set(late)


def test_clips_come_from_the_window() -> None:
    plan = plan_of(make_manifest(UNEVEN), window=32)
    for draw in range(0, 200, 7):
        assert {clip.clip for clip in plan.mix(5, draw).clips} <= set(plan.window_clips(5, draw).tolist())


def test_a_pass_reads_every_clip_once_and_shards_front_to_back() -> None:
    manifest = make_manifest(EVEN)
    plan = plan_of(manifest)
    for lane in range(4):
        for number in range(3):
            stream = plan._stream(lane, number * 100, 100)
            assert sorted(stream.tolist()) == list(range(100))
            jumps = int((np.diff(stream) != 1).sum())
            assert jumps <= 3  # from shard to shard; one of them is entered in the middle
    orders = {tuple(plan._stream(lane, number * 100, 100).tolist()) for lane in range(4) for number in range(3)}
    assert len(orders) > 8


def test_shards_that_were_not_shuffled_still_give_mixes() -> None:
    manifest = make_manifest([[200, 200, 0, 0], [0, 0, 200, 200]])
    in_order = tuple(sorted(manifest.clips, key=lambda clip: (clip.shard, clip.instrument)))
    plan = plan_of(replace(manifest, clips=in_order), window=32, reuse=10.0)
    uses = uses_of_a_pass(plan, lane=0)
    assert uses.sum() == 8_000
    assert uses.max() < 20 * 10


def test_tiny_sets() -> None:
    manifest = make_manifest([[1, 1, 1, 1]])
    plan = plan_of(manifest)
    for draw in range(20):
        assert {clip.clip for clip in plan.mix(0, draw).clips} == {0, 1, 2, 3}
    assert len({plan.mix(0, draw).clips for draw in range(20)}) == 20


def test_only_the_split_and_its_instruments() -> None:
    manifest = make_manifest(EVEN)
    clips = tuple(replace(clip, split="val" if index % 2 else "train") for index, clip in enumerate(manifest.clips))
    chosen = ("i00", "i01", "i02", "i04")
    plan = plan_of(replace(manifest, clips=clips), instruments=chosen)
    used = {clip.clip for lane in range(4) for draw in range(50) for clip in plan.mix(lane, draw).clips}
    assert {clips[index].split for index in used} == {"train"}
    assert {clips[index].instrument for index in used} == set(chosen)


def test_alternates() -> None:
    manifest = make_manifest(UNEVEN)
    plan = plan_of(manifest)
    planned = plan.mix(2, 9).clips
    instruments = [manifest.clips[clip.clip].instrument for clip in planned]
    taken = set(instruments) - {instruments[1]}
    alternates = list(plan.alternates(2, 9, 1, taken))
    assert alternates == list(plan_of(manifest).alternates(2, 9, 1, taken))
    indices = [clip.clip for clip in alternates]
    assert len(set(indices)) == len(indices)
    assert planned[1].clip not in indices
    assert not {manifest.clips[index].instrument for index in indices} & taken
    same = [index for index in plan.window_clips(2, 9) if manifest.clips[index].instrument == instruments[1]]
    assert set(indices[: len(same) - 1]) == set(same) - {planned[1].clip}
    # in the end all clips whose instrument is free have been named
    free = [index for index, clip in enumerate(manifest.clips) if clip.instrument not in taken]
    assert set(indices) == set(free) - {planned[1].clip}
    other_slot = [clip.gain for clip in plan.alternates(2, 9, 2, taken)]
    assert not {clip.gain for clip in alternates[:5]} & set(other_slot[:5])


@pytest.mark.parametrize(
    ("weights", "most", "total"),
    [
        ([1, 1, 1, 1], 3, 12),
        ([40, 10, 6, 4], 15, 60),
        ([100, 1, 1], 5, 11),
        ([3, 3, 3, 3, 3], 3, 12),
        ([7, 2, 5], 9, 10),
    ],
)
def test_slots_are_split_in_proportion(weights: list[int], most: int, total: int) -> None:
    results = np.array([split_slots(np.array(weights), most, total, number) for number in np.linspace(0, 0.9999, 400)])
    assert (results.sum(axis=1) == total).all()
    assert results.max() <= most
    assert (results.max(axis=0) - results.min(axis=0)).max() <= 1
    is_open = results.mean(axis=0) < most - 1e-9
    shares = np.array(weights)[is_open] / np.array(weights)[is_open].sum()
    left = total - results.mean(axis=0)[~is_open].sum()
    assert np.allclose(results.mean(axis=0)[is_open], shares * left, atol=0.01)


class TestErrors:
    def test_too_few_instruments(self) -> None:
        with pytest.raises(
            ValueError, match=r"needs 4 different instruments.*num_mixtures.*has 3: i00, i01, i02; lower"
        ):
            plan_of(make_manifest([[9, 9, 9]]))

    def test_too_few_chosen_instruments(self) -> None:
        with pytest.raises(ValueError, match="has 2: i00, i03"):
            plan_of(make_manifest(EVEN), instruments=("i00", "i03"))

    def test_unknown_instrument(self) -> None:
        with pytest.raises(ValueError, match=r"data.instruments names 'i99'.*it has i00, i01, i02"):
            plan_of(make_manifest(EVEN), instruments=("i00", "i99"))

    def test_misspelt_instrument(self) -> None:
        with pytest.raises(ValueError, match=r"names 'I00'.*did you mean 'i00'"):
            plan_of(make_manifest(EVEN), instruments=("I00",))

    def test_empty_split(self) -> None:
        with pytest.raises(ValueError, match=r"no clips in the split 'train' \(clips: train 0, val 100, test 0\)"):
            plan_of(make_manifest(EVEN, split="val"))

    def test_clip_without_boxes(self) -> None:
        manifest = make_manifest(EVEN)
        clips = (replace(manifest.clips[0], num_boxes=0), *manifest.clips[1:])
        with pytest.raises(ValueError, match=r"clip s0c0 .* 0 boxes.*verify --fix"):
            plan_of(replace(manifest, clips=clips))


def test_published_size() -> None:
    # the published setting, on the default configuration: a step is planned without touching anything before it
    manifest = make_manifest(UNEVEN)
    plan = Plan(manifest, DataConfig(), AudioConfig(), seed=0, num_lanes=8)
    assert plan.draws_per_round == 32
    assert plan.mix(7, 99_999) == Plan(manifest, DataConfig(), AudioConfig(), seed=0, num_lanes=8).mix(7, 99_999)
