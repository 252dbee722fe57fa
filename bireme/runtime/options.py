"""Mount options as text, to the bits and strings the kernel takes. Pure.

The words are those of the runtime specification (config.md, "Linux mount options"); whatever is no flag is data of the
file system. An option starting with "r" (rro, rnosuid) goes to every mount of the tree.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from bireme.errors import Unsupported

if TYPE_CHECKING:
    from collections.abc import Sequence

_RDONLY, _NOSUID, _NODEV, _NOEXEC = 0x1, 0x2, 0x4, 0x8
_ATIME_MASK, _NOATIME, _STRICTATIME, _NODIRATIME = 0x70, 0x10, 0x20, 0x80
_NOSYMFOLLOW = 0x200000

_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (_RDONLY, 0),
    "rw": (0, _RDONLY),
    "nosuid": (_NOSUID, 0),
    "suid": (0, _NOSUID),
    "nodev": (_NODEV, 0),
    "dev": (0, _NODEV),
    "noexec": (_NOEXEC, 0),
    "exec": (0, _NOEXEC),
    "noatime": (_NOATIME, _ATIME_MASK),
    "atime": (0, _ATIME_MASK),
    "relatime": (0, _ATIME_MASK),
    "norelatime": (0, _ATIME_MASK),
    "strictatime": (_STRICTATIME, _ATIME_MASK),
    "nostrictatime": (0, _ATIME_MASK),
    "nodiratime": (_NODIRATIME, 0),
    "diratime": (0, _NODIRATIME),
    "nosymfollow": (_NOSYMFOLLOW, 0),
    "symfollow": (0, _NOSYMFOLLOW),
}
"""MOUNT_ATTR_* to set and to clear."""

_MS_REC = 0x4000
_PROPAGATION: dict[str, tuple[int, bool]] = {
    "private": (1 << 18, False),
    "rprivate": (1 << 18, True),
    "slave": (1 << 19, False),
    "rslave": (1 << 19, True),
    "shared": (1 << 20, False),
    "rshared": (1 << 20, True),
    "unbindable": (1 << 17, False),
    "runbindable": (1 << 17, True),
}
_BINDS = ("bind", "rbind")
_IDMAPS = ("idmap", "ridmap", "noidmap")
_SUPERBLOCK_FLAGS = frozenset(
    {"sync", "async", "dirsync", "lazytime", "nolazytime", "mand", "nomand", "silent", "loud"}
)
_NEGATIVE = frozenset({"async", "nolazytime", "nomand", "loud", "silent"})
_UNSUPPORTED = frozenset({"tmpcopyup", "remount"})

_TO_MS = (
    (_RDONLY, 1),
    (_NOSUID, 2),
    (_NODEV, 4),
    (_NOEXEC, 8),
    (_NOATIME, 1024),
    (_STRICTATIME, 1 << 24),
    (_NODIRATIME, 2048),
    (_NOSYMFOLLOW, 256),
)


def known_words() -> set[str]:
    """Every option with a meaning of its own here."""
    return {*_ATTRIBUTES, *("r" + word for word in _ATTRIBUTES), *_PROPAGATION, *_BINDS, *_IDMAPS, *_SUPERBLOCK_FLAGS}


class Options(NamedTuple):
    """Parsed options: attributes of the mount, of the whole tree, propagation, and the file system's own."""

    add: int = 0
    clear: int = 0
    tree_add: int = 0
    tree_clear: int = 0
    propagation: int = 0
    propagation_tree: bool = False
    bind: bool = False
    recursive: bool = False
    idmap: str = ""
    """"", "idmap", "ridmap" or "noidmap"."""
    data: tuple[tuple[str, str | None], ...] = ()

    @property
    def mount_flags(self) -> int:
        """MS_* of mount(2) for the attributes."""
        return sum(ms for attribute, ms in _TO_MS if self.add & attribute)

    @property
    def data_text(self) -> str:
        """The file system's options as mount(2) takes them."""
        return ",".join(key if value is None else f"{key}={value}" for key, value in self.data)


def parse_options(words: Sequence[str]) -> Options:
    """Options of one mount; a later word wins over an earlier one. Unsupported for what we do not do."""
    return _parse(tuple(words))


@lru_cache(maxsize=256)
def _parse(words: tuple[str, ...]) -> Options:
    add = clear = tree_add = tree_clear = propagation = 0
    tree = bind = recursive = False
    idmap = ""
    data: list[tuple[str, str | None]] = []
    for word in words:
        if word in _ATTRIBUTES:
            on, off = _ATTRIBUTES[word]
            add, clear = add & ~off | on, clear & ~on | off
        elif word[:1] == "r" and word[1:] in _ATTRIBUTES:
            on, off = _ATTRIBUTES[word[1:]]
            tree_add, tree_clear = tree_add & ~off | on, tree_clear & ~on | off
        elif word in _PROPAGATION:
            propagation, tree = _PROPAGATION[word]
        elif word in _BINDS:
            bind, recursive = True, word == "rbind"
        elif word in _IDMAPS:
            idmap = word
        elif word in _UNSUPPORTED:
            raise Unsupported(f"mount option {word} is not supported", subject=word)
        elif word in _SUPERBLOCK_FLAGS:
            if word not in _NEGATIVE:
                data.append((word, None))
        elif word and word != "defaults":
            key, equals, value = word.partition("=")
            data.append((key, value if equals else None))
    return Options(add, clear, tree_add, tree_clear, propagation, tree, bind, recursive, idmap, tuple(data))
