"""The type of a part of a configuration, for rooms that do not know `ml_collections`."""

from typing import Any, Protocol


# A protocol, because ConfigDict has no static fields: what a setting holds is known by those who read it.
class Section(Protocol):
    """Settings by attribute and by name, like an `ml_collections.ConfigDict`; each stage adds its own."""

    def __getattr__(self, name: str, /) -> Any: ...

    def __getitem__(self, name: str, /) -> Any: ...

    def __contains__(self, name: object, /) -> bool: ...

    def get(self, name: str, default: object = None, /) -> Any:
        """Return a setting, or `default` if it is missing."""
        ...
