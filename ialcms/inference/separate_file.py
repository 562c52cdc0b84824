"""The whole job: a file and a trained run in, stems and videos out."""

from __future__ import annotations

import dataclasses
import json
import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch

from ialcms.config import Config
from ialcms.files import write_whole
from ialcms.inference.model import load_model
from ialcms.inference.objects import (
    Box,
    Click,
    SoundObject,
    detect_objects,
    frame_at,
    has_pictures,
    object_in_frame,
    object_of_picture,
    read_frames,
)
from ialcms.inference.overlay import still_frames, write_overlays
from ialcms.inference.sound import SoundInfo, StemWriter, measure_sound, read_blocks
from ialcms.inference.stems import ABOVE, StemMaker
from ialcms.lease import Lease
from ialcms.media.decode import Damage
from ialcms.media.pictures import Frame
from ialcms.models.arithmetic import set_arithmetic
from ialcms.names import cut_name
from ialcms.overwriting import refuse_overwriting
from ialcms.progress import Progress
from ialcms.reading.text import read_json

_RECORD = "separation.json"
_CLAIM = ".separating"  # the names of a separation that has not come to its end
_NAME_BYTES = 200  # of a stem's name; file systems take 255, and there are a number and endings
log = logging.getLogger("ialcms")


@dataclass(frozen=True)
class Separation:
    """What was written."""

    stems: tuple[Path, ...]  # WAV, 32-bit float, one per object
    remainder: Path  # what no object has: the original minus all stems
    videos: tuple[Path, ...]  # mp4, one per object


def separate_file(
    source: Path | str,
    checkpoint: Path | str,
    objects: Sequence[Box | Click] = (),
    *,
    pictures: Sequence[Path | str] = (),
    detector: Path | str | None = None,
    min_score: float = 0.9,
    out: Path | str = "separated",
    above: str = "share",
    videos: bool = True,
    batch_windows: int = 16,
    device: str | None = None,
) -> Separation:
    """Separate a video by objects in its frames, or any sound by pictures.

    checkpoint: a run's folder (its best one counts), a checkpoint's folder, or a file that `ialcms export` wrote.
    Say where the instruments are by one of: `objects` (boxes or clicks in a video), `detector` (weights of `ialcms data
    detect`; the surest box of each class from `min_score` on), `pictures` (one per instrument). above: what objects get
    above the network's highest frequency, their "share" of the octave below or nothing ("remainder"). batch_windows:
    how many pass the network together. device: like "cuda"; by default a GPU if there is one. Memory does not grow with
    the length. Raises ValueError with a remedy.
    """
    source, out = Path(source), Path(out)
    if above not in ABOVE:
        raise ValueError(f"above is '{above}'; choose {' or '.join(ABOVE)}")
    if out.exists() and not out.is_dir():
        raise ValueError(f"{out} is a file; give a folder for the stems (--out)")
    if batch_windows < 1:
        raise ValueError(f"batch_windows is {batch_windows}; give at least 1")
    model = load_model(checkpoint, device)
    set_arithmetic(model.config)
    config = dataclasses.replace(model.config, eval=dataclasses.replace(model.config.eval, batch_windows=batch_windows))
    damage = {"sound": Damage(), "pictures": Damage()}
    info = measure_sound(source, config.audio.sample_rate, damage["sound"])
    if damage["sound"]:
        log.warning("the sound of %s is not whole: %s (silence stands for what is missing)", source, damage["sound"])
    in_video = has_pictures(source)
    found = _find_objects(source, info, config, in_video, objects, pictures, detector, min_score, str(model.device))
    names = _names(found)
    stems = [out / f"{name}.wav" for name in names]
    remainder = out / "remainder.wav"
    given = [source, Path(checkpoint), *map(Path, pictures), *([Path(detector)] if detector else [])]
    shown = [out / f"{name}.mp4" for name in names] if videos else []
    refuse_overwriting([*stems, remainder, *shown, out / _RECORD], given, "give another folder for the stems (--out)")
    with Lease(out, "separation", "--out", name="the folder of stems"):
        ours = _recorded(out / _RECORD) | _recorded(out / _CLAIM)
        _refuse_foreign([*stems, remainder, *shown, out / _RECORD], ours)
        stacked = torch.stack([sounding.picture for sounding in found]).to(model.device)
        maker = StemMaker(model.separator, config, stacked, info, above)
        with ExitStack() as stack:
            writers = [stack.enter_context(StemWriter(path, info)) for path in (*stems, remainder)]
            bar = stack.enter_context(Progress(maker.num_windows, "separate", unit="window"))
            for done, pieces, original in maker(read_blocks(source, info)):
                for writer, piece in zip(writers, (*pieces, original - pieces.sum(0))):
                    writer.write(piece)
                bar.advance(done - bar.done)
            # before the stems have their names: if this run is killed behind here, they are known as ours
            claimed = [{"name": name} for name in sorted({*ours, *names})]
            write_whole(out / _CLAIM, json.dumps({"objects": claimed}))
        mp4s: list[Path] = []
        if videos:
            places = [sounding.place for sounding in found]
            frames = (
                still_frames(found, info.seconds) if None in places else read_frames(source, damage=damage["pictures"])
            )
            with Progress(None, "videos", unit="frame") as bar:
                mp4s = write_overlays(
                    out, list(zip(names, found, stems)), _counted(frames, bar), maker.localisation, info
                )
            if damage["pictures"]:
                log.warning("the pictures of %s are not whole: %s", source, damage["pictures"])
        _remove_earlier(out, {*given, *stems, remainder, *mp4s})
        _write_record(out, source, checkpoint, model.step, names, found, info, above, damage)
        (out / _CLAIM).unlink()
        return Separation(tuple(stems), remainder, tuple(mp4s))


