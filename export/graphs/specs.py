"""Names, types and shapes of everything that goes into the exported graphs and comes out of them."""

from dataclasses import replace

from export.bundle.folder import StateSpec, TensorSpec
from model.config import ModelConfig

TEXT_SLOTS = 100  # characters of a line, sentinels included, that a graph has room for; the data's longest has 66


def input_spec(config: ModelConfig) -> TensorSpec:
    """Return the input of a step beside the state: a symbol, or an offset [dx, dy, pen_up] in standardised units."""
    if config.kind == "text":
        return TensorSpec("token", "int64", ("batch",))
    return TensorSpec("offset", "float32", ("batch", 3))


def output_spec(config: ModelConfig) -> TensorSpec:
    """Return the output of a step beside the state: logits, or the parameters of a mixture."""
    return TensorSpec("logits" if config.kind == "text" else "mixture", "float32", ("batch", config.num_outputs))


def state_specs(config: ModelConfig) -> tuple[StateSpec, ...]:
    """Return the carried tensors in the order of the graph: h, c of every layer, z of all but the top, e from layer 2.

    e is what a layer sends to the output module (see `weights.py`). The LSTM control computes every layer at every step
    and carries neither z nor e.
    """
    layers = range(1, config.num_layers + 1)
    widths = {f"h{layer}": config.hidden[layer - 1] for layer in layers}
    widths |= {f"c{layer}": config.hidden[layer - 1] for layer in layers}
    specs = [_state(name, width) for name, width in widths.items()]
    if config.cell == "hmlstm":
        specs += [_state(f"z{layer}") for layer in layers[:-1]]
        specs += [_state(f"e{layer}", sent_width(config)) for layer in layers[1:]]
    if config.writes_text:
        specs += [_state("window_position", config.window_mixtures), _state("window_vector", config.character_width)]
    return tuple(specs)


def sent_width(config: ModelConfig) -> int:
    """Return S + O, the width of e: the share of every gate's logit, and the projection."""
    return len(config.output_sources) + config.output


def sampling_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return the sampling inputs; `export/graphs/draw.py` says what each means.

    Where the network writes a text, the inputs it is conditioned on come after them.
    """
    if config.kind == "text":
        return (
            TensorSpec("temperature", "float32", ("batch",)),
            TensorSpec("top_p", "float32", ("batch",)),
            TensorSpec("top_k", "int64", ("batch",)),
            TensorSpec("logit_bias", "float32", ("batch", config.num_outputs)),
            TensorSpec("noise", "float64", ("batch",)),
        )
    sampling = TensorSpec("bias", "float32", ("batch",)), TensorSpec("noise", "float64", ("batch", 4))
    return (*sampling, *conditioning_specs(config)) if config.writes_text else sampling


def conditioning_specs(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return what a line is conditioned on: its hand's share of s of layer 1, and its text as the window reads it."""
    columns = 4 * config.hidden[0] + config.has_detector(0)
    text = TensorSpec("text", "float32", ("batch", TEXT_SLOTS, config.character_width))
    return TensorSpec("hand", "float32", ("batch", columns)), text


def drawn_spec(config: ModelConfig) -> TensorSpec:
    """Return what is drawn, in the form of the step's input.

    Where a text is written, two facts about the point just read come after it: the logit of the line being over, and
    the index of the character it belongs to, by the largest share of the window.
    """
    if config.writes_text:
        return TensorSpec("drawn", "float32", ("batch", 5))
    return replace(input_spec(config), name="drawn")


def next_spec(state: StateSpec) -> TensorSpec:
    """Return a state as it leaves the graph."""
    return TensorSpec(state.next, state.dtype, state.shape)


def prompt_spec(config: ModelConfig) -> TensorSpec:
    """Return the input of the prompt graph: inputs of one row, step after step."""
    step = input_spec(config)
    return TensorSpec(f"{step.name}s", step.dtype, ("steps", *step.shape[1:]))


def boundaries_spec(config: ModelConfig) -> tuple[TensorSpec, ...]:
    """Return the output of the prompt graph beside the state: z of every step; none if the network has no detector."""
    count = sum(config.has_detector(layer) for layer in range(config.num_layers))
    return (TensorSpec("boundaries", "float32", ("steps", count)),) if count else ()


def line_specs() -> tuple[TensorSpec, TensorSpec]:
    """Return the inputs of the text encoder: ids of a line's sentinels and characters, 0 after its end, and a hand."""
    return TensorSpec("ids", "int64", ("batch", TEXT_SLOTS)), TensorSpec("writer", "int64", ("batch",))


def _state(name: str, width: int | None = None) -> StateSpec:
    return StateSpec(name, "float32", ("batch",) if width is None else ("batch", width), f"{name}_next")
