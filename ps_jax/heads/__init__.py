"""Heads: what looks at feature maps and makes embeddings, scores and box deltas of them."""

from ps_jax.heads.anchor_embedder import AnchorEmbedder as AnchorEmbedder
from ps_jax.heads.anchor_free import STRUCTURES as STRUCTURES
from ps_jax.heads.anchor_free import AnchorFreeHead as AnchorFreeHead
from ps_jax.heads.anchor_free import LocationOutput as LocationOutput
from ps_jax.heads.box_embedder import BoxEmbedder as BoxEmbedder
from ps_jax.heads.box_embedder import BoxPooler as BoxPooler
from ps_jax.heads.box_embedder import LocationEmbedder as LocationEmbedder
from ps_jax.heads.box_embedder import ReidProjector as ReidProjector
from ps_jax.heads.box_embedder import RoiSampling as RoiSampling
from ps_jax.heads.norm_aware import BoxPredictor as BoxPredictor
from ps_jax.heads.norm_aware import NormalisedBoxRegressor as NormalisedBoxRegressor
from ps_jax.heads.norm_aware import NormAwareEmbedding as NormAwareEmbedding
from ps_jax.heads.norm_logits import SCALES as SCALES
from ps_jax.heads.norm_logits import NormLogit as NormLogit
from ps_jax.heads.norm_logits import chi_moments as chi_moments
from ps_jax.heads.norm_logits import fixed_norm_logit as fixed_norm_logit
from ps_jax.heads.norm_logits import offset_norm as offset_norm
from ps_jax.heads.offsets import COMBINERS as COMBINERS
from ps_jax.heads.offsets import BoxRegressor as BoxRegressor
from ps_jax.heads.offsets import Bridge as Bridge
from ps_jax.heads.offsets import difference as difference
from ps_jax.heads.offsets import product as product
from ps_jax.heads.offsets import query_distances as query_distances
from ps_jax.heads.region_proposals import RegionProposalHead as RegionProposalHead
from ps_jax.heads.region_proposals import choose_proposals as choose_proposals
from ps_jax.heads.region_proposals import proposal_losses as proposal_losses
