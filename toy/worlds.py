"""Draws worlds at random around the shipped one, and counts in how many of them each claim comes out.

    WORLDS=8 bash toy/run.sh worlds                         plays worlds 1 to 8, then does this:
    python toy/worlds.py runs/toy/worlds/world*/ --out DIR  measures played worlds, and reports on them
    python toy/worlds.py DIR/world*.json --out DIR          reports on measured worlds, on any machine

Not part of the method. The documents of the shipped base were changed until it had the weaknesses that the
methods repair. So that base shows that an effect can occur, not how often. Here nobody tunes: the documents
are drawn from ranges that were committed first. No world is drawn again, and none is left out: worlds whose
base cannot add or hint are marked, and counted. No document has the word `careful`: how to use feedback
stands in the documents of some default students only.

All worlds share problems, tests, settings and one base that has learned the skills (world.SKILLS).
From this base the base of each world learns the world's own documents. A world has one seed, which is its
number, and arms that are trained on math. Each claim is a difference of arms on the same 500 problems, with
its 95 % interval over problems (parts/measures.py). It holds in a world if the interval is above 0, and it is
against the claim if below. One seed tells little about one world: if seeds differ by 4 points, a claim with
no effect holds in one world of seven. The mean over worlds has an interval over worlds, which includes how
seeds differ.

Worlds 1 and 2 had two false starts. The first had a base from scratch for each, and hints of one token
where `words` is now; it was given up before a test was played, as the base of world 2 had not learned to add.
The second had the shipped world's learning rate of RL and was played to the end (worlds/rate-8e-4): RL's own
reward in training fell in both worlds.
"""

import argparse
import itertools
import json
import random
import sys
from pathlib import Path
from typing import NamedTuple

import numpy
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from common import Dialogue  # noqa: E402
from parts import measures, report  # noqa: E402
from parts.runs import BadInput, run_script, write_atomically  # noqa: E402
from toy.world import HINTS, World  # noqa: E402

# Tokens that the base of the skills is trained on, then the base of each world, which starts from it.
SKILLS_TOKENS, TOKENS = 12_000_000, 8_000_000
# {value of a world: how it is drawn}; `log` is uniform in the logarithm. In brackets: the shipped world.
RANGES = {
    "attentive": ("uniform", 0.05, 0.5),  # share of students who use feedback (0.25 of default students)
    "repeats": ("uniform", 0.1, 0.9),  # share of the others who repeat their attempt; the rest guess (0.67)
    "sharded attentive": ("uniform", 0.05, 0.5),  # in sharded documents: share who use all facts (0.25)
    "sharded repeats": ("uniform", 0.1, 0.9),  # share of the others there who repeat their attempt (0.67)
    "habit lasts": ("choice", "document", "problem", "turn"),  # until another is drawn (document)
    "moves to": ("choice", "next", "any"),  # possible answer that attentive students turn to (next)
    "first slip": ("uniform", 0.0, 0.5),  # random values in first attempts (0.3)
    "slip": ("uniform", 0.0, 0.2),  # the same in revisions, of attentive students; if sharded, of all (0.05)
    "hints": ("choice", *HINTS),  # what they say: World.hints (values)
    # Probability that a turn is a question. If habits last a turn, that of the first habit stays.
    "attentive ask": ("log", 0.003, 0.3),  # (0.01; careful students 0.4)
    "others ask": ("log", 0.001, 0.1),  # (0.003)
    "sharded attentive ask": ("log", 0.02, 0.5),  # while facts are missing; else they answer early (0.2)
    "sharded others ask": ("log", 0.001, 0.1),  # (never)
    # Weights of the kinds of documents; divided by their sum, shares. (Shares there, careful ones included.)
    "certain": ("log", 0.02, 0.08),  # (0.04)
    "single": ("log", 0.02, 0.08),  # (0.04)
    "dialogue": ("log", 0.2, 0.6),  # (0.40)
    "reply": ("log", 0.03, 0.1),  # (0.04)
    "teacher": ("log", 0.06, 0.2),  # (0.08)
    "asker": ("log", 0.04, 0.16),  # (0.08)
    "sharded": ("log", 0.1, 0.4),  # (0.21)
    "pair": ("log", 0.03, 0.3),  # (0.11)
}
KINDS = list(RANGES)[-8:]  # of documents
# {skill: least share}: a base that is below one of them in math or code "lacks skills".
LEAST = {"hint is true": 0.9, "solves at the first turn": 0.1}


def draw_values(number):
    """{name of RANGES: value} of world `number`, to three digits; those of KINDS are shares, sum 1."""
    rng, values = random.Random(f"world {number}"), {}
    for name, (how, *bounds) in RANGES.items():
        if how == "choice":
            values[name] = rng.choice(bounds)
            continue
        low, high = bounds
        value = low * (high / low) ** rng.random() if how == "log" else rng.uniform(low, high)
        values[name] = float(f"{value:.3g}")
    total = sum(values[kind] for kind in KINDS)
    return values | {kind: float(f"{values[kind] / total:.3g}") for kind in KINDS}


