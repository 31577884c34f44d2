"""The JSON of completions and of their events.

What does not change within a stream is rendered once; an event is that, the new text, and a tail.
"""

import time
from collections.abc import Callable
from typing import Any

import orjson

from service.api.responses.usage import work
from service.engine.sequences.base import Delta, End
from service.engine.sequences.snapshot import Snapshot
from service.engine.sequences.text import TextParams
from service.registry.served import TextModel

JSON = "application/json"


class CompletionRenderer:
    """Renders the choices of one completion.

    Args:
        model: writes it.
        request_id: unique part of its id.
        params: of the draws.
        n: choices of each prompt.
        num_choices: choices of all prompts.
        boundaries: whether to add z and op.
        include_usage: whether a stream ends with an event of usage.
        seal: makes a state token of a snapshot and the index of its choice.
    """

    media_type = JSON

    def __init__(
        self,
        model: TextModel,
        request_id: str,
        params: TextParams,
        *,
        n: int = 1,
        num_choices: int = 1,
        boundaries: bool = False,
        include_usage: bool = False,
        seal: Callable[[Snapshot, int], str] | None = None,
    ) -> None:
        self._model = model
        self._boundaries = boundaries
        self._include_usage = include_usage
        self._seed = params.seed
        self._logprobs = params.logprobs
        self._n = n
        self._num_choices = num_choices
        self._seal = seal
        self._rendered: dict[int, bytes] = {}
        self._ends: dict[int, End] = {}
        self._lengths = [0] * num_choices
        self._about = {
            "id": f"cmpl-{request_id}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": model.name,
            "system_fingerprint": model.fingerprint,
        }
        self._head = orjson.dumps(self._about)[:-1] + b',"choices":['

    def event(self, delta: Delta) -> list[bytes]:
        """Return the JSON of the events that show a delta."""
        usage = b',"usage":null' if self._include_usage else b""
        if delta.end:
            self._ends[delta.choice] = delta.end
        seed = b',"seed":%d' % self._seed if delta.end else b""
        events = [self._head + self._choice(delta) + b"]" + seed + usage + b"}"]
        if delta.end and self._include_usage and len(self._ends) == self._num_choices:
            events.append(orjson.dumps(self._about | {"choices": [], "usage": self._usage()}))
        return events

    def whole(self, delta: Delta, end: End) -> bytes | None:
        """Return the JSON of a completion, or None as long as a choice is missing."""
        self._rendered[delta.choice], self._ends[delta.choice] = self._choice(delta), end
        if len(self._rendered) < self._num_choices:
            return None
        choices = b",".join(self._rendered[index] for index in range(self._num_choices))
        return self._head + choices + b'],"seed":%d,"usage":%s}' % (self._seed, orjson.dumps(self._usage()))

    def _choice(self, delta: Delta) -> bytes:
        """What an event or a reply says of a choice."""
        self._lengths[delta.choice] += delta.skipped
        delta = delta.unseen
        reason = b'"%s"' % delta.end.reason.encode() if delta.end else b"null"
        columns = b"," + self._model.hierarchy.columns(delta.trace).encode() if self._boundaries else b""
        text = orjson.dumps("".join(delta.items))
        logprobs = b"null" if self._logprobs is None else orjson.dumps(self._likelihoods(delta))
        head = b'{"index":%d,"text":%s,"logprobs":%s,"finish_reason":' % (delta.choice, text, logprobs)
        self._lengths[delta.choice] += len(delta.items)
        return head + reason + columns + self._state(delta) + b"}"

    def _state(self, delta: Delta) -> bytes:
        """The member that holds a choice's state token, where one was asked for."""
        snapshot = delta.end.snapshot if delta.end else None
        return b',"state":"%s"' % self._seal(snapshot, delta.choice).encode() if snapshot and self._seal else b""

    def _likelihoods(self, delta: Delta) -> dict[str, list[Any]]:
        """OpenAI's columns of likelihoods, an entry per symbol; offsets count on from event to event."""
        spelt, start = self._model.spellings, self._lengths[delta.choice]
        scores = [score for item in delta.scores for score in item]
        return {
            "tokens": [spelt[score.token] for score in scores],
            "token_logprobs": [score.logprob for score in scores],
            "top_logprobs": [
                None
                if score.logprob is None
                else {spelt[token]: value for token, value in (*score.top, (score.token, score.logprob))}
                for score in scores
            ],
            "text_offset": [start + index for index, item in enumerate(delta.scores) for _ in item],
        }

    def _usage(self) -> dict[str, Any]:
        """The sum over all choices; a prompt counts once, however many choices continue it."""
        ends = [self._ends[index] for index in range(self._num_choices)]
        num_prompt, num_drawn = sum(end.num_prompt for end in ends[:: self._n]), sum(end.num_drawn for end in ends)
        trace = b"".join(end.trace for end in ends)
        return {
            "prompt_tokens": num_prompt,
            "completion_tokens": num_drawn,
            "total_tokens": num_prompt + num_drawn,
            **work(self._model.hierarchy, trace),
        }
