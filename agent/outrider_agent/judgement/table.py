"""All rules, found by the reading that they judge."""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Final

from outrider_agent.judgement import gpu, host, links, memory, network, network_counters, pcie, power, storage, thermal
from outrider_agent.judgement import rules as ruling
from outrider_agent.judgement.draft import GRAVITY

RULES: Final[tuple[ruling.Rule, ...]] = (
    *gpu.RULES,
    *thermal.RULES,
    *power.RULES,
    *memory.RULES,
    *links.RULES,
    *pcie.RULES,
    *network.RULES,
    *network_counters.RULES,
    *host.RULES,
    *storage.RULES,
)


def by_reading(rules: Iterable[ruling.Rule]) -> dict[str, tuple[ruling.Rule, ...]]:
    """The rules of each name of a reading."""
    found: dict[str, list[ruling.Rule]] = {}
    for rule in rules:
        found.setdefault(rule.reading, []).append(rule)
    return {name: tuple(those) for name, those in found.items()}


@functools.cache
def is_grave(reading: str) -> bool:
    """Whether it is worth a warning that this cannot be read: a rule of it could find an error, and it is no counter.

    Some ports refuse single counters for good; that costs those counters alone.
    """
    return any(
        GRAVITY[rule.severity] >= GRAVITY["error"] and not isinstance(rule.test, ruling.Rises | ruling.Faster)
        for rule in RULES
        if rule.reading == reading
    )