def draw(number):
    """World `number`, from 1 on."""
    v = draw_values(number)

    def habits(attentive, repeats):
        others = 1 - attentive
        return {"attentive": attentive, "repeats": others * repeats, "afresh": others * (1 - repeats)}

    return World(
        number=number,
        habits=habits(v["attentive"], v["repeats"]),
        sharded_habits=habits(v["sharded attentive"], v["sharded repeats"]),
        habit_lasts=v["habit lasts"],
        moves_to=v["moves to"],
        first_slip=v["first slip"],
        slip=v["slip"],
        asks=(v["attentive ask"], v["others ask"]),
        sharded_asks=(v["sharded attentive ask"], v["sharded others ask"]),
        hints=v["hints"],
        shares={kind: v[kind] for kind in KINDS},
    )


class Claim(NamedTuple):
    """The sum of `number` over the runs of plus, minus that over the runs of minus, should be above 0.

    A run is a folder of `evaluate.py play`: TESTS/ARM/FILE.
    """

    name: str
    paper: str  # the figure or table that makes the claim
    plus: tuple
    minus: tuple
    number: str  # of measures.dialogue_numbers

    @property
    def unit(self):
        """(factor, name) of the unit in tables and the picture."""
        return (10, "questions per 10 dialogues") if self.number == "question" else (100, self.number)

    @property
    def base(self):
        """The run of the base in the test of the first run of plus."""
        tests, _, file = self.plus[0].split("/")
        return f"{tests}/base/{file}"

    def leads_base(self, world):
        """Whether the first run of plus is above the base in a measured world."""
        arm, base = (world["means"][run][self.number] for run in (self.plus[0], self.base))
        return arm > base


def claim(name, paper, tests, plus, minus, number):
    """A Claim about two arms in one test."""
    return Claim(name, paper, (tests.format(plus),), (tests.format(minus),), number)


MATH, CODE = "tests/{}/math_test", "tests/{}/code_test"
SHARDED_MATH, SHARDED_CODE = "tests-sharded/{}/math_shards", "tests-sharded/{}/code_shards"
MUTE, HELD_OUT = "tests-mute/{}/math_test", "tests-ranges/{}/math_test"
ALL_SHARDS = "within 4"  # a sharded problem has three or four turns
CLAIMS = [
    claim("MT-RL − base", "Fig. 1", MATH, "mt-rl", "base", "within 10"),
    claim("MT-RL − ST-RL", "Fig. 1", MATH, "mt-rl", "st-rl", "within 10"),
    claim("MT-SFT − ST-RL", "Fig. 1", MATH, "mt-sft", "st-rl", "within 10"),
    claim("MT-RL − MT-SFT", "Fig. 1", MATH, "mt-rl", "mt-sft", "within 4"),
    claim("transfer to code, MT-RL − base", "Fig. 4", CODE, "mt-rl", "base", "within 4"),
    claim("transfer to code, MT-RL − ST-RL", "Fig. 4", CODE, "mt-rl", "st-rl", "within 10"),
    claim("sharded math, MT-RL − ST-RL", "Table 1", SHARDED_MATH, "mt-rl", "st-rl", ALL_SHARDS),
    claim("sharded code, MT-RL − ST-RL", "Table 1", SHARDED_CODE, "mt-rl", "st-rl", ALL_SHARDS),
    claim("primed − unprimed RL", "Fig. 5", MATH, "primed-rl", "unprimed-rl", "within 4"),
    claim("questions, primed − unprimed RL", "Fig. 5", MATH, "primed-rl", "unprimed-rl", "question"),
    Claim(  # what is said counts, not that one may try again
        "MT-RL − base, minus the same with a mute teacher",
        "control",
        (MATH.format("mt-rl"), MUTE.format("base")),
        (MATH.format("base"), MUTE.format("mt-rl")),
        "within 10",
    ),
    claim("MT-RL − the same trained with a mute teacher", "control", MATH, "mt-rl", "mute-rl", "within 10"),
    claim("held-out feedback, MT-RL − ST-RL", "control", HELD_OUT, "mt-rl", "st-rl", "within 10"),
]
SHOWN = ("within 1", "within 4", "within 10", "question")  # means that a world's file keeps of each test


