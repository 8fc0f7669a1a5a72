"""The toy world: its problems are ordinary ones, its documents are what the kit's views show a model, its split holds."""

import itertools
import json
import random

import pytest
from conftest import ROOT

from common import Problem, grade
from generate import teacher_view
from parts.engines import load_model
from qprime import asker_view
from toy import make_base, world

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
        for left in toy.after:
            assert toy.answer in left and set(left) <= set(toy.candidates)
        assert not toy.after or len(set(toy.after[-1])) == 1


def test_no_training_document_holds_a_test_problem():
    """As a student meets it: of a sharded one the first text."""
    held_out = {
        row.get("shards", [row["prompt"]])[0]
        for domain in ("math", "code")
        for name in ("test", "shards")
        for row in map(json.loads, open(ROOT / "toy" / f"{domain}_{name}.jsonl"))
    }
    rng, seen = random.Random(2), set()
    for kind in KINDS:
        for _ in range(600):
            for _, tokens, _ in kind(rng, rng.choice(("math", "code"))):
                shown = itertools.takewhile(lambda word: word not in (world.BOX, world.FENCE), tokens)
                seen.add("".join(shown).removeprefix(world.ASK))
    assert len(held_out) > 1990 and len(seen) > 3000 and not held_out & seen


@pytest.mark.parametrize("domain", ["math", "code"])
def test_teacher_documents_are_what_the_teacher_view_shows(domain, toy):
    _, chat, prompts, problems = toy
    problem = problems[domain][0]
    answer = (
        tuple(json.loads(problem.tests[0]["output"]))
        if domain == "code"
        else [t.index(w) for t, w in zip(world.DIGIT, split(chat, problem.answer))]
    )
    wrong = tuple((v + 1) % 10 for v in answer)
    turn = "".join(world.attempt(domain, wrong))
    view = teacher_view(talk(problem, turn), problem, "informed", private(problem, turn), prompts)
    vocab = chat.tokenizer.get_vocab()
    text = [chat.tokenizer.convert_ids_to_tokens(i) for i in chat.tokenizer.encode(problem.prompt)]
    made = world.Toy(domain, text, answer, [], [], [], text)
    doc = [
        ("user", [world.TEACH], 0),
        ("assistant", text, 0),
        ("user", world.attempt(domain, wrong) + world.knowledge(made, wrong), 0),
    ]
    assert chat.view(view) == make_base.encode(doc, vocab)[0] + [vocab["<|assistant|>"]]


@pytest.mark.parametrize("domain", ["math", "code"])
def test_asker_documents_are_what_the_asker_view_shows(domain, toy):
    _, chat, prompts, problems = toy
    problem = problems[domain][0]
    turn = "".join(world.attempt(domain, (9, 9, 9)))
    ids = chat.view(asker_view(problem, turn, private(problem, turn), prompts))
    assert chat.tokenizer.unk_token_id not in ids
    assert chat.tokenizer.decode(ids).startswith("<|user|>" + world.ASK + problem.prompt + turn)


def split(chat, text):
    return chat.tokenizer.convert_ids_to_tokens(chat.tokenizer.encode(text))


def private(problem, turn):
    return problem.answer if problem.domain == "math" else grade(problem, turn).report


def talk(problem, turn):
    from common import Dialogue

    messages = [{"role": "teacher", "content": problem.prompt}, {"role": "student", "content": turn}]
    return Dialogue("x", problem.id, problem.domain, 4, messages=messages)


def test_hints_and_ranges_in_documents_are_true():
    rng = random.Random(3)
    for _ in range(300):
        domain = rng.choice(("math", "code"))
        toy = world.seen(rng, domain)
        for _, said, now, _ in world.converse(rng, toy, "random", 0.4, 0.3, 6):
            if said is None:
                assert now == toy.answer
            elif now is not None:
                assert said == [world.HINT[s][now[s] == toy.answer[s]][now[s]] for s in range(3)]
            elif said != [world.TRY]:
                slot, low = next(
                    (s, low) for s in range(3) for low in range(9) if world.RANGE[s][low] == said[0]
                )
                assert toy.answer[slot] in (low, low + 1)


def documents(kind, domain, n=200):
    """n documents of a kind, without slips: (trained turns, all turns of the other side), as tokens."""
    rng = random.Random(f"{kind.__name__}/{domain}")
    for _ in range(n):
        doc = kind(rng, domain)
        yield [t for _, t, trained in doc if trained], [t for role, t, _ in doc if role == "user"], doc


def values(tokens):
    """The three digits of an attempt; None of a question."""
    table = world.DIGIT if tokens[0] == world.BOX else world.INDEX
    return None if len(tokens) == 1 else tuple(t.index(w) for t, w in zip(table, tokens[1:4]))


@pytest.fixture
def no_slips(monkeypatch):
    monkeypatch.setattr(world, "slip", lambda rng, answer, p: answer)


@pytest.mark.parametrize("domain", ["math", "code"])
@pytest.mark.parametrize("habit", world.HABITS)
def test_students_keep_their_habit(habit, domain, no_slips):
    rng, revisions = random.Random(4), 0
    for _ in range(100):
        toy, feedback, before = world.seen(rng, domain), [], None
        for _, _, now, _ in world.converse(rng, toy, habit, 0, 0, 5):
            if before and habit == "attentive":
                assert world.agrees(now, feedback) and now != before
            if before and habit == "repeats":
                assert now == before
            assert now in toy.candidates
            feedback.append(("hint", now, [a == b for a, b in zip(now, toy.answer)]))
            revisions, before = revisions + (before is not None), now
    assert revisions > 50


