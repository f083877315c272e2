"""Augmentations by their pixels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from alexnet_jax.augment import augment, evaluation_view, ten_views
from alexnet_jax.hyper import AUGMENTATIONS, Hyper
from alexnet_jax.prepare.pixel_stats import PixelStats

pytestmark = pytest.mark.accelerator

OFF = dict.fromkeys(AUGMENTATIONS, 0.0)
STATS = PixelStats(
    mean=np.float32([100, 110, 120]),
    std=np.float32(60),
    pca_std=np.float32([80, 20, 5]),
    pca_axes=np.float32([[0.6, 0.6, 0.52915026], [0.8, -0.6, 0.0], [0.0, 0.0, 1.0]]),
)
NO_MEAN = STATS._replace(mean=np.zeros(3, np.float32))
IMAGE = np.random.default_rng(0).integers(0, 256, (16, 16, 3)).astype(np.uint8)


def views(count, image=IMAGE, size=12, stats=NO_MEAN, options=None, **strengths):
    """`count` draws with only the given strengths on."""
    keys = jax.random.split(jax.random.key(0), count)
    draw = jax.vmap(lambda key: augment(key, image, Hyper(**{**OFF, **strengths}), stats, size))
    return np.asarray(jax.jit(draw, compiler_options=options)(keys))


def crop(top, left, size=12):
    return IMAGE[top : top + size, left : left + size].astype(np.float32)


def test_strength_zero_is_exactly_the_evaluation_view():
    view = views(3, stats=STATS)
    assert np.array_equal(view[0], crop(2, 2) - STATS.mean)
    assert np.array_equal(view, np.stack([evaluation_view(IMAGE, Hyper(**OFF), STATS, 12)] * 3))


@pytest.mark.parametrize("size", [11, 12, 16])
def test_strength_zero_at_odd_and_full_sizes(size):
    assert np.array_equal(views(1, size=size)[0], evaluation_view(IMAGE, Hyper(**OFF), NO_MEAN, size))


def test_crop_takes_every_place_equally_often():
    drawn = views(2000, crop=1.0)
    places = {crop(top, left).tobytes(): (top, left) for top in range(5) for left in range(5)}
    found = [places[view.tobytes()] for view in drawn]
    counts = np.unique(np.array(found) @ [5, 1], return_counts=True)[1]
    assert len(counts) == 25
    assert counts.min() > 45  # 80 expected, standard deviation 9
    assert counts.max() < 120


def test_half_crop_stays_in_the_middle():
    places = {crop(top, left).tobytes(): (top, left) for top in range(5) for left in range(5)}
    found = {places[view.tobytes()] for view in views(200, crop=0.5)}
    assert found == {(top, left) for top in (1, 2, 3) for left in (1, 2, 3)}


def test_flip():
    drawn = views(400, flip=0.25)
    mirrored = np.array([np.array_equal(view, crop(2, 2)[:, ::-1]) for view in drawn])
    plain = np.array([np.array_equal(view, crop(2, 2)) for view in drawn])
    assert (mirrored ^ plain).all()
    assert 0.18 < mirrored.mean() < 0.32
    assert all(np.array_equal(view, crop(2, 2)[:, ::-1]) for view in views(20, flip=1.0))


def test_every_pixel_is_the_bilinear_sample_at_its_place():
    """Against double precision. A coordinate that is rounded one way for a sample's place and the other way for its weight would show."""
    size, count, margin = 227, 32, 256 - 227
    images = np.random.default_rng(0).integers(0, 256, (count, 256, 256, 3)).astype(np.uint8)
    keys = jax.random.split(jax.random.key(0), count)
    member = Hyper(**{**OFF, "crop": 1.0, "rotation": 10.0, "shift": 0.05})
    drawn = np.asarray(jax.jit(jax.vmap(lambda key, image: augment(key, image, member, STATS, size)))(keys, images))
    grid = np.arange(size) - (size - 1) / 2
    y, x = np.meshgrid(grid, grid, indexing="ij")
    for key, image, view in zip(keys, images, drawn, strict=True):
        padded = np.pad(image.astype(float), ((0, 1), (0, 1), (0, 0)), mode="edge")
        crop_y, crop_x, _, rotation, shift_y, shift_x = np.asarray(jax.random.uniform(jax.random.split(key)[0], (6,)))
        angle = np.deg2rad((2 * float(rotation) - 1) * 10)

        def place(turned, crop, shift):
            start = np.floor(crop * np.float32(margin + 1)) + np.round((2 * shift - 1) * np.float32(0.05) * size)
            return np.clip(turned + (size - 1) / 2 + start, 0, 255)

        rows = place(np.cos(angle) * y + np.sin(angle) * x, crop_y, shift_y)
        columns = place(np.cos(angle) * x - np.sin(angle) * y, crop_x, shift_x)
        top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
        down, across = (rows - top)[..., None], (columns - left)[..., None]
        upper = (1 - across) * padded[top, left] + across * padded[top, left + 1]
        lower = (1 - across) * padded[top + 1, left] + across * padded[top + 1, left + 1]
        np.testing.assert_allclose(view + STATS.mean, (1 - down) * upper + down * lower, atol=0.05)


