"""Trained models for other people and other programs: model packages and StableHLO."""

from ps_jax.export.model_package import export_package as export_package
from ps_jax.training.packages import is_package as is_package
from ps_jax.training.packages import read_package as read_package
