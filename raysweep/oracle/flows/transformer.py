"""A causal transformer over tokens, with a cache of keys and values for reading them one at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

__all__ = ["Cache", "Causal"]

_HEAD = 64  # width of a head, unless the model is narrower
_WIDER = 4  # of the perceptron over the model


class _Layer(nn.Module):
    """Pre-norm attention to earlier tokens and itself, then a perceptron."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // _HEAD)
        self.before_attention, self.before_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.perceptron = nn.Sequential(nn.Linear(width, _WIDER * width), nn.GELU(), nn.Linear(_WIDER * width, width))

    def forward(self, h: Tensor, cache: Cache | None, layer: int) -> Tensor:
        split = self.query_key_value(self.before_attention(h)).unflatten(-1, (3, self.heads, -1))
        q, k, v = split.permute(2, 0, 3, 1, 4)  # [n, heads, tokens, width of a head] each
        if cache is not None:
            k, v = cache.extended(layer, k, v)
        attended = scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        h = h + self.out(attended.transpose(1, 2).flatten(2))
        added: Tensor = self.perceptron(self.before_perceptron(h))
        return h + added


class Causal(nn.Module):
    """What each token's predecessors say of it: [n, tokens, outputs] from tokens [n, tokens, channels].

    Outputs at token t are a function of tokens 0 to t - 1 and of the class. The last layer starts at zero, and so do
    the outputs.

    Args:
        tokens, channels: Of a sequence.
        outputs: Numbers per token.
        width, layers: Of the transformer.
        classes: Number of classes; each has a learned vector, added to every token.
    """

    def __init__(self, tokens: int, channels: int, outputs: int, width: int, layers: int, classes: int) -> None:
        super().__init__()
        self.tokens, self.width = tokens, width
        self.start = nn.Parameter(torch.randn(width) * width**-0.5)
        self.place = nn.Parameter(torch.randn(tokens, width) * width**-0.5)
        self.label = nn.Embedding(classes, width)
        self.read = nn.Linear(channels, width)
        self.layers = nn.ModuleList(_Layer(width) for _ in range(layers))
        self.before_out = nn.LayerNorm(width)
        self.write = nn.Linear(width, outputs)
        with torch.no_grad():
            self.label.weight.mul_(width**-0.5)
            self.write.weight.zero_()
            self.write.bias.zero_()

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """All tokens at once. x [n, tokens, channels], y [n]."""
        first = self.start.expand(len(x), 1, -1)
        before = torch.cat([first, self.read(x[:, :-1])], 1)  # token t sees its predecessor in its own place
        return self._through(before + self.place + self.label(y)[:, None], None)

    def step(self, previous: Tensor | None, at: int, y: Tensor, cache: Cache) -> Tensor:
        """[n, 1, outputs] at token `at`, from its predecessor [n, channels] and the cache, which is extended.

        Args:
            previous: None for the first token.
        """
        before = self.start.expand(len(y), -1) if previous is None else self.read(previous)
        return self._through((before + self.place[at] + self.label(y))[:, None], cache)

    def _through(self, h: Tensor, cache: Cache | None) -> Tensor:
        for i, layer in enumerate(self.layers):
            h = layer(h, cache, i)
        out: Tensor = self.write(self.before_out(h))
        return out


class Cache:
    """Keys and values of the tokens read so far, by layer, in memory reserved for all of them."""

    def __init__(self, of: Causal, n: int, like: Tensor) -> None:
        heads = max(1, of.width // _HEAD)
        shape = (len(of.layers), 2, n, heads, of.tokens, of.width // heads)
        self.memory, self.read = like.new_empty(shape), 0

    def extended(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """All keys and values of a layer, [n, heads, tokens so far, width of a head], with those of one more token."""
        if layer == 0:
            self.read += 1
        own = self.memory[layer, :, :, :, : self.read]
        own[0, :, :, -1], own[1, :, :, -1] = k[:, :, 0], v[:, :, 0]
        return own[0], own[1]
