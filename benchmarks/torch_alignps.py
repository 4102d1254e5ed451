"""AlignPS's inference in plain PyTorch, to be timed beside ours.

Deformable convolutions are torchvision's where there is one that runs; else one `grid_sample` and one 1x1 convolution a
tap, which is what plain PyTorch offers.
"""

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_models import ResNet50, compiled, nms

STRIDE, TAPS = 8, 9
LOOKED_AT, FOUND = 1000, 100


class DeformableConv(nn.Module):
    """A 3x3 convolution that predicts where its taps read, and with `modulated` how much each counts."""

    def __init__(self, channels: int, features: int, modulated: bool = False):
        super().__init__()
        self.modulated = modulated
        self.offset = nn.Conv2d(channels, (3 if modulated else 2) * TAPS, 3, 1, 1)
        self.conv = nn.Conv2d(channels, features, 3, 1, 1, bias=modulated)

    def forward(self, x: Tensor) -> Tensor:
        moved = self.offset(x)
        offset = moved[:, : 2 * TAPS]
        mask = moved[:, 2 * TAPS :].sigmoid() if self.modulated else None
        weight, bias = self.conv.weight, self.conv.bias
        if compiled:
            return compiled.deform_conv2d(x, offset, weight, bias, padding=1, mask=mask)
        return deformable_by_grid_sample(x, offset, weight, bias, mask)


def deformable_by_grid_sample(
    x: Tensor, offset: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
) -> Tensor:
    """A deformable 3x3 convolution of stride and padding 1, tap by tap.

    Args:
      x: [B, C, H, W].
      offset: [B, 18, H, W], (down, right) of the taps, row by row.
      weight: [features, C, 3, 3].
      bias: [features].
      mask: [B, 9, H, W], what each tap is multiplied by.
    """
    height, width = x.shape[-2:]
    rows, columns = (torch.arange(side, device=x.device) for side in (height, width))
    result = 0.0 if bias is None else bias[:, None, None]
    for tap in range(TAPS):
        down, right = divmod(tap, 3)
        y = rows[:, None] + (down - 1) + offset[:, 2 * tap]
        column = columns + (right - 1) + offset[:, 2 * tap + 1]
        grid = torch.stack([2 * column / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1], -1)
        read = functional.grid_sample(x, grid, align_corners=True)
        if mask is not None:
            read = read * mask[:, tap, None]
        result = result + functional.conv2d(read, weight[:, :, down, right, None, None])
    return result


class Tower(nn.Module):
    """Four 3x3 convolutions with group normalisation, the last one deformable."""

    def __init__(self, width: int):
        super().__init__()
        plain = [nn.Conv2d(width, width, 3, 1, 1) for _ in range(3)]
        self.convs = nn.ModuleList([*plain, DeformableConv(width, width, modulated=True)])
        self.norms = nn.ModuleList([nn.GroupNorm(32, width) for _ in range(4)])

    def forward(self, x: Tensor) -> Tensor:
        for conv, norm in zip(self.convs, self.norms, strict=True):
            x = functional.relu(norm(conv(x)), inplace=True)
        return x


class AlignPS(nn.Module):
    """AlignPS with Caffe's ResNet-50."""

    def __init__(self, width: int = 256):
        super().__init__()
        self.trunk = ResNet50(stride_in_first=True)
        self.lateral = nn.ModuleList([DeformableConv(channel, width) for channel in self.trunk.channels])
        self.output = DeformableConv(3 * width, width)
        self.classification_tower, self.regression_tower = Tower(width), Tower(width)
        self.classification = nn.Conv2d(width, 1, 3, 1, 1)
        self.regression, self.centerness = nn.Conv2d(width, 4, 3, 1, 1), nn.Conv2d(width, 1, 3, 1, 1)

    @torch.no_grad()
    def detect(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and embeddings of one scene [1, 3, H, W]; every candidate is kept."""
        maps = [lateral(x) for lateral, x in zip(self.lateral, self.trunk(image), strict=True)]
        for above, below in pairwise((2, 1, 0)):
            upsampled = functional.interpolate(maps[above], size=maps[below].shape[-2:], mode="nearest")
            maps[below] = torch.cat([maps[below], upsampled], 1)
        feature = self.output(maps[0])
        feature = feature - feature.mean((2, 3), keepdim=True)
        probability = self.classification(self.classification_tower(feature)).sigmoid().reshape(-1)
        tower = self.regression_tower(feature)
        score = probability * self.centerness(tower).sigmoid().reshape(-1)
        distances = STRIDE * functional.relu(self.regression(tower)).permute(0, 2, 3, 1).reshape(-1, 4)
        score, best = score.topk(min(LOOKED_AT, len(score)))
        y, x = torch.meshgrid(
            *(STRIDE * (torch.arange(side, device=image.device) + 0.5) for side in feature.shape[-2:]),
            indexing="ij",
        )
        location = torch.stack([x, y], -1).reshape(-1, 2)[best]
        boxes = torch.cat([location - distances[best, :2], location + distances[best, 2:]], -1)
        height, width = image.shape[-2:]
        boxes = boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))
        kept = nms(boxes, score, 1.0)[:FOUND]
        embedding = feature[0].permute(1, 2, 0).reshape(-1, feature.shape[1])[best[kept]]
        return boxes[kept], score[kept], functional.normalize(embedding)
