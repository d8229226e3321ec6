"""Ids: UUIDs in their text form."""

import hashlib
import re

from uuid_utils import uuid7

UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def new_id() -> str:
    """A UUIDv7 (RFC 9562): globally unique, and ordered by time."""
    return str(uuid7())


def example_id(name: str) -> str:
    """The id in OpenAPI examples for members of this name, such as `user_id`: always the same for one name."""
    digits = hashlib.sha256(name.encode()).hexdigest()
    return f"019c13a2-7c00-7{digits[:3]}-8{digits[3:6]}-{digits[6:18]}"
