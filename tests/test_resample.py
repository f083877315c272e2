"""Both forms of resampling, against each other: pixel by pixel where they are equal, in grey levels on photographs where they aren't."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from alexnet_jax import hyper
from alexnet_jax.augment import augment
from alexnet_jax.errors import UserError
from alexnet_jax.hyper import AUGMENTATIONS, Hyper
from alexnet_jax.prepare.pixel_stats import PixelStats
from alexnet_jax.resample import LARGEST, Place, check_rotation, choose, gather, shear, shear_to

pytestmark = pytest.mark.accelerator

STATS = PixelStats(np.zeros(3, np.float32), np.float32(60), np.float32([80, 20, 5]), np.eye(3, dtype=np.float32))
IMAGE = np.random.default_rng(0).integers(0, 256, (19, 22, 3)).astype(np.uint8)
SIZE = 13


@functools.partial(jax.jit, static_argnums=(5, 6))
def both(image, top, left, degrees, mirror, size, largest):
    place = Place(*map(jnp.float32, (top, left)), jnp.deg2rad(jnp.float32(degrees)), jnp.float32(mirror))
    return gather(image, place, size), shear(image, place, size, largest)


@pytest.mark.parametrize("largest", [0.0, 10.0])
@pytest.mark.parametrize("image", [IMAGE, IMAGE[:, :14, :1], IMAGE[..., :2]], ids=["colour", "grey", "two channels"])
def test_without_a_turn_both_are_the_same_bits(image, largest):
    """Also mirrored, and where the view leaves the image on each side."""
    for top, left, mirror in [(3, 4, 1), (3, 4, -1), (-5, 2, 1), (9, 1, -1), (2, -7, -1), (0, 12, 1), (-8, 9, 1)]:
        gathered, sheared = both(image, top, left, 0.0, mirror, SIZE, largest)
        assert np.array_equal(gathered, sheared)
        assert len(np.unique(gathered)) > 1


@pytest.fixture(scope="module")
def photographs():
    """256-pixel cuts of scikit-learn's temple and flower."""
    return np.stack([photograph[80:336, 100:356] for photograph in load_sample_images().images])


@pytest.mark.parametrize(("degrees", "mirror"), [(10.0, 1), (-10.0, -1), (3.0, -1)])
def test_turned_photographs_differ_by_less_than_a_grey_level(photographs, degrees, mirror):
    gathered, sheared = jax.vmap(lambda image: both(image, 14, 14, degrees, mirror, 227, 10.0))(photographs)
    distance = np.abs(gathered - sheared).mean((1, 2, 3))
    assert (distance < 1).all()
    assert (distance > 0.05).all()  # they do differ
    unturned = both(photographs[0], 14, 14, 0.0, mirror, 227, 10.0)[0]
    assert np.abs(gathered[0] - unturned).mean() > 10  # and a turn is more than that


def test_a_ramp_is_turned_exactly():
    """Interpolation keeps what is linear in the coordinates, so both forms are right at every angle; pixels near the border aside."""
    rows, columns = np.mgrid[:64, :64]
    image = (rows + 2 * columns)[..., None].astype(np.uint8)
    for degrees in (-30.0, -11.0, 4.0, 29.0):
        gathered, sheared = both(image, 12, 14, degrees, 1, 33, 30.0)
        np.testing.assert_allclose(sheared, gathered, atol=0.51)  # half of bfloat16's step below 256


def test_the_pixels_do_not_depend_on_the_largest_angle():
    """It only says how many neighbours the program looks at."""
    np.testing.assert_array_equal(both(IMAGE, 3, 4, 5.0, -1, SIZE, 5.0)[1], both(IMAGE, 3, 4, 5.0, -1, SIZE, 25.0)[1])


def test_members_and_examples_in_one_program():
    """Members that differ in every strength: what each gets alone, and the same draws as by `gather`, in one trace for all values."""
    traced = []

    @functools.partial(jax.jit, static_argnums=2)
    def views(keys, members, shear_to):
        traced.append(shear_to)
        return jax.vmap(lambda member: jax.vmap(lambda key: augment(key, IMAGE, member, STATS, SIZE, shear_to))(keys))(members)

    keys = jax.random.split(jax.random.key(0), 3)
    off = dict.fromkeys(AUGMENTATIONS, 0.0)
    rows = [{**off, "rotation": 9.0}, off, {**off, "crop": 1.0, "flip": 0.5, "shift": 0.1}]
    members = Hyper(**{name: np.float32([row.get(name, 0.0) for row in rows]) for name in hyper.FIELDS})
    together, gathered = views(keys, members, 10.0), views(keys, members, None)
    assert np.array_equal(together[1:], gathered[1:])  # nothing is turned there
    assert not np.array_equal(together[0], gathered[0])
    np.testing.assert_allclose(together[0], gathered[0], atol=60)  # noise between neighbours; other draws would differ by more
    assert np.corrcoef(np.ravel(together[0]), np.ravel(gathered[0]))[0, 1] > 0.95
    halved = jax.tree.map(lambda leaf: leaf / 2, members)
    views(keys, halved, 10.0)
    assert traced == [10.0, None]
    alone = jax.jit(lambda key: augment(key, IMAGE, jax.tree.map(lambda leaf: leaf[0], members), STATS, SIZE, 10.0))(keys[1])
    np.testing.assert_allclose(together[0][1], alone, atol=1e-3)


def test_the_choice():
    assert [choose("auto", platform, [0, 10]) for platform in ("cpu", "gpu", "tpu")] == ["gather", "gather", "shear"]
    assert choose("auto", "tpu", [LARGEST + 1]) == "gather"
    assert choose("gather", "tpu", 0) == "gather"
    assert choose("shear", "cpu", [LARGEST]) == "shear"
    assert shear_to("gather", [10]) is None
    assert shear_to("shear", np.float32([0, 10])) == 10
    with pytest.raises(UserError, match=r"augment.resampling is 'shears'; did you mean shear"):
        choose("shears", "cpu", 0)
    with pytest.raises(UserError, match=r"at most 30 degrees, a member has rotation=45; set --config.augment.resampling=gather"):
        choose("shear", "cpu", [10, 45])
    check_rotation(90, None)
    check_rotation(10, 10.0)
    with pytest.raises(UserError, match=r"rotation = 11 is more than the 10 degrees"):
        check_rotation(11, 10.0)
