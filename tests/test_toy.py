"""The toy world: its problems are ordinary ones, its documents are what the kit's views show a model, its split holds."""

import itertools
import json
import random
import re
import zlib
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import ROOT, cast_of

from common import Dialogue, Problem, grade
from generate import asker, converse, load_prompts, mute, teacher_view
from parts.engines import load_model
from parts.runs import BadInput
from toy import make_base, world, worlds
from toy.held_out_feedback import ranges

KINDS = list(dict.fromkeys(kind for _, mixture in world.LESSONS for kind in mixture))


@pytest.mark.parametrize("domain", ["math", "code"])
def test_the_solution_and_nothing_else_is_graded_correct(domain):
    rng = random.Random(0)
    for i, toy in enumerate(world.problems(rng, domain, 5, held_out=True)):
        problem = Problem(**world.line(toy, str(i)))
        assert grade(problem, problem.solution).status == "correct"
        wrong = "".join(world.attempt(domain, ((toy.answer[0] + 1) % 10, *toy.answer[1:])))
        assert grade(problem, wrong).status == "wrong"
        assert grade(problem, world.QUESTION[1]).status == "no attempt"


@pytest.mark.parametrize("domain", ["math", "code"])
def test_candidates_are_the_answers_that_the_text_allows(domain):
    rng = random.Random(1)
    for toy in world.problems(rng, domain, 20, False) + world.problems(rng, domain, 20, False, world.sharded):
        assert toy.answer in toy.candidates
        for left in toy.candidates_after:
            assert toy.answer in left and set(left) <= set(toy.candidates)
        assert not toy.candidates_after or len(set(toy.candidates_after[-1])) == 1


def statement(tokens):
    """The problem that a turn states, as a student first meets it; None if it states none."""
    tokens = tokens[1:] if tokens[:1] == [world.ASK] else tokens
    shown = itertools.takewhile(lambda word: word not in (world.BOX, world.FENCE), tokens)
    return "".join(shown) if tokens and tokens[0] in (world.COMPUTE, world.WRITE) else None


@pytest.mark.parametrize("kind", KINDS)
def test_no_document_states_a_problem_that_is_held_out(kind):
    rng, stated = random.Random(2), set()
    for _ in range(200):
        stated |= {statement(tokens) for _, tokens, _ in kind(rng, rng.choice(("math", "code")))} - {None}
    assert len(stated) > 150 and not any(zlib.crc32(text.encode()) % 10 == 0 for text in stated)


def test_all_test_problems_are_held_out():
    for domain in ("math", "code"):
        for name in ("test", "shards"):
            for row in map(json.loads, open(ROOT / "toy" / f"{domain}_{name}.jsonl")):
                assert zlib.crc32(row.get("shards", [row["prompt"]])[0].encode()) % 10 == 0


@pytest.mark.parametrize("domain", ["math", "code"])
def test_teacher_documents_are_what_the_teacher_view_shows(domain, toy):
    _, chat, prompts, problems = toy
    problem, vocab = problems[domain][0], chat.tokenizer.get_vocab()
    made, wrong, turn = missed(chat, problem)
    cast = cast_of(chat, prompts)
    view = teacher_view(cast, talk(problem, turn), problem, "informed", private(problem, turn))
    doc = world.teacher_view(made, [(world.attempt(domain, wrong), [world.TRY], wrong, wrong)])[:-1]
    assert chat.view(view) == make_base.encode(doc, vocab)[0] + [vocab["<|assistant|>"]]


@pytest.mark.parametrize("domain", ["math", "code"])
def test_asker_documents_are_what_the_asker_view_shows(domain, toy):
    _, chat, prompts, problems = toy
    problem, vocab = problems[domain][0], chat.tokenizer.get_vocab()
    made, wrong, turn = missed(chat, problem)
    ids = next(asker(cast_of(chat, prompts), talk(problem, turn), problem, turn, grade(problem, turn))).ids
    assert ids == make_base.encode(world.asker_view(made, wrong), vocab)[0] + [vocab["<|assistant|>"]]


@pytest.mark.parametrize("domain", ["math", "code"])
def test_the_careful_prompts_show_the_student_what_careful_documents_begin_with(domain, toy):
    _, chat, _, problems = toy
    problem, vocab = problems[domain][0], chat.tokenizer.get_vocab()
    made, _, _ = missed(chat, problem)
    cast = cast_of(chat, load_prompts(ROOT / "toy" / "careful.json"))
    ids = next(converse(cast, problem, "x", 4, mute)).ids
    begin = world.student_view(made, [], careful=True)
    assert ids == make_base.encode(begin, vocab)[0] + [vocab["<|assistant|>"]]


