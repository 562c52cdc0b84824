"""The verbs of `ialcms data` that turn videos into a prepared tree: clips, detect."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from ialcms.files import CLIPS_REPORT, write_whole
from ialcms.overwriting import refuse_overwriting
from shards.cli_common import add_verb, positive, print_some
from shards.datasets import load_dataset, read_video_list
from shards.video_lists import FORMATS, Listed, read_list, without_several

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
    from shards.clips import ClipOptions, check_videos, cut_videos, videos_of_folders, videos_of_list

    options = ClipOptions(
        args.seconds, args.min_seconds, args.fps, args.sample_rate, args.longest_side, args.jpeg_quality
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
    instruments = Counter(instrument for instrument, _ in {(video.instrument, video.name) for video in videos})
    print("videos: " + (", ".join(f"{name} {count}" for name, count in sorted(instruments.items())) or "none"))
    check_videos(videos, args.videos, args.out)
    if args.dry_run:
        print(f"would cut them into {args.out}")
        return 0
    results = cut_videos(videos, args.out, options, args.jobs, missing)
    if test_videos:
        path = args.out / "test_videos.txt"
        if path.is_file():  # of an earlier list
            test_videos = sorted(set(test_videos) | read_video_list(path))
        write_whole(path, "".join(f"{video}\n" for video in test_videos).encode())
        print(f"the list's test videos are in {path}, for 'ialcms data index --test-videos'")
    named = [f"{result.instrument}/{result.video}: {result.problem}" for result in results if result.problem]
    print_some("video with a problem", named, f" (all in {args.out / CLIPS_REPORT})")
    num_clips = sum(len(result.clips) for result in results)
    num_videos, num_named = (
        len({(result.instrument, result.video) for result in some})
        for some in (results, [result for result in results if result.problem])
    )
    print(
        f"{num_clips} clips of {num_videos} videos in {args.out}; {num_named} videos with a problem, "
        f"{len(missing)} missing (named in {args.out / CLIPS_REPORT})"
    )
    return 0


def add_detect(subparsers: Any) -> None:
    parser = add_verb(
        subparsers,
        "detect",
        "find objects in all frames of a tree, or train the detector that does (--train)",
        "Faster R-CNN. Detections go to TREE/solo_detect; clips that have some are left as they are. With --train,\n"
        "the detector learns boxes in the CSV form of Open Images and is written to --weights.",
        "ialcms data detect data/music --weights detector.pt --dataset music",
        "ialcms data detect --train boxes.csv --images images --weights detector.pt --init coco.pth --dataset music",
    )
    parser.add_argument("tree", type=Path, nargs="?", help="folder of the prepared tree, with frames")
    parser.add_argument("--weights", type=Path, required=True, help="file of the detector: read, or written by --train")
    parser.add_argument("--dataset", default="music", help="YAML file or name; its 'classes' (default: %(default)s)")
    parser.add_argument("--backbone", default="resnet50", help="resnet50, mobilenet or small (default: %(default)s)")
    parser.add_argument("--devices", default="auto", help="auto, cpu, or a list like cuda:0,cuda:1 (default: all GPUs)")
    parser.add_argument("--min-score", type=float, default=0.3, help="of boxes to be written (default: %(default)s)")
    parser.add_argument("--batch", type=positive, help="frames at a time (default: 16; in training 8)")
    training = parser.add_argument_group("training")
    training.add_argument("--train", type=Path, metavar="BOXES.CSV", help="with columns ImageID, LabelName, XMin, ...")
    training.add_argument("--images", type=Path, help="folder of <ImageID>.jpg or .png")
    training.add_argument("--class-names", type=Path, help="CSV of label ids and names, as Open Images has it")
    training.add_argument("--init", type=Path, help="weights to start from, as far as they fit")
    training.add_argument("--steps", type=positive, default=20_000, help="(default: %(default)s)")
    training.add_argument("--learning-rate", type=float, default=1e-4, help="(default: %(default)s)")
    training.add_argument(
        "--save-every", type=positive, default=500, metavar="STEPS", help="a killed run goes on from (%(default)s)"
    )
    training.add_argument("--seed", type=int, default=0)
    parser.set_defaults(func=_detect)


def _detect(args: argparse.Namespace) -> int:
    if args.train is not None:
        return _train(args)
    from shards.detect import DetectOptions, available_devices, clips_to_detect, detect_tree

    if args.tree is None:
        raise ValueError("name the tree to detect in, or train with --train and --images")
    options = DetectOptions(args.weights, args.backbone, _class_names(args.dataset), args.min_score, args.batch or 16)
    clips = clips_to_detect(args.tree)
    devices = available_devices(args.devices, args.jobs)
    waiting = sum(not clip.detections.is_file() for clip in clips)
    print(f"{len(clips)} clips, {waiting} of them without detections, on {', '.join(devices)}")
    if args.dry_run:
        return 0
    found = detect_tree(clips, args.tree, options, devices)
    print_some("clip with a problem", [f"{result.clip}: {result.problem}" for result in found if result.problem])
    print(
        f"{sum(result.num_boxes for result in found)} boxes in {len(found)} clips; "
        f"{len(clips) - len(found)} had detections already"
    )
    return 0


def _class_names(dataset: str) -> tuple[str, ...]:
    """Of the classes 1, 2, ... that a detector tells apart."""
    classes = load_dataset(dataset).classes
    if not classes or sorted(classes) != list(range(1, len(classes) + 1)):
        raise ValueError(
            f"data set '{dataset}' names the classes {', '.join(map(str, sorted(classes))) or 'none'}; a detector "
            "needs all of 1, 2, ... under 'classes' in the YAML file (--dataset)"
        )
    return tuple(classes[number] for number in sorted(classes))


def _train(args: argparse.Namespace) -> int:
    from shards.detect import available_devices
    from shards.detector_training import TrainingOptions, read_boxes, read_class_names, train_detector

    if args.images is None:
        raise ValueError("--train needs the folder of pictures, --images")
    if args.weights.is_dir():
        raise ValueError(f"--weights {args.weights} is a folder; name a file, like {args.weights / 'detector.pt'}")
    given = [path for path in (args.train, args.class_names, args.init, Path(args.dataset)) if path is not None]
    refuse_overwriting([args.weights], given, "name another file for --weights")
    classes = _class_names(args.dataset)
    names = read_class_names(args.class_names) if args.class_names else None
    examples, left_out = read_boxes(args.train, args.images, classes, names)
    counts = ", ".join(f"{count} {what}" for what, count in left_out.items() if count)
    print(f"{sum(len(e.labels) for e in examples)} boxes in {len(examples)} pictures; left out: {counts or 'nothing'}")
    if args.dry_run:
        return 0
    options = TrainingOptions(
        backbone=args.backbone,
        init=args.init,
        steps=args.steps,
        batch=args.batch or 8,
        learning_rate=args.learning_rate,
        seed=args.seed,
        save_every=args.save_every,
    )
    device = available_devices(args.devices, 1)[0]
    unreadable: set[Path] = set()
    train_detector(
        examples,
        classes,
        args.weights,
        options,
        device,
        args.jobs if args.jobs > 1 else 0,
        unreadable,
    )
    print_some("picture that cannot be decoded", sorted(map(str, unreadable)))
    print(f"detector written to {args.weights}")
    return 0
