"""Small images as Apptainer builds them (SIF): a header, a descriptor, and the metadata with the labels."""

from __future__ import annotations

import json
import struct

from talkies import __version__
from talkies.machine.container import GPUS_LABEL, VERSION_LABEL


def sif(labels: dict[str, str] | None) -> bytes:
    """Return an image with these labels."""
    data = json.dumps({"data": {"attributes": {"labels": labels}}, "type": "container"}).encode()
    start = 128 + 585
    header = struct.pack("<32s10s46x2q", b"#!/usr/bin/env run-singularity", b"SIF_MAGIC", 1, 128)
    descriptor = struct.pack("<i?12x2q40x128s384x", 0x4006, True, start, len(data), b"inspect-metadata.json")
    return header.ljust(128, b"\0") + descriptor + data


IMAGE = sif({VERSION_LABEL: __version__})
NO_GPUS = sif({VERSION_LABEL: __version__, GPUS_LABEL: "none"})
OTHER = sif({VERSION_LABEL: "9.9"})
