"""The character codec over HTTP, as lm-evaluation-harness expects it."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from service.api.deps import Here
from service.api.openapi import PROBLEMS
from service.api.schemas.models import DetokenizeRequest, Text, TokenizeRequest, TokenizerInfo, Tokens

router = APIRouter()

_REFUSALS: dict[int | str, dict[str, Any]] = {status: PROBLEMS[status] for status in (400, 404, 408, 413, 415)}


@router.post("/tokenize", summary="Turn text into ids", responses=_REFUSALS)
async def tokenize(body: TokenizeRequest, here: Here) -> Tokens:
    """Return the ids of a text, one per character, or more where characters become bytes."""
    model = here.registry.text(body.model)
    tokens = model.encode(body.prompt, "prompt")
    return Tokens(model=model.name, count=len(tokens), tokens=tokens)


@router.post("/detokenize", summary="Turn ids into text", responses=_REFUSALS)
async def detokenize(body: DetokenizeRequest, here: Here) -> Text:
    """Return the text of ids."""
    model = here.registry.text(body.model)
    return Text(model=model.name, prompt=model.codec.decode(model.encode(body.tokens, "tokens")))


@router.get("/tokenizer_info", summary="What the symbols are", responses={n: PROBLEMS[n] for n in (400, 404)})
async def tokenizer_info(
    here: Here, model: Annotated[str | None, Query(max_length=64, description="Name of a text bundle.")] = None
) -> TokenizerInfo:
    """Return the symbols of a text bundle; `model` may be left out where there is but one."""
    found = here.registry.text(model)
    return TokenizerInfo(
        model=found.name,
        tokenizer_class="TextCodec",
        bos_token=found.codec.decode([found.primer]),
        eos_token=None,
        pad_token=None,
        unknown=found.codec.unknown,
        vocabulary=found.spellings,
    )
