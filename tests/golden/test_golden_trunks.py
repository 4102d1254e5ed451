"""Trunks against torchvision's, PVT's and SOLIDER's numbers: four maps, gradients of the image and of every weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_recipe import det_normal, load_golden

from ps_jax.backbones import build_trunk
from ps_jax.porting import match_rules, port_trunk, trunk_rules

RELATIVE = 1e-4
# Outputs under torchvision's name, where ours is another.
OUR_NAME = {"c5_last": "c5_wide"}


# Our axes of a kernel in PyTorch's order.
TO_TORCH = {4: (3, 2, 0, 1), 2: (1, 0), 1: (0,)}


def float32_norm(x: np.ndarray) -> float:
    """The norm as PyTorch's on a CPU: squares in its own order of axes, summed in float32, in eight running sums.

    The stored norms are its results; of a matrix of 4 million entries they are 3e-4 too small.
    """
    squares = np.square(x.transpose(TO_TORCH[x.ndim]).ravel())
    squares = np.pad(squares, (0, -squares.size % 8)).reshape(-1, 8)
    return float(np.sqrt(np.cumsum(squares, axis=0, dtype=np.float32)[-1].sum(dtype=np.float64)))


@pytest.mark.parametrize(
    ("trunk", "item"),
    [
        ("resnet50", "bb_resnet50"),
        ("convnext_tiny", "bb_convnext_tiny"),
        ("mobilenet_v2", "bb_mobilenet_v2"),
        ("swin_tiny", "bb_swin_t"),
        ("swin_v2_tiny", "bb_swin_v2_t"),
        ("solider_swin_tiny", "bb_solider_swin_tiny"),
        pytest.param("pvt_v2_b2", "bb_pvt_v2_b2", marks=pytest.mark.slow),
        pytest.param("convnext_base", "bb_convnext_base", marks=pytest.mark.slow),
        pytest.param("swin_base", "bb_swin_b", marks=pytest.mark.slow),
        pytest.param("solider_swin_base", "bb_solider_swin_base", marks=pytest.mark.slow),
    ],
)
def test_trunk_computes_the_originals_numbers(golden_dir, trunk, item):
    golden = load_golden(golden_dir, item)
    outputs = [name for name in golden.names if name.startswith("c")]
    module = build_trunk(trunk, **({"last_convolution": True} if "c5_last" in outputs else {}))
    image = jnp.asarray(golden.input("image", "NCHW"))
    template = jax.eval_shape(lambda key: module.init(key, image, False), jax.random.key(0))
    tensors = golden.params()
    variables = port_trunk(tensors, trunk, template)

    weights = {}
    for name in outputs:
        shape = (
            golden.meta["slices"][name]["shape"]
            if name in golden.meta["slices"]
            else golden.array(name).shape
        )
        weight = det_normal(golden.seed, f"bb.g.{name}", shape) / np.sqrt(np.prod(shape))
        weights[OUR_NAME.get(name, name)] = jnp.asarray(weight.transpose(0, 2, 3, 1))

    def objective(params, image):
        features = module.apply({**variables, "params": params}, image, False)
        return sum(jnp.sum(features[name] * weight) for name, weight in weights.items()), features

    gradient = jax.jit(jax.grad(objective, argnums=(0, 1), has_aux=True))
    (grad_params, grad_image), features = gradient(variables["params"], image)
    for name in outputs:
        golden.check(name, features[OUR_NAME.get(name, name)], relative=RELATIVE)
    golden.check("grad_image", grad_image, relative=RELATIVE)

    flat = traverse_util.flatten_dict({"params": grad_params}, sep="/")
    norms = golden.meta["param_grad_l2"]
    placed = match_rules(norms, trunk_rules(trunk, tuple(tensors)))
    assert set(placed) == set(norms) and len(flat) == len(norms)
    largest = max(norms.values())
    for name, norm in norms.items():
        ours = float32_norm(np.asarray(flat[placed[name].ours]))
        assert abs(ours - norm) <= RELATIVE * largest, name
        np.testing.assert_allclose(ours, norm, rtol=1e-3, err_msg=name)
