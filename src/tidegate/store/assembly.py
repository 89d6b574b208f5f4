"""Puts delivered messages back together into whole commits. Pure; no I/O.

Invariant: each release leaves exactly what the stream held at one moment between two commits.
Two things make it so.
- Members are held until the position has reached their commit's last sequence,
  `first + size - 1`. The rule counts sequences, not members, because members that were
  overwritten or have expired, or that this follower does not read, never arrive.
- Everything is held while more is pending. A follower that is behind lacks what was overwritten
  since, and with it a part of a commit, until it has read what overwrote it:

    written    …  y₁ x₁  z₂ y₂          two commits; y₂ takes y₁ out of the stream
    delivered        x₁  z₂ y₂          x₁ may not be shown before y₂
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tidegate.store.changes import Entry

NOT_SHOWN = -1


@dataclass(frozen=True, slots=True)
class Member:
    """One delivered message: its sequence, the last sequence of its commit, and its entry.

    `entry` is None for an event, which moves the position but changes no view.
    """

    sequence: int
    commit_end: int
    entry: Entry | None


class Assembler:
    """Holds members until their commit is whole.

    `position` is the last sequence known to be delivered. `applied` is the last one up to which
    nothing is held back; NOT_SHOWN while a snapshot is still held.
    """

    __slots__ = ("_held", "_until", "applied", "position")

    def __init__(self, position: int) -> None:
        self.position = position
        self.applied = position
        self._held: list[Entry] = []
        self._until = position

    @classmethod
    def from_snapshot(cls, snapshot: Iterable[Member], last_sequence: int) -> Assembler:
        """Starts at `last_sequence`, holding a snapshot that was taken later than that.

        It is released, with what came on top of it, at the first moment at which everything
        in it is whole.
        """
        members = sorted(snapshot, key=lambda member: member.sequence)
        assembler = cls(last_sequence)
        assembler.applied = NOT_SHOWN
        assembler._held = [member.entry for member in members if member.entry is not None]
        assembler._until = max((member.commit_end for member in members), default=last_sequence)
        return assembler

    def deliver(self, member: Member, pending: int) -> list[Entry]:
        """Takes the next message, after which `pending` more were waiting to be delivered.

        Returns the entries that became visible, in order.
        """
        self.position = member.sequence
        if member.entry is not None:
            self._held.append(member.entry)
        self._until = max(self._until, member.commit_end)
        return [] if pending > 0 else self.advance(member.sequence)

    def advance(self, position: int) -> list[Entry]:
        """All that there is up to `position` is delivered; returns what that makes visible."""
        self.position = max(self.position, position)
        if self.position < self._until:
            return []
        released, self._held = self._held, []
        self.applied = self.position
        return released
