"""Becomes another program that the kernel kills as soon as its parent is gone (Linux).

A program of its own, because running Python between fork and exec instead is not safe in a
process with threads.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def command() -> tuple[str, ...]:
    """What to put before a command line, to make the program it names die with this process."""
    # Isolated and without site: it starts in milliseconds and minds no one's environment.
    return (sys.executable, "-IS", __file__, str(os.getpid()))


def main(parent_pid: int, *argv: str) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent_pid:
        # It died before the call above, and no signal will ever come.
        sys.exit(1)
    # Python ignores these, and what is ignored stays so in the next program.
    for ignored in (signal.SIGPIPE, signal.SIGXFSZ):
        signal.signal(ignored, signal.SIG_DFL)
    os.execv(argv[0], argv)  # noqa: S606


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
