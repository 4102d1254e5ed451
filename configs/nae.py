"""NAE: one head detects and embeds people, with the embedding's length for the score.

Chen et al., "Norm-Aware Embedding for Efficient Person Search", CVPR 2020; the baseline of `seqnet.py`. Its use is the
same:
  python train.py --config configs/nae.py [--config.weights=mobilenet_v2.npz]
  python train.py --config configs/nae.py:prw --config.data.dir=PATH --config.weights=torchvision/resnet50
"""

from configs import seqnet_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    model = seqnet_base.ONE_HEAD | {"head": "norm_aware"}
    return seqnet_base.get(dataset, model, epochs=22.0, decay_biases=False).lock()
