"""What the SPNet configs share (Jaffe and Zakhor, "Swap Path Network", WACV 2025).

`prw`, `cuhk_sysu` and `coco_json` have the paper's settings: ConvNeXt-T, 512 x 512 crops, batches of 8, 30 epochs a
phase. So has `coco_persons`, which is for pre-training alone: nobody can be searched for in it. `streets`, the default,
is the same recipe at a size for two CPU cores: MobileNetV2, small scenes, small crops, short embeddings, fewer samples,
and a higher learning rate for a short run. `prw_small` is that size for PRW's layout.

The large model, SPNet-L, has ConvNeXt-B. It is pre-trained like SPNet-S; fine-tuning adds two cascade steps, location
heads of their own and embeddings of length 2048 for re-identification, on 1024 x 1024 crops (table 2).
"""

from ml_collections import ConfigDict
from ml_collections.config_dict import placeholder

from configs import datasets


def base(dataset: str, large: bool = False) -> ConfigDict:
    """Everything but the phases, for one of `datasets.DATASETS`; SPNet-L with `large`, else SPNet-S.

    Raises:
      ConfigError: there is no such data set.
    """
    config = datasets.base(dataset, "spnet")
    small = dataset in datasets.SMALL
    config.model = ConfigDict(
        {
            "trunk": "mobilenet_v2" if small else "convnext_base" if large else "convnext_tiny",
            "embedding_dim": 64 if small else 128,
            "reid_dim": 64 if small else 128,
            "oim_scale": 10.0 if small else 30.0,  # 10 learns faster in a short run
            "oim_momentum": 0.5,
            "queue_size": 5000 if dataset == "cuhk_sysu" else 500,  # 500 is PRW's; CHOSEN for the others
            "logit_scale": "fixed",  # how lengths of offsets become logits; "batch" normalises them by the batch
            "positive_norm": False,  # True: long offsets score high
        }
    )
    return config


def pretrain(dataset: str, mode: str = "qc") -> ConfigDict:
    """Pre-training (section 3.2), query- or object-centric: two views of each scene, a slow trunk, a momentum queue.

    Both modes regress as many anchors in a batch: pairs times samples of a pair, or scenes times samples of one.
    The step checks it, so that the two stay comparable whatever is changed (supplement, section 8).
    """
    small = dataset in datasets.SMALL
    return ConfigDict(
        {
            "model": {
                "mode": mode,
                "anchors_per_batch": 256 if small else 2048,
                **_pairs(small),  # of mode "qc"
                "samples_per_image": 32 if small else 256,  # of mode "oc"
                "reid_objective": "queue",  # "oim" as in fine-tuning
                "oim_scale": 10.0,
                "queue_size": 1024 if small else 65536,
                # A short run would be over before the paper's momentum encoder moves.
                "encoder_momentum": 0.99 if small else 0.9999,
                "reid_gt_only": False,  # true boxes only, no predicted ones
                "reid_only": False,  # no detection losses
                "backbone_tuning": "full",  # "frozen", "norm", "lora", "lora_linear"
                "lwf": "none",  # learning without forgetting: "bce" as released, "kl"
            },
            "augmentation": "rrc_scale",
            "scale_range": (0.75, 1.5) if small else (1.5, 3.0),  # paper: 0.5 to 2; released code: 1.5 to 3
            "crop": 160 if small else 512,
            "views": 2,
            "batch_size": 8,  # counts views
            "epochs": 3.0 if small else 30.0,
            "learning_rate": 5e-4 if small else 1e-4,
            "weight_decay": 1e-3,
            "backbone_learning_rate": 5e-4 if small else 1e-5,  # a short run has no time for a slow trunk
            "backbone_weight_decay": 0.0,
            **_common(small),
        }
    )


def finetune(dataset: str, large: bool = False, mode: str = "oc") -> ConfigDict:
    """Training of SPNet-S or SPNet-L with online instance matching.

    Object-centric, or query-centric on two views of each scene.
    """
    small = dataset in datasets.SMALL
    samples = {"samples_per_image": 16 if small else 128} if mode == "oc" else _pairs(small)
    model = {
        "mode": mode,
        **samples,
        "start_from_momentum_encoder": False,
        "backbone_tuning": "full",
        "num_cascade_steps": 2 if large else 0,
        "separate_location_heads": large,
        "replicate_stages": large,  # what was pre-trained starts all stages of the cascade ("PT-Rep")
    }
    if large:
        model["reid_dim"] = 128 if small else 2048
    return ConfigDict(
        {
            "model": model,
            "augmentation": "rrc2",
            "crop": 160 if small else 1024 if large else 512,
            "views": 1 if mode == "oc" else 2,
            "batch_size": 8,
            "epochs": 8.0 if small else 30.0,
            "learning_rate": 5e-4 if small else 1e-4,
            "weight_decay": 5e-4,
            "backbone_learning_rate": placeholder(float),  # none: as the rest
            "backbone_weight_decay": placeholder(float),
            **_common(small),
        }
    )


def _pairs(small: bool) -> dict[str, int]:
    return {"pairs_per_batch": 16 if small else 32, "samples_per_pair": 16 if small else 64}


def _common(small: bool) -> dict:
    return {
        "accumulate_steps": 1,  # micro-batches that a batch is taken in, for less memory
        "warmup_steps": placeholder(int),  # none: min(1000, steps of an epoch - 1)
        "clip_norm": 10.0,
        "pad": "mean",  # colour beyond the picture; "minimum" as the released code
        "photometric": 0.0,  # strength of brightness, contrast and saturation jitter
        "log_every": 10 if small else 20,
        "checkpoint_every": 100 if small else 1000,
        "evaluate_every": 0,  # steps; 0 evaluates at the end only
    }
