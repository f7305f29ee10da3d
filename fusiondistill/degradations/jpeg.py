"""JPEG compression, bit for bit that of Pillow (libjpeg-turbo, 4:2:0), without ever writing a bit stream.

Entropy coding loses nothing, so what a round trip does to the pixels is: colour conversion, chroma at half the size,
the integer cosine transform, rounding to multiples of the quantisation table, and the way back.
"""

from __future__ import annotations

import functools

import torch

from fusiondistill.degradations import DEGRADATIONS
from fusiondistill.degradations.machinery import fields
from fusiondistill.degradations.machinery import jpeg_arithmetic as arithmetic
from fusiondistill.degradations.machinery.tensors import in_pieces

__all__ = ["jpeg"]


@DEGRADATIONS.register("jpeg", range(1, 102), means="quality = level, 101 leaves it clean", unseen=False)
def jpeg(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """JPEG at quality = level with 4:2:0 chroma, as Pillow writes and reads it; 101 leaves the image clean."""
    kernel = fields.cpu_kernels("jpeg_kernel") if images.device.type == "cpu" else None
    if kernel is None:
        return tensor_jpeg(images, levels)
    out = torch.empty_like(images)
    kernel(images, out, levels)
    return out


def tensor_jpeg(images: torch.Tensor, levels: torch.Tensor) -> torch.Tensor:
    """The same in tensor operations, for any device."""
    out = in_pieces(_round_trip, 2, images, _tables(images.device)[levels])
    return torch.where((levels == arithmetic.CLEAN).view(-1, 1, 1, 1), images, out)


@functools.cache
def _tables(device: torch.device) -> torch.Tensor:
    """float64 [102,2,8,8] quantisation tables by quality."""
    return torch.from_numpy(arithmetic.quantisation_tables()).double().to(device, non_blocking=True)


@functools.cache
def _matrices(device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """float64 [8,8] forward and inverse transform."""
    forward = torch.from_numpy(arithmetic.matrix(arithmetic.forward_transform)).double()
    inverse = torch.from_numpy(arithmetic.matrix(arithmetic.inverse_transform)).double()
    return forward.to(device, non_blocking=True), inverse.to(device, non_blocking=True)


def _round_trip(images: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """uint8 [B,3,H,W] and float64 [B,2,8,8] to uint8 [B,3,H,W]."""
    height, width = images.shape[2:]
    luma, chroma = _to_ycc(images)
    luma = _code(_pad(luma, -height % 8, -width % 8), tables[:, :1])[..., :height, :width]
    small = _code(_halve(chroma), tables[:, 1:])[..., : (height + 1) // 2, : (width + 1) // 2]
    del chroma
    return _to_rgb(luma, _double(small)[..., :height, :width])


def _to_ycc(images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Luma uint8 [B,1,H,W] and the two chroma channels uint8 [B,2,H,W]; constants of 16 bits."""
    red, green, blue = (images[:, i : i + 1].to(torch.int32) for i in range(3))
    luma = (19595 * red + 38470 * green + 7471 * blue + 32768) >> 16
    offset = (128 << 16) + 32767
    cb = (-11059 * red - 21709 * green + 32768 * blue + offset) >> 16
    cr = (32768 * red - 27439 * green - 5329 * blue + offset) >> 16
    return luma.to(torch.uint8), torch.cat([cb.to(torch.uint8), cr.to(torch.uint8)], dim=1)


def _to_rgb(luma: torch.Tensor, chroma: torch.Tensor) -> torch.Tensor:
    """The way back; constants of 16 bits, each channel clipped to 0..255."""
    luma, cb, cr = luma.to(torch.int32), chroma[:, :1] - 128, chroma[:, 1:] - 128
    red = luma + ((91881 * cr + 32768) >> 16)
    green = luma + ((-22554 * cb - 46802 * cr + 32768) >> 16)
    blue = luma + ((116130 * cb + 32768) >> 16)
    return torch.cat([channel.clamp_(0, 255).to(torch.uint8) for channel in (red, green, blue)], dim=1)


def _pad(planes: torch.Tensor, rows: int, columns: int) -> torch.Tensor:
    """Repeat the last row and column."""
    for axis, more in ((2, rows), (3, columns)):
        if more:
            size = planes.shape[axis]
            where = torch.arange(size + more, device=planes.device).clamp_(max=size - 1)
            planes = planes.index_select(axis, where)
    return planes


def _halve(chroma: torch.Tensor) -> torch.Tensor:
    """Chroma at half the size, uint8, as whole blocks: means of 2x2, with .5 rounded down and up in turn.

    Columns are repeated before the means are taken, rows after it: so does libjpeg.
    """
    height, width = chroma.shape[2:]
    full = _pad(chroma, height % 2, -width % 16).to(torch.int16)
    total = full[:, :, 0::2, 0::2] + full[:, :, 0::2, 1::2]
    total += full[:, :, 1::2, 0::2]
    total += full[:, :, 1::2, 1::2]
    total += 1 + torch.arange(total.shape[3], device=total.device, dtype=torch.int16) % 2
    return _pad((total >> 2).to(torch.uint8), -total.shape[2] % 8, 0)


def _code(planes: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """Transform, quantise and back: uint8 [B,C,H,W] of whole 8x8 blocks, float64 [B,1,8,8] tables, to the same.

    All numbers are integers below 2**53, so float64 products and sums are exact in any order. Each 1-D transform is a
    product with an 8x8 matrix, along the rows of all blocks; between two of them the blocks are transposed.
    """
    batch, channels, height, width = planes.shape
    forward, inverse = _matrices(planes.device)

    def transform(blocks: torch.Tensor, matrix: torch.Tensor, bits: int) -> torch.Tensor:
        return _shift(blocks.reshape(-1, 8) @ matrix.T, bits).view(-1, 8, 8)

    blocks = planes.view(batch, channels, height // 8, 8, width // 8, 8).transpose(3, 4).double().sub_(128)
    blocks = transform(blocks, forward, arithmetic.FORWARD_SHIFTS[0])
    blocks = transform(blocks.transpose(1, 2), forward, arithmetic.FORWARD_SHIFTS[1])
    _quantise(blocks.view(batch, -1, 8, 8), tables.transpose(2, 3))
    blocks = transform(blocks, inverse, arithmetic.INVERSE_SHIFTS[0])
    blocks = transform(blocks.transpose(1, 2), inverse, arithmetic.INVERSE_SHIFTS[1])
    pixels = blocks.add_(128).clamp_(0, 255).to(torch.uint8)
    return pixels.view(batch, channels, height // 8, width // 8, 8, 8).transpose(3, 4).reshape(planes.shape)


def _shift(x: torch.Tensor, bits: int) -> torch.Tensor:
    """Divide by 2**bits in place, rounding halves up."""
    return x.add_(2.0 ** (bits - 1)).mul_(2.0**-bits).floor_()


def _quantise(coefficients: torch.Tensor, table: torch.Tensor) -> None:
    """Round to multiples of the table, in place; the transform's factor of 8 goes into the divisor."""
    divisor = table * 8
    sign = coefficients.sign()
    coefficients.abs_().add_(torch.floor(divisor / 2)).div_(divisor).floor_().mul_(sign).mul_(table)


def _double(small: torch.Tensor) -> torch.Tensor:
    """Chroma at its full size again ("fancy upsampling"): weights 3/4 and 1/4 each way, int32 [B,2,2h,2w]."""
    if small.shape[3] <= 2:  # libjpeg only repeats the values of so small an image.
        return small.to(torch.int32).repeat_interleave(2, 2).repeat_interleave(2, 3)
    tall = _interleave(_near_and_far(small.to(torch.int32), 2), 2)
    before, after = _near_and_far(tall, 3)
    return _interleave((before.add_(8) >> 4, after.add_(7) >> 4), 3)


def _near_and_far(x: torch.Tensor, axis: int) -> tuple[torch.Tensor, torch.Tensor]:
    """3 * x + the neighbour before it, and 3 * x + the neighbour after it; at the ends x is its own neighbour."""
    size = x.shape[axis]
    where = torch.arange(size, device=x.device)
    before, after = (where - 1).clamp_(min=0), (where + 1).clamp_(max=size - 1)
    near = 3 * x
    return near + x.index_select(axis, before), near + x.index_select(axis, after)


def _interleave(pair: tuple[torch.Tensor, torch.Tensor], axis: int) -> torch.Tensor:
    return torch.stack(pair, dim=axis + 1).flatten(axis, axis + 1)
