"""`GET /v1/models`: what is served."""

from fastapi import APIRouter

from service.api.deps import Here
from service.api.openapi import PROBLEMS
from service.api.schemas.models import ModelCard, ModelList
from service.handwriting.copybook import writer as copybook
from service.registry.served import ServedModel, TextModel

router = APIRouter()


def copybook_card() -> ModelCard:
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


@router.get("/v1/models", summary="What is served")
async def models(here: Here) -> ModelList:
    """Return every bundle with its facts, and the copybook."""
    return ModelList(object="list", data=[*(_card(model) for model in here.registry), copybook_card()])


@router.get("/v1/models/{name}", summary="One of them", responses={404: PROBLEMS[404]})
async def model_by_name(name: str, here: Here) -> ModelCard:
    """Return a bundle's facts, or the copybook's."""
    return copybook_card() if name == copybook.NAME else _card(here.registry.find(name))


def _card(model: ServedModel) -> ModelCard:
    bundle = model.bundle
    return ModelCard(
        id=model.name,
        object="model",
        created=0,
        owned_by="copyist",
        kind="text" if isinstance(model, TextModel) else "ink",
        description=bundle.description,
        fingerprint=bundle.fingerprint,
        layers=list(bundle.hidden),
        parameters=bundle.model["parameters"],
        vocabulary=model.codec.size if isinstance(model, TextModel) else None,
        data=dict(bundle.data),
        training=dict(bundle.training),
        metrics=dict(bundle.metrics),
    )
