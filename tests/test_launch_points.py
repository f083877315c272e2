"""Points: what counts as the same setting, how they are packed, and that member i * seeds + s is seed s of point i."""

from pathlib import Path

import pytest

from alexnet_jax import config as config_lib
from alexnet_jax.errors import UserError
from alexnet_jax.hyper import FIELDS, base_member, parse_members
from alexnet_jax.runlog import RunLog
from experiments.launch.points import CHOOSING_ORDER, Point, check_distinct, number, pack, pack_to_choose, setting_name
from experiments.sweep import grid

CONFIG, ROOT = "configs/digits.py", Path("sweeps/x")
POINTS = [
    Point("slow", {"learning_rate": ".010"}),
    Point("tanh", {"model.activation": "tanh"}),
    Point("no lrn", {"lrn": "off", "optimizer.learning_rate": "2e-2"}),
    Point("both", {"learning_rate": "0.03", "model.activation": "tanh", "model.dropout": "0"}),
]


def members_of(program):
    config = config_lib.load(program.config, program.overrides)
    return config, parse_members(config.ensemble.members, base_member(config))[0]


def test_networks_that_are_compared_start_from_the_same_weights(tmp_path):
    def starting_from(members):
        source = tmp_path / f"{members} members"
        with RunLog(source, 0) as log:
            log.event("start", 0, members=members, member_names=["m"] * members, steps=1, steps_per_epoch=1.0, devices="cpu", images=1)
        return [f"train.init_from={source}"]

    slow = POINTS[:1]
    assert pack(CONFIG, starting_from(1), POINTS, 2, ROOT, orders=2)
    assert pack(CONFIG, starting_from(2), slow, 2, ROOT)  # one run, as if it were trained by itself
    for points, orders in ((POINTS, 1), (slow, 2)):
        with pytest.raises(UserError, match=r"2 members has 2 members: .* choose a run with one member"):
            pack(CONFIG, starting_from(2), points, 2, ROOT, orders=orders)


def test_points_that_differ_in_hyper_alone_share_a_program():
    relu, tanh = pack(CONFIG, ["model.width=0.04", "ensemble.seed=5"], POINTS, 3, ROOT)
    assert [[point.name for point in program.points] for program in (relu, tanh)] == [["slow", "no lrn"], ["tanh", "both"]]
    assert relu.directory.parent == ROOT
    assert tanh.directory.name.startswith("activation=tanh-")
    assert tanh.overrides[:3] == ("model.width=0.04", "ensemble.seed=5", "model.activation=tanh")
    assert [override.partition("=")[0] for override in tanh.overrides][3:] == ["ensemble.members"]
    config, rows = members_of(relu)
    assert config.model.activation == "relu"
    assert [row["seed"] for row in rows] == [5, 6, 7, 5, 6, 7]
    assert [row["learning_rate"] for row in rows] == [0.01] * 3 + [0.02] * 3
    assert [(row["lrn_k"], row["lrn_alpha"]) for row in rows] == [(2, 1e-4)] * 3 + [(1, 0)] * 3
    config, rows = members_of(tanh)
    assert config.model.activation == "tanh"
    assert [(row["learning_rate"], row["dropout"]) for row in rows] == [(0.02, 0.5)] * 3 + [(0.03, 0)] * 3


def test_directories_depend_on_the_settings_and_not_on_their_spelling():
    def names(*settings):
        return [program.directory.name for program in pack(CONFIG, [], [Point("any", dict(settings))], 1, ROOT)]

    assert names(("learning_rate", ".01"), ("model.lrn", "off")) == names(("model.lrn", "False"), ("optimizer.learning_rate", "1e-2"))
    assert names(("learning_rate", ".01")) != names(("learning_rate", ".02"))
    assert names(("data.train_split", "train[:200]"))[0].startswith("train_split=train-200--")


