"""What the RDLR configs share (Han et al., "Re-ID Driven Localization Refinement for Person Search", ICCV 2019).

`prw`, `cuhk_sysu` and `coco_json` have the paper's settings and, where it is silent, those of the two projects that it
builds on: maskrcnn-benchmark's detectors and reid_baseline's network. `streets`, the default, is the same at a size for
two CPU cores: MobileNetV2 with a narrow pyramid, OSNet x0.25, small scenes and crops, short phases. `prw_small` is that
size for PRW's layout. `market1501` is for the re-identification network alone.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import datasets
from ps_jax.errors import ConfigError

CROPS = ("market1501",)  # people who were cut out already


def base(dataset: str, detector: str = "faster_rcnn", cross_data: bool = False) -> ConfigDict:
    """Everything but the phases.

    Args:
      dataset: one of `datasets.DATASETS` in which people can be searched for, or "market1501".
      detector: "faster_rcnn" or "retinanet" (table 4).
      cross_data: the re-identification network is trained on other people than those of the data set: it has no
        classifier for these, and there is no softmax loss.

    Raises:
      ConfigError: there is no such data set, or nobody can be searched for in it.
    """
    if dataset not in CROPS:
        datasets.check_searchable(dataset)
    config = datasets.base("prw" if dataset in CROPS else dataset, "rdlr")
    small = dataset in datasets.SMALL
    config.data.source = dataset.removesuffix("_small")
    config.data.raw = True  # the pictures before resizing, which crops are cut out of
    if dataset in CROPS:
        config.data.resize = (64, 128)  # nobody looks at it: crops are cut out of the pictures themselves
        config.data.max_people = 1
    elif not small:
        config.data.resize = (800, 1333)
    # The detector is judged from maskrcnn-benchmark's score on, like the paper's; eval.score_threshold is the search's.
    config.eval.detection_threshold = 0.05
    # The re-identification network to start from: a work directory of its training, or weights (torchvision's or
    # reid_baseline's ResNet-50, torchreid's OSNet, also as .onnx).
    config.reid_weights = ""
    config.model = ConfigDict(
        {
            "detector_name": detector,
            "detector_options": _detector_options(detector, small),
            "nms_threshold": 0.4 if detector == "retinanet" else 0.5,  # maskrcnn-benchmark's
            "reid_trunk": "osnet_x0_25" if small else "resnet50",
            "classifier": not cross_data,
            "crop_size": (128, 64) if dataset == "streets" else (256, 128),
            "softmax": not cross_data,  # table 5
            "proxy_triplet": True,
        }
    )
    return config


def _detector_options(detector: str, small: bool) -> dict[str, Any]:
    """maskrcnn-benchmark's settings, or those for two CPU cores."""
    trunk: dict[str, Any] = {
        "trunk": "resnet50_caffe",
        "frozen_stages": 1,
        "freeze_norms": True,
        "width": 256,
    }
    if small:
        trunk = {"trunk": "mobilenet_v2", "frozen_stages": 0, "freeze_norms": False, "width": 64}
    if detector == "retinanet":
        return trunk | {
            "p6_of_c5": True,
            "box_weights": (10.0, 10.0, 5.0, 5.0),
            "box_beta": 0.11,
            "box_factor": 0.25,
            "mean_over_batch": True,
            "top_anchors": 200 if small else 1000,
        }
    if detector != "faster_rcnn":
        raise ConfigError(f"there is no detector {detector!r}; use faster_rcnn or retinanet")
    return trunk | {
        "box_beta": 1.0,
        "head_width": 256 if small else 1024,
        "train_proposals": (300, 200) if small else (2000, 2000),
        "test_proposals": (200, 100) if small else (1000, 1000),
        "proposal_samples": 64 if small else 256,
        "samples_per_image": 64 if small else 512,
    }


