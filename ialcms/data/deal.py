"""Dealing the clips of a window out to the draws of a round, so that every draw has clips of different instruments."""

from __future__ import annotations

import numpy as np

from ialcms.rng import permutation, uniforms


def deal(
    window: np.ndarray, instruments: np.ndarray, draws: int, clips_per_draw: int, balance: str, key: tuple[object, ...]
) -> np.ndarray:
    """Clips of every draw, (draws, clips_per_draw): a pure function of the arguments.

    window: clips, any numbers. instruments: code of each. balance: "clips" gives an instrument slots in proportion to
    its clips, "instruments" the same number to all; at most one in every draw either way. At least `clips_per_draw`
    instruments have to be there. An instrument uses each clip once before it uses one again.

    Sorted by instrument, the clips go to the draws one after the other, which puts those of an instrument in different
    draws. Then clips at random slots are exchanged where that leaves the instruments of both draws different.

    key: of the random numbers.
    """
    codes = np.unique(instruments)
    codes = codes[permutation(len(codes), *key, "instruments")]
    clips_of = [window[instruments == code] for code in codes]
    weights = np.array([len(clips) if balance == "clips" else 1 for clips in clips_of])
    quotas = split_slots(weights, draws, draws * clips_per_draw, number=float(uniforms(1, *key, "quotas")[0]))
    dealt: list[int] = []
    dealt_codes: list[int] = []
    for code, clips, quota in zip(codes.tolist(), clips_of, quotas.tolist()):
        dealt_codes += [code] * quota
        while quota > 0:
            order = permutation(len(clips), *key, "clips", code, quota)[:quota]
            dealt += clips[order].tolist()
            quota -= len(order)
    # slot p is in draw p % draws
    table = [dealt[draw::draws] for draw in range(draws)]
    table_codes = [dealt_codes[draw::draws] for draw in range(draws)]
    numbers = uniforms(8 * len(dealt), *key, "exchanges").reshape(-1, 4)
    for a, b, i, j in (numbers * [draws, draws, clips_per_draw, clips_per_draw]).astype(int).tolist():
        codes_a, codes_b = table_codes[a], table_codes[b]
        code_a, code_b = codes_a[i], codes_b[j]
        if code_a == code_b or (code_a not in codes_b and code_b not in codes_a):
            table[a][i], table[b][j] = table[b][j], table[a][i]
            codes_a[i], codes_b[j] = code_b, code_a
    return np.array(table)


def split_slots(weights: np.ndarray, most: int, total: int, number: float) -> np.ndarray:
    """Split `total` slots over instruments in proportion to `weights`, at most `most` each, in whole numbers.

    Shares that are not whole are rounded up or down by systematic sampling with `number` in [0, 1), so that the mean
    over rounds is the share itself. Whole arithmetic: the sum is exact.
    """
    assert len(weights) * most >= total
    slots = np.zeros(len(weights), dtype=np.int64)
    is_open = np.ones(len(weights), dtype=bool)
    left = total
    while True:
        over = is_open & (weights * left > most * weights[is_open].sum())
        if not over.any():
            break
        slots[over] = most
        is_open &= ~over
        left = total - int(slots.sum())
    if is_open.any():
        weight = int(weights[is_open].sum())
        edges = (np.concatenate([[0], np.cumsum(weights[is_open])]) * left + int(number * weight)) // weight
        slots[is_open] = np.diff(edges)
    return slots
