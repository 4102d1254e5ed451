"""SPNet's object-centric path in plain PyTorch, detection and training step, to be timed beside ours."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.torch_models import (
    ANCHORS_PER_CELL,
    BoxEmbedder,
    FeaturePyramid,
    build_trunk,
    decode,
    nms,
    pairwise_iou,
    regressor,
)

TOP_ANCHORS, DETECTIONS = 1000, 300
IDENTITIES, QUEUE = 483, 500


class SPNet(nn.Module):
    """SPNet-S, and with `steps` > 0 a cascade with location heads of its own (SPNet-L)."""

    def __init__(self, trunk: str, dimension: int = 128, reid_dimension: int = 128, steps: int = 0):
        super().__init__()
        self.trunk, self.dimension = build_trunk(trunk), dimension
        channels = self.trunk.channels
        width = channels[1]
        self.pyramid = FeaturePyramid(channels, width)
        self.anchor_embedder = nn.Conv2d(width, ANCHORS_PER_CELL * dimension, 3, 1, 1)
        ends = (width, channels[2])
        self.box_embedder = BoxEmbedder(self.trunk.last_stage(), ends, reid_dimension)
        self.location = nn.ModuleList(
            [BoxEmbedder(self.trunk.last_stage(), ends, dimension, location=True) for _ in range(steps)]
        )
        self.bridge = nn.ModuleList([nn.Linear(dimension, dimension) for _ in range(steps + 1)])
        self.regression = nn.ModuleList([regressor(dimension) for _ in range(steps + 1)])
        self.register_buffer("table", torch.zeros(IDENTITIES, reid_dimension))
        self.register_buffer("queue", torch.zeros(QUEUE, reid_dimension))
        self.mean = math.sqrt(2) * math.exp(math.lgamma((dimension + 1) / 2) - math.lgamma(dimension / 2))
        self.deviation = math.sqrt(dimension - self.mean**2)
        self.anchors = torch.zeros(0, 4)  # of the one size that is timed, made by the first call

    def features(self, image: Tensor) -> tuple[list[Tensor], Tensor]:
        """The pyramid and the embeddings of all anchors [B, anchors, d]."""
        levels = self.pyramid(self.trunk(image))
        embedded = [
            self.anchor_embedder(level).permute(0, 2, 3, 1).reshape(len(image), -1, self.dimension)
            for level in levels
        ]
        if not len(self.anchors):
            self.anchors = make_anchors(levels).to(image.device)
        return levels, torch.cat(embedded, 1)

    def logits(self, norm: Tensor) -> Tensor:
        """FixedNorm logits of lengths."""
        return -(norm - self.mean) / self.deviation

    @torch.no_grad()
    def detect(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes, scores and embeddings of one scene [1, 3, H, W]; every candidate is kept."""
        levels, embedding = self.features(image)
        offset = self.bridge[0](embedding[0]) - embedding[0]
        nearest = offset.norm(dim=-1).topk(TOP_ANCHORS, largest=False).indices
        offset = offset[nearest]
        score = self.logits(offset.norm(dim=-1)).sigmoid()
        boxes = self._clip(decode(self.regression[0](offset), self.anchors[nearest]), image)
        boxes, score = boxes[:DETECTIONS], score[:DETECTIONS]
        boxes = boxes[nms(boxes, score, 1.0)]
        stages = zip(self.location, self.bridge[1:], self.regression[1:], strict=True)
        for location, bridge, regression in stages:
            embedded = location(levels[0], [boxes])
            offset = bridge(embedded) - embedded
            score = self.logits(offset.norm(dim=-1)).sigmoid()
            boxes = self._clip(decode(regression(offset), boxes), image)
            boxes = boxes[nms(boxes, score, 1.0)]
        return boxes, score, self.box_embedder(levels[0], [boxes])

    @staticmethod
    def _clip(boxes: Tensor, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        return boxes.clamp(min=0).minimum(boxes.new_tensor([width, height, width, height]))

    def losses(self, image: Tensor, people: list[Tensor], identity: list[Tensor], samples: int) -> Tensor:
        """The training loss of SPNet-S: anchors, box regression, online instance matching."""
        levels, embedding = self.features(image)
        offset = self.bridge[0](embedding) - embedding
        logits = self.logits(offset.norm(dim=-1))
        matched = torch.stack([match(self.anchors, boxes) for boxes in people])
        positive, counted = matched >= 0, matched != -2
        loss = focal(logits, positive.float())
        total = (loss * counted).sum() / positive.sum().clamp(min=1)

        good, wanted, labels = [], [], []
        regression = logits.new_zeros(())
        found = 0
        for number, boxes in enumerate(people):
            chosen = sample(matched[number], samples)
            target = boxes[matched[number][chosen].clamp(min=0)]
            anchors = self.anchors[chosen]
            predicted = decode(self.regression[0](offset[number, chosen]), anchors)
            on_person = matched[number][chosen] >= 0
            regression = regression + giou_loss(predicted[on_person], target[on_person]).sum()
            found += int(on_person.sum())
            predicted = self._clip(predicted.detach(), image)
            accurate = elementwise_iou(predicted, target) >= 0.7
            good.append(predicted[accurate])
            wanted.append(identity[number][matched[number][chosen].clamp(min=0)][accurate])
            labels.append(identity[number])
        total = total + regression / max(1, found)

        boxes = [torch.cat(pair) for pair in zip(people, good, strict=True)]
        label = torch.cat([torch.cat(pair) for pair in zip(labels, wanted, strict=True)])
        reid = functional.normalize(self.box_embedder(levels[0], boxes))
        against = torch.cat([self.table, self.queue])
        total = total + functional.cross_entropy(30.0 * reid @ against.T, label)
        with torch.no_grad():  # the lookup table follows, one identity after the other
            for row, name in zip(reid, label.tolist(), strict=True):
                self.table[name] = functional.normalize(0.5 * self.table[name] + 0.5 * row, dim=0)
        return total


def make_anchors(levels: list[Tensor]) -> Tensor:
    """Anchors [cells * 9, 4] of a pyramid of strides 8 .. 128."""
    result = []
    for index, level in enumerate(levels):
        stride = 8 * 2**index
        sizes = torch.tensor([float(int(4 * stride * 2 ** (k / 3))) for k in range(3)])
        ratio = torch.tensor([0.5, 1.0, 2.0]).sqrt()
        height, width = (ratio[:, None] * sizes).reshape(-1), (sizes / ratio[:, None]).reshape(-1)
        base = (torch.stack([-width, -height, width, height], 1) / 2).round()
        y, x = torch.meshgrid(*(torch.arange(length) * stride for length in level.shape[-2:]), indexing="ij")
        shift = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4)
        result.append((shift + base).reshape(-1, 4))
    return torch.cat(result)