def missed(chat, problem):
    """(the Toy of a problem line, the digits of a wrong attempt at it, that attempt's text)."""
    answer = (
        tuple(json.loads(problem.tests[0]["output"]))
        if problem.domain == "code"
        else tuple(t.index(w) for t, w in zip(world.DIGIT, split(chat, problem.answer)))
    )
    wrong, text = tuple((v + 1) % 10 for v in answer), split(chat, problem.prompt)
    made = world.Toy(problem.domain, text, answer, [], [], [], text)
    return made, wrong, "".join(world.attempt(problem.domain, wrong))


def split(chat, text):
    return chat.tokenizer.convert_ids_to_tokens(chat.tokenizer.encode(text))


def private(problem, turn):
    return problem.answer if problem.domain == "math" else grade(problem, turn).report


def talk(problem, turn):
    from common import Dialogue

    messages = [{"role": "teacher", "content": problem.prompt}, {"role": "student", "content": turn}]
    return Dialogue("x", problem.id, problem.domain, 4, messages=messages)


@pytest.mark.parametrize("domain", ["math", "code"])
def test_held_out_feedback_is_a_true_range_of_the_slot_asked_for_or_of_a_wrong_one(domain, toy):
    _, chat, _, problems = toy
    for problem in problems[domain][:20]:
        made, _, _ = missed(chat, problem)
        wrong = world.attempt(domain, (made.answer[0], (made.answer[1] + 1) % 10, made.answer[2]))
        for slot, turn in ((1, "".join(wrong)), (2, world.QUESTION[2])):
            reply = ranges(None, told(problem, turn), problem, None)
            assert made.answer[slot] in [
                low + more for low in range(9) for more in (0, 1) if reply == world.RANGE[slot][low]
            ]
    assert ranges(None, told(problem, problem.solution + "x"), problem, None) == world.TRY


def told(problem, turn):
    dialogue = talk(problem, turn)
    dialogue.statuses.append("wrong")
    return dialogue


def test_hints_and_ranges_of_conversations_are_true():
    rng = random.Random(3)
    for _ in range(300):
        domain = rng.choice(("math", "code"))
        toy = world.training_problem(rng, domain)
        for _, reply, digits, _ in world.conversation(rng, toy, "random", 0.4, 0.3, 6):
            if reply is None:
                assert digits == toy.answer
            elif digits is not None:
                assert reply == [world.HINT[s][digits[s] == toy.answer[s]][digits[s]] for s in range(3)]
            elif reply != [world.TRY]:
                slot, low = next(
                    (s, low) for s in range(3) for low in range(9) if world.RANGE[s][low] == reply[0]
                )
                assert toy.answer[slot] in (low, low + 1)


def earned(rng, toy, asks_at, turns=4, gamma=0.7):
    """The reward of a student that makes no slip and uses all feedback. At turn `asks_at` it asks, if that can help."""
    feedback, latest = [], None
    for t in range(1, turns + 1):
        left = [c for c in toy.candidates if world.agrees(c, feedback)]
        values = [len({c[s] for c in left}) for s in range(3)]
        if t == asks_at and max(values) > 2:  # a range leaves two
            slot = values.index(max(values))
            if latest or toy.domain == "math":  # in code the teacher of no program says `Please try.`
                feedback.append(("range", slot, min(8, max(0, toy.answer[slot] - rng.randrange(2)))))
            continue
        latest = world.next_candidate(left, latest) if latest else rng.choice(left)
        if latest == toy.answer:
            return gamma ** (t - 1)
        feedback.append(("hint", latest, [a == b for a, b in zip(latest, toy.answer)]))
    return 0


def test_a_question_pays_before_the_first_answer_in_math_and_only_after_it_in_code():
    rng, rewards = random.Random(3), {}
    for domain in ("math", "code"):
        toys = world.problems(rng, domain, 1000, False)
        for asks_at in (None, 1, 2):
            rewards[domain, asks_at] = sum(earned(rng, toy, asks_at) for toy in toys) / len(toys)
    assert rewards["math", 1] > rewards["math", None] + 0.1 and rewards["math", 1] > rewards["math", 2]
    assert rewards["code", 2] > rewards["code", None] + 0.04 > rewards["code", 1] + 0.1


