"""The command that compiles the training step of a config for TPUs that aren't here, and says what it would take on them.

    python -m experiments.scaling --topology v5e:1x1 --dtype bfloat16
    python -m experiments.scaling --topology v5e:2x2 --members 7 --dtype bfloat16
    python -m experiments.scaling --topology v5e:4x4 --config configs/imagenet.py --config.train.batch_size=512

It needs libtpu (`pip install -c constraints.txt -e ".[tpu]"`), Linux, and minutes of a CPU; no TPU, no GPU, no dataset. All numbers are
estimates of XLA's compiler, not measurements: estimate.py says by which rules. It also lowers the step for CUDA, and fails where something
of it has no form there. Each result is kept as JSON in --out, and is only compiled again when the program has changed.
"""

import argparse
import hashlib
import json
import os
import time
from importlib import metadata
from pathlib import Path
from typing import Any

from alexnet_jax import config as config_lib
from alexnet_jax.errors import cannot_write, run_cli, say
from alexnet_jax.runlog import command


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        "python -m experiments.scaling", description="Compile a training step for TPUs that aren't here, and estimate its time there."
    )
    parser.add_argument("--topology", required=True, metavar="v5e:ROWSxCOLUMNS", help="the TPUs, such as v5e:2x2 (4 chips)")
    config_lib.add_arguments(parser, default="configs/imagenet.py")
    parser.add_argument(
        "--members", type=config_lib.positive, metavar="M", help="networks that differ in their seed; short for an override"
    )
    parser.add_argument("--batch", type=config_lib.positive, metavar="N", help="images of a step, over all devices; short for an override")
    parser.add_argument("--dtype", metavar="NAME", help="of activations and products: float32 | bfloat16; short for an override")
    out = Path("benchmarks/scaling")
    parser.add_argument("--out", type=config_lib.path, default=out, metavar="DIR", help=f"where results are kept as JSON (default: {out})")
    args = config_lib.parse_command_line(parser, argv)
    short = {"ensemble.members": args.members and f"seeds={args.members}", "train.batch_size": args.batch, "model.dtype": args.dtype}
    overrides = [*(f"{field}={value}" for field, value in short.items() if value), *args.overrides]
    config = config_lib.load(args.config, overrides)

    os.environ["JAX_PLATFORMS"] = "cpu"  # whatever devices there are, none is needed
    import jax

    from alexnet_jax import parallel
    from experiments.scaling import estimate, program

    parallel.start()
    over = program.mesh(args.topology)
    built = program.build(config, over.size)
    program.check_cuda(program.build(config, 1, "gpu"))
    lowered = program.trace(built, over).lower()
    key = hashlib.sha256(f"{metadata.version('libtpu')} {lowered.as_text()}".encode()).hexdigest()
    count, dtype = built.network.hyper.members, config.model.dtype
    path = args.out / f"{args.topology.replace(':', '-')}-members{count}-batch{config.train.batch_size}-{dtype}.json"
    record = _kept(path, key)
    if not record:
        say(f"compiling {count} x {config.train.batch_size} images in {dtype} for {args.topology}; this takes minutes")
        started = time.process_time()
        jax.config.update("jax_enable_compilation_cache", False)  # it can't hold programs for devices that aren't here
        compiled = lowered.compile()
        record = {
            "key": key,
            "command": command(),
            "compiler": f"libtpu {metadata.version('libtpu')}, JAX {metadata.version('jax')}",
            "compile_seconds": time.process_time() - started,
            **estimate.of(built, args.topology, over.size, compiled),
        }
        _keep(path, record)
    say(f"{estimate.text(record)}\n\nthe compiler's estimate, not a measurement; lowered for CUDA too; kept in {path}")


def _kept(path: Path, key: str) -> dict[str, Any]:
    """The result of the same program by the same compiler, if it is kept."""
    try:
        record = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return record if record.get("key") == key else {}


def _keep(path: Path, record: dict[str, Any]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(record, indent=1) + "\n")
    except OSError as error:
        raise cannot_write(path, error, "choose another --out") from None


if __name__ == "__main__":
    run_cli(main)
