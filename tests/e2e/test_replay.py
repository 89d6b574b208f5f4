"""`tidegate replay` against a running stack, also while that loses a replica."""

from __future__ import annotations

import asyncio
import csv
import os
import random
import re
import signal
from typing import TYPE_CHECKING

import aiohttp
import pytest

from tidegate.devstack.api import Api, As

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import Dev, Finished, MakeMember, Tidegate

pytestmark = pytest.mark.e2e

ROWS, CASES = 1500, 200
COLUMNS = ("--id-column", "case", "--type-column", "activity")


@pytest.fixture(scope="session")
def log_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cases that go through some activities each, mixed as they come."""
    rng = random.Random(7)
    path = tmp_path_factory.mktemp("log") / "permits.csv"
    activities = ["Confirmation of receipt", "T02 Check", "T04 Determine", "T05 Print and send"]
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["time", "case", "activity", "resource", "task"])
        for place in range(ROWS):
            case = place if place < CASES else rng.randrange(CASES)
            activity = rng.choice(activities)
            who = f"Müller, {rng.randrange(9)}"
            writer.writerow([place, f"case {case}", activity, who, f"task-{place}"])
    return path


def counts(done: Finished) -> dict[str, int]:
    found = re.findall(r"^  (accepted|duplicate|refused|failed) +(\d+)$", done.out, re.MULTILINE)
    return {word: int(number) for word, number in found}


def arguments(dev: Dev, file: Path, kind: str) -> list[str]:
    ready = ["--ready-file", str(dev.ready_path)]
    return ["replay", str(file), "--aggregate-type", kind, *COLUMNS, *ready]


async def total(api: Api, reader: As, kind: str) -> int:
    answer = await api.query("counts", {"aggregate_type": kind}, reader)
    assert answer.status == 200, answer
    return int(answer.body["total"])


async def test_every_row_happens_once_although_a_replica_is_killed_half_way(
    dev: Dev,
    tidegate: Tidegate,
    log_file: Path,
    http: aiohttp.ClientSession,
    make_member: MakeMember,
) -> None:
    running = dev.running
    api = Api(http, running.replicas[0].http)
    reader = await make_member(running, "reader@example.org")
    call = [*arguments(dev, log_file, "permit"), "--command-id-column", "task"]

    replaying = asyncio.create_task(tidegate(*call))
    while await total(api, reader, "permit") < ROWS / 3:
        assert not replaying.done(), replaying.result()
        await asyncio.sleep(0.1)
    os.kill(running.replicas[1].pid, signal.SIGKILL)
    done = await replaying

    assert done.status == 0, done.out + done.err
    found = counts(done)
    assert found["accepted"] + found["duplicate"] == ROWS
    assert (found["refused"], found["failed"]) == (0, 0)
    assert f"the projection agrees: {ROWS} events of {CASES} aggregates" in done.out
    assert "p50" in done.out
    assert "p99" in done.out
    assert await total(api, reader, "permit") == ROWS
    await assert_order_kept(api, reader, log_file)

    again = await tidegate(*call)
    assert again.status == 0, again.out + again.err
    assert counts(again) == {"accepted": 0, "duplicate": ROWS, "refused": 0, "failed": 0}
    assert await total(api, reader, "permit") == ROWS


async def assert_order_kept(api: Api, reader: As, log_file: Path) -> None:
    with log_file.open(encoding="utf-8") as file:
        written = [row for row in csv.DictReader(file) if row["case"] == "case 7"]
    query = {"aggregate_type": "permit", "aggregate_id": "case%207"}
    events = (await api.query("aggregate", query, reader)).body["events"]
    assert [event["payload"] for event in events] == [
        {name: row[name] for name in ("time", "activity", "resource")} for row in written
    ]


async def test_without_an_id_column_a_second_run_changes_nothing_either(
    dev: Dev, tidegate: Tidegate, tmp_path: Path
) -> None:
    file = tmp_path / "small.csv"
    file.write_text("case,activity\n" + "a,stamp\na,sign\nb,stamp\n" * 5)
    call = [*arguments(dev, file, "letter"), "--rate", "100", "--concurrency", "1"]
    first, second = await tidegate(*call), await tidegate(*call)
    assert counts(first) == {"accepted": 15, "duplicate": 0, "refused": 0, "failed": 0}
    assert counts(second) == {"accepted": 0, "duplicate": 15, "refused": 0, "failed": 0}
    assert (first.status, second.status) == (0, 0)


async def test_a_refused_row_makes_it_fail(dev: Dev, tidegate: Tidegate, tmp_path: Path) -> None:
    file = tmp_path / "large.csv"
    cells = ["x" * 120_000] * 10
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["case", "activity", *(f"note {place}" for place in range(10))])
        writer.writerow(["a", "stamp", *("short" for _ in cells)])
        writer.writerow(["b", "stamp", *cells])
    done = await tidegate(*arguments(dev, file, "parcel"))
    assert done.status == 1
    assert counts(done) == {"accepted": 1, "duplicate": 0, "refused": 1, "failed": 0}
    assert "1 refused: 413 BODY_TOO_LARGE" in done.out


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is empty"),
        (b"case,activity\n", "has no rows"),
        (b"case,what\na,stamp\n", "has no column 'activity'"),
        (b"case,activity\na,\xff\n", "is not UTF-8"),
        (b"case,activity\na,stamp\na\n", "line 3"),
    ],
)
async def test_a_bad_file_is_refused_before_anything_is_sent(
    dev: Dev, tidegate: Tidegate, tmp_path: Path, content: bytes, told: str
) -> None:
    file = tmp_path / "bad.csv"
    file.write_bytes(content)
    done = await tidegate(*arguments(dev, file, "letter"))
    assert (done.status, done.out) == (2, "")
    assert done.err.startswith("tidegate: ")
    assert told in done.err
    assert done.err.count("\n") == 1


async def test_without_a_stack_it_says_how_to_start_one(tidegate: Tidegate, log_file: Path) -> None:
    done = await tidegate("replay", str(log_file), "--aggregate-type", "permit", *COLUMNS)
    assert (done.status, done.out) == (2, "")
    assert "start `tidegate dev` in this directory" in done.err


async def test_a_stack_that_is_gone_is_told_in_one_line(
    dev: Dev, tidegate: Tidegate, log_file: Path, tmp_path: Path
) -> None:
    nobody = tmp_path / "stale.json"
    text = dev.ready_path.read_text()
    nobody.write_text(re.sub(r'"http://127\.0\.0\.1:\d+"', '"http://127.0.0.1:1"', text))
    call = ["replay", str(log_file), "--aggregate-type", "permit", *COLUMNS]
    done = await tidegate(*call, "--ready-file", str(nobody))
    assert done.status == 1
    assert done.err == "tidegate: nothing listens at http://127.0.0.1:1\n"
