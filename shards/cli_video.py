"""The verb of `ialcms data` that cuts videos into the clips of a prepared tree: clips."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ialcms.files import CLIPS_REPORT, write_whole
from ialcms.overwriting import refuse_overwriting
from shards.cli_common import add_verb, positive, print_some
from shards.datasets import load_dataset, read_video_list
from shards.tree_dataset import record_dataset
from shards.video_lists import FORMATS, Listed, read_list, without_several

if TYPE_CHECKING:
    from shards.clips import VideoResult

# What decodes videos is imported when it is needed: the other verbs start without torch.


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
    parser.add_argument("--out", type=Path, required=True, metavar="TREE", help="prepared tree, new or to be continued")
    parser.add_argument("--list", type=Path, help="MUSIC's JSON, VGGSound's CSV or AudioSet's CSV")
    parser.add_argument("--list-format", choices=FORMATS, help="(default: guessed from the file)")
    parser.add_argument(
        "--dataset", help="YAML file or name of the tree's data set, which has the 'labels' of lists like VGGSound's"
    )
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
    from shards.clips import ClipOptions, check_videos, cut_videos, videos_of_folders, videos_of_list

    options = ClipOptions(
        seconds=args.seconds,
        min_seconds=args.min_seconds,
        frames_per_second=args.fps,
        sample_rate=args.sample_rate,
        longest_side=args.longest_side,
        jpeg_quality=args.jpeg_quality,
    )
    missing: list[Listed] = []
    test_videos: list[str] = []
    if args.list is not None:
        written = [args.out / CLIPS_REPORT, args.out / "test_videos.txt"]
        refuse_overwriting(written, [args.list], "give another folder with --out")
    if args.list is None:
        videos = videos_of_folders(args.videos)
    else:
        labels = load_dataset(args.dataset).labels if args.dataset else {}
        listed = read_list(args.list, args.list_format, labels)
        entries, several = without_several(listed.entries)
        print_some(
            "left out, as it is listed under several instruments",
            [f"{video} ({', '.join(names)})" for video, names in several.items()],
        )
        videos, missing = videos_of_list(args.videos, entries)
        test_videos = sorted({entry.video for entry in listed.entries if entry.split == "test"})
        found = len({(video.instrument, video.name) for video in videos})
        print(f"{len(listed.entries)} entries in {args.list}, {found} videos found for them")
        if listed.num_other or listed.num_several:
            print(f"left out: {listed.num_other} of other labels, {listed.num_several} of several instruments")
    print_some("missing video", [f"{entry.instrument}/{entry.video}" for entry in missing])
    distinct_videos = {(video.instrument, video.name) for video in videos}
    instruments = Counter(instrument for instrument, _ in distinct_videos)
    print("videos: " + (", ".join(f"{name} {count}" for name, count in sorted(instruments.items())) or "none"))
    check_videos(videos, args.videos, args.out)
    if args.dry_run:
        print(f"would cut them into {args.out}")
        return 0
    results = cut_videos(videos, args.out, options, jobs=args.jobs, missing=missing)
    if args.dataset is not None:
        record_dataset(args.out, args.dataset)
    if test_videos:
        path = args.out / "test_videos.txt"
        if path.is_file():  # of an earlier list
            test_videos = sorted(set(test_videos) | read_video_list(path))
        write_whole(path, "".join(f"{video}\n" for video in test_videos).encode())
        print(f"the list's test videos are in {path}, for 'ialcms data index --test-videos'")
    with_problem = [result for result in results if result.problem]
    named = [f"{result.instrument}/{result.video}: {result.problem}" for result in with_problem]
    print_some("video with a problem", named, f" (all in {args.out / CLIPS_REPORT})")
    num_clips = sum(len(result.clips) for result in results)
    print(
        f"{num_clips} clips of {_num_videos(results)} videos in {args.out}; "
        f"{_num_videos(with_problem)} videos with a problem, "
        f"{len(missing)} missing (named in {args.out / CLIPS_REPORT})"
    )
    return 0


def _num_videos(results: Sequence[VideoResult]) -> int:
    """A video may have several results, one per segment."""
    return len({(result.instrument, result.video) for result in results})
