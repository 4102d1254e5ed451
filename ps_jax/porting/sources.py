"""Whose checkpoints are ported: one entry a system."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from ps_jax.errors import ConfigError
from ps_jax.porting.alignps import (
    alignps_config,
    alignps_options,
    alignps_rules,
    complete_alignps,
    port_alignps,
)
from ps_jax.porting.roi_alignps import (
    complete_roi_alignps,
    port_roi_alignps,
    roi_alignps_config,
    roi_alignps_options,
    roi_alignps_rules,
)
from ps_jax.porting.rules import Rule
from ps_jax.porting.seqnet import complete_seqnet, port_seqnet, seqnet_config, seqnet_options, seqnet_rules
from ps_jax.porting.sparse_rcnn import (
    complete_sparse_rcnn,
    port_sparse_rcnn,
    sparse_rcnn_config,
    sparse_rcnn_options,
    sparse_rcnn_rules,
)
from ps_jax.porting.spnet import port_spnet
from ps_jax.porting.spnet_export import complete_spnet, spnet_export_rules
from ps_jax.porting.spnet_options import spnet_config, spnet_options
from ps_jax.systems import System

Tensors = Mapping[str, np.ndarray]


class Source(NamedTuple):
    """How the checkpoints of one system become variables, and variables checkpoints.

    Attributes:
      config: the configuration file, with its data set, that a checkpoint is taken to be of where none is given.
      options: options of the model that the checkpoint's names and shapes tell, `num_identities` among them.
      port: carries the tensors to the system's variables.
      rules: the table of the way back, for `restore_tensors`.
      complete: adds to restored tensors what PyTorch's module has and ours does not need (counters, indices), so
        that it loads them strictly; raises PortingError where that cannot be known.
      own: variables that no PyTorch checkpoint has, such as the place in the queue that is written next.
    """

    config: Callable[[Tensors], str]
    options: Callable[[Tensors], dict[str, Any]]
    port: Callable[[Tensors, System], dict[str, Any]]
    rules: Callable[[System], list[Rule]]
    complete: Callable[[Tensors, System], dict[str, np.ndarray]]
    own: tuple[str, ...] = ()


SOURCES: dict[str, Source] = {
    "alignps": Source(
        config=alignps_config,
        options=alignps_options,
        port=port_alignps,
        rules=alignps_rules,
        complete=complete_alignps,
    ),
    "leaps": Source(  # what Sparse R-CNN has of it, to start from
        config=sparse_rcnn_config,
        options=sparse_rcnn_options,
        port=port_sparse_rcnn,
        rules=sparse_rcnn_rules,
        complete=complete_sparse_rcnn,
    ),
    "roi_alignps": Source(
        config=roi_alignps_config,
        options=roi_alignps_options,
        port=port_roi_alignps,
        rules=roi_alignps_rules,
        complete=complete_roi_alignps,
        own=("memory/box_queue_header",),
    ),
    "seqnet": Source(
        config=seqnet_config,
        options=seqnet_options,
        port=port_seqnet,
        rules=seqnet_rules,
        complete=complete_seqnet,
        own=("memory/queue_header",),
    ),
    "spnet": Source(
        config=spnet_config,
        options=spnet_options,
        port=port_spnet,
        rules=spnet_export_rules,
        complete=complete_spnet,
        own=("memory/queue", "memory/queue_header", "memory/queue_person", "memory/queue_age"),
    ),
}


def source_of(system: str) -> Source:
    """The entry of a system.

    Raises:
      ConfigError: checkpoints of that system cannot be ported.
    """
    if system not in SOURCES:
        raise ConfigError(
            f"Checkpoints of a system {system!r} cannot be ported. Choose one of: {', '.join(sorted(SOURCES))}."
        )
    return SOURCES[system]
