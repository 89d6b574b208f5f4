"""Histories of the real program amid faults: there is nothing to find in them."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.history.deployment import Shape
from harness.history.faults import Plan
from harness.history.record import Verdict
from harness.history.run import Options, Outcome, run
from harness.history.table import table

LEASE_S = 2.0
SHAPE = Shape(replicas=2, cluster=False, lease_s=LEASE_S)


def assert_clean(outcome: Outcome) -> None:
    told = table(outcome.log, outcome.report, outcome.problems)
    assert not outcome.report.violations, told
    assert not outcome.problems, told


async def test_no_right_outlives_its_end_and_none_that_was_given_is_missed(tmp_path: Path) -> None:
    plan = Plan(
        ("replica paused", "feed held", "reads late", "slow", "cut", "reset", "NATS killed"),
        hold_s=(0.2, 1.5 * LEASE_S),
        rest_s=0.5,
    )
    outcome = await run(Options(SHAPE, changes=200, seed=1, plan=plan), tmp_path)
    assert_clean(outcome)
    report = outcome.report
    assert report.had_to_fail[Verdict.REFUSED] > 100, "or nothing was put to the test"
    assert report.had_to_pass[Verdict.ADMITTED] > 100, "or nothing was put to the test"


@pytest.mark.faults
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("seed", [1])
async def test_ten_thousand_changes_of_three_replicas_and_a_cluster(
    tmp_path: Path, seed: int
) -> None:
    shape = Shape(replicas=3, cluster=True, lease_s=3.0)
    plan = Plan.everything(cluster=True, lease_s=shape.lease_s)
    options = Options(shape, changes=10_000, seed=seed, plan=plan, longest_s=3000)
    outcome = await run(options, tmp_path)
    print(table(outcome.log, outcome.report, outcome.problems))
    assert_clean(outcome)
