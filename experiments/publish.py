"""A command that writes the results of runs into README.md and docs. Nobody copies a number by hand, so pages and runs always agree.

    python -m experiments.publish fashion_ensemble=runs/fashion_ensemble               a run, and its evaluations by alexnet_jax.evaluate
    python -m experiments.publish lrn=ablations/lrn                                    an ablation
    python -m experiments.publish figure1=runs/reproduce/digits-quick/figure1          a claim of experiments.reproduce
    python -m experiments.publish rates=sweeps/rates                                   a sweep
    python -m experiments.publish digits_lrn=runs/digits/lrn                           a page of explain, probe, lrn or similarity
    python -m experiments.publish benchmark=benchmarks                                 the measurements of experiments.benchmark
    python -m experiments.publish scaling=benchmarks/scaling                           the estimates of experiments.scaling
    python -m experiments.publish                                                      write the pages again from the kept files
    python -m experiments.publish --check                                              fail if that would change a page

`NAME=DIR` stores the published part of a directory in docs/results/NAME.json, and its figures in docs/figures/. A page shows the result
between the lines `<!-- result NAME -->` and `<!-- end of result -->`, and the table of claims (verdicts.py) between `<!-- claims -->` and
`<!-- end of claims -->`. A test checks that the pages agree with the stored files.
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
from experiments import published, verdicts
from experiments.benchmark import PARTS
from experiments.sweep.record import FILE as SWEEP

PAGES = (Path("README.md"), *(Path(f"docs/{name}.md") for name in ("results", "performance", "understanding")))
KEPT, FIGURES = Path("docs/results"), Path("docs/figures")
BLOCK = re.compile(r"(<!-- result (\w+) -->\n).*?(<!-- end of result -->)", re.S)
FIGURE = re.compile(r"!\[[^]]*\]\((?!http)([^)]+)\)")
CLAIMS = re.compile(r"(<!-- claims -->\n).*?(<!-- end of claims -->)", re.S)


def keep(name: str, directory: Path, root: Path = Path()) -> None:
    """Write docs/results/NAME.json and docs/figures/NAME-*.png from the directory of a finished run, an ablation, a claim, a sweep, a
    benchmark, or estimates.

    Raises:
      UserError: the directory holds none of these, the run hasn't finished, or the run of an ensemble has no ensemble figure yet.
    """
    from alexnet_jax.history import EVENTS, plain
    from alexnet_jax.runlog import writing

    if not re.fullmatch(r"\w+", name):
        raise UserError(f"{name!r} can't be the name of a result; use letters, digits and _ only")
    ablation, claim, shown = directory / "ablation.json", directory / "result.txt", ["ablation", "ensemble"]
    if claim.exists() and not (directory / EVENTS).exists():  # a run may hold the page of a command that was told to write there
        figures = directory / "figures" if (directory / "figures").is_dir() else directory
        shown = sorted(path.stem for path in figures.glob("*.png"))
        record = {"kind": "claim", "text": claim.read_text(encoding="utf-8"), "figures": shown}
    elif ablation.exists():
        record, figures = {"kind": "ablation", **_read(ablation)}, directory
    elif (directory / SWEEP).exists():
        record, figures, shown = {"kind": "sweep", **sweep_record(directory)}, directory / "figures", ["results"]
    elif parts := [path for part in PARTS for place in ("", "*/") for path in sorted(directory.glob(f"{place}{part}.json"))]:
        record, figures, shown = {"kind": "benchmark", "parts": [_read(path) for path in parts]}, directory, ["growth"]
    elif programs := [_read(path) for path in sorted(directory.glob("v5e-*.json"))]:
        programs.sort(key=lambda program: (program["members"], program["devices"]))
        record, figures, shown = {"kind": "scaling", "programs": programs}, directory, []
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
    """The published part of a run: its command, its machine, its speed, its final test, and its other evaluations on the same split."""
    from alexnet_jax import history, run

    record, past = run.read_config(workdir), history.load(workdir)
    test, members = past.test, past.start.get("member_names", [])
    if not test:
        raise UserError(f"{workdir} hasn't finished; only finished runs can be published")
    evaluations = [_read(path) for path in sorted(workdir.glob("evaluation-*.json"))]
    # Only evaluations of this run alone and of its last step: at an earlier step the weights were different.
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


def sweep_record(directory: Path) -> dict[str, Any]:
    """The published part of a sweep: its command, its machine, and its table with the words that explain it."""
    from alexnet_jax import run
    from alexnet_jax.record import machine
    from experiments.sweep import ranking, record

    programs = record.load(directory).programs
    rows = ranking.rows(programs)
    if not all(row.result for row in rows):
        raise UserError(f"{directory} hasn't finished; only finished sweeps can be published")
    return {
        "command": _read(directory / SWEEP)["command"],
        "machine": machine(run.read_config(programs[0].directory)),
        "text": f"{ranking.text(rows)}\n\n{ranking.headline(rows)}\n{ranking.caption(programs)}",
    }


def render(root: Path = Path(), write: bool = True) -> list[Path]:
    """Make every block of the pages again, and write the pages that have changed, unless `write` is off; returns these pages.

    Raises:
      UserError: a page shows a result that has no file in docs/results.
    """
    changed = []
    for page in PAGES:
        before = (root / page).read_text(encoding="utf-8")
        pieces = BLOCK.split(before)  # text, begin, name, end, text, ...
        for i in range(1, len(pieces), 4):
            anchor = f'\n<a id="{pieces[i + 1]}"></a>\n' if CLAIMS.search(before) else ""  # the table of claims links to it
            pieces[i + 1] = anchor + _block(pieces[i + 1], page, root)
        after = CLAIMS.sub(lambda found: f"{found[1]}\n{verdicts.table(root / KEPT)}\n{found[2]}", "".join(pieces))
        if after != before:
            changed.append(page)
            if write:
                (root / page).write_text(after, encoding="utf-8")
    return changed


def _block(name: str, page: Path, root: Path) -> str:
    path = root / KEPT / f"{name}.json"
    if not path.exists():
        raise UserError(f"{page} shows the result {name}, but there is no {path}; make it with: python -m experiments.publish {name}=DIR")
    record = _read(path)
    figures = FIGURES.relative_to(page.parent) if page.parent != Path() else FIGURES
    forms: dict[str, Callable[[dict[str, Any], str], str]] = {
        "run": run_text,
        "ablation": ablation_text,
        "claim": claim_text,
        "sweep": sweep_text,
        "benchmark": benchmark_text,
        "scaling": scaling_text,
    }
    try:
        return forms[record["kind"]](record, f"{figures}/{name}")
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise UserError(f"{path} is no result that this command wrote ({error!r}); make it again") from None


def _read(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
      UserError: it is damaged.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is damaged ({error}); make it again") from None


def lost_figures(root: Path = Path()) -> list[str]:
    """The figures that a page shows and that aren't there."""
    shown = {page.parent / figure for page in PAGES for figure in FIGURE.findall((root / page).read_text(encoding="utf-8"))}
    return sorted(str(figure) for figure in shown if not (root / figure).exists())


