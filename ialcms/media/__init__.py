"""The one reader of media files, for separation (`ialcms.inference`) and for data sets (`shards`); H.264 to write.

    container.py    opening a file; its streams
    time_line.py    when things are: seconds since the beginning of the file, through jumps of the time stamps
    decode.py       packets -> frames with their times
    damage.py       what is missing in a stream
    mix.py          sound of any rate and layout, also one that changes on the way -> one or two channels at one rate
    sound.py        the sound of a file as pieces on the time line
    pictures.py     pictures as a player shows them: upright, mirrored, with square pixels
    h264.py         streams of H.264 for videos that we write

Times are seconds since the beginning of the file (the earliest time stamp of its streams). Both streams of a file have
one time line: what belongs together stays together.
"""
