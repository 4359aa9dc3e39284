"""The kernels against torch's own convolution and group norm, in float64."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

triton = pytest.importorskip("triton", reason="the kernels need triton")

from raysweep.kernels.conv_norm import conv_norm, supported  # noqa: E402

if not torch.cuda.is_available():
    from triton.runtime import interpreter

    class _Builder(interpreter.InterpreterBuilder):
        """The interpreter multiplies bfloat16 bits as integers and rounds to bfloat16 towards zero: not here."""

        def create_dot(self, a: Any, b: Any, *rest: Any) -> Any:
            return super().create_dot(self._wide(a), self._wide(b), *rest)

        def cast_impl(self, src: Any, dst_type: Any) -> Any:
            if src.dtype.scalar == triton.language.float32 and dst_type.scalar == triton.language.bfloat16:
                bits = src.data.view("uint32")
                src = interpreter.TensorHandle(
                    ((bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF0000).view("float32"), src.dtype
                )
            return super().cast_impl(src, dst_type)

        def _wide(self, a: Any) -> Any:
            return self.cast_impl(a, triton.language.float32) if a.dtype.scalar == triton.language.bfloat16 else a

    interpreter.interpreter_builder.__class__ = _Builder

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("z", "x", "weight", "gain", "bias", "residual")

Shape = tuple[int, int, int, int, int, int, int, int, bool, bool]
# lanes, n, size, c, cout, side, stride, groups, relu, residual
SHAPES = {
    "stem": (2, 2, 8, 3, 16, 3, 1, 4, True, False),
    "grey stem": (1, 3, 8, 1, 8, 3, 1, 1, True, False),
    "plain": (3, 3, 8, 16, 16, 3, 1, 2, True, False),
    "narrow": (1, 2, 8, 8, 8, 3, 1, 8, True, True),
    "residual": (2, 3, 8, 16, 16, 3, 1, 4, True, True),
    "wide": (1, 2, 4, 64, 64, 3, 1, 8, True, True),
    "down": (2, 3, 8, 16, 32, 3, 2, 8, True, False),
    "shortcut": (2, 3, 8, 16, 32, 1, 2, 8, False, False),
    "point": (1, 1, 4, 16, 16, 1, 1, 4, False, True),
    "large": (1, 1, 64, 8, 8, 3, 2, 4, True, True),
}


def reference(
    x: Tensor, weight: Tensor, gain: Tensor, bias: Tensor, residual: Tensor | None, shape: Shape, dtype: torch.dtype
) -> Tensor:
    lanes, *_, side, stride, groups, relu, _ = shape
    images = x.permute(1, 0, 4, 2, 3).flatten(1, 2)
    kernels = weight.permute(0, 4, 3, 1, 2).flatten(0, 1)
    y = F.conv2d(images, kernels, stride=stride, padding=side // 2, groups=lanes)
    # The kernels round the convolution's output, and so decide the signs at the ReLU.
    y = y + (y.to(dtype).double() - y).detach()
    y = F.group_norm(y, lanes * groups, gain.flatten(), bias.flatten())
    out = y.unflatten(1, (lanes, -1)).permute(1, 0, 3, 4, 2)
    if residual is not None:
        out = out + residual
    return out.relu() if relu else out


def both(shape: Shape, dtype: torch.dtype) -> tuple[list[Tensor | None], list[Tensor | None]]:
    """Output and gradients of the kernels and of the reference, in float64."""
    lanes, n, size, c, cout, side, stride, groups, relu, has_residual = shape
    draw = torch.Generator().manual_seed(sum(shape))
    out = (size + 2 * (side // 2) - side) // stride + 1

    def normal(*s: int) -> Tensor:
        return torch.randn(*s, generator=draw)

    x, cotangent = normal(lanes, n, size, size, c).to(dtype), normal(lanes, n, out, out, cout).to(dtype)
    weight = normal(lanes, side, side, c, cout) / (side * side * c) ** 0.5
    gain, bias = 1 + 0.3 * normal(lanes, cout), 0.3 * normal(lanes, cout)
    residual = normal(lanes, n, out, out, cout).to(dtype) if has_residual else None
    if dtype == torch.bfloat16:
        weight = weight.bfloat16().float()  # the kernels round the weights; the reference shall have the same
    results = []
    for of in (lambda t: t.to(DEVICE), lambda t: t.double()):
        inputs = [None if t is None else of(t).detach().requires_grad_() for t in (x, weight, gain, bias, residual)]
        inputs[0].requires_grad_(c >= 8)  # images need no gradient
        if of(x).dtype == torch.float64:
            z = reference(*inputs, shape, dtype)
        else:
            z = conv_norm(*inputs[:4], stride=stride, groups=groups, relu=relu, residual=inputs[4])
            assert z.dtype == dtype
        z.backward(of(cotangent))
        results.append([z.detach(), *[None if t is None else t.grad for t in inputs]])
    return results[0], results[1]


@pytest.mark.parametrize("name", SHAPES)
def test_float32(name: str) -> None:
    got, expected = both(SHAPES[name], torch.float32)
    for label, a, b in zip(NAMES, got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            error = (a.cpu().double() - b).norm() / b.norm()
            assert error < 1e-5, f"{label}: {error}"


@pytest.mark.parametrize("name", ["stem", "narrow", "residual", "down", "shortcut"])
def test_bfloat16(name: str) -> None:
    got, expected = both(SHAPES[name], torch.bfloat16)
    for label, a, b in zip(NAMES, got, expected, strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            error = (a.cpu().double() - b).norm() / b.norm()
            assert error < 1e-2, f"{label}: {error}"


def test_what_is_not_supported() -> None:
    assert supported((4, 128, 32, 32, 16), (4, 3, 3, 16, 16), 1, 8)
    assert supported((4, 128, 32, 32, 16), (4, 3, 3, 16, 32), 2, 8)
    assert not supported((4, 128, 32, 32, 16), (4, 5, 5, 16, 16), 1, 8)  # no such window
    assert not supported((4, 128, 32, 32, 12), (4, 3, 3, 12, 16), 1, 8)  # not a power of two
    assert not supported((4, 128, 64, 64, 16), (4, 3, 3, 16, 16), 1, 8)  # too large an image
    gain, bias = torch.ones(1, 8), torch.zeros(1, 8)
    with pytest.raises(ValueError, match="no kernel for images"):
        conv_norm(torch.zeros(1, 1, 8, 8, 5), torch.zeros(1, 3, 3, 5, 8), gain, bias, groups=1)
    with pytest.raises(ValueError, match="gradient of images"):
        conv_norm(torch.zeros(1, 1, 8, 8, 3, requires_grad=True), torch.zeros(1, 3, 3, 3, 8), gain, bias, groups=1)