def run_text(record: dict[str, Any], figures: str) -> str:
    """A run: its command, each member's top-1 error under every protocol, its speed; for several members the gain of their ensemble."""
    tests = {"centre crop": record["test"]} | {_protocol(found): found for found in record["evaluations"]}
    names = record["members"]
    several = len(names) > 1
    rows: list[tuple[str, ...]] = [
        (f"{record['test']['split']}, {record['test']['count']:,} images", f"{names[0]} ... {names[-1]}" if several else names[0])
    ]
    rows += [(protocol, f"{'  '.join(f'{100 * error:.2f}' for error in tests[protocol]['top1_error'])} %") for protocol in sorted(tests)]
    if several:  # a single network has no standard deviation and no ensemble
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
    """A command for the shell, broken into lines between its words."""
    words = " ".join(shlex.quote(word).replace(" ", "\0") for word in shlex.split(command))
    lines = textwrap.wrap(words, 120, break_long_words=False, break_on_hyphens=False)
    return " \\\n    ".join(lines).replace("\0", " ")


def _gain(test: dict[str, Any]) -> tuple[str, ...]:
    """Cells of a test: mean and standard deviation of the members' errors, the ensemble's error, its relative cut, the disagreement."""
    return (
        f"{100 * test['mean_top1_error']:.2f} ± {100 * test['std_top1_error']:.2f} %",
        f"{100 * test['ensemble_top1_error']:.2f} %",
        f"{100 * test['relative_cut']:.1f} %",
        f"{100 * test['disagreement']:.1f} %",
    )


def _published() -> str:
    """The relative error cuts of the paper's ensembles, in words."""
    one, five, seven = (published.ENSEMBLES[size] for size in (1, 5, 7))
    top1, top5 = ([f"{100 * (1 - getattr(some, top) / getattr(one, top)):.1f}" for some in (five, seven)] for top in ("top1", "top5"))
    return (
        f"On ImageNet, the paper's ensembles cut top-1 error by {top1[0]} % (five networks) and {top1[1]} % (seven, two of them\n"
        f"trained on more images), top-5 error by {top5[0]} % and {top5[1]} %."
    )


