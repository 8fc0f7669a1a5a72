"""Run folders, shared arguments, one-line errors, several processes. Not needed to read the method.

A run folder holds config.json (arguments, versions, revision), logs with one JSON object a line, and whatever
a script saves. After a kill, the same command resumes it; another command is refused. The processes of
torchrun share a folder, which the first one owns.
"""

import argparse
import errno
import fcntl
import itertools
import json
import math
import os
import shlex
import subprocess
import sys
import time
import uuid
import weakref
import zlib
from collections.abc import Iterable
from datetime import timedelta
from pathlib import Path

if sys.version_info < (3, 11):  # noqa: UP036 (an older one would fail at the first saved state)
    print(f"error: this is Python {sys.version.split()[0]}; the kit needs 3.11 or later", file=sys.stderr)
    sys.exit(2)

import torch
from tqdm import tqdm

from parts.engines import is_address
from parts.sandbox import cores


class BadInput(Exception):
    """The user's input cannot be used. The message is one sentence: what is wrong, where, what to do."""

    exit_code = 2


def run_script(main) -> None:
    """Runs a script's main(). Bad input, Ctrl-C, a full GPU or disk end it with one line; saved work stays.

    An exception with an `exit_code`, from whichever part, carries a message for the user. Any other exception
    is a bug of the kit and keeps its traceback.
    """
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from what was saved, or starts anew if nothing was")
    except torch.OutOfMemoryError as e:
        advice = "lower --micro-tokens, --concurrent or --vllm-memory, or use a smaller model, or more GPUs"
        end_with(f"the GPU's memory is full ({first_line(e)}); {advice}; the same command goes on")
    except OSError as e:
        full = e.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        advice = "free some space" if full else "when this is mended"
        end_with(f"{first_line(e)}; {advice}, and the same command goes on from what was saved")
    except Exception as e:
        if not hasattr(e, "exit_code"):
            raise
        end_with(str(e))


def end_with(message: str) -> None:
    """Ends this process with one line and exit code 2. With several processes, the line has its rank."""
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    who = f"error (process {rank}): " if size != "1" else "error: "
    line = who + " ".join(message.split("\n"))
    tqdm.write(line, file=sys.stderr)  # on a line of its own, even beside a progress bar
    raise SystemExit(2)


def first_line(e: Exception) -> str:
    """The first line of an exception's message, shortened."""
    line = (str(e).strip().splitlines() or [type(e).__name__])[0]
    return line if len(line) <= 300 else f"{line[:150]} … {line[-150:]}"


# ------------------------------------------------------------------------------------------ several processes


def start_processes(device: str) -> None:
    """Joins the process group of torchrun, if there are several processes.

    Objects are gathered over gloo, with a time limit of a day: the others wait while one process reads a data
    set, saves, or plays the longest dialogue. NCCL's limit of ten minutes would end them.
    """
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        backend = "cpu:gloo,cuda:nccl" if device.startswith("cuda") else "gloo"
        torch.distributed.init_process_group(backend, timeout=timedelta(days=1))


def rank_and_size() -> tuple[int, int]:
    """(rank of this process, number of processes)."""
    started = torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if started else (0, 1)


def all_gather(value) -> list:
    """The values of all processes, by rank. All processes must call it."""
    values = [value] * rank_and_size()[1]
    if len(values) > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits until all processes have called it."""
    all_gather(None)


# -------------------------------------------------------------------------------------------------- arguments


class Parser(argparse.ArgumentParser):
    """Shows a script's docstring and the defaults in --help. A wrong argument raises BadInput."""

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        def _get_help_string(self, action):
            silent = action.default is None or isinstance(action.default, bool | tuple)
            return action.help if silent else super()._get_help_string(action)

    def __init__(self, description=None, **kwargs):
        super().__init__(description=description, formatter_class=Parser.Formatter, **kwargs)

    def error(self, message):
        raise BadInput(f"{message}; see {self.prog} --help")


