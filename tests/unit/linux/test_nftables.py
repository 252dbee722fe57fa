"""The nf_tables codec, by bytes."""

from __future__ import annotations

import struct

from bireme.linux import nftables as nft
from bireme.linux.nlsocket import Message, iter_attributes

TABLE = "bireme_abc"


def _attributes(message: Message) -> dict[int, bytes]:
    return dict(iter_attributes(message[2], 4))


def test_message_head() -> None:
    kind, _, body, about = nft.add_table(nft.NFPROTO_INET, TABLE)
    assert (kind, about) == (10 << 8, f"table {TABLE}")
    assert body[:4] == bytes([nft.NFPROTO_INET, 0, 0, 0])
    assert _attributes((kind, 0, body, ""))[1] == TABLE.encode() + b"\0"


def test_map_of_joined_keys() -> None:
    found = _attributes(
        nft.add_set(
            nft.NFPROTO_INET,
            TABLE,
            "ports",
            [(nft.TYPE_IPV4, 4), (nft.TYPE_PROTOCOL, 1), (nft.TYPE_SERVICE, 2)],
            [(nft.TYPE_IPV4, 4), (nft.TYPE_SERVICE, 2)],
        )
    )
    assert struct.unpack(">I", found[5]) == (12,)
    assert struct.unpack(">I", found[7]) == (8,)
    assert struct.unpack(">I", found[4]) == (7 << 12 | 12 << 6 | 13,)
    assert struct.unpack(">I", found[3]) == (nft.NFT_SET_MAP,)


def test_single_key_keeps_its_length() -> None:
    found = _attributes(nft.add_set(nft.NFPROTO_INET, TABLE, "ports", [(nft.TYPE_SERVICE, 2)]))
    assert struct.unpack(">I", found[5]) == (2,)


def test_many_elements_are_several_messages_below_the_limit_of_an_attribute() -> None:
    elements = [nft.Element(struct.pack(">I8x", number), bytes(8)) for number in range(5000)]
    messages = nft.add_elements(nft.NFPROTO_INET, TABLE, "ports", elements)
    assert len(messages) > 1
    keys = []
    for message in messages:
        assert len(message[2]) < 65536
        for _, raw in iter_attributes(_attributes(message)[3]):
            key = dict(iter_attributes(dict(iter_attributes(raw))[1]))[1]
            keys.append(struct.unpack(">I8x", key)[0])
    assert keys == list(range(5000))


def test_no_elements_no_message() -> None:
    assert nft.add_elements(nft.NFPROTO_INET, TABLE, "ports", []) == []


def test_verdict() -> None:
    def code(expression: bytes) -> int:
        data = dict(iter_attributes(dict(iter_attributes(expression))[2]))
        verdict = dict(iter_attributes(dict(iter_attributes(data[2]))[2]))
        return int(struct.unpack(">i", verdict[1])[0])

    assert code(nft.verdict(nft.NF_DROP)) == 0
    assert code(nft.verdict(nft.NFT_GOTO, "published")) == -4


def test_rule_holds_its_expressions_in_order() -> None:
    expressions = [nft.meta(nft.NFT_META_IIFNAME), nft.lookup("bridges"), nft.verdict(nft.NF_ACCEPT)]
    found = _attributes(nft.add_rule(nft.NFPROTO_INET, TABLE, "forward", expressions))
    names = [dict(iter_attributes(raw))[1] for _, raw in iter_attributes(found[4])]
    assert names == [b"meta\0", b"lookup\0", b"immediate\0"]