def match(anchors: Tensor, boxes: Tensor) -> Tensor:
    """The person of each anchor, -1 for background, -2 for neither; every person keeps its best anchors."""
    overlaps = pairwise_iou(boxes, anchors)
    best, person = overlaps.max(0)
    matched = torch.where(best >= 0.5, person, torch.where(best < 0.4, -1, -2))
    keep = (overlaps == overlaps.amax(1, keepdim=True)).any(0)
    return torch.where(keep, person, matched)


def sample(matched: Tensor, count: int) -> Tensor:
    """Numbers of `count` anchors, at most half of them on people."""
    positive, negative = (matched >= 0).nonzero()[:, 0], (matched == -1).nonzero()[:, 0]
    positive = positive[torch.randperm(len(positive), device=matched.device)[: count // 2]]
    order = torch.randperm(len(negative), device=matched.device)[: count - len(positive)]
    return torch.cat([positive, negative[order]])


def focal(logits: Tensor, target: Tensor, alpha: float = 0.5) -> Tensor:
    """Sigmoid focal loss with gamma 1."""
    probability = logits.sigmoid()
    entropy = functional.binary_cross_entropy_with_logits(logits, target, reduction="none")
    miss = probability * (1 - target) + (1 - probability) * target
    return (alpha * target + (1 - alpha) * (1 - target)) * miss * entropy


def elementwise_iou(first: Tensor, second: Tensor) -> Tensor:
    """Overlaps of pairs [n]."""
    size = (torch.minimum(first[:, 2:], second[:, 2:]) - torch.maximum(first[:, :2], second[:, :2])).clamp(
        min=0
    )
    shared = size.prod(1)
    area = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    return shared / (area[0] + area[1] - shared).clamp(min=1e-7)


def giou_loss(first: Tensor, second: Tensor) -> Tensor:
    """1 - generalised overlap of pairs [n]."""
    hull = (torch.maximum(first[:, 2:], second[:, 2:]) - torch.minimum(first[:, :2], second[:, :2])).prod(1)
    area = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (first, second)]
    overlap = elementwise_iou(first, second)
    union = (area[0] + area[1]) / (1 + overlap)
    return 1 - overlap + (hull - union) / hull.clamp(min=1e-7)
