"""The machine that measures, and what a process takes of it (Linux)."""

from __future__ import annotations

import os
import statistics
import timeit
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256


@dataclass(frozen=True, slots=True)
class Machine:
    """How busy and how fast the machine was: who compares two runs compares this first.

    `reference_us` is the time of one ES256 signature check, which depends on nothing of ours.
    """

    cores: int
    load: float
    reference_us: float

    @classmethod
    def now(cls) -> Self:
        key = ec.generate_private_key(ec.SECP256R1())
        algorithm = ec.ECDSA(SHA256())
        public, signature = key.public_key(), key.sign(b"reference", algorithm)
        took = timeit.repeat(
            lambda: public.verify(signature, b"reference", algorithm), number=100, repeat=5
        )
        return cls(os.cpu_count() or 1, os.getloadavg()[0], statistics.median(took) / 100 * 1e6)

    def __str__(self) -> str:
        return (
            f"{self.cores} cores, load {self.load:.1f}, "
            f"one ES256 signature checked in {self.reference_us:.0f} µs"
        )


def cpu_s(pid: int) -> float:
    """The processor time that a process has used, in its own code and in the kernel."""
    # After the name, which may hold anything, in brackets.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mib(pid: int) -> float:
    """The resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise ProcessLookupError(f"process {pid} has no memory")