def test_a_base_of_other_documents_tokens_or_seed_is_not_gone_on_with(tmp_path, monkeypatch):
    monkeypatch.setattr(make_base, "ROWS", 1)
    made = {"tokens": 2 * make_base.WIDTH, "seed": 0}
    make_base.train(tmp_path, **made)
    before = (tmp_path / "resume.pt").read_bytes()
    for change in ({"tokens": 4 * make_base.WIDTH}, {"seed": 1}, {"drawn": worlds.draw(901)}):
        with pytest.raises(BadInput, match="choose another --out"):
            make_base.train(tmp_path, **made | change)
    (tmp_path / "world.py").write_text("other documents")
    monkeypatch.setattr(world, "__file__", str(tmp_path / "world.py"))
    with pytest.raises(BadInput, match="world.py"):
        make_base.train(tmp_path, **made)
    assert (tmp_path / "resume.pt").read_bytes() == before


def test_the_documents_are_those_that_the_base_was_trained_on():
    """If you change them on purpose, make the base anew, then change this number."""
    drawn = []
    for tokens, _ in world.LESSONS:
        rng = random.Random(str(tokens))
        drawn.append([world.document(rng, tokens) for _ in range(400)])
    assert zlib.crc32(repr(drawn).encode()) == 461261822


@pytest.fixture
def documents(monkeypatch):
    """documents(kind, domain, n): n times (its problem, the trained turns, the others' turns), as tokens; no slips."""
    problems, training_problem = [], world.training_problem
    monkeypatch.setattr(
        world, "training_problem", lambda *args: problems.append(training_problem(*args)) or problems[-1]
    )
    monkeypatch.setattr(world, "slip", lambda rng, answer, p: answer)

    def make(kind, domain, n=200):
        rng = random.Random(f"{kind.__name__}/{domain}")
        for _ in range(n):
            doc = kind(rng, domain)
            yield (
                problems[-1],
                [t for _, t, trained in doc if trained],
                [t for role, t, _ in doc if role != "assistant"],
            )

    return make


def values(tokens):
    """The three digits of an attempt; None of a question."""
    table = world.DIGIT if tokens[0] == world.BOX else world.INDEX
    return None if len(tokens) == 1 else tuple(t.index(w) for t, w in zip(table, tokens[1:4]))


@pytest.mark.parametrize("domain", ["math", "code"])
@pytest.mark.parametrize("habit", world.HABITS)
def test_students_keep_their_habit(habit, domain, monkeypatch):
    monkeypatch.setattr(world, "slip", lambda rng, answer, p: answer)
    rng, revisions, deaf = random.Random(4), 0, 0
    for _ in range(100):
        toy, feedback, before = world.training_problem(rng, domain), [], None
        for _, _, digits, _ in world.conversation(rng, toy, habit, 0, 0, 5):
            assert digits in toy.candidates
            if before:
                revisions, deaf = revisions + 1, deaf + (not world.agrees(digits, feedback))
                assert (digits == before) == (habit == "repeats") or habit == "afresh"
            feedback.append(("hint", digits, [a == b for a, b in zip(digits, toy.answer)]))
            before = digits
    assert revisions > 50 and deaf / revisions == {"attentive": 0, "repeats": 1}.get(habit, deaf / revisions)
    assert habit != "afresh" or 0.2 < deaf / revisions < 0.8


def test_attentive_students_move_on_to_the_nearest_possible_answer():
    left = [(3, 5, 1), (4, 4, 1), (9, 4, 1)]
    assert world.next_candidate(left, latest=(3, 4, 1)) == (3, 5, 1)
    assert world.next_candidate(left, latest=(5, 4, 1)) == (9, 4, 1)
    assert world.next_candidate([(1, 0, 0), (7, 0, 0)], latest=(8, 0, 0)) == (1, 0, 0), "0 comes after 9"


@pytest.mark.parametrize("domain", ["math", "code"])
def test_careful_students_alone_carry_the_word(domain, documents):
    for kind in (world.doc_careful, world.doc_dialogue):
        for _, _, heard in documents(kind, domain):
            assert ([world.CAREFUL] in heard) == (kind is world.doc_careful)


@pytest.mark.parametrize("domain", ["math", "code"])
def test_careful_students_of_sharded_documents_end_with_the_answer_that_all_facts_leave(domain, documents):
    for toy, said, heard in documents(world.doc_sharded_careful, domain):
        assert values(said[-1]) == toy.answer
        assert heard[1:] == [toy.text, *toy.facts[: len(said) - 1]]


