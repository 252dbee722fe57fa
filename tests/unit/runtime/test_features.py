from __future__ import annotations

import json

from bireme.runtime.features import describe


def test_the_document() -> None:
    features = json.loads(json.dumps(describe()))
    assert features["ociVersionMin"] == "1.0.0"
    assert features["ociVersionMax"] == "1.2.0"
    assert {"rbind", "ro", "rro", "idmap", "rprivate"} <= set(features["mountOptions"])
    assert features["linux"]["seccomp"]["enabled"]
    assert "SCMP_ACT_ERRNO" in features["linux"]["seccomp"]["actions"]
    assert "user" in features["linux"]["namespaces"]
    assert "CAP_SYS_ADMIN" in features["linux"]["capabilities"]
    assert not features["linux"]["apparmor"]["enabled"]
