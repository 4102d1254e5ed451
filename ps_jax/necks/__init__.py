"""Necks: the maps of a trunk in, the levels that heads look at out."""

from ps_jax.necks.aligned_aggregation import AlignedFeatureAggregation as AlignedFeatureAggregation
from ps_jax.necks.feature_pyramid import FeaturePyramid as FeaturePyramid
