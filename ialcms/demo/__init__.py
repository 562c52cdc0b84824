"""A data set made of nothing: eleven synthetic instruments that one can see and hear, in the layout of real data.

It lets everybody run data preparation, training and evaluation within minutes, without downloads or rights.

    instruments.py      the instruments in class order: family, range, habits of their players
    melody.py           notes, a player's style, melodies
    music.py            what is played: the notes of a clip, by family of instruments
    synthesis.py        how it sounds: a voice, notes -> clean wave
    room.py             where it is recorded: reverberation, microphone, noise
    canvas.py           colours, shapes and light for drawn pictures
    drawing.py          one picture per instrument; drawing_strings.py, drawing_winds.py and drawing_keys.py draw
    background.py       rooms, walls, stages, gardens
    scene.py            the look of a video: player, motion, frames and the exact boxes
    detections.py       what an object detector would report: jitter, misses, false alarms, confusions
    video.py            a video: one player in one room; its clips, in memory
    clip_files.py       the files of a clip, written so that whatever has its final name is whole
    dataset.py          the prepared tree on disk: `make_dataset`
    pipeline.py         demo data set -> shards -> training -> evaluation -> report

Everything is a pure function of (seed, instrument, video number, clip number): a clip has the same bytes whatever
the number of videos, of processes, or the order in which they run.
"""
