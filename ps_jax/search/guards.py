"""What stands before the local page: names that it answers to, headers, bodies within limits."""

import asyncio
import ipaddress
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

CONNECTIONS = 256  # at a time; uvicorn refuses more
HEAD_SECONDS = 20.0  # that a connection may take to ask for something
MOST_HELD = 1 << 30  # bytes of all bodies that are in memory at a time
BODY_SECONDS = 30.0  # that a body may take to arrive

_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_CLOSE = {"Connection": "close"}  # what is left of a refused body is not read


class Prompt(H11Protocol):
    """uvicorn's protocol, which drops connections that ask for nothing: silent ones would use up `CONNECTIONS`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.loop.call_later(HEAD_SECONDS, self._look, None)

    def _look(self, before: object) -> None:
        if self.transport.is_closing():
            return
        asked = self.cycle is not None and not self.cycle.response_complete
        if not asked and self.cycle is before:
            self.transport.close()
        else:
            self.loop.call_later(HEAD_SECONDS, self._look, self.cycle)


class KnownHosts:
    """Refuses requests for other names than the page's own, which a page elsewhere may have made to lead here.

    Addresses are taken, whichever they are: no name that somebody else owns can be one.

    Args:
      app: what is asked for under the right name.
      hosts: names beside "localhost".
    """

    def __init__(self, app: ASGIApp, hosts: Sequence[str] = ()):
        self._app, self._hosts = app, {"localhost", *map(str.lower, hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._known(Headers(scope=scope).get("host", "").lower()):
            return await self._app(scope, receive, send)
        refusal = "this page does not answer to this name; start it with --name"
        await PlainTextResponse(refusal, 400)(scope, receive, send)

    def _known(self, host: str) -> bool:
        name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        return name in self._hosts or is_address(name)


def is_address(name: str) -> bool:
    """Whether a host is an address of the internet protocol and no name."""
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


class WithHeaders:
    """Adds the headers that keep a browser from doing anything else with what it gets."""

    def __init__(self, app: ASGIApp):
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message["headers"],
                    *((name.lower().encode(), value.encode()) for name, value in _HEADERS.items()),
                ]
            await send(message)

        await self._app(scope, receive, with_headers)


class Bodies:
    """Reads bodies, none larger or slower than allowed, and not more than `MOST_HELD` bytes of them together.

    Attributes:
      held: bytes in memory; who is done with a body takes its length off.
    """

    def __init__(self) -> None:
        self.held = 0

    async def read(self, request: Request, most: int) -> bytes:
        """The body of a request; raises HTTPException where it is refused."""
        too_large = HTTPException(413, f"at most {most / 2**20:g} MiB are taken", _CLOSE)
        declared = request.headers.get("content-length", "0")
        if not declared.isdigit() or len(declared) > 15 or int(declared) > 2 * most:
            raise too_large
        parts: list[bytes] = []
        size = 0
        whole = False
        try:
            async with asyncio.timeout(BODY_SECONDS):
                async for part in request.stream():
                    size, self.held = size + len(part), self.held + len(part)
                    if size > 2 * most:
                        raise too_large
                    if self.held > MOST_HELD:
                        raise HTTPException(503, "too many uploads at a time; try again in a moment", _CLOSE)
                    parts.append(part)
            if size > most:  # read to its end, so that the client reads the answer
                raise too_large
            whole = True
        except TimeoutError:
            raise HTTPException(408, "the upload took too long", _CLOSE) from None
        except ClientDisconnect:
            raise HTTPException(400, "the upload was broken off") from None
        finally:
            if not whole:
                self.held -= size
        return b"".join(parts)
