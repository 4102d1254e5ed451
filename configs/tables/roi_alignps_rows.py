"""What the tables of ROI-AlignPS share (Yan et al., "Efficient Person Search: An Anchor-Free Approach", 2021).

On the streets a run is 120 steps. `:prw` and `:cuhk_sysu` have the released settings; the data sets are looked for in
data/prw and data/cuhk_sysu. ROI-AlignPS without mutual learning stands in both tables, as one run.
"""

from configs.tables import alignps_rows
from configs.tables.seqnet_rows import Numbers, evaluation, search_numbers
from ps_jax.sweep import Row

SOURCE = alignps_rows.SOURCE
WITHOUT_MUTUAL = ("--config.model.mutual_information_weight=0.0",)


def training(name: str, dataset: str, paper: Numbers, overrides: tuple[str, ...] = ()) -> Row:
    """A training of ROI-AlignPS; arguments as `alignps_rows.training`."""
    return alignps_rows.training(name, dataset, paper, overrides, "roi_alignps")


def branch(of: Row, name: str, *numbers: float) -> Row:
    """A training of both branches, evaluated with the embeddings of one.

    Args:
      of: the training.
      name: of the branch, "roi" or "alignps".
      *numbers: the paper's; see `search_numbers`.
    """
    paper = search_numbers(*numbers)
    return evaluation(f"{of.name}: {name}", of, (f"--config.eval.model.branch={name}",), paper)
