"""Branches trained apart, together without proposals, together with them (the paper's table VI).

python -m ps_jax.sweep configs/tables/roi_alignps_table6.py --weights mobilenet_v2.npz

Nothing here is mutual learning. The branches that were trained apart are NAE and AlignPS; their embeddings are put side
by side at AlignPS's boxes (the paper has each one's own boxes, which do not fit together).
"""

from configs.tables import alignps_rows
from configs.tables.roi_alignps_rows import SOURCE, WITHOUT_MUTUAL, branch, training
from configs.tables.seqnet_rows import SEARCH_METRICS, search_numbers
from ps_jax.sweep import Row, Table
from ps_jax.sweep.tables import DETECTOR

# Queries and similarity as of AlignPS. The score from which NAE's detections are searched stays its own, 0.5: it is the
# sigmoid of a norm, not a probability times a centerness, so AlignPS's 0.15 or 0.2 would be another cut.
NAE = ("--config.eval.query=best_detection", "--config.eval.similarity=cosine")
WITHOUT_PROPOSALS = (*WITHOUT_MUTUAL, "--config.model.train_boxes=detections")
DETECTS_ONLY = ("--config.model.location_reid=False", "--config.model.branch=roi")


def get_table(dataset: str = "streets") -> Table:
    """The table for one of `datasets.DATASETS`."""
    box = alignps_rows.training("apart: roi", dataset, search_numbers(92.0, 92.3, 43.1, 80.7), NAE, "nae")
    location = alignps_rows.training("apart: alignps", dataset, search_numbers(93.1, 93.4, 45.9, 81.9))
    apart = Row(
        "apart",
        location.config,
        ("--beside", DETECTOR),
        search_numbers(93.0, 93.6, 44.5, 81.3),
        after=location.name,
        evaluation=True,
        detector=box.name,
    )
    detections = training(
        "without proposals", dataset, search_numbers(94.3, 94.8, 48.6, 83.2), WITHOUT_PROPOSALS
    )
    detector = training(
        "without proposals, AlignPS detects only",
        dataset,
        search_numbers(93.4, 93.8, 47.5, 84.5),
        (*WITHOUT_PROPOSALS, *DETECTS_ONLY),
    )
    proposals = training("with proposals", dataset, search_numbers(95.0, 95.3, 50.3, 84.3), WITHOUT_MUTUAL)
    return Table(
        title="ROI-AlignPS: branches apart and together",
        source=f"{SOURCE}, table VI",
        rows=(
            box,
            location,
            apart,
            detections,
            branch(detections, "roi", 90.4, 91.3, 43.9, 81.5),
            branch(detections, "alignps", 93.2, 92.8, 44.9, 80.0),
            detector,
            proposals,
            branch(proposals, "roi", 93.3, 93.9, 47.8, 83.3),
            branch(proposals, "alignps", 94.0, 94.1, 46.4, 81.2),
        ),
        metrics=SEARCH_METRICS,
        contrasts=(
            ("with proposals", "without proposals"),
            ("with proposals", "apart"),
            ("with proposals", "with proposals: alignps"),
        ),
    )