def measure(folder):
    """The small record of a played world: drawn values, skills, means of its tests, and each claim's effect.

    folder: that of `toy/run.sh worlds`, such as world3. Raises BadInput if a test is missing or unfinished,
    or if the tests of a claim have different problems.
    """
    folder, loaded, problems = Path(folder) / "math", {}, {}

    def by_problem(test):
        """{number: float64 [problems]} of a test, the problems sorted."""
        if test not in loaded:
            run = measures.load_test(folder / test, Dialogue.from_row)
            problems[test] = {d.problem for d in run.dialogues}
            turns = max(d.limit for d in run.dialogues)
            names = list(measures.dialogue_numbers(run.dialogues[0], turns, 0))
            x = measures.by_problem([run], lambda d: measures.dialogue_numbers(d, turns, 0))
            loaded[test] = dict(zip(names, x.T))
        return loaded[test]

    record, effects = read_json(folder / "base" / "world.json", "drawn"), {}
    for c in CLAIMS:
        x = {run: by_problem(run)[c.number] for run in (*c.plus, *c.minus, c.base)}
        if any(problems[run] != problems[c.base] for run in x):
            raise BadInput(f"{folder}: the tests of {c.name} have different problems; play them again")
        difference = sum(x[run] for run in c.plus) - sum(x[run] for run in c.minus)
        effects |= measures.estimates([c.name], difference[None, :, None], shares=False, paired=True)
    for file in folder.glob("tests*/*/*/metrics.jsonl"):  # also those of no claim
        by_problem(str(file.parent.relative_to(folder)))
    means = {t: {n: x[n].mean().item() for n in SHOWN if n in x} for t, x in sorted(loaded.items())}
    return rounded(record | {"effects": effects, "means": means})


WANTED = "give folders of played worlds, or their JSON files"


def read_json(file, key):
    """The object in a JSON file. Raises BadInput if the file is missing or the object lacks a key."""
    try:
        record = json.loads(file.read_text())
    except (OSError, ValueError) as e:
        raise BadInput(f"{file}: cannot be read ({e}); {WANTED}") from None
    if key not in record:
        raise BadInput(f"{file}: has no {key}; {WANTED}")
    return record


def rounded(value):
    """The same JSON value with all numbers rounded to four places."""
    if isinstance(value, dict):
        return {name: rounded(part) for name, part in value.items()}
    return round(value, 4) if isinstance(value, float) else value


def verdict(effect):
    """`holds`, `against` or `open`: whether an effect's interval is above 0, below 0, or holds 0."""
    return "holds" if effect["low"] > 0 else "against" if effect["high"] < 0 else "open"


def lacks_skills(world):
    """Whether the base of a measured world is below LEAST in math or code."""
    return any(skills[name] < least for skills in world["skills"].values() for name, least in LEAST.items())


def effects_of(worlds):
    """The mean effect of each claim: float64 [worlds, claims]."""
    return torch.tensor([[w["effects"][c.name]["mean"] for c in CLAIMS] for w in worlds], dtype=torch.float64)


def ranks(rows):
    """Ranks in each column, with mean 0 and norm 1: float64 [n, columns]. Equal values have equal ranks; a
    column of equal values becomes 0.
    """
    x = numpy.asarray(rows)
    found = (x[:, None] > x).sum(1) + (x[:, None] == x).sum(1) / 2
    found = found - found.mean(0)
    return found / numpy.maximum(numpy.linalg.norm(found, axis=0), 1e-9)


def correlations(worlds, shuffles=2000):
    """(found, p). found: [{"claim", "value", "rho"}], the strongest first: Spearman's, of each effect with
    each drawn value; a choice counts as its place in RANGES. p: the share of random assignments of the drawn
    values to the worlds in which some correlation is as strong as the strongest found.
    """

    def place(name, value):
        how, *bounds = RANGES[name]
        return bounds.index(value) if how == "choice" else value

    drawn = ranks([[place(name, w["drawn"][name]) for name in RANGES] for w in worlds])
    effects = ranks(effects_of(worlds))
    rho, rng = drawn.T @ effects, numpy.random.default_rng(0)
    found = [
        {"claim": c.name, "value": name, "rho": round(rho[i, j].item(), 2)}
        for i, name in enumerate(RANGES)
        for j, c in enumerate(CLAIMS)
        if drawn[:, i].any() and effects[:, j].any()
    ]
    strongest = [abs(rng.permutation(drawn).T @ effects).max() for _ in range(shuffles)]
    as_strong = sum(x >= abs(rho).max() - 1e-9 for x in strongest)
    return sorted(found, key=lambda row: -abs(row["rho"])), (1 + as_strong) / (1 + shuffles)


