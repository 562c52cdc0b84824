from __future__ import annotations

import json
from pathlib import Path

import pytest

from shards.datasets import load_dataset
from shards.video_lists import Listed, read_list, without_several


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_music(tmp_path: Path):
    videos = {"acoustic_guitar": ["a", "b", "a"], "flute violin": ["c"]}
    path = written(tmp_path / "m.json", json.dumps({"version": 1.0, "videos": videos}))
    assert read_list(path).entries == [
        Listed("a", "acoustic_guitar"),
        Listed("b", "acoustic_guitar"),
        Listed("c", "flute+violin"),
    ]


def test_vggsound(tmp_path: Path):
    text = (
        '---g-f_I2yQ,1,"playing violin, fiddle",test\n'
        "-0nqfRcnAYE,364,playing drum kit,train\n"
        "abc,30,people marching,train\n"
        "---g-f_I2yQ,21,playing trumpet,train\n"
    )
    found = read_list(written(tmp_path / "vggsound.csv", text), labels=load_dataset("vggsound").labels)
    assert found.entries == [
        Listed("---g-f_I2yQ", "violin", 1.0, "test"),
        Listed("-0nqfRcnAYE", "drum", 364.0, "train"),
        Listed("---g-f_I2yQ", "trumpet", 21.0, "train"),
    ]
    assert (found.num_other, found.num_several) == (1, 0)


def test_audioset(tmp_path: Path):
    text = (
        "# Segments csv created Sun Mar  5 10:54:31 2017\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        '--PJHxphWEs, 30.000, 40.000, "/m/09x0r,/t/dd00088"\n'
        '--aE2O5G5WE, 0.000, 10.000, "/m/03fwl,/m/07y_7,/m/04rlf"\n'
        '--aO5cdqSAg, 30.000, 40.000, "/m/07y_7,/m/05r5c"\n'
        '--b, 12.500, 22.500, "/m/0342h,/m/042v_gx"\n'
    )
    found = read_list(written(tmp_path / "segments.csv", text), labels=load_dataset("audioset").labels)
    assert found.entries == [Listed("--aE2O5G5WE", "violin", 0.0), Listed("--b", "guitar", 12.5)]
    assert (found.num_other, found.num_several) == (1, 1)


def test_data_sets_know_the_class_of_every_label():
    for name in ("vggsound", "audioset"):
        dataset = load_dataset(name)
        assert set(dataset.labels.values()) == set(dataset.instruments)
    assert len(load_dataset("music21").instruments) == 21


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[]", "is not of the form"),
        ("a.json", '{"videos": ["a"]}', "is not of the form"),
        ("a.json", "{", "is not of the form"),
        ("a.json", '{"videos": {"cello": ["../a"]}}', "'../a' cannot be the name of a file"),
        ("a.json", '{"videos": {"../cello": ["a"]}}', "'../cello' cannot be the name of a file"),
        ("a.csv", "id,1,label\n", "line 1: a row is id,start,label,split"),
        ("a.csv", "id,soon,label,test\n", "line 1: a row is id,start,label,split"),
        ("a.csv", "# YTID\nid, 1.0\n", "line 2: a row is id,start,end"),
        ("a.csv", "..,1,x,test\n", "cannot be the name of a file"),
        ("a.csv", "id,inf,x,test\n", "'id' starts at second inf; correct the list"),
        ("a.csv", "id,nan,x,test\n", "'id' starts at second nan; correct the list"),
        ("a.csv", "id,-3,x,test\n", "'id' starts at second -3.0; correct the list"),
    ],
)
def test_errors_name_the_line(tmp_path: Path, name: str, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        read_list(written(tmp_path / name, text), labels={"x": "x"})


@pytest.mark.parametrize(
    "head",
    [
        "id,start,label,split\n",
        "youtube_id,start_seconds,label,split\n",
        "\nYouTube ID, Start Seconds, Label, Split\n\n",
        "# YouTube ID, start seconds, label, train/test split.\n",
    ],
)
def test_a_header_of_vggsound(tmp_path: Path, head: str):
    path = written(tmp_path / "a.csv", f"{head}abc,3,x,test\n")
    assert read_list(path, labels={"x": "x"}).entries == [Listed("abc", "x", 3.0, "test")]
    path.write_text(f"abc,3,x,test\n{head}")
    if not head.startswith("#"):
        with pytest.raises(ValueError, match=r"line \d: a row is id,start,label,split with the start in seconds, not"):
            read_list(path, labels={"x": "x"})


@pytest.mark.parametrize(
    "head", ["YTID,start_seconds,end_seconds,positive_labels\n", "# made\n# YTID, start_seconds\n", ""]
)
def test_a_header_of_audioset(tmp_path: Path, head: str):
    path = written(tmp_path / "a.csv", f'{head}abc, 3.0, 13.0, "/m/1,x"\n')
    assert read_list(path, labels={"x": "x"}).entries == [Listed("abc", "x", 3.0)]


def test_an_id_in_two_classes():
    """Of whole videos, and of segments that begin in the same second."""
    entries = [
        Listed("a", "cello"), Listed("a", "violin"), Listed("b", "cello"), Listed("c", "cello", 1.2),
        Listed("c", "violin", 1.7), Listed("c", "horn", 30.0),
    ]  # fmt: skip
    kept, several = without_several(entries)
    assert kept == [Listed("b", "cello"), Listed("c", "horn", 30.0)]
    assert several == {"a": ["cello", "violin"], "c": ["cello", "violin"]}


def test_other_errors(tmp_path: Path):
    with pytest.raises(ValueError, match=r"none\.json does not exist"):
        read_list(tmp_path / "none.json")
    path = written(tmp_path / "a.csv", "id,1,x,test\n")
    with pytest.raises(ValueError, match="--dataset vggsound"):
        read_list(path)
    with pytest.raises(ValueError, match="--list-format 'vgg'"):
        read_list(path, "vgg", {"x": "x"})
