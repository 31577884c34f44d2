"""What the copybook says of itself: its card among the models, and its hands with samples of their writing."""

from functools import cache

from service.handwriting.copybook import writer as copybook
from service.ink.reply import TextReply
from service.ink.schemas import HandwritingRequest, StyleCard, StyleList
from service.schemas import ModelCard

_PREVIEW = "The quick brown fox, 0123"


def card() -> ModelCard:
    """Return the copybook's facts, as those of a model."""
    return ModelCard(
        id=copybook.NAME,
        object="model",
        created=0,
        owned_by="copyist",
        kind="ink",
        description=copybook.DESCRIPTION,
        fingerprint=copybook.fingerprint(),
        layers=[],
        parameters=0,
        vocabulary=None,
        data={"name": "single-line fonts", "licence": copybook.LICENCE, "use": copybook.USE},
        training={},
        metrics={},
    )


@cache
def all_styles() -> StyleList:
    """Return every hand; the samples are drawn once."""
    cards = []
    for style in copybook.STYLES.values():
        wish = HandwritingRequest(text=_PREVIEW, style=style.name, format="svg", line_width_mm=300)
        cards.append(
            StyleCard(
                id=style.name,
                object="handwriting.style",
                model=copybook.NAME,
                description=style.description,
                joined=style.joins,
                licence=copybook.LICENCE,
                use=copybook.USE,
                preview=TextReply(wish, seed=1, max_pages=1).whole().decode(),
            )
        )
    return StyleList(object="list", data=cards)
