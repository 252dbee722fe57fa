"""Instructions that change a configuration, and their words."""

from __future__ import annotations

import pytest

from bireme.errors import Invalid
from bireme.image.instructions import apply_changes
from bireme.image.words import words
from bireme.oci.image_spec import Healthcheck, ImageConfig


def test_every_instruction() -> None:
    config = apply_changes(
        ImageConfig(env=["PATH=/bin", "A=1"], cmd=["old"], labels={"x": "y"}),
        [
            'CMD ["a", "b"]\nENV A=2 "B=three words" C=${A}$PATH',
            "env OLD way of $A",
            "EXPOSE 80 443/tcp 53/udp 8000-8001",
            "LABEL one=1 \"two words\"='2 $A'",
            "ONBUILD RUN make",
            "USER me:us",
            "VOLUME /a /b",
            'volume ["/c"]',
            "WORKDIR /srv",
            "WORKDIR deep/../er",
            "STOPSIGNAL SIGINT",
            "HEALTHCHECK --interval=5s --retries=3 CMD curl localhost",
        ],
    )
    assert config.cmd == ["a", "b"]
    assert config.env == ["PATH=/bin", "A=2", "B=three words", "C=1/bin", "OLD=way of 2"]
    assert set(config.exposed_ports or ()) == {"80/tcp", "443/tcp", "53/udp", "8000/tcp", "8001/tcp"}
    assert config.labels == {"x": "y", "one": "1", "two words": "2 $A"}
    assert (config.on_build, config.user, config.working_dir) == (["RUN make"], "me:us", "/srv/er")
    assert set(config.volumes or ()) == {"/a", "/b", "/c"}
    assert config.stop_signal == "SIGINT"
    assert config.healthcheck == Healthcheck(test=["CMD-SHELL", "curl localhost"], interval=5 * 10**9, retries=3)


def test_an_entrypoint_drops_the_command_unless_one_was_given() -> None:
    old = ImageConfig(cmd=["old"])
    assert apply_changes(old, ["ENTRYPOINT x y"]).cmd is None
    given = apply_changes(old, ['CMD ["new"]', 'ENTRYPOINT ["x"]'])
    assert (given.entrypoint, given.cmd) == (["x"], ["new"])
    assert apply_changes(old, ["ENTRYPOINT x y"]).entrypoint == ["/bin/sh", "-c", "x y"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("RUN ls", "RUN is not a valid change command"),
        ("FROM x", "FROM is not a valid change command"),
        ("CMD", "CMD requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("ENV A=1 B", "can't find = in 'B'"),
        ("ENV =x", "names can not be blank"),
        ("EXPOSE x", "invalid containerPort: x"),
        ("EXPOSE 70000", "invalid containerPort"),
        ("EXPOSE 9-1", "invalid range"),
        ("EXPOSE 1/quic", "invalid proto: quic"),
        ("USER a b", "USER requires exactly one argument"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
        ("ONBUILD FROM x", "isn't allowed as an ONBUILD trigger"),
        ('VOLUME [""]', "can not be an empty string"),
        ("HEALTHCHECK x", "Unknown type"),
        ("HEALTHCHECK --color=red CMD x", "Unknown flag: color"),
        ("HEALTHCHECK --interval=5 CMD x", "invalid duration"),
        ('LABEL a="b', "double-quote"),
        ("LABEL a='b", "single-quote"),
        ("USER ${x", "missing '}'"),
    ],
)
def test_what_is_refused(change: str, message: str) -> None:
    with pytest.raises(Invalid, match=message.replace("(", r"\(")):
        apply_changes(ImageConfig(), [change])


def test_words() -> None:
    values = {"A": "1", "E": ""}
    assert words(r"a\ b $A ${A:-x} ${E:-x} ${A:+y} ${NO} '$A' " '"$A \\$A"', values) == [
        *("a b", "1", "1", "x", "y"),
        *("", "$A", "1 $A"),
    ]
