"""Deformable convolutions in the trunk's stages; all of res3 to res5 is AlignPS+ (the paper's table V).

python -m ps_jax.sweep configs/tables/alignps_table5.py --weights torchvision/resnet50

MobileNetV2 has no convolutions to deform (its 3x3 ones see one channel each), so on the streets and `prw_small` all
rows have a ResNet-50, several times the work of the other tables. On PRW the release trains AlignPS+ with less weight
decay (7e-4) than AlignPS (1e-3); the rows between the two, of which nothing is released, have that of AlignPS+.
"""

from configs import datasets
from configs.tables.alignps_rows import SEARCH_METRICS, SOURCE, search_numbers, training
from ps_jax.sweep import Table


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    trunk = ("--config.model.trunk=resnet50",) if dataset in datasets.SMALL else ()

    def stages(name, chosen, *numbers):
        overrides = (f"--config.model.deformable_stages={chosen}",)
        return training(name, dataset, search_numbers(*numbers), overrides, system="alignps_plus")

    rows = (
        training("none", dataset, search_numbers((93.1, 93.4), (45.9, 81.9)), trunk),
        stages("res3", (2,), (93.5, 93.9), (45.8, 81.9)),
        stages("res3, res4", (2, 3), (93.5, 94.0), (45.9, 82.1)),
        training(
            "res3, res4, res5",
            dataset,
            search_numbers((94.0, 94.5), (46.1, 82.1)),
            system="alignps_plus",
        ),
    )
    return Table(
        title="AlignPS: deformable convolutions in the trunk",
        source=f"{SOURCE}, table V",
        rows=rows,
        metrics=SEARCH_METRICS,
        contrasts=(("res3, res4, res5", "none"),),
    )
