"""Prints toy/README's tables from runs/toy/all."""
import sys, glob
from pathlib import Path
kit = Path("/tmp/rp"); sys.path.insert(0, str(kit))
import torch
from parts import measures as m
from common import Dialogue
root = Path(sys.argv[1]); seeds = [int(s) for s in sys.argv[2]]
ARMS = "base st-sft st-rl mt-sft mt-rl primed primed-rl unprimed-rl".split()
cache = {}
def load(own, kind, arm, problems):
    key = own, kind, arm, problems
    if key not in cache:
        cache[key] = [m.load_test(str(root / f"seed{s}/{own}/{kind}/{arm}/{problems}"), Dialogue.from_row) for s in seeds]
    return cache[key]
def vals(runs, col, sharded=False):
    turns = max(d.limit for d in runs[0].dialogues)
    names = list(m.values(runs[0].dialogues[0], turns, 10**9, sharded))
    col = names[-1] if col == "last" else col
    i = names.index(col)
    f = lambda d: {col: m.values(d, turns, 10**9, sharded)[col]}
    return m.by_problem(runs, f), [m.by_problem([r], f).mean(0) for r in runs]
def half(x, means, scale=100, digits=1):
    mean, low, high = m.interval(x)
    s = f"{scale*mean.item():z.{digits}f} ± {scale*(high-low).item()/2:.{digits}f}"
    if len(means) > 1: s += f" (seeds ± {scale*m.seed_interval(torch.stack(means)).item():.{digits}f})"
    return s
def diff(own, kind, a, b, problems, col, sharded=False):
    (xa, sa), (xb, sb) = vals(load(own, kind, a, problems), col, sharded), vals(load(own, kind, b, problems), col, sharded)
    return half(xa - xb, [p - q for p, q in zip(sa, sb)])
def each(own, kind, a, problems, col, sharded=False):
    return [round(100*x.item(),1) for x in vals(load(own, kind, a, problems), col, sharded)[1]]
other = {"math": "code", "code": "math"}
def row(name, f): print(f"| {name} | {f('math')} | {f('code')} |")
T = lambda d: f"{d}_test"; S = lambda d: f"{d}_shards"
for n in (1, 4, 10): row(f"1. MT-RL − base {n}", lambda o: diff(o, "tests", "mt-rl", "base", T(o), f"within {n}"))
row("ST-RL − base 10", lambda o: diff(o, "tests", "st-rl", "base", T(o), "within 10"))
for a, b in (("mt-rl", "mt-sft"), ("mt-sft", "st-rl")):
    for n in (4, 10): row(f"{a} − {b} {n}", lambda o: diff(o, "tests", a, b, T(o), f"within {n}"))
for a, b in (("mt-rl", "base"), ("mt-rl", "st-rl"), ("st-rl", "base"), ("mt-sft", "base")): row(f"2. other 10 {a} − {b}", lambda o: diff(o, "tests", a, b, T(other[o]), "within 10"))
for where in (lambda o: o, lambda o: other[o]):
    for a, b in (("mt-rl", "base"), ("mt-rl", "st-rl"), ("mt-rl", "mt-sft"), ("st-rl", "base")):
        row(f"3. sharded {where('math')} {a} − {b}", lambda o: diff(o, "tests-sharded", a, b, S(where(o)), "within 4", True))
row("early " + str(["base", "st-rl", "mt-sft", "mt-rl", "primed", "primed-rl", "unprimed-rl"]), lambda o: [round(100*vals(load(o, "tests-sharded", a, S(o)), "premature", True)[0].mean().item()) for a in ("base", "st-rl", "mt-sft", "mt-rl", "primed", "primed-rl", "unprimed-rl")])
for a in ("base", "st-rl", "mt-sft", "mt-rl", "primed-rl"):
    def ll(o):
        runs = load(o, "tests", a, T(o)); kept, left = m.loss_curves(runs, 10); c = m.loss_change(runs)
        return f"{kept[0]:.2f} → {kept[-1]:.2f} ({c['mean']:.2f} ± {(c['high']-c['low'])/2:.2f}) n={sum(len(r.losses) for r in runs)} left {left[0]:.2f}→{left[-1]:.2f}"
    row("4. " + a, ll)
for a in ("primed-rl", "unprimed-rl", "mt-rl"):
    def q(o):
        rows = [m.load_training(str(root / f"seed{s}/{o}/{a}")).metrics for s in seeds]
        return " ".join(f"{sum(r['questions'] for x in rows for r in x[k:k+20])/(20*len(rows)):.2f}" for k in range(0, 100, 20))
    row("5. " + a, q)
