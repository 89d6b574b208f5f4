"""One replica as a process, whole or broken on purpose: `python replica.py --config x.toml`.

A checker that never complains may be one that cannot. So the product can be run with one of its
promises taken out, and the checker must notice:

barrier    a take-away is answered at once, without asking the other replicas
renewal    a renewal of the lease counts although this replica has not applied it
load-rule  what was read of a principal is believed, however old, whatever the feed said meanwhile
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tidegate.cli.main import main
from tidegate.store.barrier import Barrier
from tidegate.store.lease import Lease
from tidegate.store.on_demand import OnDemand

BREAKABLE = ("barrier", "renewal", "load-rule")


def break_down(what: str) -> None:
    """Takes one promise out of the product, in this process."""

    async def yes(*_: object) -> bool:
        return True

    def believed(*_: object) -> bool:
        return True

    broken: dict[str, tuple[type[Any], str, object]] = {
        "barrier": (Barrier, "_confirmed", yes),
        "renewal": (Lease, "_counts", yes),
        "load-rule": (OnDemand, "_may_be_kept", believed),
    }
    owner, name, replacement = broken[what]
    if not callable(getattr(owner, name)):
        raise TypeError(f"{owner.__name__}.{name} is nothing to replace")
    setattr(owner, name, replacement)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True)
    parser.add_argument("--broken", choices=BREAKABLE)
    arguments = parser.parse_args()
    if arguments.broken is not None:
        break_down(arguments.broken)
    sys.argv = ["tidegate", "serve", "--config", arguments.config]
    main()
