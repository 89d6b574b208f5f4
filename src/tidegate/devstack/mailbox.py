"""Reading the mail that the stack's sink has caught."""

from __future__ import annotations

import asyncio
import re

import aiohttp

_DEADLINE_S = 15.0
_POLL_S = 0.05
_TOKEN = re.compile(r"^Your token: (\S+)$", re.MULTILINE)


class NoMailError(Exception):
    """The mail did not come in time, or does not hold what it should."""


class Mailbox:
    """All mail in the sink at `url`."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url

    async def token_for(self, address: str) -> str:
        """The one-time token in the latest mail to `address`. Raises NoMailError."""
        text = await self._latest_to(address)
        found = _TOKEN.search(text)
        if found is None:
            raise NoMailError(f"the mail to {address} has no token in it")
        return found[1]

    async def _latest_to(self, address: str) -> str:
        try:
            async with asyncio.timeout(_DEADLINE_S):
                while True:
                    async with self._http.get(f"{self._url}/messages") as answer:
                        messages = await answer.json()
                    mine = [message for message in messages if address in message["to"]]
                    if mine:
                        return str(max(mine, key=lambda message: message["received_at"])["text"])
                    await asyncio.sleep(_POLL_S)
        except TimeoutError as error:
            raise NoMailError(f"no mail to {address} within {_DEADLINE_S:.0f} s") from error
        except (aiohttp.ClientError, OSError) as error:
            raise NoMailError(f"the mail sink at {self._url} does not answer: {error}") from error
