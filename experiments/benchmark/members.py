"""The part `members`: times several members in one program: our convolutions, grouped convolutions of a plain `vmap`, a loop over members.

python -m experiments.benchmark members
"""

import time
from pathlib import Path

import jax

from alexnet_jax import turns
from experiments.benchmark import measure, ours
from experiments.benchmark.settings import Settings
from experiments.benchmark.table import Table

COLUMNS = {
    "network": "<9",
    "members": "8d",
    "batch": "6d",
    "dtype": "<8",
    "form": "<22",
    "compile s": "10.1f",
    "images x members/s": "18,.1f",
    "quartiles": ">17",
    "of the loop": "12.2f",
}
MEMBERS = {"one_tower": (1, 7), "small": (1, 7, 32)}
BATCH = {"one_tower": 16, "small": 128}
PLAIN, OURS, WHOLE, LOOP = "plain vmap (grouped)", "ours", "ours, all at once", "loop over members"


def run(settings: Settings, out: Path) -> None:
    title = "Members of one program; `compile s` is the seconds for tracing and compiling"
    table = Table("members", title, COLUMNS, settings, out)
    for dtype in settings.dtypes:
        for variant in settings.networks:
            for members in settings.members or MEMBERS[variant]:
                _compare(table, settings, variant, members, settings.batch(BATCH[variant]), dtype)


def _compare(table: Table, settings: Settings, variant: str, members: int, batch: int, dtype: str) -> None:
    name = f"{variant}, M = {members}, {dtype}"
    model, data, spec = (
        ours.network(variant, settings.width, dtype=dtype),
        ours.random_batch(variant, batch),
        f"augment=off, seeds={members}",
    )
    measure.progress(f"{name}: compiling ours")
    together = ours.TrainStep(variant, model, spec, data)
    alone = together if members == 1 else ours.TrainStep(variant, model, "augment=off, seeds=1", data)
    each = [alone.with_members(f"augment=off, seed={m}") for m in range(members)]

    def loop() -> None:
        for step in each:
            step()

    steps: dict[str, measure.Side] = {OURS: together, LOOP: loop}
    compile_seconds = {OURS: together.compile_seconds, LOOP: alone.compile_seconds}
    if turns.plan(members, 0).size < members:
        steps[WHOLE] = whole = ours.TrainStep(variant, model, spec, data, at_once=members)
        compile_seconds[WHOLE] = whole.compile_seconds

    trial: float | None = 0.0
    if members > 1 and jax.default_backend() == "cpu":  # there it may take hours
        measure.progress(f"{name}: plain vmap, in a separate process")
        trial = measure.in_child(try_plain, variant, settings.width, spec, batch, members, dtype, limit=settings.limit)
    if trial is None:
        table.row(network=variant, members=members, batch=batch, dtype=dtype, form=PLAIN)
        table.note(f"{name}: plain vmap is left out, since compilation and two steps took longer than {settings.limit:g} s (--limit)")
    elif trial * (settings.rounds + 2) > settings.limit:
        table.row(network=variant, members=members, batch=batch, dtype=dtype, form=PLAIN, images_x_members_s=members * batch / trial)
        table.note(f"{name}: plain vmap took {trial:.1f} s for one step, timed once; {settings.rounds} rounds would exceed --limit")
    else:
        measure.progress(f"{name}: compiling plain vmap")
        grouped = ours.network(variant, settings.width, conv_form="grouped", dtype=dtype)
        plain = ours.TrainStep(variant, grouped, spec, data, at_once=members)
        steps[PLAIN], compile_seconds[PLAIN] = plain, plain.compile_seconds

    timings = measure.alternately({f"{name}, {form}": step for form, step in steps.items()}, settings.rounds, settings.turn)
    base = timings[f"{name}, {LOOP}"].median
    for form in steps:
        timing = timings[f"{name}, {form}"]
        table.timed(
            timing,
            network=variant,
            members=members,
            batch=batch,
            dtype=dtype,
            form=form,
            compile_s=compile_seconds[form],
            images_x_members_s=timing.rate(together.images),
            quartiles=timing.rate_quartiles(together.images),
            of_the_loop=base / timing.median,
        )


def try_plain(variant: str, width: float, spec: str, batch: int, at_once: int, dtype: str) -> float:
    """Seconds of the second step of a plain vmap. It runs in a separate process, which can be ended after the limit."""
    ours.start()
    grouped = ours.network(variant, width, conv_form="grouped", dtype=dtype)
    step = ours.TrainStep(variant, grouped, spec, ours.random_batch(variant, batch), at_once)
    step()
    started = time.perf_counter()
    step()
    return time.perf_counter() - started
