"""Results in README.md and docs, written from the files of the runs, so that they can't drift.

    python -m experiments.publish fashion_ensemble=runs/fashion_ensemble               a run, with what alexnet_jax.evaluate found of it
    python -m experiments.publish lrn=ablations/lrn                                    an ablation
    python -m experiments.publish figure1=runs/reproduce/digits-quick/figure1          a claim of experiments.reproduce
    python -m experiments.publish benchmark=benchmarks                                 what experiments.benchmark measured
    python -m experiments.publish                                                      write the pages again from what is kept

What is published of a directory is kept in docs/results/NAME.json, its figures in docs/figures/. A page shows it between the lines
`<!-- result NAME -->` and `<!-- end of result -->`. A test holds that the pages say what the files do.
"""

import argparse
import json
import re
import shlex
import shutil
import statistics
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alexnet_jax.errors import UserError, run_cli
from alexnet_jax.tables import aligned
from experiments import published
from experiments.benchmark import PARTS

PAGES = (Path("README.md"), Path("docs/results.md"), Path("docs/performance.md"))
KEPT, FIGURES = Path("docs/results"), Path("docs/figures")
BLOCK = re.compile(r"(<!-- result (\w+) -->\n).*?(<!-- end of result -->)", re.S)


def keep(name: str, directory: Path, root: Path = Path()) -> None:
    """Write docs/results/NAME.json and docs/figures/NAME-*.png of a finished run, an ablation, a claim or a benchmark.

    Raises:
      UserError: it is none of them, the run hasn't finished, or an ensemble has no figure yet.
    """
    from alexnet_jax.history import plain
    from alexnet_jax.runlog import writing

    if not re.fullmatch(r"\w+", name):
        raise UserError(f"{name!r} is no name of a result: letters, digits and _")
    ablation, claim, shown = directory / "ablation.json", directory / "result.txt", ["ablation", "ensemble"]
    if claim.exists():
        figures, shown = directory, sorted(path.stem for path in directory.glob("*.png"))
        record = {"kind": "claim", "text": claim.read_text(encoding="utf-8"), "figures": shown}
    elif ablation.exists():
        record, figures = {"kind": "ablation", **json.loads(ablation.read_text())}, directory
    elif parts := [directory / f"{part}.json" for part in PARTS if (directory / f"{part}.json").exists()]:
        record, figures, shown = {"kind": "benchmark", "parts": [json.loads(path.read_text()) for path in parts]}, directory, ["growth"]
    else:
        record, figures = {"kind": "run", **run_record(directory)}, directory / "figures"
        if len(record["members"]) > 1 and not (figures / "ensemble.png").exists():
            raise UserError(f"{directory} has no figure of its ensembles; make it with: python -m experiments.report {directory}")
    target = root / KEPT / f"{name}.json"
    with writing(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(json.dumps(plain(record), indent=1) + "\n")
        for figure in shown:
            if (figures / f"{figure}.png").exists():
                (root / FIGURES).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(figures / f"{figure}.png", root / FIGURES / f"{name}-{figure}.png")


def run_record(workdir: Path) -> dict[str, Any]:
    """What is published of a run: its command and machine, its pace, the test at its end, and its other evaluations of that split."""
    from alexnet_jax import history, run

    record, past = run.read_config(workdir), history.load(workdir)
    test, members = past.test, past.start.get("member_names", [])
    if not test:
        raise UserError(f"{workdir} hasn't finished: only the tests of finished runs are published")
    evaluations = [json.loads(path.read_text()) for path in sorted(workdir.glob("evaluation-*.json"))]
    # Those of this run alone, and of its last step: at other steps the networks were others.
    mine = [found for found in evaluations if found.get("steps") == [past.step] and found["protocol"]["split"] == test["split"]]
    return {
        "command": record["command"],
        "devices": record["devices"],
        "versions": {name: record["versions"][name] for name in ("python", "jax")},
        "dataset": record["dataset"]["name"],
        "epochs": record["config"]["train"]["epochs"],
        "members": members,
        "images_trained": past.step * record["config"]["train"]["batch_size"] * len(members),
        "member_images_per_second": statistics.median(event["member_images_per_second"] for event in past.trains),
        "test": test,
        "evaluations": [{name: value for name, value in found.items() if name != "runs"} for found in mine],
    }


def render(root: Path = Path()) -> list[Path]:
    """Write every block of the pages anew; returns the pages that have changed.

    Raises:
      UserError: a page shows a result that isn't kept.
    """
    changed = []
    for page in PAGES:
        before = (root / page).read_text(encoding="utf-8")
        pieces = BLOCK.split(before)  # text, begin, name, end, text, ...
        for i in range(1, len(pieces), 4):
            pieces[i + 1] = _block(pieces[i + 1], page, root)
        if (after := "".join(pieces)) != before:
            (root / page).write_text(after, encoding="utf-8")
            changed.append(page)
    return changed


def _block(name: str, page: Path, root: Path) -> str:
    path = root / KEPT / f"{name}.json"
    if not path.exists():
        raise UserError(f"{page} shows the result {name}, but there is no {path}; make it with: python -m experiments.publish {name}=DIR")
    record = json.loads(path.read_text())
    figures = FIGURES.relative_to(page.parent) if page.parent != Path() else FIGURES
    forms: dict[str, Callable[[dict[str, Any], str], str]] = {
        "run": run_text,
        "ablation": ablation_text,
        "claim": claim_text,
        "benchmark": benchmark_text,
    }
    return forms[record["kind"]](record, f"{figures}/{name}")


def run_text(record: dict[str, Any], figures: str) -> str:
    """A run: its command, each member's top-1 error by every protocol, its pace; what an ensemble gains, beside the paper's."""
    tests = {"centre crop": record["test"]} | {_protocol(found): found for found in record["evaluations"]}
    names = record["members"]
    several = len(names) > 1
    rows: list[tuple[str, ...]] = [
        (f"{record['test']['split']}, {record['test']['count']:,} images", f"{names[0]} ... {names[-1]}" if several else names[0])
    ]
    rows += [(protocol, f"{'  '.join(f'{100 * error:.2f}' for error in tests[protocol]['top1_error'])} %") for protocol in sorted(tests)]
    if several:  # one network has no spread and is no ensemble
        gains = [("mean ± std", "ensemble", "relative cut", "disagree"), *(_gain(tests[protocol]) for protocol in sorted(tests))]
        rows = [(*row, *gain) for row, gain in zip(rows, gains, strict=True)]
    seconds = record["images_trained"] / record["member_images_per_second"]
    pace = (
        f"{record['member_images_per_second']:,.0f} images x members a second (median of the run), {seconds / 60:.0f} minutes at that pace"
    )
    where = f"{', '.join(record['devices'])}, JAX {record['versions']['jax']}, one run"
    command = _wrapped(record["command"])
    lines = [f"```text\n{command}\n```", textwrap.indent(aligned(rows, "<>", gap=3), "    "), f"{where}: {pace}."]
    if several:
        lines += [_published(), f"![Test error by the number of networks averaged]({figures}-ensemble.png)"]
    return "\n" + "\n\n".join(lines) + "\n\n"


def _wrapped(command: str) -> str:
    """A command in lines for the shell, broken between its words alone."""
    words = " ".join(shlex.quote(word).replace(" ", "\0") for word in shlex.split(command))
    lines = textwrap.wrap(words, 120, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines).replace("\0", " ")


def _gain(test: dict[str, Any]) -> tuple[str, ...]:
    """What the members and their ensemble make of a test, as cells."""
    return (
        f"{100 * test['mean_top1_error']:.2f} ± {100 * test['std_top1_error']:.2f} %",
        f"{100 * test['ensemble_top1_error']:.2f} %",
        f"{100 * test['relative_cut']:.1f} %",
        f"{100 * test['disagreement']:.1f} %",
    )


def _published() -> str:
    """The relative cuts of the paper's ensembles."""
    one, five, seven = (published.ENSEMBLES[size] for size in (1, 5, 7))
    top1, top5 = ([f"{100 * (1 - getattr(some, top) / getattr(one, top)):.1f}" for some in (five, seven)] for top in ("top1", "top5"))
    return (
        f"On ImageNet, the paper's ensembles cut top-1 error by {top1[0]} % (five networks) and {top1[1]} % (seven, two of them\n"
        f"trained on more images), top-5 error by {top5[0]} % and {top5[1]} %."
    )


def ablation_text(record: dict[str, Any], figures: str) -> str:
    """An ablation's page, one heading deeper and without its title."""
    from alexnet_jax.history import nan_for_null
    from experiments.ablate import files as ablation_files

    body = ablation_files.markdown(nan_for_null(record)).split("\n", 1)[1]
    body = re.sub(r"^#", "##", body, flags=re.M)
    return re.sub(r"\]\((\w+)\.svg\)", rf"]({figures}-\1.png)", body)


def claim_text(record: dict[str, Any], figures: str) -> str:
    """A claim: what experiments.reproduce wrote, its command first, and its figures."""
    command, text = record["text"].split("\n", 1)
    pictures = "".join(f"![{name}]({figures}-{name}.png)\n\n" for name in record["figures"])
    return f"\n```text\n{_wrapped(command)}\n{text.rstrip()}\n```\n\n{pictures}"


def benchmark_text(record: dict[str, Any], figures: str) -> str:
    """A benchmark's tables in the order of its parts, each with its command and the machine's load before it."""
    from experiments.benchmark import table

    machine = record["parts"][0]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    blocks = [f"{', '.join(machine['devices'])}; {versions}."]
    for part in record["parts"]:
        load = part["machine"]["load"]
        before = "" if load is None else f"; load before it: {load:.1f}"
        blocks.append(f"**{part['title']}.** `{part['command']}`{before}.")
        blocks.append(textwrap.indent(table.text(part), "    "))
        if part["part"] == "growth":
            blocks.append(f"![Time against dataset size, members and batch size]({figures}-growth.png)")
    return "\n" + "\n\n".join(blocks) + "\n\n"


def _protocol(found: dict[str, Any]) -> str:
    protocol = found["protocol"]
    if protocol["views"] == 1:
        return "centre crop"
    # Where the stored image has no margin, the ten are two, five times each.
    return "with mirror image" if protocol["input_size"] == protocol["stored_size"] else "ten views"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.publish", description="Write results into README.md and the pages of docs.")
    kinds = "a finished run, an ablation, a claim or a benchmark"
    parser.add_argument("results", nargs="*", metavar="NAME=DIR", help=f"{kinds}; none: write the pages again")
    args = parser.parse_args(argv)
    names = []
    for result in args.results:
        name, equals, directory = result.partition("=")
        if not equals or not Path(directory).is_dir():
            raise UserError(f"{result!r} is not NAME=DIR of a directory that is there")
        keep(name, Path(directory))
        names.append(name)
    changed = render()
    shown = {name for page in PAGES for _, name, _ in BLOCK.findall(page.read_text(encoding="utf-8"))}
    for name in names:
        if name not in shown:
            print(f"no page shows {name}; where it shall stand, write:\n<!-- result {name} -->\n<!-- end of result -->")
    print(f"changed: {', '.join(map(str, changed))}" if changed else "the pages say what the files do")


if __name__ == "__main__":
    run_cli(main)
