"""Values as bytes for another process, without the large things in them that it gets once and keeps."""

from __future__ import annotations

import io
import pickle
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

MOST_KEPT_BYTES = 2**30
"""Of shared things that a process keeps beside those that it works with."""


class SharingPickler(pickle.Pickler):
    """Writes, in place of a shared thing, the key that `key_of` gives for it; `used` are the keys that were met."""

    def __init__(self, file: io.BytesIO, key_of: Callable[[Any], str | None]) -> None:
        super().__init__(file, pickle.HIGHEST_PROTOCOL)
        self.key_of, self.used = key_of, dict[str, None]()

    def persistent_id(self, value: Any) -> str | None:
        key = self.key_of(value)
        if key is not None:
            self.used[key] = None
        return key


class SharingUnpickler(pickle.Unpickler):
    """Reads such bytes; `thing_of` gives the thing behind a key."""

    def __init__(self, file: io.BytesIO, thing_of: Callable[[str], Any]) -> None:
        super().__init__(file)
        self.thing_of = thing_of

    def persistent_load(self, key: Any) -> Any:
        return self.thing_of(key)


def written(value: Any, key_of: Callable[[Any], str | None]) -> tuple[bytes, list[str]]:
    """Give a value as bytes, and the keys of the shared things in it."""
    file = io.BytesIO()
    pickler = SharingPickler(file, key_of)
    pickler.dump(value)
    return file.getvalue(), list(pickler.used)


def read(content: bytes, thing_of: Callable[[str], Any]) -> Any:
    """Undo `written`."""
    return SharingUnpickler(io.BytesIO(content), thing_of).load()


class KeptThings:
    """The shared things that a process used last, by key."""

    def __init__(self) -> None:
        self.things: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def get(self, key: str, bytes_of: Callable[[str], bytes]) -> Any:
        """Give a thing; one that is not kept is read from its bytes."""
        if key not in self.things:
            content = bytes_of(key)
            self.things[key] = read(content, lambda other: self.get(other, bytes_of)), len(content)
        self.things.move_to_end(key)
        while len(self.things) > 1 and sum(size for _, size in self.things.values()) > MOST_KEPT_BYTES:
            self.things.popitem(last=False)
        return self.things[key][0]

    def keys(self) -> dict[int, str]:
        """Give the key of each thing that is kept, by its identity."""
        return {id(thing): key for key, (thing, _) in self.things.items()}
