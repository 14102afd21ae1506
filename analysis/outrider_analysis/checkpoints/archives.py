"""Is an archive as ``torch.save`` wrote it? Every member's CRC-32, and every byte around the members.

``torch.save`` writes a zip with stored members; loading looks at neither the CRC-32 of a member nor the bytes around
it. Zip readers that do check CRCs pass over headers and padding, which in a small entry is most of it. Here every byte
has to be one that the format explains: members follow each other without a gap, what a local header says is what the
directory at the end says, padding is what torch pads with, and the end records agree.

In: a function that reads bytes of the file. Out: nothing, or ArchiveError. The content is passed on as it is read, in
order, so that a hash over the file costs no second read.

    ArchiveError       the archive is damaged; the message says where
    NoArchiveError     it is something else than a zip
    NoChecksumError    torch was told to write no CRC-32 (set_crc32_options); the structure is sound
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Read = Callable[[int, int], bytes]  # (offset in the file, length) -> exactly that many bytes
Seen = Callable[[bytes], object]

BLOCK_BYTES: Final = 4 * 1024 * 1024
DIRECTORY_BYTES_MAX: Final = 256 * 1024 * 1024
MEMBERS_MAX: Final = 1_000_000

_LOCAL: Final = struct.Struct("<4s5H3L2H")
_CENTRAL: Final = struct.Struct("<4s6H3L5H2L")
_END: Final = struct.Struct("<4s4H2LH")
_END64: Final = struct.Struct("<4sQ2H2L4Q")
_LOCATOR: Final = struct.Struct("<4sLQL")
_LOCAL_MARK: Final = b"PK\x03\x04"
_DESCRIPTOR_MARK: Final = b"PK\x07\x08"
_FULL: Final = 0xFFFFFFFF
_DESCRIBED: Final = 0x08  # flag: CRC and sizes follow the content
_FLAGS: Final = {0x0000, 0x0008, 0x0800, 0x0808}
_PAD: Final = b"FB"  # torch aligns the content of a member with an extra field of this kind, filled with Z


class ArchiveError(ValueError):
    """The archive is not as torch.save wrote it."""


class NoArchiveError(ArchiveError):
    """There is no archive at all."""


class NoChecksumError(ArchiveError):
    """Sound, and without a CRC-32 to check its contents by."""


@dataclass(frozen=True)
class _Member:
    """A member as the directory describes it. ``fields``: version, flags, method, time, date."""

    name: bytes
    fields: tuple[int, ...]
    crc: int
    size: int
    header: int  # offset of its local header within the archive


def check(read: Read, start: int, length: int, seen: Seen) -> None:
    """The archive at bytes ``start`` to ``start + length``. ``seen`` is given those bytes once, in order."""
    members, directory, plain = _directory(read, start, length)
    position = 0
    for member in members:
        if member.header != position:
            raise ArchiveError(f"byte {min(position, member.header)} is in no member or in two")
        try:
            position = _member(read, start, member, directory, seen, plain)
        except _ShortError as error:
            raise ArchiveError(f"{_shown(member.name)} runs into the directory") from error
    if position != directory:
        raise ArchiveError(f"bytes {position} to {directory} are in no member")
    seen(read(start + directory, length - directory))
    if plain:
        raise NoChecksumError("carries no checksums")


class _ShortError(Exception):
    """A member does not fit in front of the directory."""


def _directory(read: Read, start: int, length: int) -> tuple[list[_Member], int, bool]:
    """Members in the order of the directory, where it begins, and whether all of them lack a CRC-32."""
    if length < _END.size or not _is_archive(read, start, length):
        raise NoArchiveError("is no archive")
    at, size, count = _ends(read, start, length)
    if size > DIRECTORY_BYTES_MAX or count > MEMBERS_MAX:
        raise ArchiveError(f"claims {count} members in a directory of {size} bytes")
    data = read(start + at, size)
    members: list[_Member] = []
    place = 0
    while place < size:
        member, place = _described(data, place)
        members.append(member)
    if len(members) != count:
        raise ArchiveError(f"lists {len(members)} members and claims {count}")
    names = {member.name for member in members}
    if len(names) != len(members):
        raise ArchiveError("lists a member twice")
    plain = not any(member.crc for member in members) and any(member.size for member in members)
    return members, at, plain


def _is_archive(read: Read, start: int, length: int) -> bool:
    """A damaged archive has one of its two ends left; what has neither is something else."""
    return read(start, 4) == _LOCAL_MARK or read(start + length - _END.size, 4) == b"PK\x05\x06"


def _ends(read: Read, start: int, length: int) -> tuple[int, int, int]:
    """Offset and size of the directory, and how many members it has, from the records at the end."""
    end = _END.unpack(read(start + length - _END.size, _END.size))
    mark, disk, disk2, here, count, size, at, comment = end
    if mark != b"PK\x05\x06" or disk or disk2 or comment or here != count:
        raise ArchiveError("its end record is damaged or missing")
    tail = length - _END.size
    before = read(start + tail - _LOCATOR.size, _LOCATOR.size) if tail >= _LOCATOR.size + _END64.size else b""
    if before[:4] == b"PK\x06\x07":
        place, found = _end64(read, start, tail, before)
        for short, long, full in ((count, found[0], 0xFFFF), (size, found[1], _FULL), (at, found[2], _FULL)):
            if short not in (long, full):
                raise ArchiveError("its two end records disagree")
        count, size, at, tail = *found, place
    if at + size != tail:
        raise ArchiveError(f"its directory ends at byte {at + size} and not at {tail}, where the end records begin")
    return at, size, count


def _end64(read: Read, start: int, tail: int, locator: bytes) -> tuple[int, tuple[int, int, int]]:
    _, disk, place, disks = _LOCATOR.unpack(locator)
    if disk or disks != 1 or place != tail - _LOCATOR.size - _END64.size:
        raise ArchiveError("its locator is damaged")
    mark, size_of, made, needed, here, there, count_here, count, size, at = _END64.unpack(
        read(start + place, _END64.size)
    )
    sound = mark == b"PK\x06\x06" and size_of == _END64.size - 12 and not here and not there and count_here == count
    if not sound or (made, needed) != _VERSIONS:
        raise ArchiveError("its long end record is damaged")
    return place, (count, size, at)


_VERSIONS: Final = (0x031E, 0x002D)  # what the writer within torch says of itself


def _described(data: bytes, place: int) -> tuple[_Member, int]:
    if place + _CENTRAL.size > len(data):
        raise ArchiveError("its directory is cut short")
    mark, made, version, flags, method, time, date, crc, packed, size, *rest = _CENTRAL.unpack_from(data, place)
    name_size, extra_size, comment, disk, internal, external, header = rest
    name_at = place + _CENTRAL.size
    following = name_at + name_size + extra_size
    if mark != b"PK\x01\x02" or following > len(data) or made or comment or disk or internal or external:
        raise ArchiveError(f"its directory is damaged near byte {place}")
    name = data[name_at : name_at + name_size]
    if method != 0:
        raise ArchiveError(f"{_shown(name)} is compressed, which torch.save never does")
    if flags not in _FLAGS:
        raise ArchiveError(f"{_shown(name)} has flags {flags:#x}")
    extra = data[name_at + name_size : following]
    size, packed, header = _long(extra, size, packed, header)
    if packed != size:
        raise ArchiveError(f"{_shown(name)} has two sizes")
    return _Member(name, (version, flags, method, time, date), crc, size, header), following


def _long(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Sizes and offset that need more than 32 bits stand in an extra field, those alone, in this order."""
    if not extra:
        return size, packed, header
    values = [size, packed, header]
    wanted = [place for place, value in enumerate(values) if value == _FULL]
    kind, length = struct.unpack_from("<2H", extra) if len(extra) >= 4 else (0, 0)
    held = wanted if length == 8 * len(wanted) else [0, 1, 2]
    if kind != 1 or length != len(extra) - 4 or length != 8 * len(held):
        raise ArchiveError("its directory has an unknown extra field")
    for place, value in zip(held, struct.unpack_from(f"<{len(held)}Q", extra, 4), strict=True):
        if values[place] not in (_FULL, value):
            raise ArchiveError("its directory has two sizes of a member")
        values[place] = value
    return values[0], values[1], values[2]


