"""The calls of the Engine API that the command line makes, by name.

Requests that are answered at once share one kept-alive connection; whatever streams or waits gets a connection of its
own. Bodies and answers are the API's own JSON (PascalCase keys): what Docker's formats show is what travels here.
"""

from __future__ import annotations

from bireme import __version__
from bireme.client import jsontext
from bireme.client.errors import ApiError, BrokenReply
from bireme.client.http import Connection, encode_query, quote
from bireme.errors import Invalid

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from bireme.client.http import Response
    from bireme.client.transport import Stream, TlsFiles

    Query = dict[str, object]
    Body = bytes | Iterable[bytes]

API_VERSION = "1.47"
_UPGRADE = {"Connection": "Upgrade", "Upgrade": "tcp"}
_JSON = {"Content-Type": "application/json"}
_TOO_NEW = "Maximum supported API version is "


def refusal(response: Response) -> ApiError:
    """The error that this answer (400 and above) stands for; its body is read."""
    text = response.read().decode("utf-8", "replace").strip()
    try:
        document = jsontext.loads(text)
        message = str(document["message"]).strip()
    except (Invalid, KeyError, TypeError):
        message = text
    return ApiError(response.status, message or f"request failed with status {response.status} {response.reason}")


class HijackedStream:
    """A connection that has become a raw, two-way byte stream."""

    def __init__(self, stream: Stream, first: bytes, multiplexed: bool) -> None:
        self.stream = stream
        self.first = first
        """Bytes that came together with the headers; they are read before the socket."""
        self.multiplexed = multiplexed

    def close(self) -> None:
        self.stream.close()


class PendingWait:
    """A wait that the engine has registered and not yet answered."""

    def __init__(self, response: Response) -> None:
        self._response = response

    def result(self) -> int:
        """The exit code, once the container has reached the state waited for; ApiError when it could not be told."""
        answer = self._response.json()
        self._response.close()
        if not isinstance(answer, dict) or "StatusCode" not in answer:
            raise BrokenReply("the engine ended a wait without an exit code")
        failure = answer.get("Error")
        if failure and failure.get("Message"):
            raise ApiError(500, str(failure["Message"]))
        return int(answer["StatusCode"])

    def close(self) -> None:
        self._response.close()


