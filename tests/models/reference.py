"""The same classifiers as a plain PyTorch user writes them: one model, one lane."""

from __future__ import annotations

import itertools
import math
import re

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


class Depthwise(nn.Module):
    """A filter per channel, as products that torch's counter of FLOPs counts right, backward too."""

    def __init__(self, channels, kernel, bias):
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(kernel, kernel, channels))
        self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

    def forward(self, x: Tensor, stride: int = 1) -> Tensor:
        n, side, _, channels = x.shape
        kernel, out = len(self.weight), -(-side // stride)
        patches = F.unfold(x.permute(0, 3, 1, 2), kernel, padding=kernel // 2, stride=stride)
        rows = patches.view(n, channels, kernel**2, -1).permute(1, 0, 3, 2).reshape(channels, -1, kernel**2)
        y = torch.bmm(rows, self.weight.flatten(0, 1).T[:, :, None]).view(channels, n, out, out).permute(1, 2, 3, 0)
        return y if self.bias is None else y + self.bias


def squares(x: Tensor, side: int) -> Tensor:
    return torch.cat([x[:, i::side, j::side] for i in range(side) for j in range(side)], -1)


class Merge(nn.Module):
    def __init__(self, inputs, outputs, side, norm_first):
        super().__init__()
        self.side, self.norm_first = side, norm_first
        self.norm = nn.LayerNorm(inputs if norm_first else side**2 * inputs)
        self.linear = nn.Linear(side**2 * inputs, outputs, bias=norm_first)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(squares(self.norm(x), self.side) if self.norm_first else self.norm(squares(x, self.side)))


class Pyramid(nn.Module):
    """Patches, three stages of blocks with merged pixels between, norm, head."""

    def __init__(self, image, width, depth, outputs, patch, norm_first, block):
        super().__init__()
        self.image, self.patch, side = image, patch, image[1] // patch
        self.stem, self.stem_norm = nn.Linear(image[0] * patch**2, width), nn.LayerNorm(width)
        self.stages, self.merges = nn.ModuleList(), nn.ModuleDict()
        for stage in range(3):
            if stage:
                factor = 1 if side % 2 else 2
                self.merges[str(stage)] = Merge(width, 2 * width, factor, norm_first)
                side, width = side // factor, 2 * width
            self.stages.append(nn.ModuleList(block(width, side, stage, i) for i in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        h = self.stem_norm(self.stem(squares(x.view(-1, *self.image).permute(0, 2, 3, 1), self.patch)))
        for stage, blocks in enumerate(self.stages):
            h = self.merges[str(stage)](h) if stage else h
            for block in blocks:
                h = block(h)
        return self.head(self.norm(h.mean((1, 2))) if self.merges["1"].norm_first else self.norm(h).mean((1, 2)))


class ConvNeXtBlock(nn.Module):
    def __init__(self, width, side, activation):
        super().__init__()
        self.mix, self.norm = Depthwise(width, min(7, 2 * side - 1), bias=True), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.scale, self.activation = nn.Parameter(torch.zeros(width)), ACTIVATIONS[activation]()

    def forward(self, x: Tensor) -> Tensor:
        return x + self.scale * self.down(self.activation(self.up(self.norm(self.mix(x)))))


class SwinBlock(nn.Module):
    """Windows are cut out one by one: shifted ones are smaller at the borders, which needs neither roll nor mask."""

    def __init__(self, width, side, heads, shifted, activation):
        super().__init__()
        self.heads, self.window = heads, max(w for w in range(1, 8) if side % w == 0)
        first = self.window // 2 if shifted and self.window < side else self.window
        self.edges = [0, *range(first, side, self.window), side]
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        if self.window > 1:
            self.relative = nn.Parameter(torch.zeros(heads, 2 * self.window - 1, 2 * self.window - 1))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.activation = ACTIVATIONS[activation]()

    def attention(self, x: Tensor) -> Tensor:
        n, height, across, width = x.shape
        q, k, v = (part.reshape(n, height * across, self.heads, -1).transpose(1, 2) for part in x.chunk(3, -1))
        bias = None
        if self.window > 1:
            i, j = torch.arange(height).repeat_interleave(across), torch.arange(across).repeat(height)
            bias = self.relative[:, i[:, None] - i + self.window - 1, j[:, None] - j + self.window - 1]
        out = F.scaled_dot_product_attention(q, k, v, bias)
        return out.transpose(1, 2).reshape(n, height, across, width // 3)

    def forward(self, x: Tensor) -> Tensor:
        qkv, spans = self.qkv(self.norm1(x)), list(itertools.pairwise(self.edges))
        strips = [torch.cat([self.attention(qkv[:, a:b, c:d]) for c, d in spans], 2) for a, b in spans]
        x = x + self.proj(torch.cat(strips, 1))
        return x + self.down(self.activation(self.up(self.norm2(x))))


class InvertedResidual(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.stride, hidden = stride, 6 * inputs
        self.expand, self.project = nn.Linear(inputs, hidden, bias=False), nn.Linear(hidden, outputs, bias=False)
        self.mix = Depthwise(hidden, 3, bias=False)
        self.norm1, self.norm2, self.norm3 = (nn.GroupNorm(math.gcd(8, c), c) for c in (hidden, hidden, outputs))

    def forward(self, x: Tensor) -> Tensor:
        h = F.relu6(last_axis(self.norm1, self.expand(x)))
        h = F.relu6(last_axis(self.norm2, self.mix(h, self.stride)))
        h = last_axis(self.norm3, self.project(h))
        return x + h if self.stride == 1 and x.shape == h.shape else h


def last_axis(norm: nn.Module, x: Tensor) -> Tensor:
    return norm(x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)


class MobileNet(nn.Module):
    def __init__(self, image, width, depth, outputs):
        super().__init__()
        self.image = image
        self.stem = nn.Conv2d(image[0], width, 3, padding=1, bias=False)
        self.stem_norm = nn.GroupNorm(math.gcd(8, width), width)
        self.stages, channels = nn.ModuleList(), width
        for stage in range(3):
            blocks = nn.ModuleList()
            for block in range(depth):
                blocks.append(InvertedResidual(channels, width * 2**stage, 2 if stage and not block else 1))
                channels = width * 2**stage
            self.stages.append(blocks)
        self.last, self.last_norm = nn.Linear(channels, 4 * channels, bias=False), nn.GroupNorm(8, 4 * channels)
        self.head = nn.Linear(4 * channels, outputs)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu6(self.stem_norm(self.stem(x.view(-1, *self.image)))).permute(0, 2, 3, 1)
        for blocks in self.stages:
            for block in blocks:
                x = block(x)
        return self.head(F.relu6(last_axis(self.last_norm, self.last(x))).mean((1, 2)))


def reference_of(architecture) -> nn.Module:
    """An `Architecture` without mu-P, in float64."""
    a = architecture
    if a.kind == "mlp":
        model = MLP(a.inputs, a.width, a.depth, a.outputs, a.activation)
    elif a.kind == "cnn":
        model = CNN(a.image, a.width, a.depth, a.outputs, a.activation)
    elif a.kind == "resnet":
        model = ResNet(a.image, a.width, a.depth, a.outputs)
    elif a.kind == "vit":
        model = ViT(a.image, a.width, a.depth, a.outputs, a.patch, a.heads, a.activation)
    elif a.kind == "convnext":

        def block(width, side, stage, i):
            return ConvNeXtBlock(width, side, a.activation)

        model = Pyramid(a.image, a.width, a.depth, a.outputs, a.patch, True, block)
    elif a.kind == "swin":

        def block(width, side, stage, i):
            return SwinBlock(width, side, a.heads * 2**stage, i % 2 == 1, a.activation)

        model = Pyramid(a.image, a.width, a.depth, a.outputs, a.patch, False, block)
    else:
        model = MobileNet(a.image, a.width, a.depth, a.outputs)
    return model.double()


def their_name(ours: str) -> str:
    """`stem.norm.gain` is `stem_norm.weight` there."""
    ours = re.sub(r"^(merges\.\d)\.(weight|bias)$", r"\1.linear.\2", ours)
    return ours.replace("stem.norm", "stem_norm").replace("last.norm", "last_norm").replace(".gain", ".weight")


def to_torch(parameters) -> dict[str, Tensor]:
    """{name: one lane's tensor} as a state dict: convolutions are [out, in, kh, kw] there."""
    return {their_name(n): (p.permute(3, 2, 0, 1) if p.dim() == 4 else p).detach() for n, p in parameters.items()}


def load(model: nn.Module, parameters) -> nn.Module:
    """The model with a lane's parameters; every one of both must be used."""
    model.load_state_dict(to_torch(parameters), strict=True)
    return model
