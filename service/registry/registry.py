"""The bundles that are served: found, checked, opened and warmed up once, at start."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.engine.executor import Executor
from service.errors import InvalidRequestError, ModelNotFoundError
from service.registry.loading import LoadingError, open_model
from service.registry.served import InkModel, LineModel, ServedModel, TextModel


class ModelRegistry:
    """All served bundles by name.

    Args:
        models: in the order in which clients see them.
        font_writer: name under which texts are written without a network.
    """

    def __init__(self, models: Mapping[str, ServedModel], font_writer: str) -> None:
        self._models = dict(models)
        self._font_writer = font_writer

    @classmethod
    def open(cls, folder: Path, rows: int, font_writer: str, *, kernel: bool = True) -> "ModelRegistry":
        """Open every bundle in a folder.

        Args:
            folder: its subfolders are bundles.
            rows: to be stepped together, of each bundle.
            font_writer: name under which texts are written without a network.
            kernel: whether they may be stepped by the compiled kernel.

        Raises:
            LoadingError: there are none, one is not sound, or two have one name.
        """
        paths = sorted(path.parent for path in folder.glob("*/bundle.json")) if folder.is_dir() else []
        if not paths:
            raise LoadingError(f"There are no bundles in {folder}; set COPYIST_BUNDLES to a folder that holds some.")
        models: dict[str, ServedModel] = {}
        for path in paths:
            model = open_model(path, rows, kernel=kernel)
            if model.name in models:
                raise LoadingError(f"{path} and another bundle are both named {model.name}.")
            models[model.name] = model
        return cls(models, font_writer)

    def __iter__(self) -> Any:
        """Iterate over the models."""
        return iter(self._models.values())

    @property
    def executors(self) -> list[Executor[Any]]:
        """What the engine steps."""
        return [model.executor for model in self]

    def find(self, name: str) -> ServedModel:
        """Return a bundle by name.

        Raises:
            ModelNotFoundError: none has it.
        """
        if name not in self._models:
            raise ModelNotFoundError(f"There is no such model; there are: {', '.join(self._models)}.", "model")
        return self._models[name]

    def text(self, name: str | None) -> TextModel:
        """Return a text bundle by name, or the only one.

        Raises:
            ModelNotFoundError: no bundle of this name writes text.
            InvalidRequestError: no name is given and several do.
        """
        if name is None:
            texts = [model for model in self if isinstance(model, TextModel)]
            if not texts:
                raise ModelNotFoundError("No model that writes text is served.", "model")
            if len(texts) > 1:
                names = ", ".join(model.name for model in texts)
                raise InvalidRequestError(f"model is required, as several write text: {names}.", "model")
            return texts[0]
        model = self.find(name)
        if not isinstance(model, TextModel):
            raise ModelNotFoundError("model: this one writes ink; POST /v1/handwriting takes it.", "model")
        return model

    def ink(self, name: str | None) -> InkModel:
        """Return an ink bundle by name, or the first one.

        Raises:
            ModelNotFoundError: no bundle of this name, or none at all, writes ink.
        """
        if name is None:
            for model in self:
                if isinstance(model, InkModel):
                    return model
            raise ModelNotFoundError("No model that writes ink is served.", "model")
        model = self.find(name)
        if isinstance(model, LineModel):
            raise InvalidRequestError("text: this model writes texts, and needs one.", "text")
        if not isinstance(model, InkModel):
            raise ModelNotFoundError("model: this one writes text; POST /v1/completions takes it.", "model")
        return model

    def lines(self, name: str) -> LineModel:
        """Return a bundle that writes given texts by name.

        Raises:
            ModelNotFoundError: no bundle has the name.
            InvalidRequestError: the bundle writes something else.
        """
        model = self.find(name)
        if isinstance(model, TextModel):
            raise InvalidRequestError("model: this one writes text; POST /v1/completions takes it.", "model")
        if not isinstance(model, LineModel):
            message = f"text: this model writes freely, without a text; {self._writers} write texts."
            raise InvalidRequestError(message, "text")
        return model

    def writer_of(self, style: str) -> LineModel | None:
        """Return the first bundle that has a hand of this name."""
        return next((model for model in self if isinstance(model, LineModel) and style in model.hands), None)

    @property
    def _writers(self) -> str:
        return " and ".join([self._font_writer, *(model.name for model in self if isinstance(model, LineModel))])
