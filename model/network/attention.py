"""Which character is being written: a soft window that layer 1 moves over the text.

K logistic bumps with weights a (summing to 1), sharpness b > 0 and positions m that only ever move forward. Character u
gets the share of the bumps that lies between its edges u - 1/2 and u + 1/2:

    phi(u) = F(u + 1/2) - F(u - 1/2),   F(e) = sum_k a_k sigmoid(b_k (e - m_k)),   F(-1/2) = 0
    m_k   += softplus(.) / STRIDE

The shares of all characters therefore sum to at most 1 (docs/adr says why not Graves' Gaussians), and a window that has
left the text reads zeros. The vector read is sum_u phi(u) c_u = sum_u F(u + 1/2) (c_u - c_{u+1}): the differences are
computed once for a text, and a step costs one product with h of layer 1 and one pointwise kernel.

Layer 1 reads the vector at the next step, the output module at the same step. Layers 2, 3, ... see the text through
layer 1 alone, so a COPY stays free.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, softplus

from model.config import ModelConfig
from model.ink import STRIDE
from model.network.state import AttentionState

NOTHING = 0  # the id that pads a text in a batch of longer ones


class Attention(nn.Module):
    """The window's parameters.

    Attributes:
        embedding: (V, E) of the characters.
        neighbours: (3E, E), what a character's vector takes from the character before, itself and the character after,
            because the way a letter is written depends on its neighbours.
        weight, bias: (H, 3K) and (3K,), from h of layer 1 to [weights a | sharpness b | stride], before their
            nonlinearities.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        width, mixtures = config.character_width, config.window_mixtures
        self.mixtures = mixtures
        self.embedding = nn.Embedding(config.characters, width)
        self.neighbours = nn.Parameter(torch.randn(3 * width, width) * (3 * width) ** -0.5)
        self.weight = nn.Parameter(torch.randn(config.hidden[0], 3 * mixtures) * config.hidden[0] ** -0.5)
        self.bias = nn.Parameter(torch.zeros(3 * mixtures))

    def encode(self, text: Tensor) -> Tensor:
        """Character vectors, each less the next one: ids (B, U) int64, NOTHING after the end -> (B, U, E)."""
        is_there = (text != NOTHING)[:, :, None]
        own = torch.where(is_there, self.embedding(text), 0.0)
        before, after = pad(own, (0, 0, 1, 0))[:, :-1], pad(own, (0, 0, 0, 1))[:, 1:]
        vectors = own + torch.cat([before, own, after], 2) @ self.neighbours
        vectors = torch.where(is_there, vectors, 0.0)
        return vectors - pad(vectors, (0, 0, 0, 1))[:, 1:]

    def step(self, h: Tensor, position: Tensor, differences: Tensor) -> tuple[AttentionState, Tensor]:
        """Move the window on by one point.

        Args:
            h: of layer 1 at this step (B, H).
            position: m of the step before (B, K), in characters from the first.
            differences: as `encode` gave them (B, U, E).

        Returns:
            the new state, and phi (B, U), the share of each character.
        """
        weight, sharpness, stride = (h @ self.weight + self.bias).split(self.mixtures, 1)
        position = position + softplus(stride) / STRIDE
        places = edges(differences)
        passed = torch.sigmoid(softplus(sharpness)[:, :, None] * (places - position[:, :, None]))
        passed = (torch.softmax(weight, 1)[:, :, None] * passed).sum(1)
        return AttentionState(position, (passed[:, :, None] * differences).sum(1)), shares(passed)


def edges(differences: Tensor) -> Tensor:
    """The right edge u + 1/2 of each character (U,)."""
    return torch.arange(differences.shape[1], dtype=differences.dtype, device=differences.device) + 0.5


def shares(passed: Tensor) -> Tensor:
    """phi (..., U) from F at the right edges (..., U)."""
    return torch.diff(passed, dim=-1, prepend=torch.zeros_like(passed[..., :1]))
