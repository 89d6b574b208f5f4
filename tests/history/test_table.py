"""The table tells what a person would look for first."""

from __future__ import annotations

from harness.history.checker import check
from harness.history.record import Change, ChangeKind, Fault, Log, Request
from harness.history.table import table

TENANT = ("tenant", "t1")


def test_the_table_tells_of_changes_faults_durations_and_violations() -> None:
    log = Log(
        requests=[Request("c", "r2", "u", "t1", "query", (TENANT,), 13, 14, 200)],
        changes=[
            Change("w-1", ChangeKind.RESUME, TENANT, "r1", 0, 1, 200),
            Change("w-2", ChangeKind.SUSPEND, TENANT, "r1", 9.5, 9.6, 503, "BARRIER_PENDING"),
            Change("w-3", ChangeKind.SUSPEND, TENANT, "r1", 10, 12.5, 200),
        ],
        faults=[Fault("cut", "r2", 9, 12)],
    )
    lines = table(log, check(log, 1.5), ["w-4 was carried out twice"]).splitlines()
    rows = {line.split("  ")[0]: line.split()[-4:] for line in lines}
    assert rows["suspend"] == ["1", "0", "0", "1"]
    assert rows["cut"] == ["cut", "1", "3.0", "3.0"]
    assert rows["taking away, faults near"] == ["1", "2500.0", "2500.0", "2500.0"]
    assert rows["giving, no fault"] == ["1", "1000.0", "1000.0", "1000.0"]
    assert "violations: 1" in lines
    assert any("r2" in line and "cut at r2" in line for line in lines)
    assert "  w-4 was carried out twice" in lines


def test_a_run_without_anything_has_a_table() -> None:
    assert "violations: 0" in table(Log(), check(Log()), [])
