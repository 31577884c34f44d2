"""Bodies that are wrong, each in its own way, and the proof that a service takes none of them amiss.

    python -m tests.service.contract.fuzz 100000 [SEED]

sends so many to a service of the shipped bundles that is started for it.

A body is wrong because it is no JSON, or because the schema that the service itself publishes says so; either way the
answer must be a 4xx with OpenAI's error object and nothing else. The same seed makes the same bodies.
"""

import http.client
import json
import random
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jsonschema_rs

from tests.service.live_server import PATIENCE_S, ROOT, Server

JSON = {"content-type": "application/json"}
SURROGATE = "\\ud800"
# Written where JSON has a number; the last ones are numbers, only not of this world.
ODD_NUMBERS = ("NaN", "Infinity", "-Infinity", "nan", "+1", "01", "1.", ".5", "0x10", "1_000", "--1", "1e999", "-1e999")
HOLE = "\x1ahole\x1a"  # stands for raw bytes while the rest is made into JSON
WORDS = (
    "",
    "a",
    "prompt",
    "__class__",
    "constructor",
    "é",
    "☃",
    "𝄞",
    "\x00",
    "\n",
    "%s",
    "../..",
    "a" * 70,
    "null",
    "0",
)


@dataclass(frozen=True)
class Operation:
    """Something that takes a body.

    Attributes:
        path: where.
        examples: bodies that it serves, or at least some that look like it.
        fields: the names it knows.
        is_valid: whether the published schema allows a value.
    """

    path: str
    examples: list[dict[str, Any]]
    fields: list[str]
    is_valid: Callable[[Any], bool]


def operations(description: dict[str, Any]) -> list[Operation]:
    """Return what takes JSON, from an OpenAPI description."""
    found = []
    for path, methods in sorted(description["paths"].items()):
        body = methods.get("post", {}).get("requestBody", {}).get("content", {}).get("application/json")
        if body:
            schema = {**body["schema"], "components": description["components"]}
            name = body["schema"]["$ref"].rpartition("/")[2]
            told = description["components"]["schemas"][name]
            validator = jsonschema_rs.Draft202012Validator(schema)
            fields = sorted(told["properties"])
            examples = told.get("examples", [dict.fromkeys(fields, "a")])
            found.append(Operation(path, examples, fields, validator.is_valid))
    return found