def test_orders_share_neither_images_order_nor_seeds():
    one, three = (pack(CONFIG, ["data.seed=4", "ensemble.seed=5"], POINTS[:2], 2, ROOT, orders=orders) for orders in (1, 3))
    assert three[:2] == one  # a repeated command with more orders finds its runs again
    assert [program.order for program in three] == [0, 0, 1, 1, 2, 2]
    assert len({program.directory for program in three}) == 6
    assert three[2].directory.name.startswith("order=1,learning_rate=0.01")
    read = [members_of(program) for program in three]
    assert [config.data.seed for config, _ in read] == [4, 4, 5, 5, 6, 6]
    assert [[row["seed"] for row in rows] for _, rows in read] == [[5, 6]] * 2 + [[7, 8]] * 2 + [[9, 10]] * 2
    with pytest.raises(UserError, match="orders=0: the images need at least one order"):
        pack(CONFIG, [], POINTS, 2, ROOT, orders=0)
    with pytest.raises(UserError, match=r"x: data\.seed can't be a setting of a point that is trained in several orders"):
        pack(CONFIG, [], [Point("x", {"data.seed": "3"})], 2, ROOT, orders=2)


@pytest.mark.parametrize(
    ("seeds", "max_members", "networks"),
    [(1, None, 3), (2, None, 3), (5, None, 5), (1, 4, 3), (1, 2, 4), (1, 1, 3), (2, 2, 4), (5, 5, 5)],
)
def test_networks_that_choose_share_no_seed_and_no_order_with_compared_ones(seeds, max_members, networks):
    overrides = ["data.seed=4", "ensemble.seed=5"]

    def networks_of(programs):
        read = [members_of(program) for program in programs]
        return [(config.data.seed, row["seed"]) for config, rows in read for row in rows]

    choosing = networks_of(pack_to_choose(CONFIG, overrides, POINTS[:1], seeds, ROOT, max_members))
    assert len(set(choosing)) == len(choosing) == networks
    compared = networks_of(pack(CONFIG, overrides, POINTS[:1], seeds, ROOT, max_members, orders=40))
    assert len(compared) == 40 * seeds
    for mine, other in zip(zip(*choosing, strict=True), zip(*compared, strict=True), strict=True):
        assert not set(mine) & set(other)
    assert min(seed for _, seed in choosing) >= 5 + CHOOSING_ORDER * seeds  # beyond the last seed of the most orders
    with pytest.raises(UserError, match="orders=1000001: the images need at least one order, and at most 1,000,000"):
        pack(CONFIG, overrides, POINTS[:1], seeds, ROOT, orders=CHOOSING_ORDER + 1)


def test_no_program_has_more_members_than_fit():
    points = [Point(str(i), {"learning_rate": str(i)}) for i in range(5)]
    programs = pack(CONFIG, [], points, 2, ROOT, max_members=5)
    assert [program.members for program in programs] == [4, 4, 2]
    assert len({program.directory for program in programs}) == 3
    with pytest.raises(UserError, match="the 2 seeds of a point train in one program, but --max-members allows only 1"):
        pack(CONFIG, [], points, 2, ROOT, max_members=1)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lerning_rate": "1"}, "did you mean learning_rate"),
        ({"activation": "tanh"}, "did you mean model.activation"),
        ({"model.activatoin": "tanh"}, "did you mean model.activation"),
        ({"learning_rate": "fast"}, "learning_rate=fast: expected a number"),
        ({"learning_rate": "-1"}, "outside"),
        ({"dropout": "1"}, "outside"),
        ({"model.filters": "(1,"}, "model.filters=.*: expected a tuple"),
        ({"lrn": "maybe"}, "lrn=maybe: write on or off"),
        ({"learning_rate": ".1", "optimizer.learning_rate": ".1"}, "are the same setting; give it once"),
        ({"lrn": "off", "model.lrn_k": "2"}, "lrn=off and model.lrn_k=2 contradict each other"),
        ({"seed": "1"}, "every point is trained with the same seeds"),
        ({"ensemble.members": "seeds=2"}, "every point is trained with the same seeds"),
    ],
)
def test_a_point_that_makes_no_sense(settings, message):
    with pytest.raises(UserError, match=message):
        pack(CONFIG, [], [Point("bad", settings)], 1, ROOT)


def test_the_members_are_the_points_alone():
    with pytest.raises(UserError, match="the experiment sets the members itself"):
        pack(CONFIG, ["ensemble.members=seeds=9"], POINTS, 1, ROOT)


def test_one_setting_under_two_names():
    twice = [Point("a", {"learning_rate": ".01"}), Point("b", {"optimizer.learning_rate": "0.010"})]
    with pytest.raises(UserError, match="'a' and 'b' have the same settings"):
        check_distinct(twice, CONFIG, [])
    check_distinct(POINTS, CONFIG, [])


