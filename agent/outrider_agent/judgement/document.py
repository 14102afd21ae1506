"""docs/signals.md, made from the rows and the rules: what is looked at, what is said of it, and when it is over."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from outrider_agent.judgement import blind, kernel, rows, rules, table

SECTIONS: Final = {
    "gpu": "GPU presence and reachability",
    "thermal": "Temperature",
    "power": "Power and clocks",
    "memory": "GPU memory",
    "links": "NVLink, NVSwitch, fabric",
    "pcie": "PCIe",
    "xid": "Xid and driver messages",
    "network": "InfiniBand and RoCE",
    "host": "Host",
}
HEAD: Final = """# What a node is watched for

Made from the rules of `agent/outrider_agent/judgement` by `python tools/signals_table.py`; a test holds it true. Each
row is one question. A rule judges one reading; a finding is told when it begins, when it turns graver, and when it is
over (same observation kind, severity `info`, `cleared` in its evidence). A reboot ends whatever it cures.

- *Severity* answers one question: will the running job fail because of this? What only stops new jobs or only costs
  speed is at most an error, and its evidence says so (`stops`).
- *Unsupported* is neither zero nor healthy, and never a finding. *Unreadable* is told as `could-not-look` after more
  than 3 polls; it neither begins nor ends any other finding, unless the row says that it counts.
- Counters are judged on their rise. A fall is a reset or a reboot, a wrap is counted through.
- Rules are tested one by one in `tests/agent/judgement/test_rules.py`, by their name, and together in
  `test_healthy_week.py`; what the kernel log says in `tests/analysis/test_kernel_log_tables.py`, on recorded lines.
- *Untried* rows were never seen on a machine that has the thing: they are read in their documented or recorded form.