def tables(worlds, found, p):
    """{title: rows} for report.markdown. found, p: from correlations()."""
    claims, drawn, heads = [], [], [f"world {w['world']}" for w in worlds]
    over_worlds = measures.estimates([c.name for c in CLAIMS], effects_of(worlds)[None], shares=False)
    for c in CLAIMS:
        effects = [w["effects"][c.name] for w in worlds]
        verdicts = [verdict(effect) for effect in effects]
        factor, unit = c.unit
        row = {"claim": f"{c.name}, {unit}", "source": c.paper}
        row["mean over worlds"] = report.cell(over_worlds[c.name], factor)
        row |= {word: f"{verdicts.count(word)} of {len(worlds)}" for word in ("holds", "against", "open")}
        leads = [c.leads_base(w) for word, w in zip(verdicts, worlds) if word == "holds"]
        row["holds, and leads the base"] = f"{sum(leads)} of {len(worlds)}"
        skilled = [word for word, w in zip(verdicts, worlds) if not lacks_skills(w)]
        row["holds, base has the skills"] = f"{skilled.count('holds')} of {len(skilled)}"
        claims.append(row | {head: report.cell(e, factor) for head, e in zip(heads, effects)})
    for name in RANGES:
        drawn.append({"": name, **{head: str(w["drawn"][name]) for head, w in zip(heads, worlds)}})
    for domain, name in itertools.product(("math", "code"), LEAST):
        shares = {head: f"{w['skills'][domain][name]:.2f}" for head, w in zip(heads, worlds)}
        drawn.append({"": f"{name}, {domain}", **shares})
    drawn.append({"": "lacks skills", **{h: "yes" * lacks_skills(w) for h, w in zip(heads, worlds)}})
    shown = {"Claims, ± over problems, mean ± over worlds": claims, "Worlds": drawn}
    if found:
        strongest = f"Strongest of {len(found)} rank correlations (as strong by chance: p = {p:.2f})"
        shown[strongest] = [{name: str(value) for name, value in row.items()} for row in found[:6]]
    return shown


COLORS = {"holds": "#0072b2", "open": "#999999", "against": "#d55e00"}


def draw_picture(file, worlds):
    """A row a claim, and in it a dot a world with its interval; hollow if the world's base lacks skills."""
    figure, (axis, *_) = report.new_figure(1, 8, 1 + 0.55 * len(CLAIMS))
    for i, c in enumerate(CLAIMS):
        axis.axhline(i + 0.5, color="#eeeeee", lw=0.8)
        for j, w in enumerate(worlds):
            mean, low, high = (c.unit[0] * w["effects"][c.name][key] for key in ("mean", "low", "high"))
            color = COLORS[verdict(w["effects"][c.name])]
            y, fill = i + 0.8 * ((j + 0.5) / len(worlds) - 0.5), "white" if lacks_skills(w) else color
            axis.errorbar(mean, y, xerr=[[mean - low], [high - mean]], fmt="o", ms=4, color=color, mfc=fill)
        holds = sum(verdict(w["effects"][c.name]) == "holds" for w in worlds)
        axis.text(1.01, i, f"{holds} of {len(worlds)}", transform=axis.get_yaxis_transform(), va="center")
    axis.text(1.01, -0.7, "holds in", transform=axis.get_yaxis_transform(), va="center")
    for word, color in COLORS.items():
        axis.plot([], [], "o", color=color, label=word)
    axis.plot([], [], "o", color="black", mfc="white", label="base lacks skills")
    axis.axvline(0, color="black", lw=0.8)
    axis.set_yticks(range(len(CLAIMS)), [f"{c.name}\n({c.unit[1]}, {c.paper})" for c in CLAIMS], fontsize=8)
    axis.set(ylim=(len(CLAIMS) - 0.4, -0.9), xlabel="percentage points, or questions")
    report.save_figure(figure, file)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("worlds", nargs="+", type=Path, help="folders of played worlds, or files of measured")
    parser.add_argument(
        "--out", type=Path, required=True, help="folder of worlds.json, worlds.md, worlds.png"
    )
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    worlds = []
    for path in args.worlds:
        if path.is_dir():
            worlds.append(measure(path))
            text = json.dumps(worlds[-1], indent=1) + "\n"
            write_atomically(args.out / f"{path.name}.json", text)
        elif path.name != "worlds.json":
            worlds.append(read_json(path, "effects"))
    if len({w["world"] for w in worlds}) < len(worlds):
        raise BadInput("a world is given twice")
    worlds.sort(key=lambda w: w["world"])
    found, p = correlations(worlds)
    shown = tables(worlds, found, p)
    counts = {c.name: [verdict(w["effects"][c.name]) for w in worlds] for c in CLAIMS}
    result = {"worlds": [w["world"] for w in worlds], "verdicts": counts, "correlations": found, "p": p}
    write_atomically(args.out / "worlds.json", json.dumps(result, indent=1) + "\n")
    text = "\n\n".join(report.markdown(title, rows) for title, rows in shown.items())
    write_atomically(args.out / "worlds.md", text + "\n")
    draw_picture(args.out / "worlds.png", worlds)
    print(f"{text}\n\nwritten to {args.out}: worlds.json, worlds.md, worlds.png")


if __name__ == "__main__":
    run_script(main)
