from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from service.api.schemas.fields import StrictRequest, Work
from service.api.schemas.handwriting import GivenInk


class SegmentRequest(StrictRequest):
    """Text or ink to read and cut into segments."""

    model_config = ConfigDict(
        json_schema_extra={
            "oneOf": [
                {"required": ["text"], "properties": {"text": {"type": "string"}, "ink": {"type": "null"}}},
                {
                    "required": ["ink"],
                    "properties": {"ink": {"type": ["object", "string"]}, "text": {"type": "null"}},
                },
            ],
            "examples": [
                {"model": "prose", "text": "It was a dark and stormy night."},
                {
                    "ink": {
                        "x": [0, 4, 8, 9, 6, 3, 7, 11, 14, 16, 18, 20],
                        "y": [9, 2, 1, 5, 9, 10, 9, 4, 1, 0, 5, 9],
                        "pen": [0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 1],
                    }
                },
            ],
        }
    )

    model: Annotated[str, Field(max_length=64)] | None = Field(
        None, description="Who reads; may be left out where one bundle writes text, and for ink is the first that does."
    )
    text: str | None = Field(
        None,
        description="A text, in any script; it is read from a fresh state. Either this or ink.",
        json_schema_extra={"minLength": 1},
    )
    ink: GivenInk | None = Field(
        None,
        description="Ink, as columns or as InkML, y downwards, in any unit. It is brought to the size and to the even "
        "spacing of points that the network knows, and read from a fresh state.",
    )

    @field_validator("text")
    @classmethod
    def _is_not_empty(cls, text: str | None) -> str | None:
        """Checked here, as pydantic's own check refuses half a character, which is read as an unknown one."""
        if text == "":
            raise ValueError("must have at least 1 character")
        return text


class _Segment(BaseModel):
    """A stretch that ends where its layer fired; end is the first place after it."""

    layer: int = Field(description="The layer that fires at its end, from 1; the top one never does.")


class TextSegment(_Segment):
    """A stretch of text that ends where its layer fired; end is the first place after it."""

    start: int = Field(description="In characters (code points); one that a boundary cuts belongs to what follows.")
    end: int
    utf8_start: int = Field(description="In bytes of the text's UTF-8.")
    utf8_end: int
    complete: bool = Field(description="Whether its layer has fired; only what the text ends in may lack that.")
    segments: "list[TextSegment] | None" = Field(None, description="Those of the layer below, if that is one.")


class InkSegment(_Segment):
    """A stretch of ink that ends where its layer fired; end is the first place after it."""

    start: int = Field(description="In the points that were given.")
    end: int
    step_start: int = Field(description="In steps, which read a point of the columns each.")
    step_end: int
    complete: bool = Field(description="Whether its layer has fired; only what the ink ends in may lack that.")
    segments: "list[InkSegment] | None" = Field(None, description="Those of the layer below, if that is one.")


class _Segmentation(BaseModel):
    """The boundaries of what was read, as columns with one entry per step, and as a tree."""

    object: Literal["segmentation"]
    model: str
    system_fingerprint: str
    z: list[list[int]] = Field(description="For each layer but the top, from layer 1 up, 0 or 1 per step.")
    op: list[str] = Field(description="For each layer a string with a letter per step: U, C or F.")
    usage: Work


class TextSegmentation(_Segmentation):
    """The boundaries of a text, as columns with one entry per step, and as a tree."""

    char: list[int] = Field(description="Index of the character that a step reads; one of several bytes has several.")
    tree: TextSegment = Field(description="The whole text, as the one segment of the top layer.")


class InkSegmentation(_Segmentation):
    """The boundaries of ink, as columns with one entry per step, and as a tree."""

    point: list[int] = Field(description="Index of the given point that a step has come to.")
    x: list[float] = Field(description="The points that the network reads, in the unit of the ink: evenly spaced.")
    y: list[float]
    pen: list[int] = Field(description="1 where the pen lifts after the point.")
    tree: InkSegment = Field(description="All of the ink, as the one segment of the top layer.")
