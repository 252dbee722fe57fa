"""--security-opt seccomp=... as linux.seccomp."""

from __future__ import annotations

import json
from typing import cast

from bireme.drivers.supervised.capability import resolve
from bireme.errors import Invalid
from bireme.instance.spec import Security
from bireme.linux.seccomp import default_profile, docker_profile_to_oci
from bireme.oci.runtime_spec import Seccomp


def seccomp_of(security: Security) -> Seccomp | None:
    """The profile in OCI form, or None when there is no filter (unconfined, privileged)."""
    if security.privileged or security.seccomp == "unconfined":
        return None
    profile = default_profile()
    if security.seccomp not in ("", "builtin", "default"):
        try:
            profile = json.loads(security.seccomp)
        except ValueError as error:
            raise Invalid(f"Decoding seccomp profile failed: {error}", subject="seccomp") from error
    return cast(Seccomp, docker_profile_to_oci(profile, set(resolve(security))))