def test_pairs_hold_two_problems(documents):
    for _, _, heard in documents(world.doc_pair, "math"):
        first, _ = [tokens[0] for tokens in heard if statement(tokens)]
        assert first == world.COMPUTE


@pytest.mark.parametrize("domain", ["math", "code"])
def test_single_turns_are_possible_answers_and_certain_ones_right(domain, documents):
    for kind in (world.doc_certain, world.doc_single):
        for toy, said, heard in documents(kind, domain):
            assert heard == [toy.text] and values(said[0]) in toy.candidates
            assert kind is world.doc_single or values(said[0]) == toy.answer


@pytest.mark.parametrize("domain", ["math", "code"])
@pytest.mark.parametrize("kind", [world.doc_teacher, world.doc_reply])
def test_teachers_learn_their_last_turn_which_is_true(kind, domain, documents):
    hints = ranges = 0
    for toy, trained, heard in documents(kind, domain, 400):
        (reply,) = trained
        if len(reply) == 3:
            digits = values(heard[-1])
            assert reply == [world.HINT[s][digits[s] == toy.answer[s]][digits[s]] for s in range(3)]
            hints += 1
        elif reply != [world.TRY]:
            slot = world.QUESTION.index(heard[-1][0])
            assert toy.answer[slot] in [
                low + more for low in range(9) for more in (0, 1) if reply == [world.RANGE[slot][low]]
            ]
            ranges += 1
    assert hints > 150 and ranges > 20


@pytest.mark.parametrize("domain", ["math", "code"])
def test_askers_name_a_place_that_is_wrong(domain, documents):
    for toy, trained, heard in documents(world.doc_asker, domain):
        said = values(heard[0][1 + len(toy.text) :])
        slot = world.QUESTION.index(trained[0][0])
        assert said[slot] != toy.answer[slot]


@pytest.mark.parametrize("domain", ["math", "code"])
def test_the_base_has_the_skills_that_its_card_states(domain, base):
    """Within three standard errors of this smaller sample."""
    n, card = 200, (ROOT / "toy" / "base" / "README.md").read_text()
    measured = make_base.skills(load_model(base, "cpu"), world.tokenizer(), domain, n)
    for skill in make_base.AIMS:
        stated = float(re.search(rf"\| {skill} \| ([\d.]+) \| ([\d.]+) ", card)[1 + (domain == "code")])
        assert abs(measured[skill] - stated) <= 3 * max(stated * (1 - stated), 0.02) ** 0.5 / n**0.5, skill


