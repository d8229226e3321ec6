"""Types for updates of a resource: the check of its version and the function that gives the new members."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

Resource = TypeVar("Resource")

VersionCheck: TypeAlias = Callable[[int | None], None]
"""Called with the current version of the resource, or None if there is no resource. Raises PreconditionFailed, or
NotFound, if the caller expects another version.
"""

Changes: TypeAlias = Callable[[Resource], dict[str, Any]]
"""Called with the current resource; returns the validated new members. Use it as `Changes[User]`."""


def any_version(version: int | None) -> None:
    """A VersionCheck that accepts every version."""