def _member(read: Read, start: int, member: _Member, limit: int, seen: Seen, plain: bool) -> int:
    """Check one member and return where it ends within the archive."""

    def take(at: int, size: int) -> bytes:
        if size > limit - at:
            raise _ShortError
        found = read(start + at, size)
        seen(found)
        return found

    place = member.header
    mark, version, flags, method, time, date, crc, packed, size, name_size, extra_size = _LOCAL.unpack(
        take(place, _LOCAL.size)
    )
    place += _LOCAL.size
    about = take(place, name_size + extra_size)
    place += len(about)
    same = (version, flags, method, time, date) == member.fields and about[:name_size] == member.name
    if mark != _LOCAL_MARK or not same:
        raise ArchiveError(f"the header of {_shown(member.name)} is not what the directory says")
    long = _padding(about[name_size:], member)
    told = {(0, 0, 0), (0, _FULL, _FULL)} if flags & _DESCRIBED else {(member.crc, member.size, member.size)}
    if (crc, packed, size) not in told:
        raise ArchiveError(f"the header of {_shown(member.name)} has another size or checksum")
    place, found = _content(take, place, member.size)
    if found != member.crc and not plain:
        raise ArchiveError(f"{_shown(member.name)} has checksum {found:08x}, it was written with {member.crc:08x}")
    return _descriptor(take, place, member, long) if flags & _DESCRIBED else place


