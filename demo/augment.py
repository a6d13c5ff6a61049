"""Random placement, colour and background, so that the model learns shapes and not one maker's palette."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073)).view(1, 3, 1, 1)
STD = torch.tensor((0.26862954, 0.26130258, 0.27577711)).view(1, 3, 1, 1)


def normalize(images: Tensor) -> Tensor:
    """float [n, 3, h, w] of 0 to 1 to the input of cn_clip's towers (cn_clip/clip/utils.py, image_transform)."""
    return (images - MEAN) / STD


def uniform(count: int, low: float, high: float, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator) * (high - low) + low


def place(images: Tensor, resolution: int, generator: torch.Generator) -> Tensor:
    """Premultiplied RGBA [n, 4, h, w], rotated, scaled, stretched and shifted, at the model's resolution."""
    count = len(images)
    angle = uniform(count, -0.3, 0.3, generator) * (torch.rand(count, generator=generator) < 0.7)
    scale = uniform(count, 0.85, 1.5, generator)
    stretch = uniform(count, 0.9, 1.1, generator)
    shift = uniform(count * 2, -0.18, 0.18, generator).view(count, 2)
    theta = torch.stack(
        (
            torch.stack((torch.cos(angle) * scale * stretch, -torch.sin(angle) * scale, shift[:, 0]), 1),
            torch.stack((torch.sin(angle) * scale, torch.cos(angle) * scale / stretch, shift[:, 1]), 1),
        ),
        1,
    )
    grid = F.affine_grid(theta, [count, 4, resolution, resolution], align_corners=False)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def backgrounds(count: int, resolution: int, generator: torch.Generator) -> Tensor:
    """White, plain colours and soft gradients, [n, 3, resolution, resolution]."""
    corners = torch.rand(count, 3, 2, 2, generator=generator)
    corners = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, corners[:, :, :1, :1], corners)
    corners = torch.where(torch.rand(count, 1, 1, 1, generator=generator) < 0.5, torch.ones(()), corners)
    return F.interpolate(corners.expand(-1, -1, 2, 2), size=resolution, mode="bilinear", align_corners=True)


def recolour(images: Tensor, generator: torch.Generator) -> Tensor:
    """A random mix of the channels around the identity, then brightness, contrast and sometimes grey."""
    count = len(images)
    strength = uniform(count, 0.0, 0.45, generator).view(count, 1, 1)
    mix = torch.eye(3) + strength * (torch.rand(count, 3, 3, generator=generator) - 0.5) * 2
    mix = mix / mix.sum(dim=2, keepdim=True).clamp(min=0.4)
    grey = (torch.rand(count, 1, 1, generator=generator) < 0.12).float()
    mix = grey * torch.full((3, 3), 1 / 3) + (1 - grey) * mix
    mixed = torch.einsum("nij,njhw->nihw", mix, images)
    contrast = uniform(count, 0.6, 1.3, generator).view(count, 1, 1, 1)
    brightness = uniform(count, -0.15, 0.15, generator).view(count, 1, 1, 1)
    return ((mixed - 0.5) * contrast + 0.5 + brightness).clamp(0, 1)


def augment(images: Tensor, resolution: int, generator: torch.Generator) -> Tensor:
    """uint8 RGBA [n, 4, h, w] to the model's input, float [n, 3, resolution, resolution]."""
    rgba = images.float() / 255
    rgba = torch.cat((rgba[:, :3] * rgba[:, 3:], rgba[:, 3:]), 1)
    placed = place(rgba, resolution, generator)
    colour = recolour(placed[:, :3] / placed[:, 3:].clamp(min=1e-3), generator)
    alpha = placed[:, 3:].clamp(0, 1)
    return normalize(colour * alpha + backgrounds(len(images), resolution, generator) * (1 - alpha))