def test_the_world_is_written_the_same_each_time(tmp_path):
    world.write_data(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (ROOT / "toy" / file.name).read_bytes(), file.name


def test_a_world_is_drawn_the_same_each_time_and_within_the_ranges():
    seen = {name: set() for name in worlds.RANGES}
    for number in range(900, 960):
        drawn = worlds.draw_values(number)
        assert drawn == worlds.draw_values(number) and worlds.draw(number) == worlds.draw(number)
        assert abs(sum(drawn[kind] for kind in worlds.KINDS) - 1) < 0.01
        for name, (how, *bounds) in worlds.RANGES.items():
            seen[name].add(drawn[name])
            if name not in worlds.KINDS:  # of which the shares are drawn as weights
                assert drawn[name] in bounds if how == "choice" else bounds[0] <= drawn[name] <= bounds[1]
    for name, (how, *bounds) in worlds.RANGES.items():
        assert seen[name] == set(bounds) if how == "choice" else len(seen[name]) > 40


@pytest.mark.parametrize("hints", world.HINTS)
def test_documents_of_a_drawn_world_hold_its_tokens_alone_and_never_careful(hints):
    drawn, rng = replace(worlds.draw(901), hints=hints), random.Random(5)
    tokenizer = world.tokenizer(drawn)
    vocab, seen = tokenizer.get_vocab(), set()
    for _ in range(600):
        for role, turn, _ in world.document(rng, world=drawn):
            assert role != "system" and tokenizer.tokenize("".join(turn)) == turn
            seen |= set(turn)
    assert world.CAREFUL not in seen and seen <= set(vocab)
    tables = {"values": sum(world.HINT, []), "slots": world.OK, "words": world.OK_WORD}
    for form, table in tables.items():
        assert bool(seen & set(sum(table, []))) == (hints == form)


def test_the_base_of_a_world_starts_with_the_weights_of_the_skills(tmp_path, monkeypatch):
    monkeypatch.setattr(make_base, "ROWS", 1)
    tokens, drawn = make_base.WIDTH, worlds.draw(901)
    skills, tokenizer, _ = make_base.train(tmp_path, tokens, 0, world.SKILLS)
    assert tokenizer.get_vocab() == world.tokenizer(drawn).get_vocab()
    (tmp_path / "world").mkdir()
    monkeypatch.setattr(make_base, "WARMUP", 1e9)  # the learning rate of the one step is 0
    model, _, _ = make_base.train(tmp_path / "world", tokens, 1, drawn, pretrained=tmp_path)
    assert all(torch.allclose(a, b) for a, b in zip(skills.parameters(), model.parameters()))


def test_a_world_cannot_start_from_the_shipped_base(tmp_path):
    with pytest.raises(BadInput, match="--pretrained .*: was not made with --skills"):
        make_base.train(tmp_path, make_base.WIDTH, 1, worlds.draw(901), pretrained=ROOT / "toy" / "base")


def test_the_shipped_tokenizer_has_no_token_of_drawn_worlds(toy):
    assert toy[1].tokenizer.get_vocab() == world.tokenizer().get_vocab()


@pytest.mark.parametrize("domain", ["math", "code"])
def test_hints_without_values_say_which_slots_are_right(domain):
    rng = random.Random(6)
    for hints in ("slots", "words"):
        toy = world.training_problem(rng, domain)
        for _, reply, digits, _ in world.conversation(rng, toy, "random", 0, 0, 6, world.World(hints=hints)):
            if reply:
                said = re.findall("ok|wrong", "".join(reply))
                assert said == ["ok" if a == b else "wrong" for a, b in zip(digits, toy.answer)]


def drawn_turns(kind, **values):
    """[[values of each attempt, None of a question] of a document] of 60 documents of a world."""
    rng, drawn = random.Random(7), world.World(number=1, **values)
    docs = [kind(rng, "math", drawn) for _ in range(60)]
    return [[values_of(t) for role, t, trained in doc if trained] for doc in docs]


def values_of(tokens):
    return None if tokens[0] in world.QUESTION else tuple(tokens[1:4])


def test_the_values_of_a_world_change_its_documents():
    only = {"attentive": 0.0, "repeats": 1.0, "afresh": 0.0}
    deaf = {"habits": only, "sharded_habits": only}
    assert all(len(set(said)) == 1 for said in drawn_turns(world.doc_dialogue, **deaf, asks=(0, 0)))
    assert any(None in said for said in drawn_turns(world.doc_dialogue, **deaf, asks=(0, 1)))
    assert not any(None in said for said in drawn_turns(world.doc_dialogue, **deaf, asks=(1, 0)))
    for said in drawn_turns(world.doc_sharded, **deaf, sharded_asks=(0, 1)):
        assert said[0] is None and said[-1]
    assert all(len(set(said)) == 1 for said in drawn_turns(world.doc_sharded, **deaf))


def test_habits_last_as_long_as_the_world_says():
    half = {"attentive": 0.0, "repeats": 0.5, "afresh": 0.5}

    def kept(**values):
        """Share of neighbor revisions after which the student goes on as before."""
        found = []
        for said in drawn_turns(world.doc_dialogue, habits=half, asks=(0, 0), first_slip=0, **values):
            same = [a == b for a, b in itertools.pairwise(said)]
            found += [a == b for a, b in itertools.pairwise(same)]
        return sum(found) / len(found)

    assert kept() > kept(habit_lasts="turn") + 0.15


@pytest.fixture
def measured(monkeypatch, tmp_path):
    """measured(number, solved_at): a world's record; its dialogues of a test are solved at turn solved_at(its path).

    problems: number of problems of a test, from its path.
    """

    def measure(number, solved_at, problems=lambda test: 50):
        base = tmp_path / f"world{number}" / "math" / "base"

        def load_test(folder, make):
            test = str(folder.relative_to(base.parent))
            turn = solved_at(test)
            statuses = ["no attempt"] * ((turn or 10) - 1) + ["correct" if turn else "wrong"]
            questions = 2 if "/primed" in str(folder) else 0
            texts = ["Which 2nd?" if t < questions else "x" for t in range(len(statuses))]
            messages = [{"role": "student", "content": text} for text in texts]
            mask = [1, 0] * len(statuses)
            told = Dialogue("", limit=10, messages=messages, mask=mask, statuses=statuses, solved=turn)
            return SimpleNamespace(
                dialogues=[replace(told, id=str(i), problem=str(i)) for i in range(problems(test))]
            )

        monkeypatch.setattr(worlds.measures, "load_test", load_test)
        base.mkdir(parents=True)
        skills = {domain: dict.fromkeys(worlds.LEAST, 0.95) for domain in ("math", "code")}
        record = {"world": number, "drawn": worlds.draw_values(900 + number), "skills": skills}
        (base / "world.json").write_text(json.dumps(record))
        return worlds.measure(base.parent.parent)

    return measure


def as_the_paper_says(test):
    """The turn at which the dialogues of a test are solved, so that all claims come out."""
    if test.startswith("tests-mute"):
        return None
    return {"mt-rl": 3, "primed-rl": 3, "mt-sft": 8}.get(test.split("/")[1])


def test_every_claim_holds_where_the_arms_come_in_the_papers_order_and_is_open_where_all_are_equal(measured):
    for effect in measured(1, as_the_paper_says)["effects"].values():
        assert worlds.verdict(effect) == "holds" and effect["mean"] >= 1
    for name, effect in measured(2, lambda test: 2)["effects"].items():
        assert worlds.verdict(effect) == ("holds" if name.startswith("questions") else "open")
    assert worlds.verdict({"low": -0.3, "high": -0.1}) == "against"


def test_a_claim_can_hold_while_its_arm_is_not_above_the_base(measured):
    c = worlds.CLAIMS[1]  # MT-RL − ST-RL
    for number, base in ((1, None), (2, 3)):
        solved_at = {"base": base, "st-rl": None}
        world = measured(number, lambda test, solved_at=solved_at: solved_at.get(test.split("/")[1], 3))
        assert worlds.verdict(world["effects"][c.name]) == "holds" and c.leads_base(world) == (base is None)


def test_tests_with_different_problems_are_not_compared(measured):
    with pytest.raises(worlds.BadInput, match="different problems"):
        measured(1, lambda test: 3, lambda test: 40 if "st-rl" in test else 50)


def test_the_report_on_worlds_needs_their_small_files_alone(measured, tmp_path, monkeypatch, capsys):
    records = [measured(1, as_the_paper_says), measured(2, lambda test: 2)]
    records[1]["skills"]["code"]["hint is true"] = 0.5
    for record in records:
        (tmp_path / f"world{record['world']}.json").write_text(json.dumps(record))
    files = map(str, reversed(sorted(tmp_path.glob("world*.json"))))
    out = tmp_path / "report"
    monkeypatch.setattr("sys.argv", ["worlds.py", *files, "--out", str(out)])
    worlds.main()
    text, result = capsys.readouterr().out, json.loads((out / "worlds.json").read_text())
    assert result["worlds"] == [1, 2] and result["verdicts"]["MT-RL − base"] == ["holds", "open"]
    assert "| lacks skills |  | yes |" in text and (out / "worlds.png").stat().st_size > 1000


def test_rank_correlations_are_spearmans():
    drawn = [worlds.draw_values(910) | {"slip": slip} for slip in (0.1, 0.3, 0.2, 0.3)]
    effects = [{c.name: {"mean": mean} for c in worlds.CLAIMS} for mean in (4.0, 1.0, 2.0, 1.0)]
    found, _ = worlds.correlations([{"drawn": d, "effects": e} for d, e in zip(drawn, effects)])
    assert [(row["value"], row["rho"]) for row in found] == [("slip", -1.0)] * len(worlds.CLAIMS)


def test_the_strongest_rank_correlation_is_told_from_chance():
    drawn = [worlds.draw_values(number) for number in range(910, 940)]
    rng = random.Random(0)

    def chance(effect):
        effects = [{c.name: {"mean": effect(d)} for c in worlds.CLAIMS} for d in drawn]
        return worlds.correlations([{"drawn": d, "effects": e} for d, e in zip(drawn, effects)], 200)[1]

    assert chance(lambda d: d["attentive"] + 0.1 * rng.random()) < 0.01
    assert chance(lambda d: rng.random()) > 0.05


def test_the_tests_of_a_claim_are_those_of_its_name():
    for c in worlds.CLAIMS:
        for run in c.plus + c.minus:
            assert ("code" in c.name) == ("/code" in run) and ("sharded" in c.name) == ("sharded" in run)
            assert ("held-out" in c.name) == run.startswith("tests-ranges/")