def number(kind, least=None, above=None, most=math.inf):
    """An argument type: a finite int or float (kind) from `least`, or above `above`, to `most`."""
    wanted = "a whole number" if kind is int else "a number"
    wanted += f", at least {least}" if above is None else f", more than {above}"
    wanted += f", at most {most}" if most < math.inf else ""

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"is {text!r}; it must be {wanted}") from None
        if value > most or not math.isfinite(value) or (value < least if above is None else value <= above):
            raise argparse.ArgumentTypeError(f"is {text}; it must be {wanted}")
        return value

    return parse


COUNT, NATURAL = number(int, least=1, most=10**7), number(int, least=0, most=2**63 - 1)
POSITIVE, NOT_NEGATIVE, SHARE = number(float, above=0), number(float, least=0), number(float, above=0, most=1)
CHANCE = number(float, least=0, most=1)
# Arguments that may change when a run is resumed, and those that may only grow.
MAY_CHANGE = ("out", "concurrent", "device", "threads", "vllm_memory", "micro_tokens")
MAY_GROW = ("steps",)


def add_dialogue_arguments(
    parser, teachers, *, turns, max_tokens, temperature, teacher_temperature, seed, files=None
):
    """The arguments of every script that plays dialogues; the script gives the defaults that decide a result.

    teachers: {name: function} for --teacher. files: "+" if --problems takes several files.
    """
    group = parser.add_argument_group("dialogues")
    add = group.add_argument
    add(
        "--model",
        required=True,
        help="the student: a transformers folder or hub name; or me: you answer, at the terminal",
    )
    add_role_argument(group, "--teacher", teachers, default="informed", help="who answers the student")
    add(
        "--teacher-model",
        help="the model that speaks for the teacher: a folder, a hub name, or an OpenAI-compatible endpoint "
        "http://HOST/v1#MODEL; default: the initial --model",
    )
    add(
        "--problems",
        required=True,
        nargs=files,
        help="problem file, or data set NAME or NAME:PATH (README)" + ("; or several" if files else ""),
    )
    add(
        "--answers",
        choices=("rule", "all"),
        default="rule",
        help="which problems of a data set to take: those whose answers can be judged by rule, or all",
    )
    add("--prompts", help="JSON file, name → text, that replaces prompts of generate.py")
    add("--turns", type=number(int, least=1, most=1000), default=turns, help="N, student turns at most")
    add(
        "--dispute",
        type=CHANCE,
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="P",
        help="probability that the teacher disputes a right answer (default 0; without P: 1); the student "
        "then has one more turn",
    )
    add("--out", required=True, help="run folder; an unfinished one is resumed")
    add("--temperature", type=NOT_NEGATIVE, default=temperature, help="of the student; 0: greedy")
    add("--teacher-temperature", type=NOT_NEGATIVE, default=teacher_temperature, help="of teacher and asker")
    add_sampling_arguments(parser, max_tokens, seed)


def add_role_argument(parser, option, functions, help, **kwargs):
    """Adds an option whose choices are functions; --help shows the first line of each one's docstring."""
    first_lines = {name: (f.__doc__ or "no docstring").splitlines()[0] for name, f in functions.items()}
    lines = [f"{name}: {text.rstrip('.')}" for name, text in first_lines.items()]
    parser.add_argument(option, choices=tuple(functions), help=f"{help}. {'; '.join(lines)}", **kwargs)


def add_sampling_arguments(parser, max_tokens, seed):
    """The arguments of every script that samples from a model."""
    add = parser.add_argument_group("sampling").add_argument
    add("--seed", type=NATURAL, default=seed, help="seed of all random numbers")
    add("--max-tokens", type=COUNT, default=max_tokens, help="tokens of a turn at most")
    add("--concurrent", type=COUNT, default=256, help="dialogues played at once")
    engines = ("auto", "hf", "vllm")
    add("--engine", choices=engines, default="auto", help="sampler; auto: vLLM if installed, on a GPU")
    add(
        "--vllm-memory",
        type=SHARE,
        help="share of the GPU's memory for each vLLM engine; default: 0.85, or 0.4 beside weights for "
        "training or log-losses, divided by the number of engines",
    )
    add_device_arguments(parser)