def ablation_text(record: dict[str, Any], figures: str) -> str:
    """An ablation's page without its title and its explanation of the table, its headings one level lower."""
    from alexnet_jax.history import nan_for_null
    from experiments.ablate import comparison
    from experiments.ablate import files as ablation_files

    for factor in record["factors"]:
        for level in comparison.contradictions(nan_for_null(factor)):
            raise UserError(
                f"{figures.rpartition('/')[2]}.json: the difference of {level} isn't that of its networks' errors; make it again"
            )
    body = ablation_files.markdown(nan_for_null(record)).split("\n", 1)[1].partition(ablation_files.HOW_TO_READ)[0]
    body = re.sub(r"^#", "##", body, flags=re.M)
    return re.sub(r"\]\((\w+)\.svg\)", rf"]({figures}-\1.png)", body)


def claim_text(record: dict[str, Any], figures: str) -> str:
    """A claim: the command, the text that experiments.reproduce wrote, and the figures."""
    command, text = record["text"].split("\n", 1)
    pictures = "".join(f"![{name}]({figures}-{name}.png)\n\n" for name in record["figures"])
    return f"\n```text\n{_wrapped(command)}\n{text.rstrip()}\n```\n\n{pictures}"


def sweep_text(record: dict[str, Any], figures: str) -> str:
    """A sweep: the command, the machine, the table with its explanation, and the figure."""
    blocks = [
        f"```text\n{_wrapped(record['command'])}\n\n{record['text']}\n```",
        f"Machine: {record['machine']}.",
        f"![Errors of the points]({figures}-results.png)",
    ]
    return "\n" + "\n\n".join(blocks) + "\n\n"


def benchmark_text(record: dict[str, Any], figures: str) -> str:
    """A benchmark's tables in the order of its parts, each with its command and the load of the machine before it."""
    from experiments.benchmark import table

    machine = record["parts"][0]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    blocks = [f"{', '.join(machine['devices'])}; {versions}."]
    for part in record["parts"]:
        load = part["machine"]["load"]
        before = "" if load is None else f"; load average of the minute before: {load:.1f} processes"
        blocks.append(f"**{part['title']}.** `{part['command']}`{before}.")
        blocks.append(textwrap.indent(table.text(part), "    "))
        if part["part"] == "growth":
            blocks.append(f"![Time against dataset size, members and batch size]({figures}-growth.png)")
    return "\n" + "\n\n".join(blocks) + "\n\n"


def scaling_text(record: dict[str, Any], figures: str) -> str:
    """The compiler's estimates of several programs: their commands, a summary, and what more chips would do."""
    from experiments.scaling import estimate

    programs = record["programs"]
    commands = "\n".join(_wrapped(program["command"]) for program in programs)
    blocks = [
        f"```text\n{commands}\n```",
        f"Estimates of a compiler, not measurements: {', '.join(sorted({program['compiler'] for program in programs}))}.",
        textwrap.indent(estimate.summary(programs), "    "),
    ]
    for program in programs:
        blocks.append(f"{program['topology']}, {program['members']} member{'s' * (program['members'] > 1)}, on other numbers of chips:")
        blocks.append(textwrap.indent(estimate.projection(program), "    "))
    return "\n" + "\n\n".join(blocks) + "\n\n"


def _protocol(found: dict[str, Any]) -> str:
    protocol = found["protocol"]
    if protocol["views"] == 1:
        return "centre crop"
    # If the stored image has no margin, the ten views are two different ones, five times each: the image and its mirror image.
    return "with mirror image" if protocol["input_size"] == protocol["stored_size"] else "ten views"


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser("python -m experiments.publish", description="Write results into README.md and the pages of docs.")
    kinds = "a finished run, an ablation, a claim, a sweep, a benchmark or estimates"
    parser.add_argument("results", nargs="*", metavar="NAME=DIR", help=f"{kinds}; without any, write the pages again from the kept files")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page doesn't agree with the kept files")
    args = parser.parse_args(argv)
    if args.check and args.results:
        raise UserError(f"--check stores nothing; leave {args.results[0]} out")
    if args.check and (different := render(write=False)):
        raise UserError(f"{', '.join(map(str, different))}: not what the kept files say; write with: python -m experiments.publish")
    if args.check and (lost := lost_figures()):
        raise UserError(f"the pages show figures that aren't there: {', '.join(lost)}; make their results again")
    names = []
    for result in args.results:
        name, equals, directory = result.partition("=")
        if not equals or not Path(directory).is_dir():
            raise UserError(f"{result!r} is not NAME=DIR with an existing directory DIR")
        keep(name, Path(directory))
        names.append(name)
    changed = render()
    shown = {name for page in PAGES for _, name, _ in BLOCK.findall(page.read_text(encoding="utf-8"))}
    for name in names:
        if name not in shown:
            print(f"no page shows {name} yet; to show it, add these two lines to a page:\n<!-- result {name} -->\n<!-- end of result -->")
    print(f"changed: {', '.join(map(str, changed))}" if changed else "nothing changed: the pages agree with the files")


if __name__ == "__main__":
    run_cli(main)
