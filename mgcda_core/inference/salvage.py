"""Messages of rosbag2 files that were cut off, as power loss leaves them: read from the front to the cut.

An intact reader needs the index at the end of the file, which such a file does not have. Source of the record layout:
the MCAP format specification, version 0.
"""

from __future__ import annotations

import sqlite3
import struct
import sys
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from urllib.parse import quote

MAGIC = b"\x89MCAP0\r\n"
Record = tuple[str, str, int, bytes]
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_SCHEMA, _CHANNEL, _MESSAGE, _CHUNK, _DATA_END = 0x03, 0x04, 0x05, 0x06, 0x0F


class Salvage:
    """Iterable of (topic, message type, time of receipt in ns, CDR bytes) of one .mcap or .db3 file.

    It never raises for damage; `whole` tells after the iteration whether the data section was complete.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.whole = False
        self._schemas: dict[int, str] = {}
        self._channels: dict[int, tuple[str, str]] = {}

    def __iter__(self) -> Iterator[Record]:
        if self.path.suffix.lower() == ".db3":
            yield from self._sqlite()
            return
        with self.path.open("rb") as file:
            if file.read(len(MAGIC)) == MAGIC:
                yield from self._mcap(file, self.path.stat().st_size)

    def _mcap(self, file: BinaryIO, size: int) -> Iterator[Record]:
        """Records up to `size` bytes; inside a chunk the same function reads the chunk's records."""
        while True:
            head = file.read(9)
            if len(head) < 9:
                return
            operation, length = struct.unpack("<BQ", head)
            content = file.read(min(length, size - file.tell()))  # a damaged length may claim exabytes
            if operation == _CHUNK:
                yield from self._chunk(content)
            if len(content) < length:
                return
            try:
                if operation == _SCHEMA:
                    (number,) = struct.unpack_from("<H", content)
                    self._schemas[number] = _text(content, 2)[0]
                elif operation == _CHANNEL:
                    number, schema = struct.unpack_from("<HH", content)
                    self._channels[number] = (_text(content, 4)[0], self._schemas.get(schema, ""))
                elif operation == _MESSAGE:
                    number, received = struct.unpack_from("<HxxxxQ", content)
                    if number in self._channels:
                        yield (*self._channels[number], received, _cdr(content[22:]))
                elif operation == _DATA_END:
                    self.whole = True
                    return
            except Exception:  # struct, Unicode, zstd: a damaged record, and what follows it cannot be trusted
                return

    def _chunk(self, content: bytes) -> Iterator[Record]:
        """Messages of a chunk; a compressed one is all or nothing, a plain one may end in the middle."""
        try:
            (crc,) = struct.unpack_from("<I", content, 24)
            compression, start = _text(content, 28)
            records = _decompress(content[start + 8 :], compression)
        except Exception:  # struct, lz4 and zstd each have errors of their own: nothing readable in here
            return
        if compression and crc and zlib.crc32(records) != crc:
            return
        yield from self._mcap(BytesIO(records), len(records))

    def _sqlite(self) -> Iterator[Record]:
        database = sqlite3.connect(f"file:{quote(str(self.path.absolute()))}?mode=ro&immutable=1", uri=True)
        try:
            # Without it SQLite refuses a file shorter than its header says before a single row is read.
            database.execute("PRAGMA writable_schema=ON")
            topics = {i: (name, kind) for i, name, kind in database.execute("SELECT id, name, type FROM topics")}
            rows = database.execute("SELECT topic_id, timestamp, data FROM messages ORDER BY id")
            for number, received, data in rows:
                if number in topics and isinstance(data, bytes):
                    yield (*topics[number], int(received), _cdr(data))
            self.whole = True
        except Exception:  # SQLite's errors, zstd's for a damaged message: the end of what is readable
            return
        finally:
            database.close()


def _text(content: bytes, start: int) -> tuple[str, int]:
    """Length-prefixed string at `start`, and where it ends."""
    (length,) = struct.unpack_from("<I", content, start)
    return content[start + 4 : start + 4 + length].decode(), start + 4 + length


def _cdr(data: bytes) -> bytes:
    """The message itself; rosbag2's compression mode "message" stores a zstd frame instead."""
    return _decompress(data, "zstd") if data.startswith(_ZSTD_MAGIC) else data


def _decompress(data: bytes, compression: str) -> bytes:
    if compression == "lz4":
        from lz4.frame import decompress

        return decompress(data)
    if compression == "zstd":
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        return zstd.decompress(data)
    return data
