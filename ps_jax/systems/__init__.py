"""Person-search systems, all behind the interface of `System`."""

from collections.abc import Mapping
from typing import Any

from ps_jax.errors import ConfigError
from ps_jax.systems._alignps_system import AlignPSSystem as AlignPSSystem
from ps_jax.systems._alignps_system import ROIAlignPSSystem as ROIAlignPSSystem
from ps_jax.systems._leaps_system import LEAPSSystem as LEAPSSystem
from ps_jax.systems._rdlr_system import RDLRSystem as RDLRSystem
from ps_jax.systems._seqnet_system import SeqNetSystem as SeqNetSystem
from ps_jax.systems._spnet_system import SPNetSystem as SPNetSystem
from ps_jax.systems._system import System as System
from ps_jax.systems.alignps import AlignPS as AlignPS
from ps_jax.systems.faster_rcnn import FasterRCNN as FasterRCNN
from ps_jax.systems.leaps import LEAPS as LEAPS
from ps_jax.systems.rdlr import RDLR as RDLR
from ps_jax.systems.retinanet import RetinaNet as RetinaNet
from ps_jax.systems.roi_alignps import ROIAlignPS as ROIAlignPS
from ps_jax.systems.seqnet import SeqNet as SeqNet
from ps_jax.systems.spnet import SPNet as SPNet

_SYSTEMS = {
    system.name: system
    for system in (SPNetSystem, SeqNetSystem, AlignPSSystem, ROIAlignPSSystem, LEAPSSystem, RDLRSystem)
}


def build_system(name: str, model: Mapping[str, Any]) -> System:
    """Builds a system by its name.

    Args:
      name: for example "spnet".
      model: keyword arguments of the system's module.

    Returns:
      The system.

    Raises:
      ConfigError: if there is no such system, or its module has no such argument or lacks one.
    """
    if name not in _SYSTEMS:
        raise ConfigError(f"There is no system {name!r}. Choose one of: {', '.join(sorted(_SYSTEMS))}.")
    return _SYSTEMS[name](model)