def _content(take: Callable[[int, int], bytes], place: int, size: int) -> tuple[int, int]:
    crc = 0
    end = place + size
    while place < end:
        block = take(place, min(BLOCK_BYTES, end - place))
        crc = zlib.crc32(block, crc)
        place += len(block)
    return end, crc


def _padding(extra: bytes, member: _Member) -> bool:
    """Whether the header has a place for long sizes. Raises ArchiveError for padding that torch did not write."""
    long = False
    place = 0
    while place < len(extra):
        if place + 4 > len(extra):
            raise ArchiveError(f"the header of {_shown(member.name)} is cut short")
        kind, length = extra[place : place + 2], int.from_bytes(extra[place + 2 : place + 4], "little")
        content = extra[place + 4 : place + 4 + length]
        place += 4 + length
        if place > len(extra):
            raise ArchiveError(f"the header of {_shown(member.name)} is cut short")
        if (
            kind == b"\x01\x00"
            and not long
            and set(struct.unpack(f"<{length // 8}Q", content[: length // 8 * 8]))
            <= {
                0,
                member.size,
                member.header,
            }
        ):
            long = True
        elif kind != _PAD or content.strip(b"Z"):
            raise ArchiveError(f"the padding of {_shown(member.name)} is damaged")
    return long


def _descriptor(take: Callable[[int, int], bytes], place: int, member: _Member, long: bool) -> int:
    """What follows the content: mark, CRC-32, and twice the size, as long numbers where the header has them."""
    form = "<4sL2Q" if long else "<4s3L"
    size = struct.calcsize(form)
    if struct.unpack(form, take(place, size)) != (_DESCRIPTOR_MARK, member.crc, member.size, member.size):
        raise ArchiveError(f"the record after {_shown(member.name)} is damaged")
    return place + size


def _shown(name: bytes) -> str:
    return name[:100].decode("utf-8", "backslashreplace").encode("unicode_escape").decode("ascii")