The first fault within 3 s on a node is marked `first`, the others `echo_of` it. What comes and goes is told at most
three times within an hour; after that it is over only when it stayed away for half an hour.
"""


COLUMNS: Final = (
    "| what is asked, and where | signal: reading | rule | begins when | observation | severity | action | over when "
    "| tests | tried |"
)
RULE_TESTS: Final = "`test_rules.py`"
LOG_TESTS: Final = "`test_kernel_log_tables.py`, `test_events.py`"


def markdown() -> str:
    """The whole page."""
    parts = [HEAD]
    for section, title in SECTIONS.items():
        parts.append(f"\n## {title}\n")
        parts += [COLUMNS, "|---" * (COLUMNS.count("|") - 1) + "|"]
        for row in rows.ROWS:
            if row.name.partition("/")[0] == section:
                parts += _lines(row)
    return "\n".join(parts) + "\n"


def _lines(row: rows.Row) -> list[str]:
    tried = "tried" if row.tried else "untried"
    found = [
        [*names, begins, kind, severity, action, over, RULE_TESTS, tried]
        for (kind, severity, action, begins, over), names in _grouped(row.name).items()
    ]
    if kinds := kernel.ANSWERED.get(row.name):
        words = ", ".join(f"`{kind}`" for kind in kinds)
        found.append(
            [
                "kernel-log, nvml-events",
                "",
                "it is said",
                words,
                *["by its table"] * 2,
                "said, reboot",
                LOG_TESTS,
                tried,
            ]
        )
    if row.name == "network/unreadable":
        words = f"more than {blind.POLLS_MAX} polls"
        over = f"{blind.CLEAR_POLLS} good polls"
        found.append(["all", "", words, f"`{blind.KIND}`", "info, warning", "none", over, "`test_blind.py`", tried])
    if row.readings:
        told = "measured and exported, no fault by itself"
        found.append([_names(row.readings), "", told, "none", "info", "none", "", "`test_signals.py`", tried])
    if not found:
        found.append(["", "", "not read", "none", "info", "none", "", "", tried])
    first = f"**{row.name}**: {row.asks} ({row.source})"
    return [f"| {' | '.join([first if order == 0 else '', *line])} |" for order, line in enumerate(found)]


def _grouped(row: str) -> dict[tuple[str, str, str, str, str], tuple[str, str]]:
    """Rules that say the same of several readings are one line: readings and names of the rules."""
    found: dict[tuple[str, str, str, str, str], list[rules.Rule]] = {}
    for rule in table.RULES:
        if rule.row == row:
            action = ", ".join(dict.fromkeys(word for _, word in rule.answers)) or rule.recovery
            severity = f"{rule.severity} (stops {rule.stops})" if rule.stops else rule.severity
            key = (f"`{rule.kind}`", severity, action, _begins(rule), rule.clear.sentence)
            found.setdefault(key, []).append(rule)
    return {key: (_readings(those), _names(rule.name for rule in those)) for key, those in found.items()}


def _readings(those: list[rules.Rule]) -> str:
    return f"{those[0].signal}: {_names(dict.fromkeys(rule.reading for rule in those))}"


def _names(names: Iterable[str]) -> str:
    names = tuple(names)
    shown = names if len(names) <= 6 else (*names[:2], f"and {len(names) - 3} more", names[-1])
    return ", ".join(f"`{name}`" if " " not in name else name for name in shown)


def _begins(rule: rules.Rule) -> str:
    words = [_test(rule)]
    if rule.unreadable_is_bad:
        words.append("or unreadable")
    if rule.hold_s:
        words.append(f"for {rules.span(rule.hold_s)}")
    if rule.share:
        words.append(f"in {rule.share.bad} of {rule.share.of} samples, one each {rules.span(rule.share.every_s)}")
    elif rule.polls > 1 and not rule.hold_s:
        words.append(f"at {rule.polls} looks")
    if rule.needs:
        words.append(f"({', '.join(rule.needs)})")
    return " ".join(words)


def _test(rule: rules.Rule) -> str:
    match rule.test:
        case rules.Above(bound):
            return f"above {_bound(bound)}"
        case rules.Below(bound):
            return f"below {_bound(bound)}"
        case rules.OneOf(values):
            return " or ".join(_value(value) for value in values)
        case rules.NoneOf(values):
            return f"not {' or '.join(_value(value) for value in values)}"
        case rules.Bits(mask, unless):
            return f"bit {mask:#x}" + (f" without {unless:#x}" if unless else "")
        case rules.Differs(readings):
            return f"unlike {', '.join(f'`{name}`' for name in readings)}"
        case rules.Rises(by, within_s):
            return f"rises by {by:g}" + (f" within {rules.span(within_s)}" if within_s else "")
        case rules.Faster(per_s, times):
            return f"rises by more than {per_s:g} a second" + (f" and `{times}`" if times else "")
        case rules.Sibling(by, above, relative):
            how_much = f"{by:.0%}" if relative else f"{by:g}"
            return f"{how_much} {'above' if above else 'below'} the median of its siblings"
    return _of_history(rule.test)


def _of_history(test: rules.Test) -> str:
    match test:
        case rules.Unlike():
            return "unlike most siblings"
        case rules.Fell():
            return "below its best"
        case rules.Changed():
            return "changed"
        case rules.Vanished():
            return "gone"
        case rules.Flaps(good, down_s, times, within_s):
            away = f"away from {good[0]} for {rules.span(down_s)} and back"
            return f"{away}, {times} times within {rules.span(within_s)}"
    raise ValueError(f"{test} has no words")


def _value(value: float | str | bool) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, int | float) else value


def _bound(bound: rules.Bound) -> str:
    words = []
    if bound.expected:
        words.append("what is expected")
    if bound.reading:
        times = "" if bound.times == 1 else f"{bound.times:g} x "
        plus = f" {bound.plus:+g}" if bound.plus else ""
        words.append(f"{times}`{bound.reading}`{plus}")
    if bound.level is not None:
        words.append(f"{bound.level:,.10g}")
    return ", else ".join(words)
