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
    "augmentation": r"\baugment\b|\binput\b|batch\[",  # with the conversion of views to what the network takes
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
    """A record for people: what a device needs, the time by part, and what more chips would do."""
    operations, exchange = step_ms(record)
    step = operations + exchange
    rows = [("part", "ms", "of the step", "of it by bytes alone")]
    for part, found in sorted(record["parts"].items(), key=lambda item: -item[1]["ms"]):
        rows.append((part, f"{found['ms']:.2f}", f"{found['ms'] / step:.0%}", f"{found['unestimated_ms']:.2f}"))
    for kind, found in record["collectives"].items():
        taken = 1e3 * ring_seconds(kind, found["bytes"], record["devices"])
        rows.append((f"{found['count']} x {kind}, {memory.size(found['bytes'])}", f"{taken:.2f}", f"{taken / step:.0%}", ""))
    rows.append(("step", f"{step:.2f}", "", f"{sum(part['unestimated_ms'] for part in record['parts'].values()):.2f}"))
    needed = f"{memory.size(record['memory'])} of {memory.size(MEMORY)}"
    lines = [
        f"{'fits' if record['memory'] <= MEMORY else 'does not fit'}: {needed} a device; {record['flops'] / 1e9:,.0f} GFLOP and "
        f"{record['bytes'] / 1e9:,.1f} GB of traffic a device and step, by XLA's count; compiled in {record['compile_seconds']:.0f} CPU s",
        *([record["split"]] if record["split"] else []),
        f"\n{aligned(rows, '<>', gap=3)}\n",
        projection(record),
    ]
    return "\n".join(lines)


def summary(records: list[dict[str, Any]]) -> str:
    """Several records as two tables, a line for each: their needs and speed, and milliseconds by part."""
    needs = [("topology", "members", "batch", "dtype", "ms a step", "images/s", "GFLOP", "traffic", "memory")]
    times = [("topology", "members", *PARTS, OTHER, "collectives", "step")]
    for record in records:
        operations, exchange = step_ms(record)
        who = record["topology"], f"{record['members']}"
        rate = 1e3 * record["batch"] / (operations + exchange)
        sizes = f"{record['flops'] / 1e9:,.0f}", memory.size(record["bytes"]), memory.size(record["memory"])
        needs.append((*who, f"{record['batch']:,}", record["dtype"], f"{operations + exchange:.2f}", f"{rate:,.0f}", *sizes))
        parts = [f"{record['parts'].get(part, {'ms': 0.0})['ms']:.2f}" for part in (*PARTS, OTHER)]
        times.append((*who, *parts, f"{exchange:.2f}", f"{operations + exchange:.2f}"))
    return f"{aligned(needs, '<>', gap=3)}\n\n{aligned(times, '<>')}"


def projection(record: dict[str, Any]) -> str:
    """Images a second and the time of a training on several numbers of chips, with what is assumed."""
    operations, exchange = step_ms(record)
    share, several = record["batch"] / record["devices"], record["members"] > 1
    rows = [("chips", "batch", "ms a step", "images/s", *(["images x members/s"] if several else []), f"{record['epochs']:g} epochs")]
    for chips in CHIPS if record["gradients"] else (record["devices"],):
        if record["gradients"]:
            exchange = 1e3 * ring_seconds("all-reduce", record["gradients"], chips)
        rate = 1e3 * share * chips / (operations + exchange)
        members = [f"{rate * record['members']:,.0f}"] if several else []
        hours = record["epochs"] * record["images"] / rate / 3600
        rows.append((f"{chips}", f"{share * chips:,.0f}", f"{operations + exchange:.2f}", f"{rate:,.0f}", *members, f"{hours:,.2f} h"))
    if record["gradients"]:
        assumed = (
            f"{share:g} images a chip, whatever the number of chips; one all-reduce of {memory.size(record['gradients'])} of gradients in "
            f"a ring at {LINKS / 1e9:g} GB/s, which nothing hides; an input that keeps up"
        )
    else:
        assumed = "members that stay on their chips, so that more chips would need more members; an input that keeps up"
    return f"{aligned(rows, '>', gap=3)}\nassumed: {assumed}"
