"""Rows, rules, signals and page belong together: nothing is asked that nobody reads."""

import json
import pathlib

from outrider import vocabulary
from outrider_agent.judgement import document, kernel, known, rows, rules, table
from outrider_agent.nvml import names
from outrider_agent.signals import catalog
from outrider_analysis.kernel_log import rows as kernel_rows
from tests.agent.judgement import test_healthy_week

ROOT = pathlib.Path(__file__).parents[3]
READINGS = {**{signal: set(given) for signal, given in catalog.READINGS.items()}, "nvml": set(names.READINGS)}
# Rows that neither a rule nor an event answers: why that is right.
NOT_READ = {"links/legacy-fields"}


def test_every_row_is_answered() -> None:
    by_rule = {rule.row for rule in table.RULES}
    for row in rows.ROWS:
        answered = row.name in by_rule or row.name in kernel.ANSWERED or row.readings
        assert answered or row.name in NOT_READ | {"network/unreadable"}, row
    known_rows = {row.name for row in rows.ROWS}
    assert by_rule | kernel.ANSWERED.keys() <= known_rows
    assert len(known_rows) == len(rows.ROWS)
    assert {row.name.partition("/")[0] for row in rows.ROWS} == document.SECTIONS.keys()


def test_every_reading_that_a_rule_asks_for_is_given_by_its_signal() -> None:
    for rule in table.RULES:
        assert rule.signal in READINGS, rule
        assert rule.reading in READINGS[rule.signal], f"{rule.name}: signal {rule.signal} gives no {rule.reading}"


def test_every_bound_and_condition_is_read_by_somebody() -> None:
    given = set().union(*READINGS.values())
    assert known.Known(table.RULES, rules.Expectations()).wanted <= given


def test_information_of_a_row_is_read_by_somebody() -> None:
    given = set().union(*READINGS.values())
    for row in rows.ROWS:
        assert set(row.readings) <= given, row


def test_what_events_answer_is_in_the_tables_of_the_kernel_log() -> None:
    said = {row.kind for row in kernel_rows.ROWS} | {
        "xid",
        "sxid",
        "machine-check",
        "recovery-action",
        "ecc-uncorrected",
    }
    assert {kind for kinds in kernel.ANSWERED.values() for kind in kinds} <= said | {"fabric-manager"}
    # The other way round: whatever the log can say answers some row.
    assert {row.kind for row in kernel_rows.ROWS} <= {kind for kinds in kernel.ANSWERED.values() for kind in kinds}


def test_every_section_has_faults_that_are_found_within_noise() -> None:
    rows_found = {
        rule.row.partition("/")[0]
        for kind, severity, _ in test_healthy_week.FAULTS.values()
        for rule in table.RULES
        if (rule.kind, rule.severity) == (kind, severity)
    }
    assert rows_found >= document.SECTIONS.keys() - {"xid"}


def test_the_page_is_what_the_rules_say() -> None:
    page = ROOT / "docs/signals.md"
    assert page.read_text() == document.markdown(), "run: python tools/signals_table.py > docs/signals.md"


def test_the_page_names_every_rule_or_its_group_and_every_kind() -> None:
    page = document.markdown()
    for rule in table.RULES:
        assert f"`{rule.kind}`" in page
    assert all(f"**{row.name}**" in page for row in rows.ROWS)
    assert json.dumps(vocabulary.OBSERVATION_KINDS)
