"""What the configs of the SeqNet family share (Li and Miao, "Sequential End-to-end Network", AAAI 2021).

`prw`, `cuhk_sysu` and `coco_json` have the released code's settings: ResNet-50, whole scenes of 900 x 1500 in batches
of 5, SGD that warms up for an epoch and steps down once. `streets`, the default, is the same model at a size for two
CPU cores: MobileNetV2, small scenes, fewer proposals and samples, short embeddings; and for a short run AdamW, with
less warm-up. `prw_small` is that size for PRW's layout.
"""

from typing import Any

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import datasets

# What the baselines of one head have, which see proposals.
ONE_HEAD = {"sequential": False, "match_low": 0.1, "regression_weight": 10.0}


def get(dataset: str, model: dict, epochs: float, decay_biases: bool) -> ConfigDict:
    """The configuration of one system of the family.

    Args:
      dataset: one of `datasets.DATASETS` in which people can be searched for.
      model: options of the model by which the system differs.
      epochs: of training, with the paper's settings.
      decay_biases: weight decay acts on biases, too.

    Raises:
      ConfigError: there is no such data set, or nobody can be searched for in it.
    """
    datasets.check_searchable(dataset)
    config = datasets.base(dataset, "seqnet")
    small = dataset in datasets.SMALL
    config.model = ConfigDict({**_model(small, dataset), **model})
    config.eval.similarity = "score_cosine"  # confidence-weighted similarity
    config.eval.model = {  # switches of tables 1 and 3, for testing alone; none: as the model has it
        "first_score": placeholder(bool),  # a detection's score is the first head's
        "suppress_between": placeholder(bool),  # non-maximum suppression between the heads
        "embed_detections": placeholder(bool),  # without a first head: embed once more, at the final boxes
    }
    config.phases = ("train",)
    warmup_steps: Any = 20 if small else placeholder(int)
    config.train = ConfigDict(
        {
            "model": {},
            "augmentation": "window",  # whole scenes, mirrored half of the time
            "views": 1,
            "batch_size": 4 if small else 5,
            "epochs": 2.0 if small else epochs,
            "optimizer": "adamw" if small else "sgd",  # the paper's SGD needs thousands of steps
            "learning_rate": 5e-4 if small else 0.003,
            "weight_decay": 5e-4,
            "decay_biases": decay_biases,
            "backbone_learning_rate": placeholder(float),  # none: as the rest
            "backbone_weight_decay": placeholder(float),
            "milestones": (1.5,) if small else (16.0,),  # epochs after which the learning rate is a tenth
            "warmup_steps": warmup_steps,  # none: the steps of the first epoch - 1
            "whole_epoch_warmup": True,
            "clip_norm": 10.0,
            # Micro-batches that a batch is taken in, for less memory. Training then is not the same: batch statistics
            # are of a micro-batch, and the lookup table moves between them.
            "accumulate_steps": 1,
            "photometric": 0.0,  # strength of brightness, contrast and saturation jitter
            "log_every": 10 if small else 20,
            "checkpoint_every": 100 if small else 1000,
            "evaluate_every": 0,  # steps; 0 evaluates at the end only
        }
    )
    return config


def _model(small: bool, dataset: str) -> dict:
    """Options that all systems of the family have alike."""
    return {
        "trunk": "mobilenet_v2" if small else "resnet50",
        "freeze_stem": True,  # the first convolution keeps its ImageNet weights
        "reid_dim": 64 if small else 256,
        "train_proposals": (1000, 300) if small else (12000, 2000),  # looked at, kept
        "test_proposals": (500, 100) if small else (6000, 300),
        "proposal_samples": 64 if small else 256,
        "proposal_beta": 1 / 9,  # 0: torchvision 0.4, which the published numbers were made with
        "samples_per_image": 16 if small else 128,
        "oim_scale": 10.0 if small else 30.0,  # 10 learns faster in a short run
        "oim_momentum": 0.5,
        "queue_size": 5000 if dataset == "cuhk_sysu" else 500,  # 500 is PRW's; CHOSEN for the others
        "skip_unwritten": False,  # True: empty rows of lookup table and queue count nowhere
        "detections_per_scene": 100 if small else 300,
    }
