"""Asking a driver for an optional ability."""

from __future__ import annotations

from typing import TypeVar

from bireme.errors import Unsupported
from bireme.instance.driver import Driver

T = TypeVar("T")


def need(driver: Driver, ability: type[T], verb: str) -> T:
    """`driver` as `ability`; Unsupported when it does not have it."""
    if isinstance(driver, ability):
        return driver
    raise Unsupported(f"{verb} is not supported with isolation {driver.name}", subject=driver.name)
