"""A run in figures, for people."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from harness.history.checker import Report, Violation
from harness.history.commits import SET_UP
from harness.history.record import Change, Fault, Log, Verdict

# As long as this after a fault what happens may still be its doing.
AFTERMATH_S = 1.0
_MOST_SHOWN = 10


def table(log: Log, report: Report, problems: Sequence[str]) -> str:
    return "\n".join(
        [
            *_changes(log.changes),
            *_requests(log, report),
            *_faults(log.faults),
            *_durations(log),
            *_violations(report.violations, problems),
        ]
    )


def _changes(changes: Sequence[Change]) -> list[str]:
    by_kind: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for change in changes:
        outcome = "done" if change.acknowledged else "refused" if change.refused else "repeated"
        by_kind[change.kind][outcome] += 1
        by_kind[change.kind]["unconfirmed"] += change.unconfirmed > 0
        by_kind["all"][outcome] += 1
        by_kind["all"]["unconfirmed"] += change.unconfirmed > 0
    columns = ("done", "unconfirmed", "refused", "repeated")
    rows = [(kind, *(str(counts[name]) for name in columns)) for kind, counts in by_kind.items()]
    return _section("changes", columns, rows)


def _requests(log: Log, report: Report) -> list[str]:
    by_kind: defaultdict[str, Counter[Verdict]] = defaultdict(Counter)
    for request in log.requests:
        by_kind[request.kind][request.verdict] += 1
        by_kind["all"][request.verdict] += 1
    by_kind["that had to be refused"] = report.had_to_fail
    by_kind["that had to be admitted"] = report.had_to_pass
    columns = [verdict.value for verdict in Verdict]
    rows = [
        (kind, *(str(counts[verdict]) for verdict in Verdict)) for kind, counts in by_kind.items()
    ]
    codes = Counter(f"{r.status} {r.code}".strip() for r in log.requests)
    told = ", ".join(f"{code}: {count}" for code, count in codes.most_common())
    return [*_section("requests", columns, rows), f"  answers: {told}"]


def _faults(faults: Sequence[Fault]) -> list[str]:
    by_kind: defaultdict[str, list[float]] = defaultdict(list)
    for fault in faults:
        by_kind[fault.kind].append(fault.end_s - fault.start_s)
    rows = [
        (kind, str(len(spans)), f"{sum(spans):.1f}", f"{max(spans):.1f}")
        for kind, spans in sorted(by_kind.items())
    ]
    return _section("faults", ("times", "seconds", "longest"), rows)


def _durations(log: Log) -> list[str]:
    spans: defaultdict[str, list[float]] = defaultdict(list)
    for change in log.changes:
        if not change.acknowledged or change.id.startswith(SET_UP):
            continue
        near = any(
            fault.start_s < change.end_s and change.start_s < fault.end_s + AFTERMATH_S
            for fault in log.faults
        )
        what = "giving" if change.kind.gives else "taking away"
        spans[f"{what}, {'faults near' if near else 'no fault'}"].append(
            change.end_s - change.start_s
        )
    rows = [
        (what, str(len(each)), *(f"{1000 * _quantile(each, q):.1f}" for q in (0.5, 0.99, 1.0)))
        for what, each in sorted(spans.items())
    ]
    return _section("durations, ms", ("calls", "p50", "p99", "longest"), rows)


def _violations(violations: Sequence[Violation], problems: Sequence[str]) -> list[str]:
    lines = [f"violations: {len(violations)}"]
    for violation in violations[:_MOST_SHOWN]:
        near = ", ".join(f"{fault.kind} at {fault.target}" for fault in violation.near)
        lines.append(f"  {violation.rule}: {violation.right}, {violation.request}, near: {near}")
    lines.append(f"problems: {len(problems)}")
    lines += [f"  {problem}" for problem in problems[:_MOST_SHOWN]]
    return lines


def _quantile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def _section(title: str, columns: Iterable[str], rows: Iterable[Sequence[str]]) -> list[str]:
    grid = [(title, *columns), *rows]
    widths = [max(len(row[place]) for row in grid) for place in range(len(grid[0]))]
    return [
        "  ".join(
            cell.ljust(width) if place == 0 else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in grid
    ]
