"""What the configs of all systems share: the data sets, where a run starts from, how it is evaluated.

`prw`, `cuhk_sysu` and `coco_json` are for a paper's settings. So is `coco_persons`, which is for pre-training alone:
nobody can be searched for in it. `streets`, the default, is drawn by the program itself, for a size that suits two CPU
cores. `prw_small` is that size for PRW's layout.
"""

import dataclasses

from ml_collections import ConfigDict

from input_pipeline.streets import StreetsOptions
from ps_jax.errors import ConfigError

DATASETS = ("streets", "prw", "cuhk_sysu", "coco_json", "coco_persons", "prw_small")
SMALL = ("streets", "prw_small")  # sized for two CPU cores
PRETRAINING = ("coco_persons",)  # no identity is seen twice: only for pre-training


def check_dataset(dataset: str) -> None:
    """Raises ConfigError unless the data set is one of `DATASETS`."""
    if dataset not in DATASETS:
        raise ConfigError(
            f"there is no data set {dataset!r} for this config; write config.py:NAME with one of "
            f"{', '.join(DATASETS)}"
        )


def check_searchable(dataset: str) -> None:
    """Raises ConfigError for a data set that is for pre-training alone."""
    if dataset in PRETRAINING:
        raise ConfigError(
            f"{dataset} is for pre-training alone, nobody in it is seen twice; use spnet_qc.py:{dataset} or "
            f"spnet_oc.py:{dataset}, and start another run from the result by --config.pretrained=WORKDIR"
        )


def base(dataset: str, system: str) -> ConfigDict:
    """Everything but the model and the phases, for one of `DATASETS`.

    Raises:
      ConfigError: there is no such data set.
    """
    check_dataset(dataset)
    small = dataset in SMALL
    config = ConfigDict()
    config.system = system
    config.seed = 0
    config.precision = "auto"  # bfloat16 on accelerators, float32 on CPU
    config.sync_batch_norm = True  # on several devices: batch statistics of all; False: each device's own
    config.weights = ""  # trunk weights to start from: a file, or a name such as torchvision/resnet50
    config.pretrained = ""  # work directory of another run to start from, in place of trunk weights
    config.data = ConfigDict(
        {
            "source": dataset.removesuffix("_small"),
            "dir": "data/streets" if dataset == "streets" else "",
            # (short side, longest long side) of a scene; the picture is resized to the first that it meets
            "resize": {"streets": (240, 320), "prw_small": (288, 512)}.get(dataset, (900, 1500)),
            "max_people": 16 if small else 64,
            "annotations": 100,  # boxes of the training scenes to keep, in percent; above 100, spurious ones are added
            "least_people": 0,  # training scenes with fewer boxes are left out
            "released_labels": False,  # PRW: True numbers its people as SeqNet's released code does (see read_prw)
            "streets": dataclasses.asdict(StreetsOptions()) if dataset == "streets" else {},
        }
    )
    config.eval = ConfigDict(
        {
            "mode": "auto",  # as it was trained; "oc" finds everybody at once, "qc" searches query by query
            "query": "box",  # the query's embedding is taken at its box
            "similarity": "cosine",
            "galleries": ("default",),  # names of galleries, or "all"
            "iou": "variable",  # a right answer needs min(0.5, wh / ((w + 10) (h + 10)))
            "score_threshold": 0.5,
            "detection_threshold": 0.5,
            "cross_camera": False,
            "min_frame_gap": 0,
            "true_boxes": True,
            # k1 = k2 = 0: off; candidates "scenes" as in the paper
            "cbgm": {"k1": 0, "k2": 0, "candidates": "detections"},
            "cbgm_grid": {"k1": (), "k2": ()},  # pairs to compare, on the same detections
            "batch_size": 1,
            "query_chunk": 16,  # queries searched at a time in mode "qc"
            "pictures": 20,
        }
    )
    return config
