"""Readers of files that may be damaged or hostile: whole ones come out right, others in one line."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ialcms.reading import Unreadable, bare, one_line, printable, shown
from ialcms.reading.arrays import parse_array, read_array
from ialcms.reading.sounds import parse_sound
from ialcms.reading.tar import members_of
from ialcms.reading.text import parse_json, parse_yaml


def tar(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


class TestTar:
    @pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
    def test_the_same_members_as_pythons_own_reader(self, form: int) -> None:
        names = ["a.flac", "folder/" * 20 + "b.npy", "ü.jpg", "e", "y" * 90 + "/" + "z" * 60]
        names += [] if form == tarfile.USTAR_FORMAT else ["x" * 99 + ".json"]
        raw = tar(*((member(name), bytes(range(n * 40 % 256)) * n) for n, name in enumerate(names)), form=form)
        with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
            expected = [(item.name, item.offset_data, item.size) for item in archive]
        found = list(members_of(raw))
        assert [(item.name, item.data, item.size) for item in found] == expected
        assert found[0].offset == 0
        assert [item.offset for item in found[1:]] == [item.end for item in found[:-1]]  # no byte without a member

    def test_kinds(self) -> None:
        kinds = {"5": "folder", "1": "link", "2": "link", "6": "other", "0": "file", "\0": "file"}
        raw = tar(*((member(f"m{n}", kind.encode(), "target"), b"") for n, kind in enumerate(kinds)))
        assert [item.kind for item in members_of(raw)] == list(kinds.values())

    @pytest.mark.parametrize(
        ("field", "message"),
        [
            (b"\x80" + b"\xff" * 11, "impossible size"),
            (b"\xff" * 12, "impossible size"),
            (b"\x80\0\0\0\x7f" + b"\xff" * 7, r"claims \d+ bytes, \d+ are left"),
            (b"77777777777\0", "claims 8589934591 bytes"),
            (b"99999999999\0", "no header of a tar"),
            (b"-0000000001\0", "no header of a tar"),
        ],
    )
    def test_sizes_that_cannot_be(self, field: bytes, message: str) -> None:
        raw = bytearray(tar((member("a.flac"), b"x" * 100)))
        raw[124:136] = field
        raw[148:156] = b" " * 8
        raw[148:156] = b"%06o\0 " % sum(raw[:512])
        with pytest.raises(Unreadable, match=message):
            list(members_of(bytes(raw)))

    @pytest.mark.parametrize("size", ["-1", str(2**64), "x", "1" * 5000, "٣"])
    def test_pax_sizes_that_cannot_be(self, size: str) -> None:
        info = member("a.flac")
        info.pax_headers = {"size": size}
        with pytest.raises(Unreadable, match="claim"):
            list(members_of(tar((info, b"x"), form=tarfile.PAX_FORMAT)))

    def test_damage(self) -> None:
        raw = tar((member("a.flac"), b"x" * 1_000), (member("b.npy"), b"y" * 100))
        for broken, message in (
            (raw[:700], "claims 1000 bytes"),
            (raw[: 512 + 1024 + 200], "breaks off at byte 1536, in a header"),
            (b"?" * 1_024, "no header of a tar at byte 0"),
            (raw[:10] + b"!" + raw[11:], "no header of a tar at byte 0"),
        ):
            with pytest.raises(Unreadable, match=message):
                list(members_of(broken))


class TestArrays:
    @pytest.mark.parametrize("array", [np.zeros((0, 7), "f4"), np.arange(14.0).reshape(2, 7), np.float16([[1, 2]]),
                                       np.asfortranarray(np.arange(6).reshape(2, 3)), np.array(3)])  # fmt: skip
    @pytest.mark.parametrize("version", [(1, 0), (2, 0), None])
    def test_the_same_as_numpys_own_reader(self, array: np.ndarray, version: Any, tmp_path: Path) -> None:
        file = io.BytesIO()
        np.lib.format.write_array(file, array, version)
        found = parse_array(file.getvalue())
        assert np.array_equal(found, array)
        assert found.dtype == array.dtype
        (tmp_path / "a.npy").write_bytes(file.getvalue())
        assert np.array_equal(read_array(tmp_path / "a.npy"), array)

    @pytest.mark.parametrize(
        ("header", "message"),
        [
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000, 7)}", "claims float32 .*10{12}, 7"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (-1, 7)}", "impossible shape"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (%s, 7)}" % (10**30), "impossible shape"),
            ("{'descr': '|O', 'fortran_order': False, 'shape': (1, 7)}", "pickled objects, which are not read"),
            ("{'descr': 'V999999999', 'fortran_order': False, 'shape': (1, 7)}", "only 64 bytes follow"),
            ("{'descr': '<f4', 'fortran_order': False, 'shape': (1, 7)", ""),
            ("{'descr': '<f4'}", ""),
            ("[" * 5_000, ""),
            ("__import__('os').system('true')", ""),
        ],
    )
    def test_headers_that_lie(self, header: str, message: str) -> None:
        text = header.encode() + b"\n"
        raw = b"\x93NUMPY\x01\0" + len(text).to_bytes(2, "little") + text + bytes(64)
        with pytest.raises(Unreadable, match=message) as raised:
            parse_array(raw)
        assert "\n" not in str(raised.value)


def flac(samples: int) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, 0.5 * np.sin(np.arange(samples) * 0.1), 8_000, format="FLAC")
    return file.getvalue()


def test_sounds_in_parts_and_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = flac(5_000)
    whole, _ = soundfile.read(io.BytesIO(raw), dtype="int16", always_2d=True)
    monkeypatch.setattr("ialcms.reading.sounds._BLOCK", 700)
    for first, count in ((0, None), (0, 5_000), (3, 1_400), (4_990, 100), (0, 0), (5_000, 3)):
        found = parse_sound(raw, first, count)
        expected = whole[first:] if count is None else whole[first : first + count]
        assert np.array_equal(found.wave, expected)
        assert (found.num_samples, found.sample_rate, found.num_channels) == (5_000, 8_000, 1)


def test_a_sound_that_claims_more_than_it_has() -> None:
    raw = bytearray(flac(5_000))
    raw[21:26] = bytes([raw[21] | 0x0F]) + b"\xff" * 4
    try:
        found = parse_sound(bytes(raw))  # 2^36 - 1 samples, 137 GB
    except Unreadable:  # libsndfile looked for its end
        return
    assert found.num_samples == 2**36 - 1
    assert len(found.wave) <= 5_000


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "", "1" * 5_000, '{"a": 1} x', b"\xff\xfe", "nul"])
def test_json_that_is_none(text: str | bytes) -> None:
    with pytest.raises(Unreadable) as raised:
        parse_json(text)
    assert 0 < len(str(raised.value)) < 300


@pytest.mark.parametrize(
    "text",
    ["[" * 5_000, "a: [b", "a: 2024-13-45", "a: !!int ''", "!!python/object:os.system {}", "a: &x [*x]",
     "x: " + "9" * 5_000, "a: !!timestamp foo", "{[1]: 2}", b"a: \xff", "a: \0", "? ? ? [", "*a", "#" * (5 << 20),
     "\n".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else ['x'] * 9)}]" for n in range(9))],
)  # fmt: skip
def test_yaml_that_is_none(text: str | bytes) -> None:
    with pytest.raises(Unreadable) as raised:
        parse_yaml(text)
    assert "\n" not in str(raised.value)
    assert len(str(raised.value)) < 300


def test_words_are_short_and_plain() -> None:
    deep: Any = []
    for _ in range(2_000):
        deep = [deep]
    for value in (10**10_000, "x" * 10_000, deep, {n: "y" * 99 for n in range(999)}, b"z" * 9_999, "\x1b[2J\n"):
        for text in (shown(value), bare(value)):
            assert 0 < len(text) <= 400
            assert text.isprintable()
    assert one_line(ValueError("a\n  b\x1b[31m <x object at 0x7f0102>")) == "a b\\x1b[31m <x object>"
    assert one_line(ValueError()) == "ValueError"
    assert printable("é\t日本\n\x07\x9b\u202e\udcff") == "é\t日本\n\\x07\\x9b\\u202e\\udcff"
