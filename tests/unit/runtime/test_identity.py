"""Users as Docker resolves them; the parsers must survive any file an image brings."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bireme.runtime.identity import Identity, environment, look_up, parse_group, parse_passwd
from bireme.runtime.sync import StartFailed

PASSWD = parse_passwd(
    "root:x:0:0:root:/root:/bin/sh\n#c:x:9:9\nkim:x:1000:100::/home/kim:/bin/sh\nbad:x:n:1\n77:x:5:5:::\n"
)
GROUP = parse_group("root:x:0:\nstaff:x:50:kim,root\nusers:x:100:\n60:x:61:\n")


def _look_up(user: str, *group_names: str, **fields: Any) -> Identity:
    what: Any = {"uid": 0, "gid": 0, "groups": [], "user": user, "group_names": list(group_names), **fields}
    return look_up(what, PASSWD, GROUP)


@pytest.mark.parametrize(
    ("user", "identity"),
    [
        ("kim", Identity(1000, 100, (100, 50), "/home/kim")),
        ("1000", Identity(1000, 100, (100, 50), "/home/kim")),
        ("0", Identity(0, 0, (0, 50), "/root")),
        ("kim:staff", Identity(1000, 50, (50,), "/home/kim")),
        ("kim:7", Identity(1000, 7, (7,), "/home/kim")),
        ("4:5", Identity(4, 5, (5,), "")),
        ("4", Identity(4, 0, (0,), "")),
        ("77", Identity(5, 5, (5,), "")),
        ("0:60", Identity(0, 61, (61,), "/root")),
        (":staff", Identity(0, 50, (), "/root")),
    ],
)
def test_users(user: str, identity: Identity) -> None:
    assert _look_up(user) == identity


def test_more_groups_by_name_or_number() -> None:
    assert _look_up("4", "staff", "8", "staff").groups == (0, 50, 8)
    assert _look_up("", "staff", uid=9, gid=9, groups=[3]) == Identity(9, 9, (3, 50), "")


@pytest.mark.parametrize(
    ("user", "text"),
    [
        ("ghost", "unable to find user ghost: no matching entries in passwd file"),
        ("kim:ghosts", "unable to find group ghosts: no matching entries in group file"),
        ("2147483648", "uids and gids must be in range 0-2147483647"),
        ("-1", "unable to find user -1: no matching entries in passwd file"),
        ("4:99999999999", "uids and gids must be in range 0-2147483647"),
    ],
)
def test_errors(user: str, text: str) -> None:
    with pytest.raises(StartFailed) as caught:
        _look_up(user)
    assert caught.value.message == text
    assert caught.value.stage == "user"


@given(st.text(max_size=300))
def test_any_text_parses(text: str) -> None:
    parse_passwd(text)
    parse_group(text)


def test_the_environment_has_a_home() -> None:
    who = Identity(0, 0, (), "/root")
    assert environment(["A=1", "A=2", "=x", "B"], who) == {"A": "2", "B": "", "HOME": "/root"}
    assert environment(["HOME=/h"], who)["HOME"] == "/h"
    assert environment([], Identity(1, 1, (), ""))["HOME"] == "/"
