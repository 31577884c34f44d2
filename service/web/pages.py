"""The page at `/`: a handful of files, read once, served as they were written."""

import hashlib
from pathlib import Path

from starlette.requests import Request
from starlette.responses import Response

_FOLDER = Path(__file__).parent / "static"
_MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
_FILES = {"/" if file.name == "index.html" else f"/{file.name}": file for file in sorted(_FOLDER.iterdir())}
# The page asks nobody but this server for anything, and says so to the browser.
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
}


class Pages:
    """Serves the files from memory.

    Attributes:
        paths: the paths there are.
    """

    paths = tuple(_FILES)

    def __init__(self) -> None:
        self._files = {path: file.read_bytes() for path, file in _FILES.items()}
        self._etags = {path: f'"{hashlib.sha256(content).hexdigest()[:16]}"' for path, content in self._files.items()}

    async def serve(self, request: Request) -> Response:
        """Return the file of the request's path, or 304 to a client that has it."""
        path = request.scope["path"]
        headers = {**_HEADERS, "etag": self._etags[path]}
        if request.headers.get("if-none-match") == self._etags[path]:
            return Response(status_code=304, headers=headers)
        return Response(self._files[path], headers=headers, media_type=_MEDIA_TYPES[_FILES[path].suffix])