class Engine:
    """An engine at `host`; nothing is connected before the first call."""

    default_version = API_VERSION

    def __init__(
        self,
        host: str,
        version: str = API_VERSION,
        *,
        tls: TlsFiles | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        """`headers` go out with every request."""
        self.host = host
        self.version = version
        self._tls = tls
        self._more = headers or {}
        self._headers = {**self._more, "Host": "localhost", "User-Agent": f"bireme/{__version__}"}
        self._connection = self.connection()

    def again(self) -> Engine:
        """The same engine, for somebody who may not use our connections."""
        return Engine(self.host, self.version, tls=self._tls, headers=self._more)

    def connection(self) -> Connection:
        """A connection of its own for something that streams or waits."""
        return Connection(self.host, self._headers, self._tls)

    def close(self) -> None:
        self._connection.close()

    def target(self, path: str, query: Query | None = None) -> str:
        return f"/v{self.version}{path}{encode_query(query or {})}"

    def call(
        self, method: str, path: str, query: Query | None = None, body: object = None, ok: tuple[int, ...] = ()
    ) -> Any:
        """Ask and return the decoded answer; ApiError for a status of 400 or more that is not in `ok`."""
        data, headers = (jsontext.dumps(body).encode(), _JSON) if body is not None else (b"", None)
        response = self._connection.request(method, self.target(path, query), data, headers)
        if response.status < 400 or response.status in ok:
            return response.json()
        error = refusal(response)
        if _TOO_NEW in error.message and self._step_back(error.message):
            return self.call(method, path, query, body, ok)
        raise error

    def _step_back(self, message: str) -> bool:
        """Take the API version the engine offers in its refusal; False when that is none older than ours."""
        offered = message.partition(_TOO_NEW)[2].partition(",")[0].strip()
        major, _, minor = offered.partition(".")
        own_major, _, own_minor = self.version.partition(".")
        if not (major.isdigit() and minor.isdigit()) or (int(major), int(minor)) >= (int(own_major), int(own_minor)):
            return False
        self.version = offered
        return True

    def open(
        self,
        method: str,
        path: str,
        query: Query | None = None,
        body: Body = b"",
        headers: dict[str, str] | None = None,
    ) -> Response:
        """Like `call` for an answer that streams: on a connection of its own, which goes away with the response."""
        response = self.connection().request(method, self.target(path, query), body, headers)
        if response.status >= 400:
            error = refusal(response)
            response.close()
            raise error
        return response

    # -- system

    def ping(self) -> dict[str, str]:
        """The headers of /_ping: api-version, ostype and others."""
        response = self._connection.request("GET", "/_ping")
        if response.status >= 400:
            raise refusal(response)
        response.read()
        return response.headers

    def server_version(self) -> dict[str, Any]:
        return dict(self.call("GET", "/version"))

    def info(self) -> dict[str, Any]:
        return dict(self.call("GET", "/info"))

    def events(self, query: Query) -> Response:
        return self.open("GET", "/events", query)

    # -- containers

    def containers(self, query: Query) -> list[dict[str, Any]]:
        return list(self.call("GET", "/containers/json", query) or [])

    def create_container(self, body: dict[str, Any], name: str, platform: str) -> tuple[str, list[str]]:
        """The new container's id, and warnings."""
        answer = self.call("POST", "/containers/create", {"name": name, "platform": platform}, body)
        return str(answer["Id"]), [str(item) for item in answer.get("Warnings") or ()]

    def container(self, name: str, size: bool = False) -> dict[str, Any]:
        return dict(self.call("GET", f"/containers/{quote(name)}/json", {"size": size}))

    def act(self, name: str, verb: str, query: Query | None = None, body: object = None) -> Any:
        """POST /containers/NAME/VERB."""
        return self.call("POST", f"/containers/{quote(name)}/{verb}", query, body)

    def remove_container(self, name: str, query: Query) -> None:
        self.call("DELETE", f"/containers/{quote(name)}", query)

    def send_attach(self, name: str, query: Query) -> Connection:
        """The first half of an attach; `receive_stream` is the second."""
        connection = self.connection()
        connection.send("POST", self.target(f"/containers/{quote(name)}/attach", query), b"", _UPGRADE)
        return connection

    def receive_stream(self, connection: Connection) -> HijackedStream:
        """The raw stream that `connection` becomes; ApiError when the engine refused."""
        response = connection.receive()
        if response.status >= 400:
            error = refusal(response)
            response.close()
            raise error
        multiplexed = response.headers.get("content-type", "") != "application/vnd.docker.raw-stream"
        stream, first = response.take_over()
        return HijackedStream(stream, first, multiplexed)

    def send_wait(self, name: str, condition: str = "") -> Connection:
        """The first half of a wait; `receive_wait` returns once the engine has it registered."""
        connection = self.connection()
        connection.send("POST", self.target(f"/containers/{quote(name)}/wait", {"condition": condition}))
        return connection

    def receive_wait(self, connection: Connection) -> PendingWait:
        response = connection.receive()
        if response.status >= 400:
            error = refusal(response)
            response.close()
            raise error
        return PendingWait(response)

    def resize(self, path: str, rows: int, columns: int) -> None:
        """Tell a terminal its size; `path` is /containers/ID or /exec/ID."""
        self.call("POST", f"{path}/resize", {"h": rows, "w": columns})

    # -- exec

    def create_exec(self, name: str, body: dict[str, Any]) -> str:
        return str(self.act(name, "exec", None, body)["Id"])

    def start_exec(self, exec_id: str, body: dict[str, Any]) -> HijackedStream:
        connection = self.connection()
        data = jsontext.dumps(body).encode()
        connection.send("POST", self.target(f"/exec/{exec_id}/start"), data, _JSON | _UPGRADE)
        return self.receive_stream(connection)

    def start_exec_detached(self, exec_id: str, body: dict[str, Any]) -> None:
        self.call("POST", f"/exec/{exec_id}/start", None, body)

    def exec_status(self, exec_id: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/exec/{exec_id}/json"))

    # -- images

    def images(self, query: Query) -> list[dict[str, Any]]:
        return list(self.call("GET", "/images/json", query) or [])

    def image(self, name: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/images/{quote(name, '/:')}/json"))

    def pull(self, image: str, tag: str, platform: str) -> Response:
        return self.open("POST", "/images/create", {"fromImage": image, "tag": tag, "platform": platform})

    def load(self, body: Iterable[bytes], quiet: bool) -> Response:
        headers = {"Content-Type": "application/x-tar"}
        return self.open("POST", "/images/load", {"quiet": "1" if quiet else "0"}, body, headers)

    def save(self, names: list[str]) -> Response:
        return self.open("GET", "/images/get", {"names": names})

    # -- networks

    def networks(self, query: Query) -> list[dict[str, Any]]:
        return list(self.call("GET", "/networks", query) or [])

    def network(self, name: str, query: Query | None = None) -> dict[str, Any]:
        return dict(self.call("GET", f"/networks/{quote(name)}", query))

    # -- volumes

    def volumes(self, query: Query) -> list[dict[str, Any]]:
        return list(self.call("GET", "/volumes", query).get("Volumes") or [])

    def volume(self, name: str) -> dict[str, Any]:
        return dict(self.call("GET", f"/volumes/{quote(name)}"))

    def create_volume(self, body: dict[str, Any]) -> dict[str, Any]:
        return dict(self.call("POST", "/volumes/create", None, body))

    # -- bireme's own

    def own(self, method: str, path: str, query: Query | None = None) -> Any:
        """Ask for `path` below /bireme/v1 and return the decoded answer."""
        response = self._connection.request(method, f"/bireme/v1{path}{encode_query(query or {})}")
        if response.status >= 400:
            raise refusal(response)
        return response.json()

    def open_own(self, path: str, query: Query, body: Body = b"", headers: dict[str, str] | None = None) -> Response:
        """POST to `path` below /bireme/v1; the answer streams."""
        response = self.connection().request("POST", f"/bireme/v1{path}{encode_query(query)}", body, headers)
        if response.status >= 400:
            error = refusal(response)
            response.close()
            raise error
        return response

    def explain(self, name: str) -> dict[str, Any]:
        """What an instance really is on its host: namespaces, control groups, mounts, privileges, processes."""
        return dict(self.own("GET", f"/containers/{quote(name)}/explain"))

    def bootstrap(self, name: str) -> Response:
        """Make an image from the distribution's packages; the answer streams progress."""
        return self.open_own("/bootstrap", {"name": name})

    def kernels(self) -> list[dict[str, Any]]:
        """The kernels that machines can boot."""
        return list(self.own("GET", "/kernels"))

    def kernel(self, name: str) -> dict[str, Any]:
        return dict(self.own("GET", f"/kernels/{quote(name, ':')}"))

    def add_kernel(self, flavour: str, name: str) -> Response:
        """Take a kernel of the engine's distribution; the answer streams progress."""
        return self.open_own("/kernels/add", {"flavour": flavour, "name": name})

    def load_kernel(self, archive: Iterable[bytes], name: str) -> Response:
        """Send a tar archive of packages, or of vmlinuz, config and modules/; the answer streams progress."""
        return self.open_own("/kernels/load", {"name": name}, archive, {"Content-Type": "application/x-tar"})
