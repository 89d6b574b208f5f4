"""Passwords: what is accepted, and hashing that cannot pile up.

Invariant: at most `threads` hashes run and `queue` more wait; any further one is refused at
once, so a storm of sign-ins costs the sign-ins their answer and nobody else anything.

Rules after NIST SP 800-63B-4: length only, no composition, every Unicode character, NFC.
"""

from __future__ import annotations

import asyncio
import time
import unicodedata
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from tidegate.identity.settings import PasswordSettings
from tidegate.kernel import errors
from tidegate.kernel.errors import Refusal
from tidegate.kernel.secret import Secret
from tidegate.observability import metrics

T = TypeVar("T")

_BUSY = Refusal(
    errors.OVERLOADED, "Too many passwords are being checked just now.", retry_after_s=2
)


def normalize(password: str) -> Secret:
    """The bytes that are hashed: two keyboards' spellings of one password are equal."""
    return Secret(unicodedata.normalize("NFC", password))


def check_policy(password: str, email: str, settings: PasswordSettings) -> Refusal | None:
    """Why `password` is not acceptable for the account of `email`, if it is not."""
    text = unicodedata.normalize("NFC", password)
    if len(text) < settings.min_length:
        return errors.invalid(
            "/password", f"The password needs at least {settings.min_length} characters."
        )
    if len(text) > settings.max_length:
        return errors.invalid(
            "/password", f"The password may have at most {settings.max_length} characters."
        )
    name = email.partition("@")[0].casefold()
    if len(name) >= 4 and name in text.casefold():
        return errors.invalid(
            "/password", "The password must not contain the name in the e-mail address."
        )
    return None


class Passwords:
    """Argon2id in threads, behind a bounded queue."""

    def __init__(self, settings: PasswordSettings) -> None:
        self._hasher = PasswordHasher(
            time_cost=settings.iterations,
            memory_cost=settings.memory_kib,
            parallelism=settings.parallelism,
        )
        self._threads = ThreadPoolExecutor(settings.threads, "password")
        self._limit = settings.threads + settings.queue
        self._admitted = 0
        # Verified for accounts that do not exist, so that they cost what others cost.
        self._dummy = self._hasher.hash("no account has this password")

    async def hash(self, password: Secret) -> str | Refusal:
        """The hash in PHC form, or OVERLOADED."""
        return await self._run(lambda: self._hasher.hash(password.reveal()))

    async def verify(self, stored: str | None, password: Secret) -> bool | Refusal:
        """Whether `password` is the stored one; for None the same work, and False."""

        def check() -> bool:
            try:
                self._hasher.verify(stored or self._dummy, password.reveal())
            except (VerificationError, InvalidHashError):
                return False
            return stored is not None

        return await self._run(check)

    def needs_rehash(self, stored: str) -> bool:
        """Whether `stored` was made with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    async def _run(self, work: Callable[[], T]) -> T | Refusal:
        if self._admitted >= self._limit:
            return _BUSY
        self._admitted += 1
        metrics.HASH_QUEUE.set(self._admitted)

        def timed() -> T:
            started = time.perf_counter()
            try:
                return work()
            finally:
                metrics.HASH_SECONDS.observe(time.perf_counter() - started)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, timed)
        finally:
            self._admitted -= 1
            metrics.HASH_QUEUE.set(self._admitted)

    def close(self) -> None:
        """Ends the threads; what is running is finished."""
        self._threads.shutdown(wait=True, cancel_futures=True)
