"""Every pair of state and verb is either in the table or refused with Docker's words."""

from __future__ import annotations

import itertools

import pytest

from bireme.errors import Conflict, NotModified
from bireme.instance.state import TRANSITIONS, UNCHANGED, Status, Verb, apply


@pytest.mark.parametrize(("status", "verb"), list(itertools.product(Status, Verb)))
def test_all_pairs(status: Status, verb: Verb) -> None:
    if (status, verb) in TRANSITIONS:
        assert apply(status, verb, "x") is TRANSITIONS[status, verb]
    elif (status, verb) in UNCHANGED:
        with pytest.raises(NotModified):
            apply(status, verb, "x")
    else:
        with pytest.raises(Conflict) as caught:
            apply(status, verb, "x")
        assert not isinstance(caught.value, NotModified)
        assert caught.value.message


def test_every_state_is_reachable_and_can_be_left() -> None:
    reached = {Status.CREATED, *TRANSITIONS.values()}
    assert reached == set(Status)
    assert {status for status, _ in TRANSITIONS} == set(Status)


def test_removing_a_running_one_says_what_to_do() -> None:
    with pytest.raises(Conflict, match="container is running: stop the container before removing or force remove"):
        apply(Status.RUNNING, Verb.REMOVE, "x")
