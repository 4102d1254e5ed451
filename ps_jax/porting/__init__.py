"""Foreign checkpoints into our variables: readers, the porting engine and one table a source."""

from ps_jax.porting.classifiers import classifier_rules as classifier_rules
from ps_jax.porting.classifiers import load_classifier_weights as load_classifier_weights
from ps_jax.porting.classifiers import port_classifier as port_classifier
from ps_jax.porting.rules import Rule as Rule
from ps_jax.porting.rules import batch_norm_rules as batch_norm_rules
from ps_jax.porting.rules import convolution_kernel as convolution_kernel
from ps_jax.porting.rules import convolution_rules as convolution_rules
from ps_jax.porting.rules import flatten as flatten
from ps_jax.porting.rules import identity as identity
from ps_jax.porting.rules import layer_norm_rules as layer_norm_rules
from ps_jax.porting.rules import linear_kernel as linear_kernel
from ps_jax.porting.rules import linear_rules as linear_rules
from ps_jax.porting.rules import match_rules as match_rules
from ps_jax.porting.rules import port_tensors as port_tensors
from ps_jax.porting.tensors import read_tensors as read_tensors
from ps_jax.porting.trunks import convnext_rules as convnext_rules
from ps_jax.porting.trunks import convnext_stage_rules as convnext_stage_rules
from ps_jax.porting.trunks import load_trunk_weights as load_trunk_weights
from ps_jax.porting.trunks import mobilenet_v2_rules as mobilenet_v2_rules
from ps_jax.porting.trunks import mobilenet_v2_stage_rules as mobilenet_v2_stage_rules
from ps_jax.porting.trunks import port_trunk as port_trunk
from ps_jax.porting.trunks import resnet_rules as resnet_rules
from ps_jax.porting.trunks import resnet_stage_rules as resnet_stage_rules
from ps_jax.porting.trunks import trunk_rules as trunk_rules
