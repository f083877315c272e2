"""What a compiled step would take on TPUs v5e, by the compiler's own estimate: a record for the JSON file, and its text.

The command (`__main__.py`) makes the record, `publish` writes its text into docs/performance.md:

    record = of(built, "v5e:2x2", 4, compiled)
    print(text(record))

Estimates are not measurements. The rules: an operation takes the cycles that the compiler estimates for it, at 1.5 GHz. One without an
estimate takes its bytes at the speed of the memory. A collective takes what a ring of the devices needs for it. Operations follow one
another; in truth some of them overlap.
"""

import re
from collections import defaultdict
from typing import Any

from alexnet_jax import memory
from alexnet_jax.tables import aligned
from experiments.scaling import hlo
from experiments.scaling.program import MEMORY, Built

# A TPU v5e. Clock: what the compiler's cycles are of. Memory and links: https://cloud.google.com/tpu/docs/v5e and
# https://jax-ml.github.io/scaling-book: on a ring, a chip sends 45 GB/s in each direction.
CLOCK, BANDWIDTH, LINKS = 1.5e9, 819e9, 90e9  # Hz, bytes/s, bytes/s
CHIPS = (1, 4, 16, 64, 256)
# The part of the network that an operation belongs to: the first whose pattern is found in the operation's name.
PARTS = {
    "random bits": r"threefry|random_bits|_uniform|_normal|bernoulli|_key\b|random_wrap|erf_inv",
    "augmentation": r"\baugment\b|batch\[",
    "LRN": r"\.norm\b",
    "pooling": r"\.pool\b",
    "optimiser": r"\boptimizer\b|opt_state",
    "dense": r"\bfc\d",
    "convolutions": r"\bconv\d|_stage",
}
OTHER = "other"


def of(built: Built, topology: str, devices: int, compiled: Any) -> dict[str, Any]:
    """The record of a step that was compiled for a topology: what a device needs, milliseconds by part, collectives."""
    parts: dict[str, dict[str, float]] = defaultdict(lambda: {"ms": 0.0, "unestimated_ms": 0.0})
    collectives: dict[str, dict[str, float]] = defaultdict(lambda: {"count": 0, "bytes": 0.0})
    turns = len(built.turns.counts)  # in each, the same program runs for some of the members
    for cost in hlo.costs(compiled.as_text()):
        if cost.kind in hlo.COLLECTIVES:
            collectives[cost.kind]["count"] += turns
            collectives[cost.kind]["bytes"] += turns * cost.bytes
            continue
        part, by_bytes = parts[part_of(cost.name)], turns * 1e3 * cost.bytes / BANDWIDTH
        part["ms"] += by_bytes + turns * 1e3 * cost.cycles / CLOCK
        part["unestimated_ms"] += by_bytes
    plan, counted = compiled.memory_analysis(), compiled.cost_analysis()
    program = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes + plan.temp_size_in_bytes
    state = memory.of_state(built.network.abstract_state(), built.turns).total
    return {
        "topology": topology,
        "devices": devices,
        "members": built.network.hyper.members,
        "split": built.split,
        "batch": built.config.train.batch_size,
        "dtype": built.config.model.dtype,
        "epochs": built.config.train.epochs,
        "images": built.images,
        "memory": program + state * (turns - 1) // turns,
        "flops": turns * counted["flops"],
        "bytes": turns * counted["bytes accessed"],
        "parts": parts,
        "collectives": collectives,
        "gradients": 0 if built.turns.divided else memory.of_state(built.network.abstract_state(), built.turns).parameters,
    }


def part_of(name: str) -> str:
    """The part of the network of an operation with this name."""
    return next((part for part, pattern in PARTS.items() if re.search(pattern, name)), OTHER)


def ring_seconds(kind: str, sent: float, devices: int) -> float:
    """Seconds of a collective over devices in a ring, of which each gives `sent` bytes."""
    rounds = {"all-reduce": 2 * (devices - 1) / devices, "all-gather": devices - 1}.get(kind, (devices - 1) / devices)
    return rounds * sent / LINKS


def step_ms(record: dict[str, Any]) -> tuple[float, float]:
    """Milliseconds of a step: of its operations, and of its collectives."""
    operations = sum(part["ms"] for part in record["parts"].values())
    return operations, sum(1e3 * ring_seconds(kind, found["bytes"], record["devices"]) for kind, found in record["collectives"].items())


def text(record: dict[str, Any]) -> str:
    """A record for people."""
    operations, exchange = step_ms(record)
    step, devices = operations + exchange, record["devices"]
    rows = [("part", "ms", "of the step", "of it by bytes alone")]
    for part, found in sorted(record["parts"].items(), key=lambda item: -item[1]["ms"]):
        rows.append((part, f"{found['ms']:.2f}", f"{found['ms'] / step:.0%}", f"{found['unestimated_ms']:.2f}"))
    for kind, found in record["collectives"].items():
        taken = 1e3 * ring_seconds(kind, found["bytes"], devices)
        rows.append((f"{found['count']} x {kind}, {memory.size(found['bytes'])}", f"{taken:.2f}", f"{taken / step:.0%}", ""))
    rows.append(("step", f"{step:.2f}", "", f"{sum(part['unestimated_ms'] for part in record['parts'].values()):.2f}"))
    needed = f"{memory.size(record['memory'])} of {memory.size(MEMORY)}"
    fits = f"fits: {needed} a device" if record["memory"] <= MEMORY else f"does not fit: {needed} a device"
    lines = [
        f"{fits}; {record['flops'] / 1e9:,.0f} GFLOP and {record['bytes'] / 1e9:,.1f} GB of traffic a device and step, by XLA's count; "
        f"compiled in {record['compile_seconds']:.0f} s",
        *([record["split"]] if record["split"] else []),
        "",
        aligned(rows, "<>", gap=3),
        "",
        _projection(record, operations),
    ]
    return "\n".join(lines)


def _projection(record: dict[str, Any], operations: float) -> str:
    """Images a second and the time of a training on several numbers of chips."""
    share, several = record["batch"] / record["devices"], record["members"] > 1
    chips = CHIPS if record["gradients"] else (record["devices"],)
    rows = [("chips", "batch", "ms a step", "images/s", *(["images x members/s"] if several else []), f"{record['epochs']:g} epochs")]
    for count in chips:
        exchange = 1e3 * ring_seconds("all-reduce", record["gradients"], count) if record["gradients"] else step_ms(record)[1]
        rate = 1e3 * (batch := share * count) / (operations + exchange)
        seconds = record["epochs"] * record["images"] / rate
        members = [f"{rate * record['members']:,.0f}"] if several else []
        rows.append((f"{count}", f"{batch:,.0f}", f"{operations + exchange:.2f}", f"{rate:,.0f}", *members, f"{seconds / 3600:,.2f} h"))
    assumed = [
        f"assumed: {share:g} images a chip; one all-reduce of {memory.size(record['gradients'])} of gradients in a ring at "
        f"{LINKS / 1e9:g} GB/s, which nothing hides; input that keeps up"
        if record["gradients"]
        else "members stay on their chips: more chips would need more members; assumed: input that keeps up",
    ]
    return "\n".join([aligned(rows, ">", gap=3), *assumed])
