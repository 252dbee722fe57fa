"""The link process of a machine: the only one that talks to what runs inside.

    agent (guest) ==vsock== VsockPath -+- session.py    requests to the agent, its answers and events
                                       +- streams.py    stdio of the first process and of execs
    driver (engine) --seqpacket------- control.py       wire/vmcontrol
    main (VMM) ----- JSON lines ------ mainline.py      running, failed, ended; pause, resume, describe
    processes.py knows which process has which streams, and when its end may be told; link.py puts it together.

It runs in a device process (vmm/workers.py) beside the vsock device's data path, jailed: what a hostile guest or agent
achieves is the end of its own machine. Whatever the agent says is checked where it comes in (session.py); nothing it
says makes memory grow without bound: streams are bounded by the credit they were given, everything else by a number.
"""

from __future__ import annotations

from bireme.vmm.link.link import Link, LinkFiles

__all__ = ["Link", "LinkFiles"]
