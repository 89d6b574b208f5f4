"""Each benchmark runs, at the smallest size, and answers with the promised fields.

How long anything takes is nobody's business here.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

import bench
import pytest
from bench.__main__ import BENCHES

TESTS = Path(bench.__file__).parents[1]
TINY = {
    "admission": ["--calls", "2"],
    "commit_to_applied": ["--commits", "5"],
    "barrier": ["--calls", "1"],
    "refresh_rotations": ["--steps", "64"],
    "on_demand_load": ["--users", "4", "--tenants", "2", "--loads", "3"],
    "startup_memory": ["--users", "4", "--tenants", "2", "--settle-s", "0"],
}
FIELDS = {"what", "unit", "value", "lowest", "highest", "repeats", "target", "verdict"}


async def answer(script: str, *arguments: str) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        f"bench.{script}",
        "--json",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(TESTS)},
    )
    answered, _ = await process.communicate()
    assert process.returncode == 0
    result: dict[str, Any] = json.loads(answered)
    return result


@pytest.mark.parametrize("script", TINY)
async def test_a_benchmark_answers_with_figures(script: str) -> None:
    result = await answer(script, "--repeats", "1", *TINY[script])
    assert result["bench"] == script
    assert {"load", "reference_us"} <= set(result["machine"])
    assert result["figures"]
    for figure in result["figures"]:
        assert set(figure) == FIELDS
        assert figure["lowest"] <= figure["value"] <= figure["highest"]
        assert figure["verdict"] in (("met", "missed") if figure["target"] else ("",))


def test_every_benchmark_is_tried_here() -> None:
    assert {script for script, *_ in BENCHES.values()} == set(TINY)
