"""Crops of known people: cut as the ROI transform cuts, so many of each person, the same from any step on."""

import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from painted_scenes import write_split

from input_pipeline.crop_batches import MEAN_COLOR, augment, crop_batches, cut
from input_pipeline.crop_plan import CropPlan, crop_steps_per_epoch, known_people
from input_pipeline.scenes import UNKNOWN
from kernels.roi_transform import roi_transform
from ps_jax.errors import ConfigError, DataError

PEOPLE = [
    [((10, 10, 22, 40), 31), ((30, 5, 42, 45), UNKNOWN)],
    [((44, 20, 56, 52), 12), ((4, 4, 20, 50), 31)],
    [],
    [((12, 8, 30, 56), 12)],
]
PHASE = {
    "augmentation": "crops",
    "crop": (24, 12),
    "views": 1,
    "batch_size": 4,
    "images_per_person": 2,
    "crop_padding": 0,
    "erasing": 0.0,
}


@pytest.mark.parametrize(
    "box", [[10.0, 5.0, 40.0, 60.0], [0.0, 0.0, 7.0, 11.0], [-6.0, 20.0, 30.0, 90.0], [60.2, 3.3, 79.9, 63.7]]
)
def test_a_crop_is_a_roi_transform(box):
    picture = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)
    ours = cut(picture, np.array(box, np.float32), (32, 16)).numpy()
    wanted = roi_transform(
        jnp.asarray(picture[None]),
        jnp.asarray([box]),
        jnp.zeros(1, jnp.int32),
        output_size=(32, 16),
        outside=jnp.asarray(MEAN_COLOR, jnp.float32),
    )[0]
    np.testing.assert_allclose(ours, np.asarray(wanted), atol=0.5 + 1e-2)  # rounded to 8 bit


def test_each_person_comes_so_many_times_and_everybody_before_anybody_again():
    label = np.repeat(np.arange(6), [1, 2, 3, 4, 5, 6])
    number = np.arange(len(label))
    plan = CropPlan(label, number // 3, number, 8, 4, (0,))
    seen = []
    for step in range(6):
        samples = plan.samples(step)
        people = label[samples.person].reshape(2, 4)
        assert np.all(people == people[:, :1])
        seen += people[:, 0].tolist()
        for row, person in enumerate(people[:, 0]):
            chosen = samples.person.reshape(2, 4)[row]
            assert len(set(chosen.tolist())) == min(4, person + 1) or person < 3
            np.testing.assert_array_equal(samples.position.reshape(2, 4)[row], chosen // 3)
    assert sorted(seen[:6]) == sorted(seen[6:]) == list(range(6))
    one, other = plan.samples(3), plan.samples(3)
    assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def test_erasing_and_moving_fill_with_the_mean_colour():
    crop = np.full((40, 20, 3), 200, np.uint8)
    shares = []
    for seed in range(40):
        made = augment(crop, 3, 1.0, np.array([seed, 1], np.int64)).numpy()
        assert np.all((made == 200) | (made == MEAN_COLOR))
        shares.append(np.mean(np.all(made == MEAN_COLOR, axis=-1)))
    assert min(shares) >= 0.02 and max(shares) <= 0.4 + 0.3 and np.std(shares) > 0.05
    np.testing.assert_array_equal(augment(crop, 0, 0.0, np.array([0, 1], np.int64)), crop)


def test_batches_show_known_people_and_go_on_from_any_step(tmp_path):
    split = write_split(tmp_path, [(60, 100)] * 4, PEOPLE)
    phase = ConfigDict(PHASE)
    steps = crop_steps_per_epoch(split, phase)
    assert steps == max(1, len(known_people(split)[0]) // 4)
    stream = crop_batches(split, phase, seed=3)
    batches = [next(stream) for _ in range(3)]
    for batch in batches:
        assert batch.scenes.image.shape == (4, 24, 12, 3) and batch.scenes.image.dtype == np.uint8
        assert batch.scenes.raw is None and batch.people.valid.all()
        identity = batch.people.identity[:, 0].reshape(2, 2)
        assert np.all(identity >= 0) and np.all(identity[:, 0] == identity[:, 1])
    again = next(crop_batches(split, phase, seed=3, start_step=2))
    np.testing.assert_array_equal(again.scenes.image, batches[2].scenes.image)
    np.testing.assert_array_equal(again.people.identity, batches[2].people.identity)


def test_a_batch_that_cannot_be_is_told(tmp_path):
    split = write_split(tmp_path, [(60, 100)] * 4, PEOPLE)
    with pytest.raises(ConfigError, match="multiple of images_per_person"):
        crop_steps_per_epoch(split, ConfigDict(PHASE | {"batch_size": 5}))
    with pytest.raises(DataError, match="choose a smaller batch_size"):
        crop_steps_per_epoch(split, ConfigDict(PHASE | {"batch_size": 400}))
