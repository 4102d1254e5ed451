"""Each operation as a function of two arrays with gradients; as a program: on two devices against one."""

import json

import jax
import jax.numpy as jnp

from kernels._implementation import only_form
from kernels._launch import kernel_mode, why_not
from kernels.deform_conv import deform_conv
from kernels.nms import nms
from kernels.roi_align import roi_align
from kernels.roi_transform import roi_transform


def _normal(seed, *shape):
    return jax.random.normal(jax.random.key(seed), shape)


_BOXES = jnp.asarray([[1.3, 0.7, 9.2, 11.4], [4.1, 3.3, 7.9, 6.1], [-3.2, 2.2, 5.6, 15.9]])
_IMAGES = jnp.asarray([1, 0, 1])


def _roi_align(features, offsets, implementation):
    return roi_align(
        *(features, _BOXES, _IMAGES),
        output_size=(2, 3),
        spatial_scale=0.5,
        sampling_ratio=2,
        aligned=True,
        offsets=offsets,
        implementation=implementation,
    )


def _deform_conv(features, offset, implementation):
    kernel = _normal(7, 3, 3, 3, 4)
    return deform_conv(features, offset, kernel, padding=(1, 1), implementation=implementation)


def _roi_transform(image, boxes, implementation):
    return roi_transform(image, boxes, _IMAGES, output_size=(3, 2), implementation=implementation)


OPERATIONS = {
    "roi_align": (_roi_align, lambda seed: (_normal(seed, 2, 6, 7, 3), _normal(seed + 9, 3, 2, 3, 2))),
    "deform_conv": (_deform_conv, lambda seed: (_normal(seed, 1, 4, 5, 3), _normal(seed + 9, 1, 4, 5, 18))),
    "roi_transform": (
        _roi_transform,
        lambda seed: (_normal(seed, 2, 8, 9, 3), _BOXES / 2 + _normal(seed + 9, 3, 4) / 3),
    ),
}


def main():
    assert jax.device_count() == 2
    with kernel_mode("interpret"):
        implementations = ["xla"] if why_not() else ["xla", "pallas"]
        worst = {}
        for name, (function, make) in OPERATIONS.items():
            arrays = [jnp.stack(parts) for parts in zip(make(0), make(1), strict=True)]
            for implementation in implementations:

                def value_and_gradients(*arrays, function=function, implementation=implementation):
                    def total(*arrays):
                        return jnp.sum(jnp.sin(function(*arrays, implementation)))

                    return jax.value_and_grad(total, argnums=(0, 1))(*arrays)

                many = jax.pmap(value_and_gradients, axis_name="batch")(*arrays)
                one = [jax.jit(value_and_gradients)(*(array[i] for array in arrays)) for i in range(2)]
                one = jax.tree.map(lambda *parts: jnp.stack(parts), *one)
                worst[f"{name} {implementation}"] = max(
                    float(jnp.abs(a - b).max() / jnp.abs(b).max())
                    for a, b in zip(jax.tree.leaves(many), jax.tree.leaves(one), strict=True)
                )
    corner = jax.random.uniform(jax.random.key(3), (2, 60, 2))
    boxes = jnp.concatenate([corner, corner + jax.random.uniform(jax.random.key(4), (2, 60, 2))], axis=-1)
    scores = jax.random.uniform(jax.random.key(5), (2, 60))
    for form in ("greedy", "tiles"):
        with only_form(form):

            def suppress(boxes, scores):
                return nms(boxes, scores, jnp.ones(60, bool), 0.5, max_kept=20)

            many = jax.pmap(suppress, axis_name="batch")(boxes, scores)
            one = jnp.stack([jax.jit(suppress)(boxes[i], scores[i]) for i in range(2)])
            assert 2 < int(one[0].sum()) <= 20
            worst[f"nms {form}"] = float(jnp.sum(many != one))
    print(json.dumps(worst))


if __name__ == "__main__":
    main()
