"""Checkpoints: one safetensors file with a JSON header, written whole or not at all, never a pickle."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from model.codec import HandwritingCodec, InkCodec, TextCodec, codec_from_json
from model.config import ConfigError, ModelConfig, TrainConfig
from model.network.stack import Network

FORMAT = "copyist-checkpoint/1"
LAST, BEST = "last.safetensors", "best.safetensors"


class CheckpointError(Exception):
    """A file is not one of our checkpoints; the message names the file and what was expected."""


@dataclass(frozen=True)
class Checkpoint:
    """Everything needed to go on training, or to use a network.

    Attributes:
        model, train: the configurations that made it.
        codec: between the world and the network's numbers.
        facts: JSON values: data, progress, metrics.
        weights: the network's parameters by name, and its population's statistics where it has batch normalisation.
        extra: further tensors by name (optimiser, averages, carried state, generators), empty in a "best" checkpoint.
    """

    model: ModelConfig
    train: TrainConfig
    codec: TextCodec | InkCodec | HandwritingCodec
    facts: dict[str, Any]
    weights: Mapping[str, Tensor]
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def network(self) -> Network:
        """A network with these weights, on the CPU."""
        network = Network(self.model)
        network.load_state_dict(dict(self.weights))
        return network.eval()


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint, whole or not at all."""
    header = {
        "format": FORMAT,
        "model": checkpoint.model.to_json(),
        "train": checkpoint.train.to_json(),
        "codec": checkpoint.codec.to_json(),
        "facts": checkpoint.facts,
    }
    tensors = {f"weights/{name}": tensor for name, tensor in checkpoint.weights.items()}
    tensors |= {f"extra/{name}": tensor for name, tensor in checkpoint.extra.items()}
    write_file(path, header, tensors)


def load(path: Path) -> Checkpoint:
    """Read a checkpoint: a file, or a training folder (its best one, else its last).

    Raises:
        CheckpointError: the file is missing, truncated, or not one of ours.
    """
    if path.is_dir():
        path = next((path / name for name in (BEST, LAST) if (path / name).exists()), path / BEST)
    header, tensors = read_file(path, FORMAT, "checkpoint")
    try:
        checkpoint = Checkpoint(
            model=ModelConfig.from_json(header["model"]),
            train=TrainConfig.from_json(header["train"]),
            codec=codec_from_json(header["codec"]),
            facts=header["facts"],
            weights=group(tensors, "weights/"),
            extra=group(tensors, "extra/"),
        )
        _check_weights(checkpoint)
    except (ConfigError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{path}: a damaged checkpoint ({error})") from error
    return checkpoint


def write_file(path: Path, header: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> None:
    """Write tensors with a JSON header: to a file beside it first, flushed to the disk, then renamed over it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    copies = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    save_file(copies, str(partial), metadata={"copyist": json.dumps(header)})
    with partial.open("rb") as written:
        os.fsync(written.fileno())
    partial.replace(path)


def read_file(path: Path, wanted: str, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header and the tensors of a file that `write_file` wrote.

    Args:
        path: of the file.
        wanted: the header's format.
        kind: what such a file is called in messages.

    Raises:
        CheckpointError: the file is missing, truncated, or of another format.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such {kind}; expected a .safetensors file or a training folder")
    try:
        with safe_open(str(path), framework="pt") as file:
            header = json.loads((file.metadata() or {}).get("copyist", "null"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a mapping)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a whole safetensors file ({error})") from error
    if not isinstance(header, dict) or header.get("format") != wanted:
        raise CheckpointError(f"{path}: not a {kind} of the format {wanted}")
    return header, tensors


def group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors whose names begin with a prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _check_weights(checkpoint: Checkpoint) -> None:
    with torch.device("meta"):
        wanted = {name: tuple(p.shape) for name, p in Network(checkpoint.model).state_dict().items()}
    found = {name: tuple(tensor.shape) for name, tensor in checkpoint.weights.items()}
    if wanted != found:
        different = sorted(name for name in wanted.keys() | found.keys() if wanted.get(name) != found.get(name))
        msg = f"weights do not fit the configuration: {', '.join(different[:5])}"
        raise ValueError(msg)
