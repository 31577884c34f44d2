"""The cards of all hands, each with a sample of its writing."""

from functools import cache

from service.api.responses.written_text import Author, CopybookReply, TextRenderer
from service.api.schemas.handwriting import USUAL_CANDIDATES, HandwritingRequest, StyleCard
from service.engine.loop import Engine
from service.handwriting.candidates import CandidateWriter, WritingParams
from service.handwriting.copybook import writer as copybook
from service.handwriting.priming import PrimedStates
from service.registry.registry import ModelRegistry
from service.registry.served import Hand, LineModel

_TEXT = "The quick brown fox, 0123"
_SEED = 1
_LINE_WIDTH_MM = 300  # room for the text on one line in any hand


@cache
def copybook_cards() -> list[StyleCard]:
    """Return the cards of the copybook's hands; their samples are drawn once."""
    cards = []
    for style in copybook.STYLES.values():
        request = HandwritingRequest(text=_TEXT, style=style.name, format="svg", line_width_mm=_LINE_WIDTH_MM)
        cards.append(
            StyleCard(
                id=style.name,
                object="handwriting.style",
                model=copybook.NAME,
                description=style.description,
                joined=style.joins,
                licence=copybook.LICENCE,
                use=copybook.USE,
                preview=CopybookReply(request, _SEED, max_pages=1).whole().decode(),
            )
        )
    return cards


class StyleSamples:
    """The cards of the networks' hands; each sample is written when it is first asked for, and kept.

    Args:
        registry: the bundles that are served.
        engine: steps their networks.
        primed: cache of networks' states that have read a prime.
    """

    def __init__(self, registry: ModelRegistry, engine: Engine, primed: PrimedStates) -> None:
        self._hands = [
            (model, hand) for model in registry if isinstance(model, LineModel) for hand in model.hands.values()
        ]
        self._engine = engine
        self._primed = primed
        self._cards: dict[tuple[str, str], StyleCard] = {}

    async def cards(self) -> list[StyleCard]:
        """Return all cards; samples are written one after the other.

        Raises:
            CopyistError: the engine could not write a sample.
        """
        for model, hand in self._hands:
            if (model.name, hand.name) not in self._cards:
                self._cards[model.name, hand.name] = await self._card(model, hand)
        return [self._cards[model.name, hand.name] for model, hand in self._hands]

    async def _card(self, model: LineModel, hand: Hand) -> StyleCard:
        params = WritingParams(model, hand, _SEED, bias=1.0, candidates=USUAL_CANDIDATES)
        request = HandwritingRequest(text=_TEXT, format="svg", line_width_mm=_LINE_WIDTH_MM)
        lines = params.writer(_TEXT, request.wobble, skips_unsupported=False)
        renderer = TextRenderer(request, _SEED, 1, lines, Author({}, model.hierarchy))
        writer = CandidateWriter(self._engine, params, lines, renderer.sheet, self._primed)
        inks = [ink async for ink in writer.lines()]
        return StyleCard(
            id=hand.name,
            object="handwriting.style",
            model=model.name,
            description=hand.description,
            joined=True,
            licence=str(model.bundle.data["licence"]),
            use=str(model.bundle.data["use"]),
            preview=renderer.whole(inks).decode(),
        )
