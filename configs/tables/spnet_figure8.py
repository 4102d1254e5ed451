"""Cascade steps, shared or separate location heads, length of embeddings, and transfer to them (the paper's figure 8).

python -m ps_jax.sweep configs/tables/spnet_figure8.py --weights mobilenet_v2.npz

The figure prints no numbers; those of c0-share-d128 stand in table 6. "PT" loads what was pre-trained, "PT-Rep" also
copies it to the stages of the cascade. Names are the paper's; on the streets d128 stands for a length of 64
and d2048 for one of 128.
"""

from configs import spnet_base
from configs.tables.spnet_rows import CUHK_SYSU, MAP, SEARCH_METRICS, SOURCE, TOP1, finetuning, pretraining
from ps_jax.sweep import Table

# name: (cascade steps, separate location heads)
ARCHITECTURES = {
    "c0-share-d128": (0, False),
    "c0-sep-d128": (0, True),
    "c2-share-d128": (2, False),
    "c2-sep-d128": (2, True),
    "c2-sep-d2048": (2, True),
}
PAPER = {
    "c0-share-d128": {CUHK_SYSU: {MAP: 91.9, TOP1: 93.2}},
    "c0-share-d128 PT": {CUHK_SYSU: {MAP: 93.3, TOP1: 94.1}},
}


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    first = pretraining("QC pre-training", "qc", dataset)
    rows, contrasts = [first], []
    for name, (steps, separate) in ARCHITECTURES.items():
        overrides = (
            f"--config.finetune.model.num_cascade_steps={steps}",
            f"--config.finetune.model.separate_location_heads={separate}",
        )
        if name.endswith("d2048"):
            large = spnet_base.finetune(dataset, large=True).model
            overrides += (f"--config.model.reid_dim={large.reid_dim}",)
        rows.append(finetuning(name, dataset, PAPER.get(name), overrides=overrides))
        for transfer in ("PT", "PT-Rep") if steps else ("PT",):
            arm = f"{name} {transfer}"
            replicate = (f"--config.finetune.model.replicate_stages={transfer == 'PT-Rep'}",)
            rows.append(finetuning(arm, dataset, PAPER.get(arm), first.name, overrides=overrides + replicate))
            contrasts.append((arm, name))
    return Table(
        title="SPNet: architecture, and transfer to it",
        source=f"{SOURCE}, figure 8",
        rows=tuple(rows),
        metrics=SEARCH_METRICS,
        contrasts=tuple(contrasts),
    )
