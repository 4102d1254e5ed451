"""What the tables and figures of RDLR share (Han et al., "Re-ID Driven Localization Refinement", ICCV 2019).

On the streets runs have the lengths of the configurations. `:prw` and `:cuhk_sysu` have the paper's settings; the data
sets are looked for in data/prw, data/cuhk_sysu and, for the cross-data variant, data/market1501. `--weights` names
those of the detector's trunk; the re-identification network starts from torchvision's ResNet-50, on the streets from
what `--reid_weights` names (weights of OSNet x0.25), or from scratch.
"""

from configs import datasets
from ps_jax.errors import ConfigError
from ps_jax.sweep import Row
from ps_jax.sweep.tables import AFTER, DETECTION_AP, DETECTOR, SEARCH_MAP, SEARCH_TOP1

SOURCE = "Han et al., Re-ID Driven Localization Refinement for Person Search, ICCV 2019"
CUHK_SYSU = "CUHK-SYSU"
MAP, TOP1, AP = "mAP", "top-1", "detection AP"
METRICS = {MAP: SEARCH_MAP, TOP1: SEARCH_TOP1, AP: DETECTION_AP}
NETWORKS = "networks"  # row of the two networks before the refinement

Paper = tuple[float, float] | None  # top-1 and mAP on CUHK-SYSU with galleries of 100


def networks(dataset: str, name: str = NETWORKS, config: str = "rdlr") -> Row:
    """Training of detector and re-identification network, apart.

    Args:
      dataset: what the table is run on.
      name: of the row.
      config: name of the configuration of all phases.
    """
    options = ("--config.phases=('detector', 'reid')", *_imagenet(dataset))
    return Row(name, *_run(config, dataset, *options), preparation=True)


def baseline(
    before: Row, name: str = "baseline", paper: Paper = None, arguments: tuple[str, ...] = ()
) -> Row:
    """The networks of a row as they are, evaluated."""
    return Row(name, before.config, arguments, _numbers(paper), after=before.name, evaluation=True)


def refined(before: Row, name: str, paper: Paper = None, overrides: tuple[str, ...] = ()) -> Row:
    """The refinement of the networks of a row.

    Args:
      before: the row.
      name: of the new row.
      paper: the paper's numbers.
      overrides: of the configuration.
    """
    nothing = ("--config.weights=", "--config.reid_weights=")
    start = ("--config.phases=('refine',)", *nothing, f"--config.pretrained={AFTER}")
    own = tuple(option for option in before.overrides if not option.startswith("--config.phases"))
    own = tuple(option for option in own if not option.startswith("--config.reid_weights"))
    return Row(name, before.config, (*own, *start, *overrides), _numbers(paper), after=before.name)


def cross_networks(dataset: str) -> tuple[Row, Row]:
    """A re-identification network that knows other people, and a detector beside it.

    Market-1501's network; on the streets that of other streets.
    """
    if dataset in datasets.SMALL:
        others = ("--config.data.dir=data/other_streets", "--config.data.streets.seed=1")
        network = Row("other people", *_run("rdlr_reid", "streets", *others), preparation=True)
    else:
        network = Row("other people", *_run("rdlr_reid", "market1501", *_imagenet(dataset)), preparation=True)
    options = ("--config.phases=('detector',)", f"--config.reid_weights={DETECTOR}")
    config, overrides = _run("rdlr_cross", dataset, *options)
    return network, Row("networks, cross-data", config, overrides, preparation=True, detector=network.name)


def gallery_sizes(dataset: str) -> tuple[int, ...]:
    """Sizes of CUHK-SYSU's galleries, or of those that lie beside the streets.

    Raises:
      ConfigError: another data set, which has no galleries of several sizes.
    """
    sizes = {"cuhk_sysu": (50, 100, 500, 1000, 2000, 4000), "streets": (50, 100, 150)}
    if dataset not in sizes:
        raise ConfigError(
            f"{dataset} has no galleries of several sizes; this figure is for one of {', '.join(sorted(sizes))}"
        )
    return sizes[dataset]


def _imagenet(dataset: str) -> tuple[str, ...]:
    """What the re-identification network starts from."""
    return () if dataset in datasets.SMALL else ("--config.reid_weights=torchvision/resnet50",)


def _run(config: str, dataset: str, *overrides: str) -> tuple[str, tuple[str, ...]]:
    small = dataset in datasets.SMALL
    common = "--config.eval.pictures=0" if small else f"--config.data.dir=data/{dataset}"
    return f"configs/{config}.py:{dataset}", (common, *overrides)


def _numbers(paper: Paper) -> dict[str, dict[str, float]]:
    return {} if paper is None else {CUHK_SYSU: {TOP1: paper[0], MAP: paper[1]}}
