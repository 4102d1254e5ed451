"""What the configs of LEAPS share (Dong et al., "End-to-End One-Step Person Search With Learnable Proposals").

The paper's settings: AdamW in batches of 2, 36 epochs, the learning rate a tenth after 24 and 33. There is no released
code; what the paper leaves open is as in Sparse R-CNN's, or chosen, as the comments say.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import datasets

# (short side, longest long side) of training scenes: PSTR's.
SCALES = ((400, 667), (600, 1000), (800, 1333), (900, 1500), (1000, 1666))

# At a size for two CPU cores, and starting where a short training gets further.
TINY = {
    "proposal_start": "grid",
    "trunk": "pvt_v2_b0",
    "frozen_stages": 2,  # -1 for a run without trunk weights
    "width": 64,
    "num_proposals": 30,
    "num_stages": 3,
    "heads": 4,
    "dynamic_width": 16,
    "perceptron_width": 256,
    "match_threshold": 0.5,  # few boxes overlap a person by more before the end of a short training
}


def get(dataset: str, tiny: bool) -> ConfigDict:
    """The configuration for one data set.

    Args:
      dataset: one of `datasets.DATASETS` in which people can be searched for.
      tiny: the model at a size for two CPU cores, whatever the data.

    Raises:
      ConfigError: there is no such data set, or nobody can be searched for in it.
    """
    datasets.check_searchable(dataset)
    config = datasets.base(dataset, "leaps")
    small = dataset in datasets.SMALL
    config.model = ConfigDict(_model(dataset) | (TINY if tiny else {}))
    if tiny:
        config.data.max_people = min(config.data.max_people, TINY["num_proposals"])
    config.eval.true_boxes = False  # it embeds its own boxes alone
    # Of detections that are searched; chosen: those of PSTR.
    config.eval.score_threshold = {"cuhk_sysu": 0.25, "prw": 0.3}.get(dataset, 0.1 if small else 0.25)
    config.eval.detection_threshold = config.eval.score_threshold
    # Of the trunk: a short run at the rate of the rest spoils what it has learned on ImageNet.
    backbone_rate: Any = 1e-4 if tiny and small else placeholder(float)
    config.phases = ("train",)
    config.train = ConfigDict(
        {
            "model": {},
            "augmentation": "window",  # whole scenes, mirrored half of the time
            # Sizes that a batch's scenes are resized to, one drawn for each batch; (): that of config.data.
            "scales": () if small else SCALES,
            "views": 1,
            "batch_size": 2,
            "epochs": 12.0 if small else 36.0,
            "optimizer": "adamw",
            "learning_rate": 1e-3 if tiny and small else 3e-4 if small else 3e-5,
            "weight_decay": 1e-4,
            "decay_biases": True,
            "backbone_learning_rate": backbone_rate,  # none: as the rest (PSTR: a fifth)
            "backbone_weight_decay": placeholder(float),
            "milestones": (10.0,) if small else (24.0, 33.0),  # epochs after which it is a tenth
            "warmup_steps": 20 if small else 1000,  # Sparse R-CNN's
            "warmup_start": 0.01,  # of the learning rate
            "clip_norm": 1.0,  # Sparse R-CNN's
            "accumulate_steps": 1,  # micro-batches that a batch is taken in, for less memory
            "photometric": 0.0,  # strength of brightness, contrast and saturation jitter
            "log_every": 10 if small else 20,
            "checkpoint_every": 100 if small else 1000,
            "evaluate_every": 0,  # steps; 0 evaluates at the end only
        }
    )
    return config


def _model(dataset: str) -> dict:
    """Options of the model; what is not here is as in the paper, or as `LEAPS` says."""
    return {
        "trunk": "resnet50",  # or pvt_v2_b2, with frozen_stages=-1
        "frozen_stages": 1,  # the stem, and so many stages
        "freeze_statistics": True,  # batch normalisation keeps ImageNet's statistics; its scales and biases move
        "width": 256,  # of pyramid, proposals and each branch's embedding
        "num_proposals": 100,  # table 7: 50, 200; at least data.max_people
        "proposal_start": "image",  # learned boxes before training; or "grid"
        "num_stages": 6,  # table 5: 2 to 8
        "reid_stages": 2,  # table 6: 1 to 6
        "branches": (
            "plain",
            "interaction",
        ),  # table 3: one of them, or one twice (then eval.branches as many)
        "roi_align": "dynamic",  # table 3: "plain", or "deformable"
        "intra": True,
        "inter": True,
        "diversity_weight": 1.0,  # 0: without the diversity of the branches
        "sample_matching": "weighted",  # tables 2 and 4: "diverse", "one_to_one"
        "match_threshold": 0.7,  # theta
        "reid_weight": 1.0,  # lambda, which the paper does not give
        "reid_boxes": "input",  # or "refined"
        "reid_features": "input",  # or "attended", "output"
        "centre_over_proposals": False,
        "triplet": dataset == "cuhk_sysu",
        "queue_size": 5000 if dataset == "cuhk_sysu" else 500,
    }
