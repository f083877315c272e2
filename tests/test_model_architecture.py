"""What makes no network is refused, by the name of the field."""

import pytest

from alexnet_jax.errors import UserError
from alexnet_jax.model.architecture import architecture, model_config


def of_variant(variant="small", **changes):
    section = model_config(variant)
    section.update(changes)
    return architecture(section)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"activation": "sigmoid"}, "model.activation is 'sigmoid'; known: relu, tanh"),
        ({"init": "xavier"}, "model.init is 'xavier'"),
        ({"filters": (1, 2, 3)}, "must hold 5 numbers"),
        ({"groups": 5, "filters": (96, 256, 384, 384, 256), "width": 1.0}, "can't be split into model.groups=5"),
        ({"pool_size": 2, "pool_stride": 3}, "skips pixels"),
        ({"input_size": 12}, "too small"),
        ({"input_size": 0}, "model.input_size is 0; it must be at least 1"),
        ({"groups": 0}, "model.groups is 0; it must be at least 1"),
        ({"lrn_size": 0}, "model.lrn_size is 0; it must be at least 1"),
        ({"stem_stride": 0}, "model.stem_stride is 0; it must be at least 1"),
        ({"pool_size": -1}, "model.pool_size is -1; it must be at least 1"),
        ({"stem_padding": (-1, 2)}, r"model.stem_padding \(-1, 2\) must be at least 0 and below model.stem_kernel=5"),
        ({"stem_padding": (0, 5)}, r"model.stem_padding \(0, 5\) must be at least 0 and below model.stem_kernel=5"),
        ({"width": 0.001}, "model.width=0.001 of .* leaves some layer empty"),
        ({"width": float("nan")}, "model.width=nan"),
        ({"dense": 0}, "leaves some layer empty"),
        ({"pixel_scale": 0.0}, "model.pixel_scale is 0.0; pixels are divided by it: it must be positive"),
        ({"pixel_scale": float("inf")}, "model.pixel_scale is inf"),
        ({"early_gain": 0.0}, "model.early_gain is 0.0; initial weights are multiplied by it: it must be positive"),
        ({"positive_bias": float("nan")}, "model.positive_bias is nan; it must lie between -1,000,000 and 1,000,000"),
        ({"variant": "owt", "lrn": True}, "model.lrn normalises over channels on one scale: .* must be one number"),
        ({"variant": "owt", "lrn": True, "pixel_scale": (58.0,)}, None),  # one number in a tuple is one number
    ],
)
def test_refuses_what_makes_no_network(changes, message):
    if message is None:
        of_variant(**changes)
        return
    with pytest.raises(UserError, match=message):
        of_variant(**changes)


def test_a_mean_for_other_channels_is_refused():
    with pytest.raises(UserError, match=r"model.pixel_mean=.* is for 3 channels, the images have 1; set --config\.model\.pixel_mean=\(\)"):
        of_variant("caffe").check_channels(1)


def test_unknown_variant_lists_the_known_ones():
    with pytest.raises(UserError, match="one_tower, caffenet, caffe, paper, owt, small"):
        model_config("alexnet")
