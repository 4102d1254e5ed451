"""SeqNet: a Faster R-CNN head detects, then NAE's head embeds what was detected.

Generated streets, at a size for two CPU cores; trunk weights make the difference (docs/results.md):
  python train.py --config configs/seqnet.py [--config.weights=mobilenet_v2.npz]
The paper's settings (ResNet-50, whole scenes, one large GPU), and your own pictures with them:
  python train.py --config configs/seqnet.py:prw --config.data.dir=PATH --config.weights=torchvision/resnet50
  python train.py --config configs/seqnet.py:cuhk_sysu --config.data.dir=PATH --config.weights=torchvision/resnet50
  python train.py --config configs/seqnet.py:coco_json --config.data.dir=PATH --config.weights=torchvision/resnet50
With context matching (CBGM) as the paper has it, on CUHK-SYSU and on PRW:
  python eval.py --workdir WORKDIR --cbgm 10,3
  python eval.py --workdir WORKDIR --cbgm 30,4
With OIM's head as the second one (table 6), and with another trunk (SeqNeXt):
  ... --config.model.head=softmax
  ... --config.model.trunk=convnext_base --config.weights=torchvision/convnext_base
A data set in PRW's layout on two CPU cores, from ImageNet weights of MobileNetV2:
  python train.py --config configs/seqnet.py:prw_small --config.data.dir=PATH --config.weights=FILE
"""

from configs import seqnet_base


def get_config(dataset: str = "streets"):
    """The configuration for one of `datasets.DATASETS` in which people can be searched for."""
    model = {
        "sequential": True,
        "head": "norm_aware",
        "classification": True,
        "regression": True,
    }
    return seqnet_base.get(dataset, model, epochs={"prw": 18.0}.get(dataset, 20.0), decay_biases=True).lock()
