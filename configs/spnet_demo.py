"""A small town in a few minutes: SPNet-S, object-centric, on 240 generated scenes.

  python train.py --config configs/spnet_demo.py --workdir runs/demo        (`make demo` does it)

Shows the whole way from scenes to a page of pictures. From scratch, 240 steps are far too few for good numbers; with
ImageNet weights of the trunk (--config.weights=FILE, `make demo WEIGHTS=FILE`) they suffice to see it work.
"""

from configs import spnet_oc


def get_config():
    """The configuration of `make demo`."""
    config = spnet_oc.get_config("streets").unlock()
    config.data.dir = "data/streets_demo"
    config.data.streets.update(
        train_scenes=240, test_scenes=60, train_identities=40, test_identities=20, gallery_sizes=(25, 50)
    )
    config.finetune.epochs = 8.0
    config.eval.galleries = ("all",)
    return config.lock()
