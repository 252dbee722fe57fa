from __future__ import annotations

import pytest

from bireme.api.docker.bodies import HostConfig
from bireme.api.docker.machines import KERNEL, disk_size_of, kernel_of
from bireme.errors import BiremeError
from bireme.instance.spec import Isolation


def both(host: HostConfig, isolation: Isolation) -> tuple[str, int]:
    return kernel_of(host, isolation), disk_size_of(host, isolation)


def test_what_a_machine_may_have() -> None:
    host = HostConfig(Annotations={KERNEL: "cloud"}, StorageOpt={"size": "1.5g"})
    assert both(host, "microvm") == ("cloud", 3 << 29)
    assert both(HostConfig(), "microvm") == ("", 0)


def test_what_a_container_has_not() -> None:
    assert both(HostConfig(), "container") == ("", 0)


@pytest.mark.parametrize(
    ("host", "isolation", "words"),
    [
        (HostConfig(Annotations={KERNEL: "x"}), "container", "a kernel cannot be chosen with isolation container"),
        (HostConfig(Annotations={KERNEL: "x" * 200}), "microvm", "no such kernel: xxx"),
        (HostConfig(StorageOpt={"size": "1g"}), "container", "storage options are not supported: size"),
        (HostConfig(StorageOpt={"size": "1g", "x": "y"}), "microvm", "unknown storage option: size, x"),
        (HostConfig(StorageOpt={"x": "y"}), "microvm", "unknown storage option: x"),
        (HostConfig(StorageOpt={"size": "much"}), "microvm", "invalid size"),
        (HostConfig(StorageOpt={"size": "1m"}), "microvm", "from 32 MiB to 16 TiB"),
        (HostConfig(StorageOpt={"size": "999999p"}), "microvm", "from 32 MiB to 16 TiB"),
    ],
)
def test_refused(host: HostConfig, isolation: Isolation, words: str) -> None:
    with pytest.raises(BiremeError) as error:
        both(host, isolation)
    assert words in str(error.value)
