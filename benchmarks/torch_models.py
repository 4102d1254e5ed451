"""The same layers as SPNet's in plain PyTorch, to be timed beside ours; run by an interpreter that has torch.

Only shapes and costs are those of the models, no weights. RoIAlign and non-maximum suppression are torchvision's where
there is one. It is not needed: else RoIAlign is one `grid_sample` of all boxes' sample points in a scene and an average
pooling (the fewest passes over memory that plain PyTorch offers), and suppression is greedy on one matrix of overlaps.
Everything else is PyTorch's own layers.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

try:
    from torchvision import ops as compiled
except (ImportError, RuntimeError):  # the latter: made for another PyTorch
    compiled = None

ANCHORS_PER_CELL = 9
ROI, RATIO = 14, 2  # bins a side, samples a bin and direction


class Bottleneck(nn.Module):
    """ResNet's block, version 1.5, or with `stride_in_first` the first one, which Caffe has."""

    def __init__(self, channels: int, width: int, stride: int, stride_in_first: bool = False):
        super().__init__()
        first, second = (stride, 1) if stride_in_first else (1, stride)
        self.conv1, self.norm1 = nn.Conv2d(channels, width, 1, first, bias=False), nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, second, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        self.conv3, self.norm3 = nn.Conv2d(width, 4 * width, 1, bias=False), nn.BatchNorm2d(4 * width)
        self.shortcut = nn.Identity()
        if stride != 1 or channels != 4 * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.norm1(self.conv1(x)), inplace=True)
        y = functional.relu(self.norm2(self.conv2(y)), inplace=True)
        return functional.relu(self.norm3(self.conv3(y)) + self.shortcut(x), inplace=True)


class ResNet50(nn.Module):
    """Trunk: image -> (c3, c4, c5)."""

    channels = (512, 1024, 2048)

    def __init__(self, stride_in_first: bool = False):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(True), nn.MaxPool2d(3, 2, 1)
        )
        shapes = ((64, 64, 3, 1), (256, 128, 4, 2), (512, 256, 6, 2))
        first = [_resnet_stage(*shape, stride_in_first) for shape in shapes]
        self.stages = nn.ModuleList([*first, self.last_stage(stride_in_first)])

    @staticmethod
    def last_stage(stride_in_first: bool = False) -> nn.Module:
        """A new stage like the one from c4 to c5."""
        return _resnet_stage(1024, 512, 3, 2, stride_in_first)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return _run_stages(self.stem(image), self.stages)


