import os
from typing import Any, cast

import pytest

from bireme.linux import poll
from bireme.linux.poll import Loop, Quiet
from tests.support.faketools import ManualLoop


def test_events_reach_their_callback_and_stop_when_removed() -> None:
    loop = Loop()
    reader, writer = os.pipe()
    seen: list[bytes] = []
    loop.add(reader, lambda _: seen.append(os.read(reader, 10)))
    try:
        assert reader in loop
        os.write(writer, b"a")
        loop.run_once(1)
        loop.remove(reader)
        loop.remove(reader)
        os.write(writer, b"b")
        loop.run_once(0)
    finally:
        os.close(reader)
        os.close(writer)
        loop.close()
    assert seen == [b"a"]


def test_timers_run_in_order_and_can_be_cancelled() -> None:
    loop = Loop()
    seen: list[str] = []
    loop.call_later(0.002, lambda: seen.append("b"))
    loop.call_later(0.001, lambda: seen.append("a"))
    loop.call_later(0.001, lambda: seen.append("never")).cancel()
    loop.call_later(0.003, loop.stop)
    loop.run()
    assert seen == ["a", "b"]
    loop.close()


def test_idle_runs_until_it_is_done() -> None:
    loop = Loop()
    left = [3]

    def tidy() -> bool:
        left[0] -= 1
        if not left[0]:
            loop.stop()
        return left[0] > 0

    loop.set_idle(tidy, quiet_s=0.001)
    loop.run()
    assert left == [0]
    loop.close()


def test_an_error_ends_run_or_goes_to_the_handler() -> None:
    def fail() -> None:
        raise KeyError("x")

    loop = Loop()
    loop.call_soon(fail)
    with pytest.raises(KeyError):
        loop.run()
    loop.close()
    caught: list[BaseException] = []
    loop = Loop(caught.append)
    loop.call_soon(fail)
    loop.call_soon(loop.stop)
    loop.run()
    loop.close()
    assert isinstance(caught[0], KeyError)


def test_quiet_comes_once_after_the_last_touch(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(poll, "_monotonic", lambda: now[0])
    loop, told = ManualLoop(), []
    quiet = Quiet(cast("Any", loop), 5.0, lambda: told.append(now[0]))
    assert quiet.reached
    quiet.touch()
    now[0] = 104.0
    quiet.touch()
    assert len(loop.timers) == 1
    now[0] = 105.0
    loop.fire()
    assert (told, quiet.reached) == ([], False)
    assert [timer.delay_s for timer in loop.timers] == [4.0]
    now[0] = 109.0
    loop.fire()
    assert (told, quiet.reached, loop.timers) == ([109.0], True, [])
    quiet.touch()
    assert len(loop.timers) == 1
