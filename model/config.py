"""What a network is and how it is trained: frozen dataclasses, checked when made, and the named presets."""

import math
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self, get_args

Kind = Literal["text", "ink"]
Cell = Literal["hmlstm", "lstm", "bn-lstm"]
CopyBoundary = Literal["nested", "recompute"]
Detector = Literal["step", "sample", "soft"]
DetectorPrior = Literal["none", "separator"]
Precision = Literal["auto", "bfloat16", "float32", "float64"]

_ADDED = ("characters", "writers", "character_width", "window_mixtures")  # fields that old checkpoints lack
_GONE = ("drop_inputs",)  # fields that only old checkpoints have


class ConfigError(ValueError):
    """A configuration is not valid; the message names the field and what it must be."""


@dataclass(frozen=True)
class ModelConfig:
    """The shape of a network and the choices the paper leaves open.

    Attributes:
        kind: "text" predicts symbols, "ink" predicts pen offsets.
        cell: "hmlstm" (Eqs. 2-9) or "lstm", the control: the same stack with every layer updated at every step,
            no top-down input and no detectors. "bn-lstm" is that with batch normalisation (network/batch_norm.py):
            text only, a baseline that cannot be exported.
        vocabulary: V, the number of symbols; 0 for ink.
        embedding: E, the width of the embedded input.
        hidden: H of each layer, from layer 1 up.
        output: O, the width of the output embedding (Eq. 12).
        mixtures: M, bivariate Gaussians of the ink head.
        layer_norm: normalise the pre-activations (docs/adr: statistics over the four gates).
        copy_boundary: z where the layer below has no boundary: "nested" makes it 0, so that boundaries nest and a COPY
            needs no work at all; "recompute" reads the detector there too.
        detector: "step" (threshold), "sample" (Bernoulli) or "soft" (no binarisation).
        detector_prior: "separator" starts layer 1's detector on separators (spaces, pen-ups): a prior, not a discovery.
        characters: ink only: ids of the text that is written, sentinels included; 0 writes freely.
        writers: vectors of hands, number 0 for an unknown one; only with a text.
        character_width: E of the vector read from the text.
        window_mixtures: K, bumps of the window over the text.
    """

    kind: Kind = "text"
    cell: Cell = "hmlstm"
    vocabulary: int = 0
    embedding: int = 128
    hidden: tuple[int, ...] = (256, 256, 256)
    output: int = 256
    mixtures: int = 20
    layer_norm: bool = True
    copy_boundary: CopyBoundary = "nested"
    detector: Detector = "step"
    detector_prior: DetectorPrior = "none"
    characters: int = 0
    writers: int = 0
    character_width: int = 64
    window_mixtures: int = 10

    def __post_init__(self) -> None:
        _check_choice(self, "kind", Kind)
        _check_choice(self, "cell", Cell)
        _check_choice(self, "copy_boundary", CopyBoundary)
        _check_choice(self, "detector", Detector)
        _check_choice(self, "detector_prior", DetectorPrior)
        if len(self.hidden) < 1 or min(self.hidden) < 1:
            raise ConfigError(f"hidden must hold at least one width of at least 1, not {self.hidden}")
        for name in ("embedding", "output", "mixtures", "character_width", "window_mixtures"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        if (self.kind == "text") != (self.vocabulary > 0):
            raise ConfigError(
                f"vocabulary must be positive for text and 0 for ink, not {self.vocabulary} for {self.kind}"
            )
        if min(self.characters, self.writers) < 0 or (self.characters > 0) != (self.writers > 0):
            raise ConfigError(
                f"characters and writers must both be positive or both 0, not {self.characters} and {self.writers}"
            )
        if self.characters and self.kind != "ink":
            raise ConfigError(f"characters must be 0 but for ink, not {self.characters} for {self.kind}")
        if self.cell == "bn-lstm" and self.layer_norm:
            raise ConfigError('layer_norm must be false for cell "bn-lstm": it has normalisations of its own')
        if self.cell == "bn-lstm" and self.kind != "text":
            raise ConfigError('kind must be text for cell "bn-lstm": padding of ink would be in its statistics')

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.hidden)

    @property
    def num_outputs(self) -> int:
        """Width of the head: V logits, or 6M + 1 mixture parameters and, where a text is written, the stop's logit."""
        return self.vocabulary if self.kind == "text" else 6 * self.mixtures + 1 + self.writes_text

    @property
    def writes_text(self) -> bool:
        """Whether this is ink that writes a given text."""
        return self.characters > 0

    @property
    def output_sources(self) -> tuple[int, ...]:
        """Widths of what the output module sums: h of each layer, then what is read of the text where there is one."""
        return (*self.hidden, self.character_width) if self.writes_text else self.hidden

    def has_detector(self, layer: int) -> bool:
        """Whether this layer (counted from 0 here) has a boundary detector: all but the top one of an HM-LSTM."""
        return self.cell == "hmlstm" and layer < self.num_layers - 1

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` reads back."""
        return asdict(self) | {"hidden": list(self.hidden)}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read a dictionary made by `to_json`; unknown or missing fields raise ConfigError.

        Fields that are younger than the format may be missing; they get the values that change nothing.
        """
        known = {f.name for f in fields(cls)}
        values = {name: getattr(cls, name) for name in _ADDED} | values
        if set(values) != known:
            raise ConfigError(f"a model configuration has the fields {sorted(known)}, not {sorted(values)}")
        return cls(**(values | {"hidden": tuple(int(h) for h in values["hidden"])}))


@dataclass(frozen=True)
class TrainConfig:
    """How a network is trained.

    Attributes:
        batch: B, parallel streams.
        window: T, steps between updates; the state is carried from window to window.
        learning_rate, final_learning_rate: start (after the warm-up) and end of the cosine over the budget.
        warmup: updates of linear warm-up.
        clip: largest global gradient norm.
        slope, final_slope: the paper's a, linear over the first `slope_share` of the budget (Eq. 9).
        precision: operands of the matrix products; master weights, cell state, statistics and detector stay float32
            (or float64 with "float64"). "auto" takes whichever of bfloat16 and float32 the device multiplies
            faster, and the checkpoint says which that was.
        detector_rate: learning rate of the detectors' columns, relative to the rest: boundaries that move at every
            update are hard to follow for the layers above. Its worth is not yet measured on its own (docs/log.md).
        rate_band: lowest and highest share of boundaries of the layer below (of all steps, for layer 1) at which a
            detector fires. Outside the band its bias, and nothing else, is moved back; inside, the loss alone decides.
            (0, 1) switches this off.
        restarts: text only: share of streams whose state is zeroed at each window. A stream never restarted drifts
            into states that come only after a million characters, and the network forgets how to begin.
        dropout: share of h that is hidden from the output module, and of the output embedding from the head, for each
            row and window (model/training/dropout.py). docs/log.md says what it was worth, and the next.
        drop_connect: share of the layers' weights that is missing in a window.
        stretch: ink only: standard deviation of the logarithm of the factor by which a line is stretched, on each axis.
        average: decay of the exponential moving average of the weights that is evaluated and kept; 0 switches it off.
        seed: of the weights, the order of lines and the sampled detector.
    """

    batch: int = 32
    window: int = 100
    learning_rate: float = 2e-3
    final_learning_rate: float = 2e-5
    warmup: int = 200
    clip: float = 1.0
    slope: float = 1.0
    final_slope: float = 1.0
    slope_share: float = 0.6
    precision: Precision = "auto"
    detector_rate: float = 0.1
    rate_band: tuple[float, float] = (0.15, 0.6)
    restarts: float = 0.05
    dropout: float = 0.0
    drop_connect: float = 0.0
    stretch: float = 0.0
    average: float = 0.0
    seed: int = 1

    def __post_init__(self) -> None:
        _check_choice(self, "precision", Precision)
        for name in ("batch", "window"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} must be at least 1, not {getattr(self, name)}")
        bounds: list[float] = [0.0, *self.rate_band, 1.0]
        if len(bounds) != 4 or bounds != sorted(bounds) or bounds[1] == bounds[2]:
            raise ConfigError(f"rate_band must be two shares in order, not {self.rate_band}")
        for name in ("average", "restarts", "dropout", "drop_connect"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must be in [0, 1), not {getattr(self, name)}")
        if not self.stretch >= 0:
            raise ConfigError(f"stretch must be at least 0, not {self.stretch}")
        for name in ("learning_rate", "detector_rate", "clip", "slope", "final_slope", "slope_share"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, not {getattr(self, name)}")

    def learning_rate_at(self, update: int, progress: float) -> float:
        """Learning rate at an update (counted from 0) when `progress` in [0, 1] of the budget is spent: cosine."""
        progress = min(max(progress, 0.0), 1.0)
        span = self.learning_rate - self.final_learning_rate
        cosine = self.final_learning_rate + span * 0.5 * (1 + math.cos(math.pi * progress))
        return cosine * min(1.0, (update + 1) / max(1, self.warmup))

    def slope_at(self, progress: float) -> float:
        """The slope a when `progress` of the budget is spent."""
        share = min(max(progress, 0.0) / self.slope_share, 1.0)
        return self.slope + (self.final_slope - self.slope) * share

    def to_json(self) -> dict[str, Any]:
        """A plain dictionary that `from_json` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Self:
        """Read a dictionary made by `to_json`, also of an older version; fields that no longer exist are ignored."""
        low, high = values["rate_band"]
        values = {name: value for name, value in values.items() if name not in _GONE}
        return cls(**(values | {"rate_band": (float(low), float(high))}))


@dataclass(frozen=True)
class Preset:
    """A named pair of model and training configuration."""

    model: ModelConfig
    train: TrainConfig = field(default_factory=TrainConfig)


def _check_choice(config: object, name: str, choices: Any) -> None:
    value = getattr(config, name)
    if value not in get_args(choices):
        raise ConfigError(f"{name} must be one of {', '.join(get_args(choices))}, not {value!r}")


# The vocabulary of a text preset, and the characters and writers of one that writes a text, come from the corpus.
PRESETS: dict[str, Preset] = {
    "tiny": Preset(
        ModelConfig(vocabulary=1, embedding=16, hidden=(32, 32, 32), output=32, detector_prior="separator"),
        TrainConfig(batch=16, window=50, warmup=20),
    ),
    "tiny-ink": Preset(
        ModelConfig(kind="ink", embedding=16, hidden=(32, 32, 32), output=32, mixtures=5, detector_prior="separator"),
        TrainConfig(batch=8, window=50, warmup=20),
    ),
    "prose": Preset(
        ModelConfig(vocabulary=1, hidden=(256, 256, 256), output=256, detector_prior="separator"),
        TrainConfig(batch=32, window=100, learning_rate=3e-3, average=0.998),
    ),
    "prose-lstm": Preset(
        ModelConfig(vocabulary=1, cell="lstm", hidden=(300, 300, 300), output=300),
        TrainConfig(batch=32, window=100, learning_rate=3e-3, average=0.998),
    ),
    "prose-bn-lstm": Preset(
        ModelConfig(vocabulary=1, cell="bn-lstm", hidden=(300, 300, 300), output=300, layer_norm=False),
        TrainConfig(batch=32, window=100, learning_rate=3e-3, average=0.998),
    ),
    "ptb": Preset(
        ModelConfig(vocabulary=1, hidden=(512, 512, 512), output=512, detector_prior="separator"),
        TrainConfig(batch=64, window=100, final_slope=5.0),
    ),
    # For a few hours of one core. Batches of 64 would be only some 5 % faster there, with half the updates; the slope
    # goes as far as the paper's (1 + 0.04 a pass) would in the thirty passes that there is time for.
    "ptb-small": Preset(
        ModelConfig(vocabulary=1, hidden=(384, 384, 384), output=384, detector_prior="separator"),
        TrainConfig(batch=32, window=100, average=0.998, final_slope=2.2, slope_share=1.0),
    ),
    "ink-free": Preset(
        ModelConfig(kind="ink", hidden=(256, 256, 256), output=256),
        TrainConfig(batch=32, window=100, learning_rate=2e-3, rate_band=(0.2, 0.6), average=0.998),
    ),
    "tiny-written": Preset(
        ModelConfig(
            kind="ink",
            embedding=16,
            hidden=(32, 32, 32),
            output=32,
            mixtures=5,
            characters=1,
            writers=1,
            character_width=16,
            window_mixtures=4,
        ),
        TrainConfig(batch=8, window=50, warmup=20),
    ),
    "ink": Preset(
        ModelConfig(kind="ink", hidden=(256, 256, 256), output=256, characters=1, writers=1),
        TrainConfig(batch=32, window=150, learning_rate=2e-3, rate_band=(0.2, 0.6), average=0.998),
    ),
    "ink-large": Preset(
        ModelConfig(kind="ink", hidden=(400, 400, 400), output=400, characters=1, writers=1),
        TrainConfig(batch=64, window=200, learning_rate=2e-3, rate_band=(0.2, 0.6), average=0.999),
    ),
    "ink-free-lstm": Preset(
        ModelConfig(kind="ink", cell="lstm", hidden=(300, 300, 300), output=300),
        TrainConfig(batch=32, window=100, learning_rate=2e-3, average=0.998),
    ),
}
