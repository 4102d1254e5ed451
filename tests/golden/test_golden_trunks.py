"""Every trunk against torchvision's numbers: the four maps, the gradient of the image and of every weight."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from golden_recipe import DEFAULT_GOLDEN_DIR, det_normal, load_golden

from ps_jax.backbones import build_trunk
from ps_jax.porting import match_rules, port_trunk, trunk_rules

RELATIVE = 1e-4
# Outputs under torchvision's name, where ours is another.
OUR_NAME = {"c5_last": "c5_wide"}


@pytest.mark.parametrize(
    "trunk",
    ["resnet50", "convnext_tiny", "mobilenet_v2", pytest.param("convnext_base", marks=pytest.mark.slow)],
)
def test_trunk_computes_torchvisions_numbers(golden_dir, trunk):
    item = f"bb_{trunk}"
    if golden_dir == DEFAULT_GOLDEN_DIR.resolve() and not (golden_dir / f"{item}.npz").exists():
        pytest.skip(f"{item}.npz is not kept in the repository; give it with --golden_dir")
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
        assert abs(np.linalg.norm(flat[placed[name].ours]) - norm) <= RELATIVE * largest, name
        np.testing.assert_allclose(np.linalg.norm(flat[placed[name].ours]), norm, rtol=1e-3, err_msg=name)
