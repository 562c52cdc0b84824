"""The verbs of `ialcms data` that turn videos into a prepared tree: clips."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from shards.cli_common import add_verb, positive, print_some
from shards.datasets import load_dataset
from shards.files import write_whole
from shards.video_lists import FORMATS, Listed, read_list

# What decodes videos and runs networks is imported when it is needed: the other verbs start without torch.


def add_clips(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "clips",
        "cut videos into clips of ten seconds: sound, and pictures at 8 per second",
        "Without --list, the videos are VIDEOS/<instrument>/<id>.mp4 (or webm, mkv, mov, avi). With it, they lie\n"
        "anywhere in the folder, named by their ids. Broken and missing videos are named in TREE/clips.json.",
        "ialcms data clips videos --list MUSIC_solo_videos.json --out data/music",
    )
    parser.add_argument("videos", type=Path, help="folder of videos")
    parser.add_argument("--out", type=Path, required=True, metavar="TREE", help="prepared tree, new or to go on with")
    parser.add_argument("--list", type=Path, help="MUSIC's JSON, VGGSound's CSV or AudioSet's CSV")
    parser.add_argument("--list-format", choices=FORMATS, help="(default: told from the file)")
    parser.add_argument("--dataset", help="YAML file or name of a data set with the 'labels' of VGGSound or AudioSet")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of a clip (default: %(default)s)")
    parser.add_argument(
        "--min-seconds", type=float, default=9.5, help="of a clip that a video must have (default: %(default)s)"
    )
    parser.add_argument("--fps", type=positive, default=8, help="pictures per second (default: %(default)s)")
    parser.add_argument("--sample-rate", type=positive, default=11_025, help="of the sounds (default: %(default)s)")
    parser.add_argument(
        "--longest-side", type=int, default=0, metavar="PIXELS", help="scale larger pictures down (default: keep them)"
    )
    parser.add_argument("--jpeg-quality", type=int, default=90, help="(default: %(default)s)")
    parser.set_defaults(func=_clips)


def _clips(args: argparse.Namespace) -> int:
    from shards.clips import REPORT_NAME, ClipOptions, cut_videos, videos_of_folders, videos_of_list

    options = ClipOptions(
        args.seconds, args.min_seconds, args.fps, args.sample_rate, args.longest_side, args.jpeg_quality
    )
    missing: list[Listed] = []
    test_videos: list[str] = []
    if args.list is None:
        videos = videos_of_folders(args.videos)
    else:
        labels = load_dataset(args.dataset).labels if args.dataset else {}
        listed = read_list(args.list, args.list_format, labels)
        videos, missing = videos_of_list(args.videos, listed.entries)
        test_videos = sorted({entry.video for entry in listed.entries if entry.split == "test"})
        print(f"{len(listed.entries)} entries in {args.list}, {len(videos)} videos found for them")
        if listed.num_other or listed.num_several:
            print(f"left out: {listed.num_other} of other labels, {listed.num_several} of several instruments")
    print_some("missing video", [f"{entry.instrument}/{entry.video}" for entry in missing])
    instruments = Counter(video.instrument for video in videos)
    print("videos: " + (", ".join(f"{name} {count}" for name, count in sorted(instruments.items())) or "none"))
    if args.dry_run:
        print(f"would cut them into {args.out}")
        return 0
    results = cut_videos(videos, args.out, options, args.jobs, missing)
    if test_videos:
        path = args.out / "test_videos.txt"
        write_whole(path, "".join(f"{video}\n" for video in test_videos).encode())
        print(f"the list's test videos are in {path}, for 'ialcms data index --test-videos'")
    named = [f"{result.instrument}/{result.video}: {result.problem}" for result in results if result.problem]
    print_some("video with a problem", named, f" (all in {args.out / REPORT_NAME})")
    print(f"{sum(len(result.clips) for result in results)} clips of {len(results)} videos in {args.out}")
    return 0
