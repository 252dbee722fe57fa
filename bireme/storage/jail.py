"""What a worker that reads hostile data gives up, in one place and in this order.

Its root becomes a directory it was handed, its network is empty, it runs as nobody with a named few capabilities (with
any, its file system identity stays root's, so that what it makes belongs to root), cannot gain more, cannot start
processes, has bounded memory and time, and dies with its parent. Import everything before: afterwards there are no
files to import from.
"""

from __future__ import annotations

import os
import resource
import signal

from bireme.linux import capabilities, namespaces, process
from bireme.linux.process import CloneFlags

_NOBODY = 65534
_LIMITS = (
    (resource.RLIMIT_AS, 2 << 30),
    (resource.RLIMIT_CPU, 3600),
    (resource.RLIMIT_CORE, 0),
    (resource.RLIMIT_NPROC, 0),
)

WRITER = capabilities.mask_of(("CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_MKNOD", "CAP_SETFCAP"))
"""What it takes to write files of any owner and kind."""


def enter(root: int, parent: int, keep: int = 0, *, userns: int = -1, files: int = 256) -> None:
    """Jail this process in the open directory `root`; `keep` is a mask of capabilities, `files` how many it may open.

    With `userns` (a descriptor) the rights that are left count in that user namespace alone, and ids are its own. Ends
    the process when `parent` is not its parent any more: the signal that tells would never come.
    """
    os.umask(0)
    namespaces.unshare(CloneFlags.CLONE_NEWNET | CloneFlags.CLONE_NEWIPC)
    os.fchdir(root)
    os.chroot(".")
    os.chdir("/")
    for limit, value in _LIMITS:
        resource.setrlimit(limit, (value, value))
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    if userns >= 0:
        namespaces.setns(userns, CloneFlags.CLONE_NEWUSER)
    capabilities.keep_over_setuid(True)
    os.setgroups([])
    os.setresgid(_NOBODY, _NOBODY, _NOBODY)
    os.setresuid(_NOBODY, _NOBODY, _NOBODY)
    capabilities.set_effective_to_permitted()
    if keep:
        namespaces.set_filesystem_ids(0, 0)
    capabilities.drop_bounding(0)
    capabilities.set_sets(keep, keep, 0)
    process.set_no_new_privs()
    process.set_dumpable(False)
    process.set_pdeathsig(signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
