"""Sounds of a prepared tree: every sample format comes out right, what cannot be right is refused and named."""

from __future__ import annotations

import io
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ialcms.reading.sounds import parse_sound
from shards.waves import read_sound, read_wave

RATE = 11_025
WAVE = 0.5 * np.sin(np.arange(RATE) * 0.2)


def written(path: Path, wave: np.ndarray, subtype: str, kind: str = "WAV") -> Path:
    soundfile.write(path, wave, RATE, format=kind, subtype=subtype)
    return path


def with_data_size(content: bytes, size: int) -> bytes:
    at = content.index(b"data") + 4
    return content[:at] + struct.pack("<I", size) + content[at + 4 :]


@pytest.mark.parametrize(
    ("kind", "subtype", "tolerance"),
    [
        ("WAV", "PCM_U8", 2 / 256),
        ("WAV", "PCM_16", 2 / 65_536),
        ("WAV", "PCM_24", 2 / 65_536),
        ("WAV", "PCM_32", 2 / 65_536),
        ("WAV", "FLOAT", 2 / 65_536),
        ("WAV", "DOUBLE", 2 / 65_536),
        ("WAV", "ULAW", 0.02),
        ("WAVEX", "PCM_24", 2 / 65_536),
        ("RF64", "FLOAT", 2 / 65_536),
        ("FLAC", "PCM_S8", 2 / 256),
        ("FLAC", "PCM_24", 2 / 65_536),
    ],
)
def test_every_sample_format(tmp_path: Path, kind: str, subtype: str, tolerance: float) -> None:
    wave = read_wave(written(tmp_path / "a.wav", np.stack([WAVE, WAVE], 1), subtype, kind), RATE)
    np.testing.assert_allclose(wave / 32_768, WAVE, atol=tolerance)


@pytest.mark.parametrize("scale", [32_768.0, 8_388_608.0, 2.0**31, 10.0])
@pytest.mark.parametrize("subtype", ["FLOAT", "DOUBLE"])
def test_whole_numbers_stored_as_floats(tmp_path: Path, scale: float, subtype: str) -> None:
    path = written(tmp_path / "a.wav", (WAVE * scale).astype(np.float64), subtype)
    with pytest.raises(ValueError, match=r"up to 10+(,000)* times full scale.*whole numbers stored as floats"):
        read_wave(path, RATE)


def test_what_is_cut_off_at_full_scale_is_counted(tmp_path: Path) -> None:
    sound = read_sound(written(tmp_path / "a.wav", 4 * WAVE, "FLOAT"), RATE)
    count = int((np.abs(4 * WAVE) > 1).sum())
    assert sound.clipped == f"{count} of {RATE} samples beyond full scale are cut off (peak 2.00)"
    assert sound.wave.max() == 32_767
    assert read_sound(written(tmp_path / "b.wav", 2.04 * WAVE, "FLOAT"), RATE).clipped is None  # a lossy codec's


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW"])
@pytest.mark.parametrize("kind", ["WAV", "WAVEX", "RF64"])
def test_a_wav_that_is_cut_off(tmp_path: Path, kind: str, subtype: str) -> None:
    whole = written(tmp_path / "a.wav", WAVE, subtype, kind).read_bytes()
    for length in (len(whole) // 2, len(whole) - 200):
        (tmp_path / "a.wav").write_bytes(whole[:length])
        with pytest.raises(ValueError, match="sound is cut off"):
            read_wave(tmp_path / "a.wav", RATE)
    (tmp_path / "a.wav").write_bytes(whole + b"LIST\4\0\0\0INFO")
    assert len(read_wave(tmp_path / "a.wav", RATE)) == RATE


@pytest.mark.parametrize("size", [0xFFFF_FFFF, 0x7FFF_FFFF, 0x7FFF_F000])
def test_a_wav_written_to_a_pipe(tmp_path: Path, size: int) -> None:
    whole = written(tmp_path / "a.wav", WAVE, "PCM_16").read_bytes()
    (tmp_path / "a.wav").write_bytes(with_data_size(whole, size))
    assert len(read_wave(tmp_path / "a.wav", RATE)) == RATE


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flac_that_is_cut_off(tmp_path: Path, share: float) -> None:
    whole = written(tmp_path / "a.flac", WAVE, "PCM_16", "FLAC").read_bytes()
    (tmp_path / "a.flac").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"sound (cannot be decoded|is cut off)"):
        read_wave(tmp_path / "a.flac", RATE)


@pytest.mark.parametrize("claimed", [len(WAVE) + 1, 1 << 35])
def test_a_flac_of_a_claimed_length(tmp_path: Path, claimed: int) -> None:
    """Memory for what the header claims would be a quarter of a terabyte."""
    whole = bytearray(written(tmp_path / "a.flac", WAVE, "PCM_16", "FLAC").read_bytes())
    head = int.from_bytes(whole[18:26], "big") >> 36 << 36
    whole[18:26] = (head | claimed).to_bytes(8, "big")
    (tmp_path / "a.flac").write_bytes(whole)
    with pytest.raises(ValueError, match=r"sound (cannot be decoded|is cut off)"):
        read_wave(tmp_path / "a.flac", RATE)


def test_channels_that_cancel_each_other(tmp_path: Path) -> None:
    path = written(tmp_path / "a.wav", np.stack([WAVE, -WAVE], 1), "PCM_16")
    with pytest.raises(ValueError, match="channels cancel each other; invert one"):
        read_wave(path, RATE)
    with pytest.raises(ValueError, match="sound is silent"):
        read_wave(written(tmp_path / "b.wav", 0 * WAVE, "PCM_16"), RATE)


def test_a_name_that_is_no_utf8(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    soundfile.write(buffer, WAVE, RATE, format="WAV", subtype="PCM_16")
    path = tmp_path / os.fsdecode(b"caf\xe9.wav")
    path.write_bytes(buffer.getvalue())
    assert len(read_wave(path, RATE)) == RATE
    assert re.fullmatch(r"caf\udce9\.wav", path.name)


def without_length(content: bytes) -> bytes:
    """FLAC as programs write it to a pipe: its header has no number of samples."""
    changed = bytearray(content)
    changed[21] &= 0xF0  # the number's first bits; it ends with the next four bytes
    changed[22:26] = bytes(4)
    return bytes(changed)


@pytest.mark.parametrize(("subtype", "tolerance"), [("PCM_16", 1 / 65_536), ("PCM_24", 2 / 65_536)])
def test_flac_without_a_length(tmp_path: Path, subtype: str, tolerance: float) -> None:
    path = written(tmp_path / "a: %d.flac", np.stack([WAVE, WAVE], 1), subtype, "FLAC")
    path.write_bytes(without_length(path.read_bytes()))
    np.testing.assert_allclose(read_wave(path, RATE) / 32_768, WAVE, atol=tolerance)
    part = parse_sound(path.read_bytes(), 100, 50)
    assert (part.num_samples, part.num_channels, part.sample_rate) == (len(WAVE), 2, RATE)
    scale = 32_768 if subtype == "PCM_16" else 1
    np.testing.assert_allclose(part.wave[:, 0] / scale, WAVE[100:150], atol=tolerance)
    path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"^it has no sound|Invalid data|sound cannot be decoded"):
        read_wave(path, RATE)
