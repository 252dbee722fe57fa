"""A host that cannot run machines: create and start say why, and everything else works."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from bireme.drivers.microvm.driver import MicrovmDriver
from bireme.errors import Unsupported
from tests.support.microvm import Place, make_stores


class Connection:
    """The part of a supervisor connection that a driver needs to exist."""

    def add(self, tenant: object) -> None:
        self.tenant = tenant


def test_create_and_start_say_why(tmp_path: Path) -> None:
    connection: Any = Connection()
    driver = MicrovmDriver(connection, make_stores(tmp_path), lambda: ("no kvm", "a remedy"))
    assert cast(Connection, connection).tenant is driver
    placement = Place(tmp_path / "places")("true")
    for verb in (driver.create, driver.start):
        with pytest.raises(Unsupported, match="not available on this host: no kvm") as caught:
            asyncio.run(verb(placement))  # type: ignore[arg-type]
        assert caught.value.hint == "a remedy"
