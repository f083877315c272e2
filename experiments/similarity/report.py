"""The page of similarity, and the answer in words.

The command (__main__.py) calls it:

    write(found, out)    # out/similarity.html, out/similarity.json, out/figures/
"""

import json
import textwrap
from pathlib import Path
from typing import Any

import numpy as np

from alexnet_jax.history import plain
from alexnet_jax.report import page
from alexnet_jax.report.style import any_script
from alexnet_jax.runlog import writing
from alexnet_jax.tables import aligned
from experiments.similarity import figures
from experiments.similarity.compare import Found

LISTED = 5  # pairs with the largest gain


def in_words(found: Found) -> str:
    """How alike the layers are, by depth, within each group and between groups; what matching finds; and what the ensemble gains."""
    parts = []
    for i, first in enumerate(found.groups):
        for j in range(i, len(found.groups)):
            values = found.between(i, j)
            if len(values):
                who = f"two networks of {first}" if i == j else f"networks of {first} and of {found.groups[j]}"
                # NaN where a layer says the same of every image: nothing can be like it.
                mean = np.array([layer[np.isfinite(layer)].mean() if np.isfinite(layer).any() else np.nan for layer in values.T])
                if np.isfinite(mean).any():
                    most, least = (f"{found.layers[k]} (CKA {mean[k]:.2f})" for k in (int(np.nanargmax(mean)), int(np.nanargmin(mean))))
                    parts.append(f"{who} are most alike in {most} and least in {least}")
                if np.isnan(values).any():
                    dead = ", ".join(layer for layer, column in zip(found.layers, values.T, strict=True) if np.isnan(column).any())
                    same = "some put out the same for all images, or for all but one"
                    parts.append(f"of {who}, in {dead} {same}: such pairs are left out there")
    if found.matchings:
        cosine, chance = (np.mean([np.mean(getattr(one, field)) for one in found.matchings.values()]) for field in ("cosine", "chance"))
        parts.append(f"matched one to one, first filters of two networks have a mean cosine of {cosine:.2f} ({chance:.2f} by chance)")
    if len(found.networks) > 1:
        alone, all_of_them = f"{100 * found.errors.mean():.2f} %", f"{100 * found.ensemble_error:.2f} %"
        parts.append(f"one network errs on {alone}, all {len(found.networks)} together on {all_of_them}")
    if not parts and np.isnan(found.cka).all():
        parts.append("this one network puts out the same for all images, or for all but one")
    elif not parts:
        i, j = divmod(int(np.nanargmin(found.cka[0, :, 0])), len(found.layers))
        names = f"{found.layers[i]} and {found.layers[j]}"
        parts.append(f"of the layers of this one network, {names} are least alike (CKA {found.cka[0, i, 0, j]:.2f})")
    text = "; ".join(parts)
    return f"{text[:1].upper()}{text[1:]}."


def in_text(found: Found) -> str:
    """Everything, for the terminal."""
    pairs = [aligned(best_pairs(found), "<>")] if len(found.networks) > 1 else []
    where = f"{found.where}, {found.images:,} images{f': {found.note}' if found.note else ''}"
    return "\n\n".join([where, *pairs, textwrap.fill(in_words(found) + gain_follows(found), 110)])


def best_pairs(found: Found) -> list[tuple[str, ...]]:
    """The pairs that gain most together, with how they differ."""
    i, j = np.triu_indices(len(found.networks), 1)
    rows: list[tuple[str, ...]] = [("pair", "gain, points", "disagree", "Q", "KL")]
    for k in np.argsort(-found.pairs.gain[i, j], kind="stable")[:LISTED]:
        of = [matrix[i[k], j[k]] for matrix in (found.pairs.gain, found.pairs.disagreement, found.pairs.q, found.pairs.kl)]
        names = f"{found.networks[i[k]]} + {found.networks[j[k]]}"
        rows.append((names, f"{100 * of[0]:.2f}", f"{100 * of[1]:.2f} %", "-" if np.isnan(of[2]) else f"{of[2]:.2f}", f"{of[3]:.3f}"))
    return rows


