"""Losses, element by element or row by row; the systems sum, weight and normalise them."""

from ps_jax.losses.distillation import distillation_loss as distillation_loss
from ps_jax.losses.distillation import released_distillation_loss as released_distillation_loss
from ps_jax.losses.focal import sigmoid_focal_loss as sigmoid_focal_loss
from ps_jax.losses.giou import giou_loss as giou_loss
from ps_jax.losses.momentum_queue import MomentumQueue as MomentumQueue
from ps_jax.losses.momentum_queue import empty_queue as empty_queue
from ps_jax.losses.momentum_queue import queue_loss as queue_loss
from ps_jax.losses.momentum_queue import update_queue as update_queue
from ps_jax.losses.mutual_learning import identity_directions as identity_directions
from ps_jax.losses.mutual_learning import kl_divergence as kl_divergence
from ps_jax.losses.mutual_learning import mutual_information_bound as mutual_information_bound
from ps_jax.losses.oim import InstanceMemory as InstanceMemory
from ps_jax.losses.oim import empty_memory as empty_memory
from ps_jax.losses.oim import oim_loss as oim_loss
from ps_jax.losses.oim import update_memory as update_memory
from ps_jax.losses.proxy_triplet import ProxyTable as ProxyTable
from ps_jax.losses.proxy_triplet import empty_proxies as empty_proxies
from ps_jax.losses.proxy_triplet import proxy_triplet_loss as proxy_triplet_loss
from ps_jax.losses.proxy_triplet import write_proxies as write_proxies
from ps_jax.losses.set_prediction import SetLosses as SetLosses
from ps_jax.losses.set_prediction import SetWeights as SetWeights
from ps_jax.losses.set_prediction import match_predictions as match_predictions
from ps_jax.losses.set_prediction import set_losses as set_losses
from ps_jax.losses.smooth_l1 import smooth_l1 as smooth_l1
from ps_jax.losses.triplet import batch_hard_triplet_loss as batch_hard_triplet_loss
