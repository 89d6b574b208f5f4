"""Histories of a program that is broken on purpose: a checker that finds nothing here is blind."""

from __future__ import annotations

from pathlib import Path

import pytest
from harness.history.checker import Rule
from harness.history.deployment import Shape
from harness.history.faults import Plan
from harness.history.run import Options, run

LEASE_S = 2.0


@pytest.mark.parametrize(
    ("broken", "fault", "rules"),
    [
        ("barrier", "slow from NATS", {Rule.GONE}),
        ("renewal", "feed held", {Rule.GONE}),
        ("load-rule", "reads late", {Rule.GONE, Rule.HELD}),
    ],
)
async def test_a_promise_that_is_broken_is_found_out(
    tmp_path: Path, broken: str, fault: str, rules: set[Rule]
) -> None:
    shape = Shape(replicas=2, cluster=False, lease_s=LEASE_S, broken=broken)
    plan = Plan((fault,), hold_s=(3 * LEASE_S,), rest_s=0.1)
    options = Options(shape, changes=2000, seed=1, plan=plan, until_violated=True)
    outcome = await run(options, tmp_path)
    assert rules & {violation.rule for violation in outcome.report.violations}
