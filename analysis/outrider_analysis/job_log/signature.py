"""Make failures comparable: the same mistake gives the same text on another rank, node, port, step and day."""

from __future__ import annotations

import re
from typing import Final

SIGNATURE_CHARS_MAX = 300
MESSAGE_CHARS_MAX = 1000  # read before it is shortened: two messages that differ only after that look alike

_HEX_DIGIT: Final = "[0-9a-fA-F]"
# Applied in this order: what contains digits as part of something larger goes before the digits.
_REPLACEMENTS: Final = tuple(
    (re.compile(regex), instead)
    for regex, instead in (
        (rf"\b{_HEX_DIGIT}{{8}}-(?:{_HEX_DIGIT}{{4}}-){{3}}{_HEX_DIGIT}{{12}}\b", "#"),  # UUIDs
        (r"\b0x[0-9a-fA-F]+\b", "#"),
        (r"\b\w+://[^\s'\"<>]+", "<url>"),
        (r"(?<![\w<])~?/(?:[\w.+@%=,~-]+/)*[\w.+@%=,~-]+(?::\d+)?", "<path>"),
        (r"\[[0-9a-fA-F:.]*(?:::|\.)[0-9a-fA-F:.]*\](?::\d+)?", "#"),  # [127.0.0.1]:4711, [::1]:4711
        (rf"\b(?=\w*\d)(?=\w*[a-fA-F]){_HEX_DIGIT}{{8,}}\b", "#"),  # hashes
        (r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d:?\d\d)?", "#"),
        (r"(?:(?<![A-Za-z\d])[+-])?\d+(?:[.,:]\d+)*(?:[eE][+-]?\d+)?", "#"),
        (r"#(?:\s*[,x*]\s*#)+,?", "#"),  # shapes and lists of any length
        (r"[^\x20-\x7e]+", ""),
        (r"\s+", " "),
    )
)


def normalise(message: str) -> str:
    """The first line of ``message`` with numbers, addresses, paths, hashes and times taken out."""
    text = message.strip().splitlines()[0][:MESSAGE_CHARS_MAX] if message.strip() else ""
    for regex, instead in _REPLACEMENTS:
        text = regex.sub(instead, text)
    return text.strip()


def signature(*parts: str) -> str:
    """Join what tells one failure from another; bounded, so that it can be a key."""
    return ":".join(part for part in parts if part)[:SIGNATURE_CHARS_MAX]
