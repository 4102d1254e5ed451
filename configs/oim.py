"""OIM: one head classifies, regresses and embeds proposals.

Xiao et al., "Joint Detection and Identification Feature Learning for Person Search", CVPR 2017, in the implementation
that SeqNet and NAE compare with: their trunk, proposals and training, with a plain Faster R-CNN predictor and a linear
embedding. Its use is the same as that of `seqnet.py`:
  python train.py --config configs/oim.py [--config.weights=mobilenet_v2.npz]
  python train.py --config configs/oim.py:prw --config.data.dir=PATH --config.weights=torchvision/resnet50
"""

from configs import seqnet_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    model = seqnet_base.ONE_HEAD | {"head": "softmax"}
    return seqnet_base.get(dataset, model, epochs=22.0, decay_biases=False).lock()
