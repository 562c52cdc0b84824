"""Members of a tar: plain (ustar), GNU's long names, and pax headers with names and sizes.

Python's tarfile follows links, trusts sizes and meets hostile headers with whatever error comes; this reader knows what
shards can hold, and holds every size against the bytes that are there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ialcms.reading.words import Unreadable, shown

BLOCK = 512
_FILES, _LINKS = b"0\0007", b"12"
_LONG_NAME, _LONG_LINK, _PAX, _PAX_FOR_ALL = b"L", b"K", b"x", b"g"
_LONGEST_HEADER = 1 << 20  # bytes of a long name or of pax records

Read = Callable[[int, int], "bytes | memoryview"]  # (offset, length) -> at most so many bytes


@dataclass(frozen=True)
class Member:
    """A member of a tar, by its header; offsets and sizes in bytes."""

    name: str
    kind: str  # file, folder, link or other
    offset: int  # of the first header that belongs to it
    data: int  # offset of its content
    size: int  # of its content

    @property
    def end(self) -> int:
        """Offset of what comes after it, padding included."""
        return self.data + -(-self.size // BLOCK) * BLOCK


def members_of(raw: bytes | memoryview) -> Iterator[Member]:
    """Members of a tar, or a part of one, in memory."""
    return iter_members(lambda offset, length: raw[offset : offset + length], 0, len(raw))


def iter_members(read: Read, start: int, end: int) -> Iterator[Member]:
    """Members in the bytes from `start` to `end`, up to an empty block (the mark of a tar's end) or to `end`.

    Raises Unreadable for a header that is none, and for one that claims more bytes than there are.
    """
    offset = first = start
    name: str | None = None
    size: int | None = None
    while offset < end:
        header = bytes(read(offset, BLOCK)) if offset + BLOCK <= end else b""
        if len(header) < BLOCK:
            raise Unreadable(f"it breaks off at byte {offset}, in a header")
        if header[0] == 0 and not header.strip(b"\0"):
            if offset != first:
                raise Unreadable(f"a header at byte {first} belongs to no member")
            return
        _check_sum(header, offset)
        kind, data = header[156:157], offset + BLOCK
        extends = kind in (_LONG_NAME, _LONG_LINK, _PAX, _PAX_FOR_ALL)
        content = _number(header[124:136], offset) if extends or size is None else size
        if kind in _LINKS + b"3456":
            content = 0
        found = Member(name or _name(header), _kind(kind, header), first, data=data, size=content)
        if found.size > end - data:
            raise Unreadable(f"'{found.name}' at byte {offset} claims {shown(found.size)} bytes, {end - data} are left")
        offset = found.end
        if not extends:
            yield found
            first, name, size = offset, None, None
            continue
        if found.size > _LONGEST_HEADER:
            raise Unreadable(f"a header of {found.size} bytes at byte {found.offset}")
        text = bytes(read(data, found.size))
        if kind == _LONG_NAME:
            name = text.rstrip(b"\0").decode("utf-8", "surrogateescape")
        elif kind == _PAX:
            records = _pax_records(text, found.offset)
            name = records.get("path", name)
            size = _pax_size(records, found.offset) if "size" in records else size
    if first != offset:
        raise Unreadable(f"a header at byte {first} belongs to no member")


def _check_sum(header: bytes, offset: int) -> None:
    """The sum of a header's bytes, its own field read as spaces; some old programs added signed bytes."""
    total = sum(header) - sum(header[148:156]) + 8 * 32
    signed = total - 256 * sum(byte > 127 for byte in header[:148] + header[156:])
    if _number(header[148:156], offset) not in (total, signed):
        raise Unreadable(f"no header of a tar at byte {offset}")


def _number(field: bytes, offset: int) -> int:
    """Octal digits, or base 256 where the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(bytes([field[0] & 0x7F]) + field[1:], "big")
        if field[0] == 0xFF or value >= 1 << 63:
            raise Unreadable(f"a header at byte {offset} has an impossible size")
        return value
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise Unreadable(f"no header of a tar at byte {offset}")
    return int(digits or b"0", 8)


def _name(header: bytes) -> str:
    name, prefix = header[:100].partition(b"\0")[0], header[345:500].partition(b"\0")[0]
    if prefix and header[257:265] == b"ustar\x0000":  # GNU's own format has times there
        name = prefix + b"/" + name
    return name.decode("utf-8", "surrogateescape")


def _kind(kind: bytes, header: bytes) -> str:
    if kind in _LINKS:
        return "link"
    if kind == b"5" or (kind == b"\0" and header[:100].partition(b"\0")[0].endswith(b"/")):
        return "folder"
    return "file" if kind in _FILES else "other"


def _pax_records(text: bytes, offset: int) -> dict[str, str]:
    """'<length> <key>=<value>\\n' one after the other."""
    records, position = {}, 0
    while position < len(text) and text[position]:
        digits, space, _ = text[position : position + 20].partition(b" ")
        length = int(digits) if space and digits.isdigit() else 0
        record = text[position + len(digits) + 1 : position + length]
        key, equals, value = record[:-1].partition(b"=")
        if not equals or record[-1:] != b"\n" or position + length > len(text):
            raise Unreadable(f"damaged pax records at byte {offset}")
        if key.startswith(b"GNU.sparse"):
            raise Unreadable(f"a sparse file at byte {offset}; pack it without 'tar --sparse'")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "surrogateescape")
        position += length
    return records


def _pax_size(records: dict[str, str], offset: int) -> int:
    text = records["size"]
    if not (text.isascii() and text.isdigit() and len(text) < 20):
        raise Unreadable(f"pax records at byte {offset} claim a size of {shown(text)}")
    return int(text)
