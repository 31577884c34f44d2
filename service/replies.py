"""The bodies of replies and events, made from what the engine tells.

What does not change within a stream is rendered once; an event is that, the new text or points, and a tail.
"""

import time
from typing import Any

import numpy as np
import orjson

from service import ink
from service.catalogue import InkModel, TextModel
from service.engine.sequence import Delta, End

JSON = "application/json"
SVG = "image/svg+xml"


class CompletionReply:
    """Renders one completion.

    Args:
        model: that writes it.
        request_id: unique part of its id.
        seed: that was used.
        boundaries: whether to add z and op.
        include_usage: whether a stream ends with an event of usage.
    """

    media_type = JSON

    def __init__(
        self, model: TextModel, request_id: str, seed: int, *, boundaries: bool, include_usage: bool = False
    ) -> None:
        self._model, self._seed, self._boundaries, self._include_usage = model, seed, boundaries, include_usage
        self._about = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": model.fingerprint,
        }
        self._head = orjson.dumps(self._about)[:-1] + b',"choices":[{"index":0,"text":'

    def event(self, delta: Delta) -> list[bytes]:
        """Return the JSON of the events that tell a delta."""
        usage = b',"usage":null' if self._include_usage else b""
        end = delta.end
        seed = b',"seed":%d' % self._seed if end else b""
        events = [self._head + self._choice(delta) + b"]" + seed + usage + b"}"]
        if end and self._include_usage:
            events.append(orjson.dumps(self._about | {"choices": [], "usage": self._usage(end)}))
        return events

    def whole(self, delta: Delta, end: End) -> bytes:
        """Return the JSON of a completion told at once."""
        tail = b'],"seed":%d,"usage":%s}' % (self._seed, orjson.dumps(self._usage(end)))
        return self._head + self._choice(delta) + tail

    def _choice(self, delta: Delta) -> bytes:
        """Everything of a choice from the value of its text on."""
        reason = b'"%s"' % delta.end.reason.encode() if delta.end else b"null"
        columns = b"," + self._model.hierarchy.columns(delta.trace).encode() if self._boundaries else b""
        text = orjson.dumps("".join(delta.items))
        return text + b',"logprobs":null,"finish_reason":' + reason + columns + b"}"

    def _usage(self, end: End) -> dict[str, Any]:
        return {
            "prompt_tokens": end.num_prompt,
            "completion_tokens": end.num_drawn,
            "total_tokens": end.num_prompt + end.num_drawn,
            "steps": len(end.trace),
            "layer_updates": self._model.hierarchy.updates(end.trace),
        }


class HandwritingReply:
    """Renders one drawing; a whole one is the same bytes for the same request.

    Args:
        model: that draws it.
        seed: that was used.
        picture: whether a whole drawing is an SVG instead of JSON.
    """

    def __init__(self, model: InkModel, seed: int, *, picture: bool = False) -> None:
        self.media_type = SVG if picture else JSON
        self._model, self._seed, self._picture = model, seed, picture
        self._pen = ink.Pen(model.codec)
        self._num_told = 0
        about = {"model": model.name, "system_fingerprint": model.fingerprint}
        self._about = orjson.dumps(about)[1:-1]

    def event(self, delta: Delta) -> list[bytes]:
        """Return the JSON of the event that tells a delta."""
        return [self._json(b"handwriting.chunk", delta)]

    def whole(self, delta: Delta, end: End) -> bytes:
        """Return a drawing told at once."""
        if self._picture:
            title = f"{end.num_drawn + 1} points written freely by {self._model.name}, seed {self._seed}"
            return ink.svg(self._points(delta), title).encode()
        return self._json(b"handwriting", delta)

    def _points(self, delta: Delta) -> ink.Points:
        return self._pen.draw(np.array(delta.items, np.float32).reshape(-1, 3))

    def _json(self, kind: bytes, delta: Delta) -> bytes:
        points = self._points(delta)
        start, self._num_told = self._num_told, self._num_told + len(points)
        members = [
            b'{"object":"%s",%s,"start":%d' % (kind, self._about, start),
            b'"x":' + orjson.dumps(points[:, 0].tolist()),
            b'"y":' + orjson.dumps(points[:, 1].tolist()),
            b'"pen":' + orjson.dumps(points[:, 2].astype(np.int64).tolist()),
            self._model.hierarchy.columns(delta.trace).encode(),
            b'"finish_reason":' + (b'"%s"' % delta.end.reason.encode() if delta.end else b"null"),
        ]
        if delta.end:
            members += [b'"seed":%d' % self._seed, b'"usage":' + orjson.dumps(self._usage(delta.end))]
        return b",".join(members) + b"}"

    def _usage(self, end: End) -> dict[str, Any]:
        steps = len(end.trace)
        return {"points": steps, "steps": steps, "layer_updates": self._model.hierarchy.updates(end.trace)}
