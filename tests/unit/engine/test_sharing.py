"""Which instance a mode means, and when it can be joined; the namespaces themselves are the integration lane's."""

from __future__ import annotations

import msgspec
import pytest

from bireme.engine.record import Definition, Instance
from bireme.engine.sharing import join, settle
from bireme.errors import BiremeError, Conflict, Invalid, NotFound
from bireme.instance.driver import Placement, RootFilesystem
from bireme.instance.spec import InstanceId, InstanceSpec, Namespaces, NetworkRequest, ProcessSpec
from bireme.instance.state import Status
from tests.support.engine import spec

WEB = "a" * 64
SIDE = "b" * 64


class Table:
    """Finds by name."""

    def __init__(self, *instances: Instance) -> None:
        self._known = {key: i for i in instances for key in (i.name, i.id)}

    def find(self, reference: str) -> Instance:
        if reference not in self._known:
            raise NotFound(f"No such container: {reference}")
        return self._known[reference]


def instance(identity: str, name: str, wanted: InstanceSpec, status: Status = Status.RUNNING) -> Instance:
    made = Instance(InstanceId(identity), name, Definition(spec=wanted, root=RootFilesystem(lower=())), 0, f"/{name}")
    made.state.status = status
    return made


def placement(one: Instance) -> Placement:
    return Placement(
        id=one.id, name=one.name, spec=one.spec, root=one.definition.root, directory="/d", hostname=one.hostname
    )


def joined(wanted: InstanceSpec, web: Instance) -> Placement:
    side = instance(SIDE, "side", wanted, Status.CREATED)
    return join(side, placement(side), Table(web, side))  # type: ignore[arg-type]


def test_names_become_ids() -> None:
    wanted = spec(
        network=NetworkRequest(name="container:web"),
        namespaces=Namespaces(pid="container:web", ipc="container:nobody"),
        edge={"HostConfig": {"NetworkMode": "container:web", "Init": True}},
    )
    made = settle(wanted, Table(instance(WEB, "web", spec())))  # type: ignore[arg-type]
    assert made.network.name == made.namespaces.pid == f"container:{WEB}"
    assert made.namespaces.ipc == "container:nobody"
    assert made.edge["HostConfig"] == {
        "NetworkMode": f"container:{WEB}",
        "PidMode": f"container:{WEB}",
        "Init": True,
    }


def test_a_shared_network_brings_its_files_and_names() -> None:
    web = instance(WEB, "web", spec(hostname="web.here", domainname="example.org"))
    process = ProcessSpec(args=("true",), env=(f"HOSTNAME={SIDE[:12]}", "A=1"))
    wanted = msgspec.structs.replace(spec(network=NetworkRequest(name=f"container:{WEB}")), process=process)
    made = joined(wanted, web)
    assert (made.hostname, made.spec.domainname) == ("web.here", "example.org")
    assert made.spec.process.env == ("HOSTNAME=web.here", "A=1")
    assert dict(made.files) == {f"/web/{name}": f"/etc/{name}" for name in ("hosts", "hostname", "resolv.conf")}
    process = msgspec.structs.replace(process, env=("HOSTNAME=mine",))
    made = joined(msgspec.structs.replace(wanted, process=process), web)
    assert made.spec.process.env == ("HOSTNAME=mine",)


@pytest.mark.parametrize(
    ("wanted", "status", "kind", "message"),
    [
        ({"network": "web"}, Status.EXITED, Conflict, "non running container: container web is exited"),
        ({"network": "web"}, Status.RESTARTING, Conflict, "Container web is restarting, wait until the container"),
        ({"network": "x"}, Status.RUNNING, NotFound, "joining network namespace of container: No such container: x"),
        ({"network": "side"}, Status.RUNNING, Invalid, "cannot join own network namespace"),
        ({"pid": "web"}, Status.CREATED, Conflict, "failed to join PID namespace: container web is not running"),
        ({"pid": "web"}, Status.RESTARTING, Conflict, "failed to join PID namespace: Container web is restarting"),
        ({"pid": "x"}, Status.RUNNING, Invalid, "failed to join PID namespace: No such container: x"),
        ({"ipc": "web"}, Status.EXITED, Conflict, "failed to join IPC namespace: container web is not running"),
        ({"ipc": "web"}, Status.RUNNING, Conflict, "failed to join IPC namespace: container web: non-shareable IPC"),
    ],
)
def test_who_cannot_be_joined(wanted: dict[str, str], status: Status, kind: type[BiremeError], message: str) -> None:
    modes = {key: f"container:{target}" for key, target in wanted.items()}
    network = NetworkRequest(name=modes.pop("network", "none"))
    web = instance(WEB, "web", spec(), status)
    with pytest.raises(kind, match=message):
        joined(spec(network=network, namespaces=Namespaces(**modes)), web)


def test_shareable_ipc_can_be_joined() -> None:
    for mode in ("shareable", "host", f"container:{SIDE}"):
        web = instance(WEB, "web", spec(namespaces=Namespaces(ipc=mode)))
        wanted = spec(network=NetworkRequest(name="none"), namespaces=Namespaces(ipc="container:web"))
        assert joined(wanted, web).spec == wanted
