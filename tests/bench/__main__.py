"""All benchmarks, one after another, each in a process of its own, in one table.

`python -m bench [NAME …] [--store DIR] [--json]`
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from bench.measure import show, tell

# By name: the script and what it is run with.
BENCHES: dict[str, tuple[str, ...]] = {
    "admission": ("admission",),
    "commit-to-applied": ("commit_to_applied",),
    "commit-to-applied-cluster": ("commit_to_applied", "--cluster"),
    "barrier": ("barrier",),
    "barrier-cluster": ("barrier", "--cluster"),
    "refresh-rotations": ("refresh_rotations",),
    "on-demand-load": ("on_demand_load",),
    "startup-memory": ("startup_memory",),
}
_STORED = frozenset({"on-demand-load", "startup-memory"})


def run(name: str, store: Path | None) -> dict[str, Any]:
    script, *arguments = BENCHES[name]
    if name in _STORED and store is not None:
        arguments += ["--store", str(store)]
    command = [sys.executable, "-m", f"bench.{script}", "--json", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    result: dict[str, Any] = orjson.loads(done.stdout)
    return result | {"bench": name}


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--store", type=Path, help="folder that keeps a million users")
    parser.add_argument("--json", action="store_true", help="answer with JSON")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.names if name not in BENCHES]
    if unknown:
        parser.error(f"there is no {', '.join(unknown)}")
    results = []
    for name in arguments.names or BENCHES:
        tell(f"measuring {name} …")
        results.append(run(name, arguments.store))
    if arguments.json:
        sys.stdout.buffer.write(orjson.dumps(results) + b"\n")
    else:
        show(results)


if __name__ == "__main__":
    main()