def _counted(frames: Iterable[tuple[float, Frame]], bar: Progress) -> Iterator[tuple[float, Frame]]:
    for frame in frames:
        yield frame
        bar.advance()


def _find_objects(
    source: Path,
    info: SoundInfo,
    config: Config,
    in_video: bool,
    objects: Sequence[Box | Click],
    pictures: Sequence[Path | str],
    detector: Path | str | None,
    min_score: float,
    device: str,
) -> list[SoundObject]:
    given = [name for name, value in (("boxes or clicks", objects), ("pictures", pictures), ("a detector", detector))
             if value]  # fmt: skip
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} are given; one of them says where the instruments are")
    if pictures:
        return [object_of_picture(Path(path), config.data) for path in pictures]
    if not in_video:
        raise ValueError(
            f"{source} has no pictures, which guide the separator: give one per instrument with --pictures"
        )
    if not given:
        raise ValueError(
            f"say where the instruments are in {source}: --boxes or --click for each, or --detector WEIGHTS, or "
            "--pictures of them"
        )
    if detector:
        objects = detect_objects(source, Path(detector), info.seconds, min_score, device)
    return [object_in_frame(frame_at(source, box.at_s), box, config.data) for box in objects]


def _names(found: Sequence[SoundObject]) -> list[str]:
    """Names for files: numbered, so that no two are the same, and short enough for any file system."""
    clean = (re.sub(r"[^\w.-]+", "_", sounding.name).strip("._") or "object" for sounding in found)
    return [f"{number}-{cut_name(name, _NAME_BYTES)}" for number, name in enumerate(clean, start=1)]


def _refuse_foreign(written: Sequence[Path], ours: set[str]) -> None:
    """ValueError for a file of the user's that has the name of a result; those of an earlier one may be replaced."""
    foreign = [path for path in written if path.exists() and path.stem not in ours]
    if foreign and not (ours and foreign[0].name in ("remainder.wav", _RECORD)):
        raise ValueError(
            f"{foreign[0]} is there already, and no earlier separation wrote it; give another folder for the stems "
            "(--out)"
        )


def _recorded(path: Path) -> set[str]:
    """Names of stems in a record; none where there is none, or where it is somebody else's file."""
    try:
        return {str(entry["name"]) for entry in read_json(path)["objects"]}
    except (OSError, ValueError, KeyError, TypeError):
        return set()


def _remove_earlier(out: Path, kept: set[Path]) -> None:
    """Remove what an earlier separation into the same folder wrote, so that all files there belong together."""
    names = _recorded(out / _RECORD) | _recorded(out / _CLAIM)
    resolved = {path.resolve() for path in kept}
    for path in (out / f"{name}{ending}" for name in names for ending in (".wav", ".mp4")):
        if path.parent == out and path.resolve() not in resolved:
            path.unlink(missing_ok=True)


def _write_record(
    out: Path,
    source: Path,
    checkpoint: Path | str,
    step: int,
    names: Sequence[str],
    found: Sequence[SoundObject],
    info: SoundInfo,
    above: str,
    damage: dict[str, Damage],
) -> None:
    """separation.json: what was separated by what."""
    record = {
        "source": str(source),
        "checkpoint": str(checkpoint),
        "step": step,
        "sample_rate": info.sample_rate,
        "seconds": info.seconds,
        "above": above,
        "objects": [{"name": name, "place": sounding.place} for name, sounding in zip(names, found)],
        "damaged": {stream: dataclasses.asdict(found_there) for stream, found_there in damage.items()},
    }
    write_whole(out / _RECORD, json.dumps(record, indent=1) + "\n")
