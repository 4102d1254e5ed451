import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ps_jax.heads import STRUCTURES, AnchorFreeHead


@pytest.mark.parametrize(
    "structure",
    [pytest.param(name, marks=pytest.mark.slow) if name != "reid_first" else name for name in STRUCTURES],
)
def test_a_map_that_is_padded_further_is_seen_alike(structure):
    """Whatever lies there: predictions and embeddings are those of the map of its own size."""
    head = AnchorFreeHead(32, (3,), structure)
    own = jax.random.normal(jax.random.key(0), (1, 6, 8, 32))
    everywhere = jnp.ones((1, 6, 8), bool)
    fresh = jax.jit(head.init, static_argnums=3)(jax.random.key(1), own, everywhere, 3)
    leaves, tree = jax.tree.flatten(fresh)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    # Other than fresh, so that biases and offsets take part.
    variables = tree.unflatten(
        [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )
    around = ((0, 0), (0, 5), (0, 3), (0, 0))
    mask = jnp.pad(everywhere, around[:3])
    beyond = 3 + jax.random.normal(jax.random.key(3), (1, 11, 11, 32))
    wide = jnp.where(mask[..., None], jnp.pad(own, around), beyond)

    @jax.jit
    def seen(x, mask):
        outputs = (*head.apply(variables, x, mask, 3), head.apply(variables, x, mask, method="classify"))
        return [part[:, :6, :8] for part in outputs]

    names = ("logit", "distances", "centerness", "embedding", "classify")
    for name, alone, padded in zip(names, seen(own, everywhere), seen(wide, mask), strict=True):
        assert np.std(alone) > 0.01, name
        np.testing.assert_allclose(padded, alone, rtol=1e-4, atol=1e-5 * np.abs(alone).max(), err_msg=name)
