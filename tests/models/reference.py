"""The same classifiers as a plain PyTorch user writes them: one model, one lane."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

ACTIVATIONS = {"relu": nn.ReLU, "gelu": nn.GELU, "tanh": nn.Tanh}


class MLP(nn.Module):
    def __init__(self, inputs, width, depth, outputs, activation):
        super().__init__()
        sizes = [inputs, *[width] * depth, outputs]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in itertools.pairwise(sizes))
        self.activation = ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers[:-1]:
            x = self.activation(layer(x))
        return self.layers[-1](x)


class CNN(nn.Module):
    def __init__(self, image, width, depth, outputs, activation):
        super().__init__()
        self.image = image
        channels = [image[0], *(width * 2**i for i in range(depth))]
        self.convs = nn.ModuleList(nn.Conv2d(a, b, 3, padding=1) for a, b in itertools.pairwise(channels))
        self.activation = ACTIVATIONS[activation]()
        self.head = nn.Linear(channels[-1], outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = x.view(-1, *self.image)
        for conv in self.convs:
            x = self.activation(conv(x))
            x = F.avg_pool2d(x, 2) if min(x.shape[2:]) > 1 else x
        return self.head(x.mean((2, 3)))


class Block(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.norm1 = nn.GroupNorm(math.gcd(8, outputs), outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.norm2 = nn.GroupNorm(math.gcd(8, outputs), outputs)
        if inputs != outputs:
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
            self.norm3 = nn.GroupNorm(math.gcd(8, outputs), outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm1(self.conv1(x)).relu()
        h = self.norm2(self.conv2(h))
        return (h + (self.norm3(self.shortcut(x)) if hasattr(self, "shortcut") else x)).relu()


class ResNet(nn.Module):
    def __init__(self, image, width, depth, outputs):
        super().__init__()
        self.image = image
        self.stem = nn.Conv2d(image[0], width, 3, padding=1, bias=False)
        self.stem_norm = nn.GroupNorm(math.gcd(8, width), width)
        self.stages, channels = nn.ModuleList(), width
        for stage in range(3):
            blocks = nn.ModuleList()
            for block in range(depth):
                blocks.append(Block(channels, width * 2**stage, 2 if stage and not block else 1))
                channels = width * 2**stage
            self.stages.append(blocks)
        self.head = nn.Linear(channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem_norm(self.stem(x.view(-1, *self.image))).relu()
        for blocks in self.stages:
            for block in blocks:
                x = block(x)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Attention(nn.Module):
    def __init__(self, width, heads, hidden_activation):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation = hidden_activation()

    def forward(self, x: Tensor) -> Tensor:
        n, tokens, width = x.shape
        q, k, v = (
            part.view(n, tokens, self.heads, -1).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        out = F.scaled_dot_product_attention(q, k, v)
        x = x + self.proj(out.transpose(1, 2).reshape(n, tokens, width))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class ViT(nn.Module):
    def __init__(self, image, width, depth, outputs, patch, heads, activation):
        super().__init__()
        self.image, self.patch = image, patch
        self.embed = nn.Linear(image[0] * patch**2, width)
        self.position = nn.Parameter(torch.zeros((image[1] // patch) ** 2, width))
        self.blocks = nn.ModuleList(Attention(width, heads, ACTIVATIONS[activation]) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        patches = F.unfold(x.view(-1, *self.image), self.patch, stride=self.patch).transpose(1, 2)
        h = self.embed(patches) + self.position
        for block in self.blocks:
            h = block(h)
        return self.head(self.norm(h).mean(1))


def reference_of(architecture) -> nn.Module:
    """An `Architecture` without mu-P, in float64."""
    a = architecture
    if a.kind == "mlp":
        model = MLP(a.inputs, a.width, a.depth, a.outputs, a.activation)
    elif a.kind == "cnn":
        model = CNN(a.image, a.width, a.depth, a.outputs, a.activation)
    elif a.kind == "resnet":
        model = ResNet(a.image, a.width, a.depth, a.outputs)
    else:
        model = ViT(a.image, a.width, a.depth, a.outputs, a.patch, a.heads, a.activation)
    return model.double()


def their_name(ours: str) -> str:
    """`stem.norm.gain` is `stem_norm.weight` there."""
    return ours.replace("stem.norm", "stem_norm").replace(".gain", ".weight")


def to_torch(parameters) -> dict[str, Tensor]:
    """{name: one lane's tensor} as a state dict: convolutions are [out, in, kh, kw] there."""
    return {their_name(n): (p.permute(3, 2, 0, 1) if p.dim() == 4 else p).detach() for n, p in parameters.items()}


def load(model: nn.Module, parameters) -> nn.Module:
    """The model with a lane's parameters; every one of both must be used."""
    model.load_state_dict(to_torch(parameters), strict=True)
    return model