def test_attentive_students_move_on_to_the_nearest_possible_answer():
    left = [(3, 5, 1), (4, 4, 1), (9, 4, 1)]
    assert world.following(left, latest=(3, 4, 1)) == (3, 5, 1)
    assert world.following(left, latest=(5, 4, 1)) == (9, 4, 1)
    assert world.following([(1, 0, 0), (7, 0, 0)], latest=(8, 0, 0)) == (1, 0, 0), "0 comes after 9"


@pytest.mark.parametrize("domain", ["math", "code"])
def test_careful_students_alone_carry_the_word_and_ask(domain):
    for kind, least, most in ((world.doc_careful, 0.2, 0.5), (world.doc_dialogue, 0, 0.02)):
        careful = kind is world.doc_careful
        turns = []
        for said, _, doc in documents(kind, domain):
            assert ("system", [world.CAREFUL], 0) in doc if careful else doc[0][0] == "user"
            turns += [values(tokens) is None for tokens in said]
        assert least <= sum(turns) / len(turns) <= most


@pytest.mark.parametrize("domain", ["math", "code"])
def test_sharded_documents_reveal_all_and_careful_students_use_it(domain, no_slips):
    whole = 0
    for said, told, _ in documents(world.doc_sharded_careful, domain):
        answer, facts = values(said[-1]), len(told) - 1
        assert len(said) == len(told) and facts <= 3
        if domain == "code" and facts == 3:
            picks = [
                next(c for f in told[1:] for c in world.LETTERS if world.PICKED[s][c] in f) for s in range(3)
            ]
            items = [next(c for c in world.LETTERS if world.ITEM[i][c] == told[0][i + 1]) for i in range(10)]
            assert [items[v] for v in answer] == picks
            whole += 1
        if domain == "math" and facts == 3:
            numbers = {
                fact: [t for t in told[0][1:8] if t != world.PLUS][i * 3 : i * 3 + 3]
                for i, fact in enumerate(world.FACT)
            }
            for which, digit in told[1:]:
                place = next(s for s in range(3) if digit in world.OPERAND[s].values())
                numbers[which][place] = digit
            x, y = ([int(d[0]) for d in number] for number in numbers.values())
            assert answer == world.add(x, y)
            whole += 1
    assert whole > 50


@pytest.mark.parametrize("domain", ["math", "code"])
def test_many_students_of_sharded_documents_cling_to_a_premature_answer(domain, no_slips):
    talks = [
        [values(t) for t in said] for said, _, _ in documents(world.doc_sharded, domain) if len(said) > 2
    ]
    repeats = sum(len(set(talk)) == 1 for talk in talks) / len(talks)
    assert world.HABITS["repeats"] - 0.1 < repeats < 0.8
    early = sum(talk[0] is not None for talk in talks) / len(talks)
    assert early > 0.9


def test_pairs_hold_two_problems_mostly_of_both_domains():
    both = 0
    for _, told, _ in documents(world.doc_pair, "math"):
        problems = [tokens[0] for tokens in told if tokens[0] in (world.COMPUTE, world.WRITE)]
        assert len(problems) == 2 and problems[0] == world.COMPUTE
        both += problems[1] == world.WRITE
    assert 0.7 < both / 200 < 0.9


@pytest.mark.parametrize("domain", ["math", "code"])
def test_single_turns_are_possible_answers_and_certain_ones_right(domain, no_slips):
    for kind in (world.doc_certain, world.doc_single):
        for said, told, _ in documents(kind, domain, 50):
            assert len(said) == len(told) == 1
    rng = random.Random(5)
    toy = world.seen(rng, domain, world.certain)
    assert set(toy.candidates) == {toy.answer}


@pytest.mark.parametrize("domain", ["math", "code"])
@pytest.mark.parametrize("kind", [world.doc_teacher, world.doc_reply])
def test_teachers_learn_their_last_turn_which_is_true(kind, domain):
    for trained, heard, doc in documents(kind, domain):
        assert len(trained) == 1 and trained[0] == doc[-1][1]
        assert len(heard) - 1 <= (2 if kind is world.doc_reply else 10)
        turn = heard[-1]
        if domain == "math" and turn[0] == world.BOX and len(trained[0]) == 3:
            said, answer = values(turn), [t.index(w) for t, w in zip(world.DIGIT, turn[-3:])]
            assert trained[0] == [world.HINT[s][said[s] == answer[s]][said[s]] for s in range(3)]


def test_askers_name_a_place_that_is_wrong():
    for trained, heard, _ in documents(world.doc_asker, "math"):
        box = heard[0].index(world.BOX)
        said, answer = values(heard[0][box:]), [t.index(w) for t, w in zip(world.DIGIT, heard[0][-3:])]
        slot = world.QUESTION.index(trained[0][0])
        assert said[slot] != answer[slot]


@pytest.mark.parametrize("domain", ["math", "code"])
def test_the_base_passes_the_gates(domain, base):
    """With a small sample, and three standard errors of room."""
    model, n = load_model(base, "cpu"), 100
    skills = make_base.skills(model, world.tokenizer(), domain, n)
    for skill, (least, most) in make_base.GATES.items():
        room = 3 * (0.25 if 0.1 < skills[skill] < 0.9 else 0.05) ** 0.5 / n**0.5
        assert least - room <= skills[skill] <= most + room, (skill, skills[skill])


def test_the_world_is_written_the_same_each_time(tmp_path):
    world.write_data(tmp_path)
    for file in tmp_path.iterdir():
        assert file.read_bytes() == (ROOT / "toy" / file.name).read_bytes(), file.name