def add_device_arguments(parser):
    """The arguments that say where and in which precision to compute."""
    add = parser.add_argument_group("machine").add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    dtypes = ("auto", "float32", "bfloat16")
    add(
        "--dtype",
        choices=dtypes,
        default="auto",
        help="of forward and backward passes; auto: bfloat16 on a GPU, else float32",
    )
    add(
        "--threads",
        type=number(int, least=1, most=1024),
        default=default_threads(),
        help="CPU threads of torch: OMP_NUM_THREADS, or half the cores, at most 8. With more threads than "
        "idle cores a step may take ten times as long, as they wait for each other",
    )


def default_threads() -> int:
    """OMP_NUM_THREADS if it is set; else half the cores, at most 8, so that a shared machine keeps idle ones.

    Threads that wait for each other spin, and so keep their cores busy. Two threads on two idle cores took
    0.5 to 0.8 of one thread's time for a step of a small model. When other processes used the cores too, the
    step took 2 to 25 times as long.
    """
    return torch.get_num_threads() if "OMP_NUM_THREADS" in os.environ else max(1, min(8, cores() // 2))


LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # the ranks that vLLM supports


def lora_rank(text: str) -> int:
    """The type of --lora."""
    if text not in map(str, LORA_RANKS):
        ranks = ", ".join(map(str, LORA_RANKS))
        raise argparse.ArgumentTypeError(f"is {text!r}; it must be one of {ranks}")
    return int(text)


def add_training_arguments(parser, *, batch: int, unit: str, lr: float, lora_lr: float, save_every: int):
    """The arguments of every script that trains. unit: what --batch counts.

    lora_lr: the default of --lr if --lora is given. It is ten times lr: Schulman et al., "LoRA Without
    Regret", Thinking Machines Lab, 2025.
    """
    add = parser.add_argument_group("training").add_argument
    add("--batch", type=COUNT, default=batch, help=f"{unit} an optimizer step")
    add("--lora", type=lora_rank, help="rank of a LoRA adapter to train, in place of all weights")
    rates = f"AdamW's learning rate (default: {lr}, with --lora {lora_lr})"
    add("--lr", type=POSITIVE, default=(lr, lora_lr), help=rates)
    add("--micro-tokens", type=COUNT, help="tokens of a micro-batch, to limit memory (16384, on a CPU 1024)")
    add("--save-every", type=COUNT, default=save_every, help="steps between saved states")
    leaks = "dialogues in which a hint gave the answer away: train on them, or leave them out"
    add("--leaks", choices=("keep", "drop"), default="keep", help=leaks)


def set_up(args) -> None:
    """Fills in automatic arguments, tries the device, joins the processes of torchrun. Raises BadInput."""
    if is_address(getattr(args, "model", "")):
        raise BadInput(f"--model {args.model}: the student must be a folder or a hub name")
    if getattr(args, "model", "") == "me" and hasattr(args, "lr"):
        reason = "a person is no model to train; give a folder or a hub name"
        raise BadInput(f"--model me: {reason} (generate.py and evaluate.py play take me)")
    if args.device not in ("cuda", "cuda:0") and args.device.startswith("cuda:"):
        gpu = args.device.removeprefix("cuda:")
        reason = "vLLM and torchrun count only the GPUs that they see"
        raise BadInput(f"--device {args.device}: {reason}; use CUDA_VISIBLE_DEVICES={gpu} and --device cuda")
    args.device = "cuda" if args.device == "cuda:0" else args.device
    try:
        # Each process of torchrun takes a GPU of its own, before it uses any.
        if args.device == "cuda" and torch.cuda.is_available():
            torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
        torch.zeros(1, device=args.device)
    except (RuntimeError, AssertionError) as e:
        raise BadInput(f"--device {args.device}: cannot be used ({first_line(e)})") from None
    if args.dtype == "auto":
        args.dtype = "bfloat16" if args.device.startswith("cuda") else "float32"
        config = Path(args.out) / "config.json" if hasattr(args, "out") else None
        if config and config.is_file():  # if it began on another device, it keeps its dtype (but for `play`)
            args.dtype = read_config(config).get("dtype", args.dtype)
    # On a CPU there is no activation checkpointing, so a token needs far more memory.
    if getattr(args, "micro_tokens", 0) is None:
        args.micro_tokens = 16384 if args.device.startswith("cuda") else 1024
    if isinstance(getattr(args, "lr", None), tuple):
        lr, lora_lr = args.lr
        args.lr = lora_lr if args.lora else lr
    if "me" in (getattr(args, "teacher", None), getattr(args, "model", None)):
        args.concurrent = 1  # a person can talk about one problem at a time
    torch.set_num_threads(args.threads)
    start_processes(args.device)


# ------------------------------------------------------------------------------------------------ run folders


def read_config(file: Path) -> dict:
    """The arguments in a run folder's config.json. Raises BadInput."""
    return read_whole_config(file)["arguments"]


def read_whole_config(file: Path) -> dict:
    """A run folder's config.json: arguments, command, versions, checksums of the code. Raises BadInput."""
    if not file.is_file():
        raise BadInput(f"{file.parent}: is no run folder; give one that a script of the kit wrote")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        return {**config, "arguments": dict(config["arguments"])}
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{file}: is damaged; restore it, or remove the folder to start anew") from None


def read_templates(path: str | None, fields_of: dict[str, tuple]) -> dict[str, str]:
    """Reads {name: template for str.format} from a JSON file. path: None for no templates.

    fields_of: {name: the fields that its template may use}. Raises BadInput.
    """
    if not path:
        return {}
    where = f"prompts file {path}"
    try:
        texts = json.loads(Path(path).read_text(encoding="utf-8"))
        unknown = texts.keys() - fields_of
    except (OSError, ValueError, AttributeError) as e:
        reason = f"{type(e).__name__}: {first_line(e)}"
        raise BadInput(f"{where}: {reason}; it must be a JSON object name → text") from None
    if unknown:
        raise BadInput(f"{where}: unknown name {min(unknown)!r}; known: {', '.join(fields_of)}")
    for name, text in texts.items():
        fields = fields_of[name]
        try:
            text.format(**dict.fromkeys(fields, ""))
        except (ValueError, KeyError, IndexError, AttributeError, TypeError) as e:
            wanted = f"a text with {' '.join(f'{{{field}}}' for field in fields) or 'no fields'}"
            reason = f"{where}, {name}: {type(e).__name__}: {e}"
            raise BadInput(f"{reason}; it must be {wanted}, other braces doubled") from None
    return texts


def read_jsonl(path: Path | str) -> list:
    """Objects of a JSONL file, without a half-written last line; [] if there is no file. Raises BadInput."""
    if not Path(path).exists():
        return []
    *lines, _ = Path(path).read_bytes().split(b"\n")  # text after the last newline was never completed
    rows = []
    for i, line in enumerate(lines, 1):
        try:
            if line.strip():
                rows.append(json.loads(line))
        except ValueError:
            reason = "not JSON; another program changed the file, restore it or remove it"
            raise BadInput(f"{path}, line {i}: {reason}") from None
    return rows


def write_atomically(path: Path, text: str | Iterable[str]) -> None:
    """Writes a file that appears only when it is complete. text: a str, or pieces to write one by one."""
    part = path.with_name(f"{path.name}.{uuid.uuid4().hex}.part")  # machines may have equal process ids
    try:
        with part.open("w", encoding="utf-8") as file:
            file.writelines([text] if isinstance(text, str) else text)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def checksums(script: str) -> dict[str, str]:
    """{file: checksum} of a stage, generate.py and common.py, the files that users change."""
    files = [Path(__file__).parents[1] / name for name in (script, "generate.py", "common.py")]
    return {f.name: checksum(f) for f in files if f.is_file()}


def revision() -> str | None:
    """The git revision of the kit, or None."""
    command, folder = ["git", "rev-parse", "HEAD"], Path(__file__).parent
    try:
        return subprocess.run(command, cwd=folder, capture_output=True, text=True).stdout.strip() or None
    except OSError:  # there is no git
        return None


def checksum(file) -> str:
    """The CRC-32 of a file's content, as eight hexadecimal digits."""
    return f"{zlib.crc32(Path(file).read_bytes()):08x}"


def cut_half_line(file) -> None:
    """Cuts an open binary file behind its last newline: what follows was not written to its end."""
    size = file.seek(0, os.SEEK_END)
    file.seek(max(0, size - 1))
    if file.read(1) not in (b"", b"\n"):
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)  # in place: a kill cannot lose the lines before


# NFS may remember for this long that a folder was not there.
NFS_SECONDS = 60


class Run:
    """A run folder: config.json, metrics.jsonl, dialogues.jsonl, and whatever the script saves.

    config.json is written with the first result. So a command that fails at once does not block the corrected
    one. writes: whether this process is the one that writes for all.
    """

    def __init__(self, args):
        """Opens `args.out`; raises BadInput if it holds a run with other arguments, or no run."""
        self.path = Path(args.out)
        self.config = {name: value for name, value in vars(args).items() if name not in MAY_CHANGE}
        self.config["script"] = Path(sys.argv[0]).name
        inputs = [self.config.get(name) for name in ("problems", "prompts", "test")]
        for data in self.config.get("data", ()):  # folders, or problem files
            inputs += [f"{data}/dialogues.jsonl", data]
        for file in inputs:
            if file and Path(file).is_file():
                self.config[f"content of {file}"] = checksum(file)
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"--out {self.path}: is a file; give a folder")
        self.recorded, changed = None, []  # recorded: the arguments in config.json
        if (file := self.path / "config.json").exists():
            config = read_whole_config(file)
            self.recorded = config["arguments"]
            self.check_arguments()
            old, new = config.get("code", {}), checksums(self.config["script"])
            changed = [name for name in new if new[name] != old.get(name)]
        elif self.path.exists() and not all(f.name.startswith("config.json.") for f in self.path.iterdir()):
            raise BadInput(f"{self.path} is not empty and holds no run; choose another --out")
        barrier()  # all have checked the folder before one changes it
        self.writes = rank_and_size()[0] == 0
        if self.writes:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            self.tidy()
        self.check_shared()
        if changed:
            names = " and ".join(changed)
            self.say(f"note: {names} changed since {self.path} began; the rest of it uses the new code")

    def check_arguments(self):
        """Raises BadInput if the folder's run is another script's, or has other arguments."""
        if self.recorded.get("script") != self.config["script"]:
            raise BadInput(f"{self.path} holds a run of {self.recorded.get('script')}; choose another --out")
        for name in sorted(self.recorded.keys() | self.config.keys()):
            old, new = self.recorded.get(name), self.config.get(name)
            grows = name in MAY_GROW and old is not None and new is not None and new > old
            if old != new and not grows:
                problem = f"{self.path} holds a run whose {name} is {old!r}, but this command has {new!r}"
                raise BadInput(f"{problem}; choose another --out, or remove the folder")

    def check_shared(self):
        """Raises BadInput if the processes, perhaps on several machines, do not see the same folder."""
        mark = self.path / f"config.json.{os.getpid()}.part"
        if self.writes:
            mark.touch()
        mark, seen = Path(all_gather(mark)[0]), False
        for _ in range(NFS_SECONDS):
            if seen := mark.exists():
                break
            time.sleep(1)
        if not all(all_gather(seen)):
            reason = "the processes do not see the same folder; put --out on a disk that all machines share"
            raise BadInput(f"{self.path}: {reason}")
        if self.writes:
            mark.unlink()

    def lock(self):
        """Locks the folder for as long as this object lives, or until the process ends, however it ends."""
        # We lock a file in it: NFS would not show a lock of the folder itself to other machines.
        lock = os.open(self.path / "config.json.lock", os.O_RDWR | os.O_CREAT)
        weakref.finalize(self, os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            reason = "another process is at work on this run; wait for it, or stop it"
            raise BadInput(f"{self.path}: {reason}") from None

    def tidy(self):
        """Removes half-written files and lines that a kill left behind."""
        for part in self.path.glob("*.part"):
            if part.is_file():
                part.unlink()
        for log in self.path.glob("*.jsonl"):
            with log.open("r+b") as file:
                cut_half_line(file)
            if not log.stat().st_size:
                log.unlink()  # scripts expect a line in every log that exists

    def begin(self):
        """Writes config.json before the first result, which may come from any process."""
        if self.recorded != self.config:
            import transformers

            versions = {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": sys.version.split()[0],
            }
            config = {
                "command": shlex.join(["python", *sys.argv]),
                "arguments": self.config,
                "versions": versions,
                "revision": revision(),
                "code": checksums(self.config["script"]),
            }
            write_atomically(self.path / "config.json", json.dumps(config, indent=1))
            self.recorded = self.config

    def say(self, text: str) -> None:
        """Prints a line, in one process."""
        if self.writes:
            tqdm.write(text)

    def steps(self, done: int, last: int, name: str):
        """The numbers of the remaining steps, with a progress bar, which `move` moves between them."""
        layout = "{desc}: {percentage:3.0f}%|{bar}| {n:.1f}/{total} steps [{elapsed}<{remaining}{postfix}]"
        # smoothing=0: the time left follows from the mean speed. miniters=0: it is shown every second.
        options = {"smoothing": 0, "miniters": 0, "mininterval": 1, "bar_format": layout}
        self.bar = tqdm(desc=name, initial=done, total=last, disable=not self.writes, **options)
        try:
            for step in range(done + 1, last + 1):
                self.steps_done = self.bar.n = step - 1
                yield step
                self.bar.n = step
                self.bar.update(0)
        finally:
            self.bar.close()

    def move(self, share: float, text: str) -> None:
        """Moves the bar of `steps` to a share of the current step, and shows the text behind the bar."""
        self.bar.n = self.steps_done + min(1.0, share)
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(0)  # shows it, at most once a second

    def counted(self, function, name: str, total: int, end: float):
        """Wraps a function so that calls move the bar; `total` calls, the most it gets, move it to `end`."""
        numbers = itertools.count(1)

        def call(*args):
            number = next(numbers)
            self.move(end * number / total, f"{name} {number} of at most {total}")
            return function(*args)

        return call

    def micro_batches(self, batches: list, start: float = 0.0):
        """Yields the micro-batches of a step, and moves the bar from the share `start` to the step's end."""
        for number, batch in enumerate(batches, 1):
            yield batch
            self.move(start + (1 - start) * number / len(batches), f"micro-batch {number}/{len(batches)}")

    def append(self, name: str, rows: list[dict], all_processes: bool = False) -> None:
        """Appends rows to a JSONL file. all_processes: each appends its own rows, else only one."""
        if not (self.writes or all_processes):
            return
        self.begin()
        with (self.path / name).open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed, so that lines of processes do not mix
            cut_half_line(file)  # of another process, which was killed or met a full disk
            file.write("".join(json.dumps(row) + "\n" for row in rows).encode())

    def keep(self, name: str, wanted) -> None:
        """Keeps the rows of a JSONL file for which wanted(row) is true, and drops the others."""
        if self.writes and (self.path / name).exists():
            rows = [r for r in read_jsonl(self.path / name) if wanted(r)]
            write_atomically(self.path / name, "".join(json.dumps(r) + "\n" for r in rows))