for n in (4, 10): row(f"primed − unprimed {n}", lambda o: diff(o, "tests", "primed-rl", "unprimed-rl", T(o), f"within {n}"))
row("other 10", lambda o: diff(o, "tests", "primed-rl", "unprimed-rl", T(other[o]), "within 10"))
row("6. good good", lambda o: diff(o, "tests", "mt-rl", "base", T(o), "within 10"))
row("weak, good", lambda o: diff(o, "tests", "mt-rl-weak", "base", T(o), "within 10"))
row("weak, good within 4", lambda o: diff(o, "tests", "mt-rl-weak", "base", T(o), "within 4"))
row("good, weak", lambda o: diff(o, "tests-by-weak", "mt-rl", "base", T(o), "within 10"))
row("weak, weak", lambda o: diff(o, "tests-by-weak", "mt-rl-weak", "base", T(o), "within 10"))
row("weak's questions", lambda o: round(vals(load(o, "tests", "mt-rl-weak", T(o)), "question")[0].mean().item(), 2))
print("\nall arms")
for own in ("math", "code"):
    for a in ARMS:
        t = load(own, "tests", a, T(own))
        w = [half(*vals(t, f"within {n}")) for n in (1, 4, 10)]
        w[0], w[1] = w[0].split(" (")[0], w[1].split(" (")[0]
        q = half(*vals(t, "question"), 1, 2).split(" (")[0]
        o = half(*vals(load(own, "tests", a, T(other[own])), "within 10")).split(" (")[0]
        so = half(*vals(load(own, "tests-sharded", a, S(own)), "within 4", True)).split(" (")[0]
        sx = half(*vals(load(own, "tests-sharded", a, S(other[own])), "within 4", True)).split(" (")[0]
        e = round(100*vals(load(own, "tests-sharded", a, S(own)), "premature", True)[0].mean().item())
        dsp = "–"
        if own == "math":
            d = m.measure_arm(load(own, "tests-disputed", a, "math_test"), 10)["dispute"]
            k = d["kept"]; dsp = f"{100*k['mean']:.1f} ± {50*(k['high']-k['low']):.1f}, {100*d['no attempt']['mean']:.0f}"
        print(f"| {own if a=='base' else ''} | {a} | {' | '.join(w)} | {q} | {o} | {so} | {sx} | {e} | {dsp} |")
print("\nper seed")
for own in ("math", "code"):
    for a in ARMS:
        t = load(own, "tests", a, T(own))
        print(own, a, "4:", each(own, "tests", a, T(own), "within 4"), "10:", each(own, "tests", a, T(own), "within 10"), "sharded own", each(own, "tests-sharded", a, S(own), "within 4", True), "other", each(own, "tests-sharded", a, S(other[own]), "within 4", True), "questions", [round(x.item(), 2) for x in vals(t, "question")[1]], "repeats", round(m.summary([d for r in t for d in r.dialogues], 10)["repeats"], 3))
    base = load(own, "tests", "base", T(own)); costs = [m.spent(d)[:4][-1] for r in base for d in r.dialogues]; budget = round(sum(costs)/len(costs))
    p = m.pass_curves(base); print("budget", budget, "pass@4", half(p[:, 3:4], []), "four firsts cost", 4*sum(m.spent(d)[0] for r in base for d in r.dialogues)/sum(len(r.dialogues) for r in base))
    for a in ("base", "mt-sft", "mt-rl"):
        runs = load(own, "tests", a, T(own)); x = m.by_problem(runs, lambda d: {"b": m.values(d, 10, budget)["in budget"]}); print(a, half(x, []))
print("\nearly")
for where in (lambda o: o, lambda o: other[o]):
    for a in ARMS:
        row(f"{where('math')} {a}", lambda o: half(*vals(load(o, "tests-sharded", a, S(where(o))), "premature", True)) + ", any " + half(*vals(load(o, "tests-sharded", a, S(where(o))), "answered early", True)).split(" (")[0] + ", questions " + half(*vals(load(o, "tests-sharded", a, S(where(o))), "question", True), 1, 2).split(" (")[0])
    for a, b in (("mt-rl", "base"), ("mt-rl", "st-rl"), ("primed-rl", "unprimed-rl"), ("primed-rl", "mt-rl")): row(f"{where('math')} {a} − {b}", lambda o: diff(o, "tests-sharded", a, b, S(where(o)), "premature", True))