def _resnet_stage(
    channels: int, width: int, blocks: int, stride: int, stride_in_first: bool = False
) -> nn.Sequential:
    rest = [Bottleneck(4 * width, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Bottleneck(channels, width, stride, stride_in_first), *rest)


class ChannelNorm(nn.LayerNorm):
    """LayerNorm over the channels of a map."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvNeXtBlock(nn.Module):
    """7x7 depthwise convolution, LayerNorm, two-layer perceptron, layer scale, stochastic depth."""

    def __init__(self, channels: int, drop: float):
        super().__init__()
        self.depthwise = nn.Conv2d(channels, channels, 7, 1, 3, groups=channels)
        self.perceptron = nn.Sequential(
            nn.LayerNorm(channels, 1e-6),
            nn.Linear(channels, 4 * channels),
            nn.GELU(),
            nn.Linear(4 * channels, channels),
        )
        self.scale = nn.Parameter(torch.full((channels, 1, 1), 1e-6))
        self.drop = drop

    def forward(self, x: Tensor) -> Tensor:
        y = self.perceptron(self.depthwise(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2) * self.scale
        if self.training and self.drop:
            keep = torch.rand(len(x), 1, 1, 1, device=x.device) >= self.drop
            y = y * keep / (1 - self.drop)
        return x + y


class ConvNeXt(nn.Module):
    """Trunk: image -> (c3, c4, c5)."""

    def __init__(self, depths: tuple[int, ...], widths: tuple[int, ...], drop: float):
        super().__init__()
        self.depths, self.widths, self.drop = depths, widths, drop
        self.channels = widths[1:]
        self.stem = nn.Sequential(nn.Conv2d(3, widths[0], 4, 4), ChannelNorm(widths[0], 1e-6))
        self.stages = nn.ModuleList(map(self._stage, range(4)))

    def _stage(self, index: int) -> nn.Sequential:
        before, total = sum(self.depths[:index]), sum(self.depths)
        width = self.widths[index]
        drops = [self.drop * (before + block) / (total - 1) for block in range(self.depths[index])]
        blocks: list[nn.Module] = [ConvNeXtBlock(width, drop) for drop in drops]
        if index:
            below = self.widths[index - 1]
            blocks = [ChannelNorm(below, 1e-6), nn.Conv2d(below, width, 2, 2), *blocks]
        return nn.Sequential(*blocks)

    def last_stage(self) -> nn.Module:
        """A new stage like the one from c4 to c5."""
        return self._stage(3)

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return _run_stages(self.stem(image), self.stages)


def _run_stages(x: Tensor, stages: nn.ModuleList) -> tuple[Tensor, ...]:
    maps = []
    for stage in stages:
        x = stage(x)
        maps.append(x)
    return tuple(maps[1:])


def build_trunk(name: str) -> nn.Module:
    """A trunk by our name."""
    if name == "resnet50":
        return ResNet50()
    if name == "convnext_tiny":
        return ConvNeXt((3, 3, 9, 3), (96, 192, 384, 768), 0.1)
    if name == "convnext_base":
        return ConvNeXt((3, 3, 27, 3), (128, 256, 512, 1024), 0.5)
    raise ValueError(f"there is no PyTorch trunk {name!r} here")


class FeaturePyramid(nn.Module):
    """(c3, c4, c5) -> [p3 .. p7]."""

    def __init__(self, channels: tuple[int, ...], width: int):
        super().__init__()
        self.lateral = nn.ModuleList([nn.Conv2d(channel, width, 1) for channel in channels])
        self.output = nn.ModuleList([nn.Conv2d(width, width, 3, 1, 1) for _ in channels])
        self.p6, self.p7 = nn.Conv2d(channels[-1], width, 3, 2, 1), nn.Conv2d(width, width, 3, 2, 1)

    def forward(self, maps: tuple[Tensor, ...]) -> list[Tensor]:
        levels: list[Tensor] = []
        above = None
        for x, lateral, output in zip(maps[::-1], self.lateral[::-1], self.output[::-1], strict=True):
            merged = lateral(x)
            if above is not None:
                merged = merged + functional.interpolate(above, size=merged.shape[-2:], mode="nearest")
            levels.insert(0, output(merged))
            above = merged
        p6 = self.p6(maps[-1])
        return [*levels, p6, self.p7(functional.relu(p6))]


def roi_align(feature: Tensor, boxes: Tensor, stride: int) -> Tensor:
    """RoIAlign (not aligned, 2x2 samples a bin) of the boxes [n, 4] of one scene, feature [1, C, H, W]."""
    if compiled:
        return compiled.roi_align(feature, [boxes], ROI, 1 / stride, RATIO, aligned=False)
    count, samples = len(boxes), ROI * RATIO
    start = boxes[:, :2] / stride
    size = (boxes[:, 2:] / stride - start).clamp(min=1.0)
    fraction = (torch.arange(samples, device=boxes.device) + 0.5) / samples
    x = start[:, 0, None] + size[:, 0, None] * fraction
    y = start[:, 1, None] + size[:, 1, None] * fraction
    height, width = feature.shape[-2:]
    x, y = 2 * x / max(1, width - 1) - 1, 2 * y / max(1, height - 1) - 1
    grid = torch.stack([x[:, None].expand(-1, samples, -1), y[:, :, None].expand(-1, -1, samples)], -1)
    grid = grid.reshape(1, count * samples, samples, 2)
    sampled = functional.grid_sample(feature, grid, align_corners=True, padding_mode="border")
    pooled = functional.avg_pool2d(sampled, RATIO)[0]
    return pooled.reshape(pooled.shape[0], count, ROI, ROI).transpose(0, 1)


class BoxEmbedder(nn.Module):
    """RoIAlign on p3, a last stage of the trunk, the maxima before and after it projected.

    Args:
      stage: the last stage.
      channels: before and after it.
      dimension: of the embedding; `location` projects the deep half alone, without normalisation.
    """

    def __init__(self, stage: nn.Module, channels: tuple[int, int], dimension: int, location: bool = False):
        super().__init__()
        self.stage, self.location = stage, location
        if location:
            self.deep = nn.Linear(channels[1], dimension, bias=False)
        else:
            half = dimension // 2
            self.shallow = nn.Sequential(nn.Linear(channels[0], half), nn.BatchNorm1d(half, affine=False))
            self.deep = nn.Sequential(nn.Linear(channels[1], half), nn.BatchNorm1d(half, affine=False))

    def forward(self, feature: Tensor, boxes: list[Tensor]) -> Tensor:
        patches = torch.cat([roi_align(feature[i : i + 1], one, 8) for i, one in enumerate(boxes)])
        patches = patches.contiguous(memory_format=torch.channels_last)
        deep = self.deep(self.stage(patches).amax((2, 3)))
        return deep if self.location else torch.cat([self.shallow(patches.amax((2, 3))), deep], -1)


def regressor(dimension: int) -> nn.Sequential:
    """Four hidden layers, then box deltas."""
    hidden = [layer for _ in range(4) for layer in (nn.Linear(dimension, dimension), nn.ReLU(True))]
    return nn.Sequential(*hidden, nn.Linear(dimension, 4))


def decode(deltas: Tensor, boxes: Tensor) -> Tensor:
    """Boxes from deltas, box coder weights 1."""
    size = boxes[..., 2:] - boxes[..., :2]
    centre = boxes[..., :2] + 0.5 * size + deltas[..., :2] * size
    size = size * deltas[..., 2:].clamp(max=math.log(1000 / 16)).exp()
    return torch.cat([centre - 0.5 * size, centre + 0.5 * size], -1)


def pairwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Overlaps [n, m]."""
    corner = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    size = (corner - torch.maximum(first[:, None, :2], second[None, :, :2])).clamp(min=0)
    shared = size[..., 0] * size[..., 1]
    area = [(boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1]) for boxes in (first, second)]
    return shared / (area[0][:, None] + area[1][None] - shared).clamp(min=1e-9)


def nms(boxes: Tensor, score: Tensor, threshold: float) -> Tensor:
    """Numbers of the boxes that stand, best first."""
    if compiled:
        return compiled.nms(boxes, score, threshold)
    order = score.argsort(descending=True)
    overlaps = (pairwise_iou(boxes[order], boxes[order]) > threshold).cpu().numpy()
    standing = [True] * len(order)
    for place in range(len(order)):
        if standing[place]:
            for other in overlaps[place, place + 1 :].nonzero()[0]:
                standing[place + 1 + int(other)] = False
    return order[torch.tensor(standing, device=order.device)]
