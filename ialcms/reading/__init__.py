"""Reading what may be damaged or hostile: one module for each kind of file.

    text.py     JSON, YAML, plain text
    tar.py      members of a tar
    arrays.py   .npy
    sounds.py   sounds in shards
    tensors.py  files of torch.save

Every error of a parser is raised as `Unreadable`, whose message is the reason in one line; the caller adds the file's
name and the remedy. The sizes that a file claims are compared with its bytes before memory is allocated. Nothing in a
file is ever executed.
"""

from ialcms.reading.words import Unreadable, bare, one_line, printable, shown

__all__ = ["Unreadable", "bare", "one_line", "printable", "shown"]
