"""What stands before every request: who may ask, and what browsers may do with the answer."""

import base64
import hmac
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from img2img.serve.counts import Counts
from img2img.serve.options import is_loopback

HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
        "form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}
FILES = {  # of the page: path, name and type
    "/": ("index.html", "text/html"),
    "/page.css": ("page.css", "text/css"),
    **{f"/{name}": (name, "text/javascript") for name in ("page.js", "view.js", "zip.js")},
}
RUNS = "/runs/"  # pages that browsers open by themselves
OPEN = ("/healthz", *FILES)  # paths that need no token: they tell nothing of anyone


COUNTED = ("/v1/translate", "/v1/sample", "/v1/preview", "/v1/models", "/metrics", *OPEN)


class Guard:
    """An application behind its guard.

    Args:
        app: the application.
        counts: what counts the answers.
        token: what clients must send; None if only this machine reaches it.
        local: whether it listens at an address of this machine alone. Browsers of this machine can be led to such an
            address by a page of another name (DNS rebinding), so names of hosts are checked.
    """

    def __init__(self, app: ASGIApp, counts: Counts, token: str | None, local: bool) -> None:
        self.app, self.counts, self.token, self.local = app, counts, token, local

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, or pass it on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                path = scope["path"] if scope["path"] in COUNTED else "other"
                path = RUNS if scope["path"].startswith(RUNS) else path
                self.counts.add("img2img_requests_total", path=path, status=str(message["status"]))
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        status, sentence = self._refusal(scope["path"], Headers(scope=scope))
        if status:
            kind = 'Basic realm="img2img"' if scope["path"].startswith(RUNS) else "Bearer"
            extra = {"WWW-Authenticate": kind} if status == 401 else {}
            await JSONResponse({"error": sentence}, status, extra)(scope, receive, guarded)
        else:
            await self.app(scope, receive, guarded)

    def _refusal(self, path: str, headers: Headers) -> tuple[int, str]:
        host = headers.get("host", "")
        if self.local and not is_loopback(_name_in(f"//{host}")):
            return 421, "This server answers to the names of its own machine only, such as localhost."
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2].lower() != host.lower():
            return 403, "Pages of other servers may not use this one."
        if self.token is not None and path not in OPEN:
            sent = _token_in(headers.get("authorization", ""))
            if not hmac.compare_digest(sent.encode(), self.token.encode()):
                return 401, "Send the token of this server: Authorization: Bearer TOKEN."
        return 0, ""


def _token_in(header: str) -> str:
    """Return the token that a header carries; as a password too, which browsers ask for when they open a report."""
    kind, _, sent = header.partition(" ")
    if kind.lower() != "basic":
        return sent.strip() if kind.lower() == "bearer" else ""
    try:
        return base64.b64decode(sent).decode().partition(":")[2]
    except ValueError:
        return ""


def _name_in(address: str) -> str:
    """Return the name of the host in an address; "" if there is none."""
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""
