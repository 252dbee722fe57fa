"""One exception tree for the whole project.

The class is the kind of failure, the fields say what it is about: `subject` (what was asked for), `place` (where it
went wrong) and `hint` (what the user can do). The cause is chained with `raise ... from`, never folded into text.

    BiremeError
      NotFound      the thing named does not exist
      Conflict      it exists, but its state or a name forbids the request
      Invalid       the request itself is wrong
      Denied        policy or permission forbids it
      Unavailable   a part of the engine is not there right now, a retry may help
      Unsupported   this build, kernel or host cannot do it
      Deadline      it took longer than was allowed
      Internal      a bug of ours
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar


class BiremeError(Exception):
    """Base of every error that may reach a user; `kind` is stable and travels over the wire."""

    kind: ClassVar[str] = "internal"

    def __init__(self, message: str, *, subject: str = "", place: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.subject = subject
        self.place = place
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} ({self.hint})" if self.hint else self.message


class NotFound(BiremeError):
    kind = "not_found"


class Conflict(BiremeError):
    kind = "conflict"


class NotModified(Conflict):
    """The instance is already in the state asked for (Docker answers 304)."""

    kind = "not_modified"


class Invalid(BiremeError):
    kind = "invalid"


class Denied(BiremeError):
    kind = "denied"


class Unavailable(BiremeError):
    kind = "unavailable"


class Unsupported(BiremeError):
    kind = "unsupported"


class Deadline(BiremeError):
    kind = "deadline"


class Internal(BiremeError):
    kind = "internal"


_KINDS: dict[str, type[BiremeError]] = {
    cls.kind: cls
    for cls in (
        NotFound,
        Conflict,
        NotModified,
        Invalid,
        Denied,
        Unavailable,
        Unsupported,
        Deadline,
        Internal,
    )
}


def to_wire(error: BaseException) -> dict[str, str]:
    """The error as a JSON-able mapping; anything that is not ours becomes `internal`."""
    if isinstance(error, BiremeError):
        return {
            "kind": error.kind,
            "message": error.message,
            "subject": error.subject,
            "place": error.place,
            "hint": error.hint,
        }
    return {"kind": "internal", "message": str(error) or type(error).__name__, "place": type(error).__name__}


def from_wire(data: dict[str, str]) -> BiremeError:
    """The error that `to_wire` described; an unknown kind becomes Internal. Whatever stands there becomes text."""
    cls = _KINDS.get(str(data.get("kind", "")), Internal)
    return cls(
        str(data.get("message", "unknown error")),
        subject=str(data.get("subject", "")),
        place=str(data.get("place", "")),
        hint=str(data.get("hint", "")),
    )
