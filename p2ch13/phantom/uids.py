"""Series UIDs of phantoms."""

from __future__ import annotations

import uuid

UUID_ROOT = "2.25."  # the standard reserves it for UIDs that are made of UUIDs
UUID_VERSION = 5  # of names; other programs' are of random numbers (4) or the time (1)


def series_uid(seed: int, index: int) -> str:
    """Make a DICOM UID from a UUID."""
    return f"{UUID_ROOT}{uuid.uuid5(uuid.NAMESPACE_OID, f'chest phantom, seed {seed}, scan {index}').int}"


def is_phantom(uid: str) -> bool:
    """Tell a phantom by its series UID."""
    number = uid.removeprefix(UUID_ROOT)
    is_uuid = number != uid and number.isdecimal() and int(number) < 2**128
    return is_uuid and uuid.UUID(int=int(number)).version == UUID_VERSION