def test_a_config_field_counts_as_the_hyper_field_that_it_gives_to_the_members():
    config = config_lib.load(CONFIG)
    for name, value in config_lib.flat(config).items():
        if isinstance(value, float):
            changed = base_member(config_lib.load(CONFIG, [f"{name}={value + 0.01}"]))
            moved = [field for field, before in base_member(config).items() if changed[field] != before]
            assert [setting_name(name)] == (moved or [name])
    assert setting_name("data.seed") == "data.seed"
    assert setting_name("learning_rate") == "learning_rate"
    assert set(FIELDS) - {"seed", "draws"} == {setting_name(name) for name in config_lib.flat(config)} & set(FIELDS)


def test_numbers_read_back_as_they_were():
    assert [number(value) for value in (0.01, 1e-7, 20.0, 0.123456789)] == ["0.01", "1e-07", "20", "0.123456789"]


# The points of a sweep


def test_a_grid_is_a_product_in_its_order():
    points, seeds = grid.parse_grid("learning_rate=.003,.01; model.filters=(1,2,3,4,5),(2,2,2,2,2); data.train_split=train[:9]; seeds=3")
    assert seeds == 3
    assert [point.name for point in points] == [
        "learning_rate=.003 filters=(1,2,3,4,5)",
        "learning_rate=.003 filters=(2,2,2,2,2)",
        "learning_rate=.01 filters=(1,2,3,4,5)",
        "learning_rate=.01 filters=(2,2,2,2,2)",
    ]
    assert points[1].settings == {"learning_rate": ".003", "model.filters": "(2,2,2,2,2)", "data.train_split": "train[:9]"}
    assert grid.parse_grid("lrn=[on,off]") == ([Point("lrn=on", {"lrn": "on"}), Point("lrn=off", {"lrn": "off"})], None)
    assert grid.parse_grid("seeds=5") == ([Point("base", {})], 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rate", "is not name=value"),
        ("learning_rate=.1,,.2", "is not name=value"),
        ("learning_rate=.1; learning_rate=.2", "is given twice; give all its values at once, as learning_rate=.1,.2"),
        ("learning_rate=.1, lrn=[on,off]", "separate axes by semicolons"),
        ("seeds=1,2", "write one number"),
        ("seeds=0", "at least 1"),
        ("seeds=2.5", "whole number"),
        ("learning_rate=.1,.1", "two points are called"),
        ("; ", "has no axis"),
    ],
)
def test_a_grid_that_is_none(text, message):
    with pytest.raises(UserError, match=message):
        grid.parse_grid(text)


def points_file(tmp_path, body):
    path = tmp_path / "points.py"
    path.write_text(body)
    return path


def test_points_of_plain_loops(tmp_path):
    body = """
def sweep(add):
    for rate in (1e-3, 0.02):
        add(learning_rate=rate, lrn=False, seeds=2)
    add("wide", **{"model.width": 1, "model.lrn": True, "model.filters": (1, 2, 3, 4, 5)})
"""
    points, seeds = grid.from_file(points_file(tmp_path, body))
    assert seeds == 2
    assert points == [
        Point("learning_rate=0.001 lrn=off", {"learning_rate": "0.001", "lrn": "off"}),
        Point("learning_rate=0.02 lrn=off", {"learning_rate": "0.02", "lrn": "off"}),
        Point("wide", {"model.width": "1", "model.lrn": "True", "model.filters": "(1, 2, 3, 4, 5)"}),
    ]
    assert grid.from_file(Path(CONFIG)) is None


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("def sweep(add):\n    pass", "adds no point"),
        ("def sweep(add):\n    add(seeds=1); add(seeds=2)", "seeds are 1 and 2; use the same number"),
        ("def sweep(add):\n    add(learning_rate=1 / 0)", "ZeroDivisionError: division by zero"),
        ("def sweep(add)", "SyntaxError"),
        ("def sweep(add):\n    add('a', lrn=True); add('a', lrn=False)", "two points are called 'a'"),
    ],
)
def test_a_file_without_usable_points(tmp_path, body, message):
    with pytest.raises(UserError, match=message):
        grid.from_file(points_file(tmp_path, body))


def test_points_whose_last_words_are_alike_keep_their_sections():
    assert grid.short_names(["model.width", "data.seed", "ensemble.seed"]) == {
        "model.width": "width",
        "data.seed": "data.seed",
        "ensemble.seed": "ensemble.seed",
    }
