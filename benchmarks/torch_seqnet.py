"""SeqNet's inference in plain PyTorch, to be timed beside ours."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_models import ResNet50, decode, nms, roi_align

STRIDE = 16
ANCHORS = 15  # of a cell: five sizes, three shapes
LOOKED_AT, PROPOSALS = 6000, 300


class Head(nn.Module):
    """RoIAlign and a last stage of the trunk: the maxima before and after it."""

    def __init__(self):
        super().__init__()
        self.stage = ResNet50.last_stage()

    def forward(self, feature: Tensor, boxes: Tensor) -> tuple[Tensor, Tensor]:
        patches = roi_align(feature, boxes, STRIDE).contiguous(memory_format=torch.channels_last)
        return patches.amax((2, 3)), self.stage(patches).amax((2, 3))


class SeqNet(nn.Module):
    """SeqNet with ResNet-50."""

    def __init__(self, dimension: int = 256):
        super().__init__()
        trunk = ResNet50()
        self.stem, self.stages = trunk.stem, nn.Sequential(*list(trunk.stages)[:3])
        self.rpn = nn.Conv2d(1024, 1024, 3, 1, 1)
        self.objectness, self.deltas = nn.Conv2d(1024, ANCHORS, 1), nn.Conv2d(1024, 4 * ANCHORS, 1)
        self.first_head, self.second_head = Head(), Head()
        self.classifier, self.first_deltas = nn.Linear(2048, 2), nn.Linear(2048, 8)
        self.second_deltas = nn.Sequential(nn.Linear(2048, 8), nn.BatchNorm1d(8))
        half = dimension // 2
        self.shallow = nn.Sequential(nn.Linear(1024, half), nn.BatchNorm1d(half))
        self.deep = nn.Sequential(nn.Linear(2048, half), nn.BatchNorm1d(half))
        self.rescaler = nn.BatchNorm1d(1)

    @torch.no_grad()
    def detect(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and embeddings of one scene [1, 3, H, W]; every candidate is kept."""
        feature = self.stages(self.stem(image))
        hidden = functional.relu(self.rpn(feature), inplace=True)
        objectness = self.objectness(hidden).permute(0, 2, 3, 1).reshape(-1)
        deltas = self.deltas(hidden).permute(0, 2, 3, 1).reshape(-1, 4)
        score, best = objectness.topk(min(LOOKED_AT, len(objectness)))
        boxes = clip(decode(deltas[best], anchors(feature)[best]), image)
        boxes = boxes[nms(boxes, score, 1.0)][:PROPOSALS]
        _, deep = self.first_head(feature, boxes)
        score = self.classifier(deep).softmax(-1)[:, 1]
        boxes = clip(decode(self.first_deltas(deep)[:, 4:] / 10, boxes), image)
        kept = nms(boxes, score, 1.0)
        boxes, score = boxes[kept], score[kept]
        shallow, deep = self.second_head(feature, boxes)
        embedding = torch.cat([self.shallow(shallow), self.deep(deep)], -1)
        length = embedding.norm(dim=-1, keepdim=True)
        self.rescaler(length).sigmoid()
        boxes = clip(decode(self.second_deltas(deep)[:, 4:] / 10, boxes), image)
        kept = nms(boxes, score, 1.0)
        return boxes[kept], score[kept], (embedding / length)[kept]


def clip(boxes: Tensor, image: Tensor) -> Tensor:
    """Boxes inside of the picture."""
    height, width = image.shape[-2:]
    return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))


def anchors(feature: Tensor) -> Tensor:
    """Anchors [cells * 15, 4] of the map."""
    size = torch.tensor([32.0, 64.0, 128.0, 256.0, 512.0])
    ratio = torch.tensor([0.5, 1.0, 2.0]).sqrt()
    height, width = (ratio[:, None] * size).reshape(-1), (size / ratio[:, None]).reshape(-1)
    base = (torch.stack([-width, -height, width, height], 1) / 2).round()
    y, x = torch.meshgrid(*(torch.arange(length) * STRIDE for length in feature.shape[-2:]), indexing="ij")
    return (torch.stack([x, y, x, y], -1).reshape(-1, 1, 4) + base).reshape(-1, 4).to(feature.device)
