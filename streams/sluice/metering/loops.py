"""Whether an agent goes round in circles, seen from hashes of its tool calls.

A symbol stands for (tool, arguments, result, failed): 63 bits, odd if the call failed. There is
none where its arguments are not hashed, or its result is not although it succeeded: that calls came
back with the same can then not be told. A task loops when its last four symbols are the same, the
last three if they failed, or when the last symbols are one period of 2 to 8 three times over.
Polling whose results change is no loop.
"""

from __future__ import annotations

from hashlib import blake2b

MEMORY = 64
SAME, SAME_FAILED = 4, 3
PERIODS, ROUNDS = range(2, 9), 3
GRAM_WINDOW = 32


def call_number(tool_name: str | None, args_hash: str | None, result_hash: str | None) -> int:
    """The symbol of a tool call that did not fail."""
    text = "\x1f".join((tool_name or "", args_hash or "", result_hash or ""))
    return number_of(text) >> 1 << 1


def number_of(text: str) -> int:
    """63 bits that stand for a text."""
    return int.from_bytes(blake2b(text.encode(), digest_size=8).digest()) >> 1
