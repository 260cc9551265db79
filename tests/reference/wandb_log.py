"""Read the file of an offline W&B run: LevelDB's log format after a header of seven bytes, one protobuf a record."""

import struct
from pathlib import Path
from typing import Any

BLOCK = 32768
HEADER = struct.Struct("<IHB")  # checksum, length, kind: 1 whole, 2 first, 3 middle, 4 last


def read_records(file: Path) -> list[Any]:
    """Give the records of a run, in order."""
    from wandb.proto import wandb_internal_pb2

    content, place, parts, records = file.read_bytes(), 7, b"", []
    assert content[:4] == b":W&B"
    while place + HEADER.size <= len(content):
        left = BLOCK - place % BLOCK
        if left < HEADER.size:
            place += left
            continue
        _, length, kind = HEADER.unpack_from(content, place)
        if kind == 0:
            break
        parts += content[place + HEADER.size : place + HEADER.size + length]
        place += HEADER.size + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            records.append(record)
            parts = b""
    return records
