"""What a change of a resource brings along: which version it expects, and the new members."""

from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

Resource = TypeVar("Resource")

VersionCheck: TypeAlias = Callable[[int | None], None]
"""Call it with the version of the resource, None where there is none; raises PreconditionFailed, or NotFound, when the
caller expects another one.
"""

Changes: TypeAlias = Callable[[Resource], dict[str, Any]]
"""Call it with the resource as it is; returns the validated members as they are to be. `Changes[User]`."""


def any_version(version: int | None) -> None:
    """A VersionCheck that accepts every version."""
