"""Which module has which verb, and the line that --help shows for it. Nothing is imported until its verb is typed."""

from __future__ import annotations


class Entry:
    """`path` is the full spelling, `short` the top-level one ("" when there is none)."""

    __slots__ = ("also", "common", "module", "path", "short", "summary")

    def __init__(self, path: str, short: str, module: str, summary: str, also: str = "", common: bool = False) -> None:
        self.path = path
        self.short = short
        self.module = module
        self.summary = summary
        self.also = also
        """More spellings of the last word inside the group."""
        self.common = common


GROUPS = {
    "container": "Manage containers",
    "context": "Manage contexts",
    "image": "Manage images",
    "kernel": "Manage the kernels of machines",
    "network": "Manage networks",
    "system": "Manage the engine",
    "volume": "Manage volumes",
}

ENTRIES = (
    Entry("container run", "run", "create", "Create and run a new container from an image", common=True),
    Entry("container exec", "exec", "exec", "Execute a command in a running container", common=True),
    Entry("container ls", "ps", "containers", "List containers", "list ps", common=True),
    Entry("image ls", "images", "images", "List images", "list", common=True),
    Entry("bootstrap", "bootstrap", "bootstrap", "Make an image from the distribution's packages", common=True),
    Entry("explain", "explain", "explain", "Show what a container really is on this host", common=True),
    Entry("version", "version", "version", "Show the version information of client and engine", common=True),
    Entry("system info", "info", "info", "Display system-wide information", common=True),
    Entry(
        "container attach",
        "attach",
        "attach",
        "Attach local standard input, output, and error streams to a running container",
    ),
    Entry("container commit", "commit", "rootfs", "Create a new image from a container's changes"),
    Entry("container cp", "cp", "copy", "Copy files/folders between a container and the local filesystem"),
    Entry("container create", "create", "create", "Create a new container"),
    Entry("container diff", "diff", "rootfs", "Inspect changes to files or directories on a container's filesystem"),
    Entry("container export", "export", "rootfs", "Export a container's filesystem as a tar archive"),
    Entry("container inspect", "", "inspect", "Display detailed information on one or more containers"),
    Entry("container kill", "kill", "lifecycle", "Kill one or more running containers"),
    Entry("container logs", "logs", "logs", "Fetch the logs of a container"),
    Entry("container pause", "pause", "lifecycle", "Pause all processes within one or more containers"),
    Entry("container port", "port", "port", "List port mappings or a specific mapping for the container"),
    Entry("container prune", "", "prune", "Remove all stopped containers"),
    Entry("container rename", "rename", "lifecycle", "Rename a container"),
    Entry("container restart", "restart", "lifecycle", "Restart one or more containers"),
    Entry("container rm", "rm", "lifecycle", "Remove one or more containers", "remove"),
    Entry("container start", "start", "start", "Start one or more stopped containers"),
    Entry("container stats", "stats", "stats", "Display a live stream of container(s) resource usage statistics"),
    Entry("container stop", "stop", "lifecycle", "Stop one or more running containers"),
    Entry("container top", "top", "top", "Display the running processes of a container"),
    Entry("container unpause", "unpause", "lifecycle", "Unpause all processes within one or more containers"),
    Entry("container update", "update", "update", "Update configuration of one or more containers"),
    Entry(
        "container wait", "wait", "lifecycle", "Block until one or more containers stop, then print their exit codes"
    ),
    Entry("context create", "", "context", "Create a context"),
    Entry("context inspect", "", "contexts", "Display detailed information on one or more contexts"),
    Entry("context ls", "", "contexts", "List contexts", "list"),
    Entry("context rm", "", "context", "Remove one or more contexts", "remove"),
    Entry("context show", "", "contexts", "Print the name of the current context"),
    Entry("context update", "", "context", "Update a context"),
    Entry("context use", "", "context", "Set the current docker context"),
    Entry("image history", "history", "history", "Show the history of an image"),
    Entry("image import", "import", "rootfs", "Import the contents from a tarball to create a filesystem image"),
    Entry("image inspect", "", "inspect", "Display detailed information on one or more images"),
    Entry("image load", "load", "archive", "Load an image from a tar archive or STDIN"),
    Entry("image pull", "pull", "absent", "Download an image from a registry"),
    Entry("image prune", "", "prune", "Remove unused images"),
    Entry("image rm", "rmi", "images", "Remove one or more images", "remove"),
    Entry("image save", "save", "archive", "Save one or more images to a tar archive (streamed to STDOUT by default)"),
    Entry("image tag", "tag", "images", "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE"),
    Entry("inspect", "inspect", "inspect", "Return low-level information on objects"),
    Entry("kernel add", "", "kernel", "Add a kernel for machines"),
    Entry("kernel default", "", "kernel", "Show or choose the kernel that machines get who ask for none"),
    Entry("kernel inspect", "", "inspect", "Display detailed information on one or more kernels"),
    Entry("kernel ls", "", "kernel", "List kernels", "list"),
    Entry("kernel rm", "", "kernel", "Remove one or more kernels", "remove"),
    Entry("network inspect", "", "inspect", "Display detailed information on one or more networks"),
    Entry("network ls", "", "networks", "List networks", "list"),
    Entry("system df", "", "usage", "Show disk usage"),
    Entry("system events", "events", "events", "Get real time events from the server"),
    Entry("system prune", "", "prune", "Remove unused data"),
    Entry("volume create", "", "volumes", "Create a volume"),
    Entry("volume inspect", "", "inspect", "Display detailed information on one or more volumes"),
    Entry("volume ls", "", "volumes", "List volumes", "list"),
    Entry("volume prune", "", "prune", "Remove unused local volumes"),
    Entry("volume rm", "", "volumes", "Remove one or more volumes", "remove"),
    Entry("completion", "completion", "completion", "Print the completion script of a shell"),
    Entry("help", "help", "helping", "Help about any command"),
)


def find(words: list[str]) -> tuple[Entry, str, list[str]] | None:
    """The entry that `words` begin with, the command as it was typed, and the words behind it."""
    first = words[0] if words else ""
    if first in GROUPS and len(words) > 1:
        for entry in ENTRIES:
            group, _, verb = entry.path.partition(" ")
            if group == first and verb and (words[1] == verb or words[1] in entry.also.split()):
                return entry, f"bireme {first} {words[1]}", words[2:]
        return None
    for entry in ENTRIES:
        if entry.short and entry.short == first:
            return entry, f"bireme {first}", words[1:]
    return None
