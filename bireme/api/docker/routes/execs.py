"""/exec: create, start, resize, inspect."""

from __future__ import annotations

from typing import Any

from bireme.api.docker import parameters
from bireme.api.docker.answers import OK_EMPTY, json
from bireme.api.docker.attach import start_exec
from bireme.api.docker.bodies import ExecCreateRequest, ExecStartRequest
from bireme.api.docker.decode import read_body
from bireme.api.docker.detach import parse_keys
from bireme.api.docker.services import Exec, Services
from bireme.api.docker.translate import console_size, exec_process_of
from bireme.api.http.message import Answer, Request
from bireme.api.http.router import Router
from bireme.errors import Conflict


class Execs:
    """Handlers over the engine's execs."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._execs = services.execs

    def register(self, router: Router) -> None:
        router.add("POST", "/containers/{id}/exec", self.create)
        router.add("POST", "/exec/{id}/start", self.start)
        router.add("POST", "/exec/{id}/resize", self.resize)
        router.add("GET", "/exec/{id}/json", self.inspect)

    async def create(self, request: Request) -> Answer:
        body = await read_body(request, ExecCreateRequest)
        process = exec_process_of(body, request.version)
        parse_keys(body.DetachKeys)
        identity = self._execs.create(
            request.params[0],
            process,
            stdin=body.AttachStdin,
            stdout=body.AttachStdout,
            stderr=body.AttachStderr,
            detach_keys=body.DetachKeys,
        )
        return json({"Id": identity}, 201)

    async def start(self, request: Request) -> Answer:
        body = await read_body(request, ExecStartRequest)
        record = self._execs.find(request.params[0])
        if record.running or record.exit_code is not None:
            raise Conflict(f"Error: Exec command {record.id} has already run", subject=record.id)
        if body.Detach:
            await self._execs.start(record.id, detach=True)
            return OK_EMPTY
        size = console_size(body.ConsoleSize, body.Tty, request.version)
        return start_exec(self._services, request, record, body.Tty, size)

    async def resize(self, request: Request) -> Answer:
        rows, columns = parameters.size(request, "h", "height"), parameters.size(request, "w", "width")
        await self._execs.resize(request.params[0], rows, columns)
        return OK_EMPTY

    def inspect(self, request: Request) -> Answer:
        return json(_document(self._execs.find(request.params[0])))


def _document(record: Exec) -> dict[str, Any]:
    process = record.process
    return {
        "ID": record.id,
        "Running": record.running,
        "ExitCode": record.exit_code,
        "ProcessConfig": {
            "tty": process.terminal,
            "entrypoint": process.args[0],
            "arguments": list(process.args[1:]),
            "privileged": process.privileged,
            "user": process.user,
        },
        "OpenStdin": record.stdin,
        "OpenStderr": record.stderr,
        "OpenStdout": record.stdout,
        "CanRemove": record.exit_code is not None,
        "ContainerID": record.instance_id,
        "DetachKeys": record.detach_keys,
        "Pid": record.pid,
    }
