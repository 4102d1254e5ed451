"""ROI-AlignPS: AlignPS and, beside it, a branch that embeds what RoIAlign cuts out of AlignPS's boxes.

Generated streets, at a size for two CPU cores; trunk weights make the difference:
  python train.py --config configs/roi_alignps.py [--config.weights=mobilenet_v2.npz]
The released settings (Caffe's ResNet-50, whole scenes, one large GPU), from Detectron2's weights of that trunk:
  python train.py --config configs/roi_alignps.py:prw --config.data.dir=PATH --config.weights=FILE
  python train.py --config configs/roi_alignps.py:cuhk_sysu --config.data.dir=PATH --config.weights=FILE
  python train.py --config configs/roi_alignps.py:coco_json --config.data.dir=PATH --config.weights=FILE
A data set in PRW's layout on two CPU cores, from ImageNet weights of MobileNetV2:
  python train.py --config configs/roi_alignps.py:prw_small --config.data.dir=PATH --config.weights=FILE
Each branch alone:
  python eval.py --workdir WORKDIR --config.eval.model.branch=alignps
"""

from ml_collections.config_dict import placeholder

from configs import alignps, datasets


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for.

    What is not here is AlignPS's. Loss and memory of re-identification are the same on all data sets.
    """
    config = alignps.get_config(dataset).unlock()
    small = dataset in datasets.SMALL
    config.system = "roi_alignps"
    config.model.update(
        {
            "triplet": "table",
            "oim_scale": 10.0,
            "normalise_table": False,
            "mean_over_known": True,
            "box_oim_scale": 30.0,
            "train_boxes": "proposals",  # table VI: "detections", without proposals
            "location_reid": True,  # table VI: False, AlignPS detects only
            "branch": "both",  # embeddings that are searched with; table VI: "alignps" or "roi" alone
            "most_samples": 2
            if small
            else 8,  # of RoIAlign along a bin; the release takes as many as a bin has cells
            "anchor_sizes": (16.0, 32.0, 64.0, 128.0) if small else (32.0, 64.0, 128.0, 256.0, 512.0),
            "train_proposals": (1000, 200) if small else (12000, 2000),  # looked at, kept
            "proposal_samples": 64 if small else 256,
            "samples_per_image": 32 if small else 128,
            "mutual_information_weight": 0.2,  # table VII; L_mi
            "divergence_weight": 0.0,  # L_kl
            "cosine_weight": 0.0,  # L_dv
        }
    )
    config.eval.model = {"branch": placeholder(str)}  # for testing alone; none: as the model has it
    config.train.update({"decay_biases": True, "bias_rate": 1.0})
    if not small:
        config.train.update(
            {
                "batch_size": 5,
                "learning_rate": 0.0015,
                "weight_decay": 5e-4,
                "warmup_steps": 1141,
                "warmup_start": 1 / 200,
                "clip_norm": 10.0,
            }
        )
    return config.lock()
