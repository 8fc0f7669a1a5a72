"""Every option of every script: what makes no sense is one line and exit code 2."""

import argparse
import importlib
import sys

import pytest
import torch

from parts.runs import Parser, Run, default_threads, run_script, set_up

SCRIPTS = ("generate", "sft", "qprime", "grpo", "evaluate")
NONSENSE = ("nan", "inf", "-1", "0", "1" + "0" * 30, "many", "")
MEANINGFUL = {  # the others accept none of them
    "--seed": {"0"},
    "--losses": {"0"},  # measure none
    "--dialogues": {"0"},  # show none
    "--gamma": {"0"},  # only what is solved at the first turn counts
    "--beta": {"0", NONSENSE[4]},
    "--dispute": {"0"},  # no answer is disputed
    "--predict-teacher": {"0", NONSENSE[4]},
    "--clip": {NONSENSE[4]},  # no clip
    "--lr": {NONSENSE[4]},  # ends at the first step, with a line of its own
    "--temperature": {"0", NONSENSE[4]},  # 0: the likeliest tokens
    "--teacher-temperature": {"0", NONSENSE[4]},
}


def parser_of(script, monkeypatch):
    """The parser that a script makes."""

    class Made(Exception):
        pass

    def stop(self, *_):
        raise Made(self)

    monkeypatch.setattr(Parser, "parse_args", stop)
    with pytest.raises(Made) as made:
        importlib.import_module(script).main()
    return made.value.args[0]


def options(parser):
    """All options, those of commands included."""
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from options(command)
        elif action.option_strings:
            yield action


@pytest.mark.parametrize("script", SCRIPTS)
def test_numbers_that_make_no_sense_are_refused(script, monkeypatch):
    numbers = [action for action in options(parser_of(script, monkeypatch)) if action.type]
    assert len(numbers) >= 5
    for action in numbers:
        name, accepted = action.option_strings[0], set()
        for text in NONSENSE:
            try:
                action.type(text)
                accepted.add(text)
            except argparse.ArgumentTypeError as e:
                assert "it must be" in str(e)
        assert accepted == MEANINGFUL.get(name, set()), name


@pytest.mark.parametrize("script", SCRIPTS)
def test_options_that_are_no_numbers_are_texts_choices_or_switches(script, monkeypatch):
    texts = {
        "--model",
        "--teacher-model",
        "--problems",
        "--test",
        "--prompts",
        "--out",
        "--data",
        "--device",
        "--judge",
        "--against",
    }
    for action in options(parser_of(script, monkeypatch)):
        assert action.type or action.choices or action.nargs == 0 or action.option_strings[0] in texts, action


WRONG = [
    ["--lr", "nan"],
    ["--batch", "0"],
    ["--temperature", "-inf"],
    ["--temperature", "0"],  # here; other scripts sample so
    ["--seed", "1.5"],
    ["--engine", "fast"],
    ["--color", "1"],
    ["--lora", "5"],  # not a rank that vLLM takes
    ["--turns"],
]


@pytest.mark.parametrize("wrong", WRONG, ids=" ".join)
def test_a_wrong_argument_is_one_line_that_names_it_and_exit_code_2(wrong, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["grpo.py", "--model", "m", "--problems", "p", "--out", "o", *wrong])
    with pytest.raises(SystemExit) as stop:
        run_script(importlib.import_module("grpo").main)
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert stop.value.code == 2 and line.startswith("error: ") and wrong[0] in line


def test_a_script_without_a_run_folder_reads_no_config_of_the_folder_it_is_started_in(monkeypatch, tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')  # of a model
    monkeypatch.chdir(tmp_path)
    args = argparse.Namespace(device="cpu", dtype="auto", threads=1)
    set_up(args)
    assert args.dtype == "float32"


NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has the device")


@pytest.mark.parametrize(
    "device, said",
    [
        ("nowhere", "cannot be used"),
        ("cuda:9", "CUDA_VISIBLE_DEVICES=9"),
        pytest.param("cuda", "cannot be used", marks=NO_GPU),
    ],
)
def test_a_device_that_is_not_there_or_not_the_first_is_one_line(device, said, monkeypatch, capsys, tmp_path):
    command = ["grpo.py", "--model", "m", "--problems", "p", "--out", str(tmp_path / "o"), "--device", device]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit):
        run_script(importlib.import_module("grpo").main)
    shown = capsys.readouterr().err
    assert f"--device {device}: " in shown and said in shown and not (tmp_path / "o").exists()


@pytest.mark.parametrize("words", ["growth slowly", "rollout twice", "update nothing", "memory --gpus 0"])
def test_a_benchmark_that_is_not_there_is_one_line(words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["bench.py", *words.split()])
    with pytest.raises(SystemExit) as stop:
        run_script(importlib.import_module("bench").main)
    assert stop.value.code == 2 and "error: " in capsys.readouterr().err


@pytest.mark.parametrize("machine, threads", [(1, 1), (2, 1), (8, 4), (64, 8)])
def test_half_the_cores_are_left_to_others_unless_a_number_of_threads_is_given(machine, threads, monkeypatch):
    monkeypatch.setattr("parts.runs.cores", lambda: machine)
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert default_threads() == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert default_threads() == torch.get_num_threads()


def test_the_bar_moves_within_a_step_and_ends_each_at_a_whole_number(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "argv", ["x.py"])
    run, seen = Run(argparse.Namespace(out=tmp_path)), []
    for _ in run.steps(2, 4, "test"):
        run.move(0.25, "turn 1")
        seen.append([run.bar.n] + [run.bar.n for _item in run.micro_batches("ab", start=0.5)] + [run.bar.n])
    assert seen == [[2.25, 2.25, 2.75, 3], [3.25, 3.25, 3.75, 4]]