def detector_phase(dataset: str, detector: str = "faster_rcnn") -> ConfigDict:
    """Phase 1: the detector by its own losses.

    The paper gives no schedule. CHOSEN: 12 epochs; the learning rate of maskrcnn-benchmark scaled to batches of 4.
    """
    small = dataset in datasets.SMALL
    rate = 0.0025 if detector == "retinanet" else 0.005
    return ConfigDict(
        {
            "model": {"stage": "detector"},
            "augmentation": "window",  # whole scenes, mirrored half of the time
            "views": 1,
            "batch_size": 4,
            "epochs": 3.0 if small else 12.0,
            "optimizer": "adamw" if small else "sgd",  # a short run has no time for SGD
            "learning_rate": 5e-4 if small else rate,
            "weight_decay": 1e-4,
            "decay_biases": False,
            "bias_rate": 1.0 if small else 2.0,
            "milestones": (2.5,) if small else (8.0, 11.0),
            "warmup_steps": 20 if small else 500,
            "warmup_start": 1 / 3,
            "clip_norm": 10.0 if small else 0.0,
            **_common(small),
        }
    )


def reid_phase(dataset: str) -> ConfigDict:
    """Phase 2: the re-identification network on crops of known people (reid_baseline's schedule)."""
    small = dataset in datasets.SMALL
    return ConfigDict(
        {
            "model": {"stage": "reid"},
            "augmentation": "crops",
            "crop": (128, 64) if dataset == "streets" else (256, 128),
            "views": 1,
            "batch_size": 32 if small else 64,
            "images_per_person": 4,
            "crop_padding": 5 if dataset == "streets" else 10,  # pixels that a crop may be moved by
            "erasing": 0.5,  # probability that a rectangle is erased
            "epochs": 12.0 if small else 120.0,
            "optimizer": "adam",
            "learning_rate": 3.5e-4,
            "weight_decay": 5e-4,
            "milestones": (8.0, 11.0) if small else (40.0, 70.0),
            "warmup_epochs": 1.0 if small else 10.0,
            "warmup_start": 0.01,
            "clip_norm": 0.0,
            **_common(small),
        }
    )


def refine_phase(dataset: str, detector: str = "faster_rcnn") -> ConfigDict:
    """Phase 3: the detector by the losses of the re-identification network, which stays as it is.

    What the phases before must have reached is checked first (`ps_jax.training.gates`); that evaluation is the baseline
    of the paper's tables.
    """
    small = dataset in datasets.SMALL
    return ConfigDict(
        {
            "model": {"stage": "refine"},
            "augmentation": "window",
            "raw": True,
            "views": 1,
            "batch_size": 4,
            "steps": 200 if small else 40000,
            "optimizer": "sgd",
            "learning_rate": 1e-4 if small else 5e-5,
            "weight_decay": 5e-4,
            "decay_biases": False,
            "bias_rate": 1.0 if small else 2.0,
            "milestones": (150,) if small else (10000,),  # steps
            "warmup_steps": 20 if small else 500,
            "warmup_start": 0.0,
            "clip_norm": 10.0,  # a safety net; 0 is the paper
            "gates": _gates(dataset, detector),
            **_common(small),
        }
    )


def _gates(dataset: str, detector: str) -> dict[str, float]:
    """What the paper reports of both networks before the refinement, less 0.02; elsewhere they are only printed.

    Its average precision is Faster R-CNN's; none is reported of RetinaNet.
    """
    reported = {"cuhk_sysu": (0.911, 0.918), "prw": (0.949, 0.762)}
    if dataset not in reported:
        return {"detection_ap": 0.0, "reid_top1": 0.0}
    detection_ap, reid_top1 = reported[dataset]
    return {
        "detection_ap": detection_ap - 0.02 if detector == "faster_rcnn" else 0.0,
        "reid_top1": reid_top1 - 0.02,
    }


def _common(small: bool) -> dict[str, Any]:
    return {
        "backbone_learning_rate": placeholder(float),  # none: as the rest
        "backbone_weight_decay": placeholder(float),
        "accumulate_steps": 1,  # micro-batches that a batch is taken in, for less memory
        "photometric": 0.0,
        "log_every": 10 if small else 20,
        "checkpoint_every": 100 if small else 1000,
        "evaluate_every": 0,  # steps; 0 evaluates at the end only
    }
