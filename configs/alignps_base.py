"""What the configs of AlignPS and AlignPS+ share (Yan et al., "Efficient Person Search: An Anchor-Free Approach").

`prw`, `cuhk_sysu` and `coco_json` have the released code's settings: Caffe's ResNet-50 with frozen normalisation, whole
scenes of 900 x 1500 in batches of 4, SGD that steps down twice. The two data sets differ in the loss of
re-identification and in weight decay, as they do there; the paper's own settings are in the comments. `streets`, the
default, is the same model at a size for two CPU cores: MobileNetV2, whose normalisation is trained, a quarter of the
channels, small scenes; and for a short run AdamW, with less warm-up. `prw_small` is that size for PRW's layout.
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import datasets

# (short side, longest long side) of the released code, which draws one for each scene
SCALES = ((400, 667), (600, 1000), (800, 1333), (900, 1500), (1000, 1666), (1200, 2000))


def get(dataset: str, deformable_stages: tuple[int, ...]) -> ConfigDict:
    """The configuration of one of the two systems.

    Args:
      dataset: one of `datasets.DATASETS` in which people can be searched for.
      deformable_stages: of the trunk; AlignPS+ has (2, 3, 4), AlignPS none.

    Raises:
      ConfigError: there is no such data set, or nobody can be searched for in it.
    """
    datasets.check_searchable(dataset)
    config = datasets.base(dataset, "alignps")
    small, prw = dataset in datasets.SMALL, dataset == "prw"
    config.model = ConfigDict(_model(small, dataset, deformable_stages))
    config.eval.query = (
        "best_detection"  # the protocol of the published numbers; "box" is that of the other systems
    )
    config.eval.score_threshold = {"cuhk_sysu": 0.2}.get(dataset, 0.15)  # of detections that are searched
    config.eval.detection_threshold = (
        config.eval.score_threshold
    )  # and of those that are judged, as in the release
    config.phases = ("train",)
    # The paper: 5e-4 everywhere.
    weight_decay = (7e-4 if deformable_stages else 1e-3) if prw else 5e-4 if small else 1e-4
    config.train = ConfigDict(
        {
            "model": {},
            "augmentation": "window",  # whole scenes, mirrored half of the time
            # Sizes that a batch's scenes are resized to, one drawn for each batch; (): that of config.data. The paper:
            # long side from 667 to 2000.
            "scales": () if small else SCALES,
            "views": 1,
            "batch_size": 4,
            "epochs": 2.0 if small else 24.0,
            "optimizer": "adamw" if small else "sgd",  # the paper's SGD needs thousands of steps
            "learning_rate": 5e-4 if small else 0.001,
            "weight_decay": weight_decay,
            "decay_biases": False,
            "decay_norm_biases": True,  # of normalisation layers and predicted offsets, as MMCV has it
            "bias_rate": 1.0
            if small
            else 2.0,  # learning rate of the biases without decay, over that of the rest
            "backbone_learning_rate": placeholder(float),  # none: as the rest
            "backbone_weight_decay": placeholder(float),
            "milestones": (1.5,)
            if small
            else (16.0, 22.0),  # epochs after which the learning rate is a tenth
            "warmup_steps": 20 if small else 500,  # the paper: 300
            "warmup_start": 1e-3 if small else 1 / 3,  # of the learning rate
            "clip_norm": 10.0 if small else 35.0,
            "accumulate_steps": 1,  # micro-batches that a batch is taken in, for less memory
            "photometric": 0.0,  # strength of brightness, contrast and saturation jitter
            "log_every": 10 if small else 20,
            "checkpoint_every": 100 if small else 1000,
            "evaluate_every": 0,  # steps; 0 evaluates at the end only
        }
    )
    return config


def _model(small: bool, dataset: str, deformable_stages: tuple[int, ...]) -> dict:
    """Options of the model; what is not here is as in the paper."""
    prw = dataset == "prw"
    return {
        "trunk": "mobilenet_v2" if small else "resnet50_caffe",
        "deformable_stages": deformable_stages,  # table V: (), (2,), (2, 3), (2, 3, 4)
        "frozen_stages": 0 if small else 1,  # the stem, and so many stages
        "freeze_norms": not small,
        "width": 64 if small else 256,  # of neck, head and embedding
        "levels": (3,),  # table I: (4,), (5,), (3, 4) with size_limits (128,), (3, 4, 5) with (128, 256)
        "size_limits": (),
        "lateral_deformable": True,  # table II
        "output_deformable": True,
        "concatenate": True,
        "xavier_offsets": False,  # True: offsets of the neck start at random, as in the release
        "centre_features": True,
        "structure": "reid_first",  # table III: regression (T1), classification (T2), parallel (T3)
        "extra_levels": False,  # True: classification is trained on P4 to P7, too, as in the release
        "focal_gamma": 2.0,  # 0: plain OIM; table IV varies the triplet loss alone
        "triplet": "none" if prw else "table",  # table IV; the paper has it on PRW, too
        "oim_scale": 15.0 if prw else 10.0,
        "normalise_table": prw,
        "queue_size": 5000 if dataset == "cuhk_sysu" else 500,
        "released_memory": False,  # True: repeat two slips of the release; see AlignPS
    }