def gain_follows(found: Found) -> str:
    """Whether pairs that disagree more gain more: Spearman's rank correlation over the pairs."""
    from scipy.stats import spearmanr

    i, j = np.triu_indices(len(found.networks), 1)
    if len(i) < 3 or not (np.ptp(found.pairs.gain[i, j]) and np.ptp(found.pairs.disagreement[i, j])):
        return ""
    correlation = spearmanr(found.pairs.disagreement[i, j], found.pairs.gain[i, j]).statistic
    return f" Over the {len(i)} pairs, the rank correlation of gain and disagreement is {correlation:.2f}."


@any_script()
def write(found: Found, out: Path) -> Path:
    """Write the page, its figures and the numbers, and return the page's path.

    Raises:
      UserError: a file can't be written.
    """
    names = ", ".join(f"{i}: {name}" for i, name in enumerate(found.networks))
    layers: list[page.Block] = [page.Text(_CKA + _EMPTY * bool(np.isnan(found.cka).any()))]
    if len(found.networks) > 1:
        layers.append(page.Drawing("depth", figures.depth_figure(found), in_words(found)))
    layers += [
        page.Text("Each layer with each: within the first network, and of the first network (down) with the second (across)."),
        page.Drawing("layers", figures.layers_figure(found), "CKA of all pairs of layers"),
    ]
    sections = [page.Section("Layers", layers)]
    if found.matchings:
        pair, matching = next(iter(found.matchings.items()))
        text = (
            f"The best matched filters of {found.networks[pair[0]]} (above) and {found.networks[pair[1]]} (below), with their cosines. All "
            f"{len(matching.cosine)} have a mean cosine of {matching.cosine.mean():.2f}; with shuffled weights it is {matching.chance:.2f}."
        )
        drawing = page.Drawing("filters", figures.filters_figure(found, pair), text)
        sections.append(page.Section("First filters", [page.Text(text), drawing]))
    if len(found.networks) > 1:
        heading, *rows = best_pairs(found)
        blocks: list[page.Block] = [
            page.Text(f"{_PAIRS} The networks are {names}.{gain_follows(found)}"),
            page.Drawing("pairs", figures.pairs_figure(found), "Disagreement, Q statistic, KL divergence and gain of each pair"),
            page.Table(heading, rows),
        ]
        sections.append(page.Section("Answers", blocks))
    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        (out / "similarity.json").write_text(json.dumps(plain(_record(found)), indent=1) + "\n")
    page.write_figures(out / "figures", sections, found.note)
    headline = f"{found.note}. {in_words(found)}" if found.note else in_words(found)
    status = f"{len(found.networks)} networks; {found.where}, {found.images:,} images"
    page.write_page(out / "similarity.html", "How alike are these networks?", status, headline, sections)
    page.write_result(out, in_text(found))
    return out / "similarity.html"


_CKA = (
    "CKA is 1 where one layer is the other up to a rotation and a scale, and 0 for independent layers. Lines are means over pairs of "
    "networks, bands their range. It is linear, debiased, and averaged over minibatches, so for independent layers it may be a "
    "little below 0."
)
_EMPTY = " Empty squares are of layers that put out the same for all images, or for all but one: these can't be compared."
_PAIRS = (
    "For each pair of networks: how often their answers differ; Yule's Q (1: they err on the same images, 0: independently); the "
    "divergence of their probabilities; and the gain, their mean error minus the error of their mean probability."
)


def _record(found: Found) -> dict[str, Any]:
    return {
        "groups": found.groups,
        "networks": found.networks,
        "where": found.where,
        "layers": found.layers,
        "cka": found.cka,
        "matched_cosine": {f"{i},{j}": one.cosine.mean() for (i, j), one in found.matchings.items()},
        "errors": found.errors,
        "ensemble_error": found.ensemble_error,
        **found.pairs._asdict(),
    }
