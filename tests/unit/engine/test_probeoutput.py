"""What is kept of the output of a health check's command."""

from __future__ import annotations

import asyncio
import os

from bireme.engine.probeoutput import MAX_OUTPUT_BYTES, ProbeOutput


def collect(*writes: bytes) -> str:
    async def main() -> str:
        reader, writer = os.pipe()
        output = ProbeOutput(reader, -1)
        for data in writes:
            await asyncio.to_thread(os.write, writer, data)
        os.close(writer)
        await output.ended()
        text = output.text()
        output.close()
        return text

    return asyncio.run(main())


def test_short_output_is_whole() -> None:
    assert collect(b"one\n", b"two") == "one\ntwo"
    assert collect() == ""


def test_more_than_fits_is_cut_and_read_away() -> None:
    assert collect(b"x" * 50_000, b"y" * 50_000) == "x" * MAX_OUTPUT_BYTES + "..."
    assert collect(b"x" * MAX_OUTPUT_BYTES) == "x" * MAX_OUTPUT_BYTES


def test_what_is_no_text() -> None:
    assert collect(b"a\xffb") == "a�b"
