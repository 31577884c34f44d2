"""Several processes that train one network: each has its share of the streams; gradients are summed at each window."""

import os
from dataclasses import dataclass, field
from datetime import timedelta

import torch
from torch import Tensor
from torch import distributed as dist

TIMEOUT = timedelta(minutes=30)  # the others wait while the first one evaluates


@dataclass(frozen=True)
class Workers:
    """The group this process trains in; alone, everything is a no-op.

    Attributes:
        rank: of this process, 0 to count - 1. The first one evaluates, logs and saves.
        count: processes.
        device: where this process computes.
    """

    rank: int = 0
    count: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def join(cls, device: torch.device) -> "Workers":
        """Join the group that torchrun describes in the environment, or train alone where it describes none.

        The store's keys contain the attempt: with gloo, a group restarted after the loss of a worker would otherwise
        read the addresses of the dead one and fail to connect.
        """
        count = int(os.environ.get("WORLD_SIZE", "1"))
        if count == 1:
            return cls(device=device)
        rank, attempt = int(os.environ["RANK"]), os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = dist.TCPStore(  # type: ignore[attr-defined]
            os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False, timeout=TIMEOUT
        )
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=dist.PrefixStore(f"attempt{attempt}", store),  # type: ignore[attr-defined]
            rank=rank,
            world_size=count,
            timeout=TIMEOUT,
        )
        return cls(rank, count, device)

    @property
    def is_first(self) -> bool:
        """Whether this process evaluates, logs and saves for the group."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum a tensor over all workers, in place."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def sum_all(self, tensors: list[Tensor]) -> None:
        """Sum tensors over all workers, in place and in one message."""
        if self.count == 1:
            return
        flat = self.sum(torch.cat([tensor.reshape(-1) for tensor in tensors]))
        for tensor, part in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(part.view_as(tensor))

    def agree(self, value: float) -> float:
        """The first worker's value, for all: clocks and signals differ between processes."""
        if self.count == 1:
            return value
        tensor = torch.tensor(value, dtype=torch.float64, device=self.device)
        dist.broadcast(tensor, src=0)
        return float(tensor)

    def join_rows(self, tensor: Tensor) -> Tensor:
        """The rows (B / count, ...) of all workers as one tensor (B, ...), in the order of their ranks."""
        if self.count == 1:
            return tensor
        parts = [torch.empty_like(tensor) for _ in range(self.count)]
        dist.all_gather(parts, tensor.contiguous())
        return torch.cat(parts)

    def leave(self) -> None:
        """Leave the group."""
        if self.count > 1:
            dist.destroy_process_group()