class Malformer:
    """Makes wrong bodies.

    Args:
        description: OpenAPI's, of the service they are for.
        seed: the same makes the same.
    """

    def __init__(self, description: dict[str, Any], seed: int) -> None:
        self._operations = operations(description)
        self._random = random.Random(seed)  # noqa: S311 - to be repeatable is the point
        self._kinds = (self.noise, self.cut, self.encoding, self.number, self.nesting, self.surrogate, self.types)

    def __iter__(self) -> Iterator[tuple[str, str, bytes]]:
        """Yield (kind, path, body) without end."""
        while True:
            for kind in self._kinds:
                operation = self._random.choice(self._operations)
                yield kind.__name__, operation.path, kind(operation)

    def noise(self, _: Operation) -> bytes:
        """Bytes of which the first cannot begin any JSON."""
        return bytes([self._random.choice(b"\x00\x01]}:,'/aNI\x80\xff")]) + self._random.randbytes(
            self._random.randint(0, 300)
        )

    def cut(self, operation: Operation) -> bytes:
        """A good body that ends too early, or does not end where it should."""
        good = self._dumped(self._example(operation))
        if self._random.random() < 0.5:
            return good[: self._random.randrange(len(good))]
        return good + self._random.choice((b"}", b",", b"{}", b"x", b"\x00", b'"', b"]", b"null", good))

    def encoding(self, operation: Operation) -> bytes:
        """A good body in another encoding, or with bytes that are none of UTF-8."""
        good = self._dumped(self._example(operation))
        if self._random.random() < 0.2:
            return good.decode().encode(self._random.choice(("utf-16", "utf-32", "utf-16-le")))
        broken = self._random.choice(
            (b"\xff", b"\xc3", b"\xe2\x98", b"\xf0\x9f", b"\xc0\x80", b"\xed\xa0\x80", b"\xfe\xfe")
        )
        at = good.index(b'"') + 1 if self._random.random() < 0.5 else good.rindex(b'"')
        return good[:at] + broken + good[at:]

    def number(self, operation: Operation) -> bytes:
        """A field whose number is none, or has more digits than anybody needs."""
        digits = "9" * self._random.choice((25, 100, 400, 5000, 50_000))
        odd = self._random.choice((*ODD_NUMBERS, digits, "-" + digits, f"{digits}.5", f"1e{digits[:25]}"))
        return self._with_hole(operation, odd)

    def nesting(self, operation: Operation) -> bytes:
        """Brackets, as deep as they go, in a field or instead of everything."""
        depth = self._random.choice((60, 200, 1000, 10_000, 40_000))
        opened, closed = self._random.choice((("[", "]"), ('{"a":', "}"), ("[[],", "]")))
        deep = opened * depth + "0" + (closed * depth if self._random.random() < 0.7 else "")
        return deep.encode() if self._random.random() < 0.3 else self._with_hole(operation, deep)

    def surrogate(self, operation: Operation) -> bytes:
        """Half a character, in the name of a field or where a name or a word is expected."""
        half = f'"{self._word()}{SURROGATE}"'.replace("\x00", "").replace("\n", "")
        if self._random.random() < 0.5:
            return b"{" + half.encode() + b":1," + self._dumped(self._example(operation))[1:]
        field = self._random.choice([name for name in operation.fields if name not in ("prompt", "text", "user")])
        return self._with_hole(operation, half, field)

    def types(self, operation: Operation) -> bytes:
        """JSON that the published schema does not allow: wrong types, values, names, or things missing."""
        while True:
            body: Any = dict(self._example(operation))
            for _ in range(self._random.randint(1, 3)):
                chance = self._random.random()
                if chance < 0.15 and body:
                    del body[self._random.choice(sorted(body))]
                elif chance < 0.25:
                    body[self._word()] = self._value()
                else:
                    body[self._random.choice(operation.fields)] = self._value()
            if self._random.random() < 0.05:
                body = self._value()
            if not operation.is_valid(body):
                return self._dumped(body)

    def _value(self, depth: int = 0) -> Any:
        """Any JSON at all."""
        numbers = self._random
        plain: list[Callable[[], Any]] = [
            lambda: None,
            lambda: numbers.random() < 0.5,
            lambda: numbers.choice((0, -1, 1, 2**31, 2**53, 2**63, -(2**63) - 1, 2**64, 10**30)),
            lambda: numbers.choice((-0.0, 0.5, -1e-300, 1e308, -1e308, 5e-324, numbers.uniform(-10, 10))),
            self._word,
        ]
        nested: list[Callable[[], Any]] = [
            lambda: [self._value(depth + 1) for _ in range(numbers.randint(0, 3))],
            lambda: {self._word(): self._value(depth + 1) for _ in range(numbers.randint(0, 3))},
        ]
        return numbers.choice(plain + nested if depth < 3 else plain)()

    def _word(self) -> str:
        return self._random.choice(WORDS)

    def _example(self, operation: Operation) -> dict[str, Any]:
        return self._random.choice(operation.examples)

    def _with_hole(self, operation: Operation, filling: str, field: str | None = None) -> bytes:
        """A good body but for one field, of which the JSON is given as it is."""
        name = field or self._random.choice(operation.fields)
        return self._dumped({**self._example(operation), name: HOLE}).replace(
            json.dumps(HOLE).encode(), filling.encode()
        )

    @staticmethod
    def _dumped(value: Any) -> bytes:
        return json.dumps(value).encode()


def fault(status: int, content_type: str, body: bytes) -> str | None:
    """Return what is wrong with the answer to a wrong body, or None."""
    if not 400 <= status < 500:
        return f"status {status}"
    if content_type != "application/json":
        return f"content type {content_type!r}"
    try:
        error = json.loads(body)["error"]
        is_shaped = set(error) == {"message", "type", "param", "code"} and len(json.loads(body)) == 1
    except (ValueError, TypeError, KeyError):
        return "no error object"
    if not is_shaped or not error["message"] or len(body) > 2000:
        return "not the error object alone"
    return None


def fuzz(server: Server, count: int, seed: int) -> Counter[str]:
    """Send wrong bodies one after the other; return how many there were of each kind and status.

    Raises:
        AssertionError: one was not answered as it should be; says which and how.
    """
    description = server.client.get("/openapi.json").json()
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"), timeout=PATIENCE_S)
    tally: Counter[str] = Counter()
    for _, (kind, path, body) in zip(range(count), Malformer(description, seed), strict=False):
        connection.request("POST", path, body, JSON)
        response = connection.getresponse()
        said = response.read()
        wrong = fault(response.status, response.headers.get("content-type", ""), said)
        assert wrong is None, f"{wrong} to {kind} at {path}: {body[:300]!r} -> {said[:300]!r}"
        tally[f"{kind} {response.status}"] += 1
    connection.close()
    return tally


def main(arguments: list[str]) -> int:
    """Fuzz a service of the shipped bundles and return an exit code."""
    count, seed = (*map(int, arguments), 0)[:2]
    server = Server(ROOT / "service" / "bundles")
    before = server.gauges()
    tally = fuzz(server, count, seed)
    after = server.gauges()
    code, complaints = server.stop(), server.complaints()
    lines = [f"{number:8d}  {name}" for name, number in sorted(tally.items())]
    sys.stdout.write("\n".join([*lines, f"{tally.total():8d}  bodies, each answered as it should be\n"]))
    assert (after["finished"], after["failures"]) == (before["finished"], 0), "a wrong body reached the engine"
    assert (code, complaints) == (0, []), f"exit code {code}, {complaints[:3]}"
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