def test_shift_moves_whole_pixels_and_repeats_the_border():
    drawn = views(300, size=16, shift=0.125)  # up to 2 pixels
    padded = np.pad(IMAGE, ((2, 2), (2, 2), (0, 0)), mode="edge").astype(np.float32)
    places = {padded[2 + y : 18 + y, 2 + x : 18 + x].tobytes(): (y, x) for y in range(-2, 3) for x in range(-2, 3)}
    assert {places[view.tobytes()] for view in drawn} == set(places.values())


def test_rotation_turns_by_the_drawn_angle_about_the_centre():
    size = 33
    columns = np.mgrid[:size, :size][1] - size // 2
    image = np.repeat((128 + 3 * columns)[..., None], 3, 2).astype(np.uint8)  # a ramp along x, exact under bilinear sampling
    drawn = views(200, image=image, size=21, rotation=30.0)[..., 0]
    centre = 10
    np.testing.assert_allclose(drawn[:, centre, centre], 128, atol=1e-3)
    dx, dy = drawn[:, centre, centre + 1] - 128, drawn[:, centre + 1, centre] - 128
    np.testing.assert_allclose(np.hypot(dx, dy), 3, rtol=1e-3)
    angles = np.degrees(np.arctan2(-dy, dx))
    assert np.abs(angles).max() <= 30
    assert angles.min() < -25
    assert angles.max() > 25


def test_whitening_standardises_onto_the_datasets_scale():
    view = views(1, whitening=1.0)[0]
    np.testing.assert_allclose(view.mean(), 0, atol=1e-3)
    np.testing.assert_allclose(view.std(), STATS.std, rtol=1e-4)
    blend = views(1, whitening=0.5)[0]
    np.testing.assert_allclose(blend, (view + crop(2, 2)) / 2, rtol=1e-4, atol=1e-3)


def test_whitening_of_a_flat_image_is_finite(as_shipped):
    """And zero, where the mean of equal pixels is summed as users have it."""
    view = views(1, image=np.full((16, 16, 3), 7, np.uint8), options=as_shipped, whitening=1.0)[0]
    assert np.array_equal(view, np.zeros((12, 12, 3)))


def test_whitening_also_when_evaluating():
    evaluated = evaluation_view(IMAGE, Hyper(**{**OFF, "whitening": 1.0}), STATS, 12)
    np.testing.assert_allclose(evaluated, views(1, stats=STATS, whitening=1.0)[0], atol=1e-4)


def test_colour_adds_one_colour_along_the_principal_axes():
    added = views(4000, colour=0.1) - crop(2, 2)
    assert np.abs(added - added[:, :1, :1]).max() < 1e-3  # one draw for all pixels
    colours = added[:, 0, 0].astype(np.float64)
    covariance = (STATS.pca_axes.T * (0.1 * STATS.pca_std) ** 2) @ STATS.pca_axes
    np.testing.assert_allclose(colours.mean(0), 0, atol=0.5)
    np.testing.assert_allclose(np.cov(colours.T), covariance, atol=0.06 * covariance.max())


def test_draws_depend_on_the_key_alone():
    keys = jax.random.split(jax.random.key(3), 4)
    draw = jax.jit(lambda key: augment(key, IMAGE, Hyper(), STATS, 12))
    together, alone = jax.jit(jax.vmap(draw))(keys), draw(keys[2])
    np.testing.assert_allclose(together[2], alone, rtol=1e-4, atol=1e-3)
    assert not np.allclose(together[1], alone)


def test_ten_views():
    ten = np.asarray(ten_views(IMAGE, Hyper(**OFF), NO_MEAN, 12))
    expected = [crop(0, 0), crop(0, 4), crop(4, 0), crop(4, 4), crop(2, 2)]
    assert np.array_equal(ten, np.stack([*expected, *(view[:, ::-1] for view in expected)]))


def test_grey_images():
    stats = PixelStats(*(jnp.float32(value) for value in ([70], 80, [80], [[1]])))
    view = augment(jax.random.key(0), IMAGE[..., :1], Hyper(), stats, 12)
    assert view.shape == (12, 12, 1)
    assert np.isfinite(view).all()
