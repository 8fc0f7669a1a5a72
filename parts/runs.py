"""Run folders that survive a kill, the arguments that the scripts share, errors of one line, several
processes.

A run folder holds config.json (arguments, versions, revision), logs of a JSON object a line, and whatever a
script saves. The same command goes on where it was; another command is refused. Several processes (torchrun)
share a folder: the first one owns it.
"""

import argparse
import fcntl
import json
import math
import os
import subprocess
import sys
import weakref
import zlib
from datetime import timedelta
from pathlib import Path

import torch
from tqdm import tqdm

from parts.engines import is_address


class BadInput(Exception):
    """What the user gave cannot be used. The message is one sentence: what is wrong, where, what to do."""

    exit_code = 2


def run_script(main) -> None:
    """Runs a script's main(). Bad input, Ctrl-C, a full GPU or disk end it with one line; saved work stays.

    An exception with an `exit_code` is meant for the user, whichever part it comes from: its message is the
    line. Any other is a fault of the kit, and keeps its traceback.
    """
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("interrupted; the same command goes on from what was saved")
    except torch.OutOfMemoryError as e:
        advice = (
            "lower --micro-tokens, --live or --vllm-memory, use a smaller model, or several GPUs (torchrun)"
        )
        end_with(f"the GPU's memory is full ({first_line(e)}); {advice}; the same command goes on")
    except OSError as e:
        end_with(f"{first_line(e)}; the same command goes on from what was saved")
    except Exception as e:
        if not hasattr(e, "exit_code"):
            raise
        end_with(str(e))


def end_with(message: str) -> None:
    """Ends this process with one line and exit code 2; of several processes any tells its number."""
    rank, size = os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")
    who = f"error (process {rank}): " if size != "1" else "error: "
    line = who + " ".join(message.split("\n"))
    tqdm.write(line, file=sys.stderr)  # whatever bar is shown, on a line of its own
    raise SystemExit(2)


def first_line(e: Exception) -> str:
    """The first line of what an exception says, shortened."""
    line = (str(e).strip().splitlines() or [type(e).__name__])[0]
    return line if len(line) <= 300 else f"{line[:150]} … {line[-150:]}"


# ------------------------------------------------------------------------------------------ several processes


def start_processes(device: str) -> None:
    """Joins the processes that torchrun has started, if there are several; each takes a GPU of its own.

    Objects are gathered over gloo, with a time limit of a day: while one process reads a data set, saves, or
    plays the longest dialogue, the others wait, and NCCL's ten minutes would end them.
    """
    gpu = device.startswith("cuda")
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        if gpu:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
        backend = "cpu:gloo,cuda:nccl" if gpu else "gloo"
        torch.distributed.init_process_group(backend, timeout=timedelta(days=1))


def rank_and_size() -> tuple[int, int]:
    """(number of this process, number of processes)."""
    started = torch.distributed.is_initialized()
    return (torch.distributed.get_rank(), torch.distributed.get_world_size()) if started else (0, 1)


def gathered(value) -> list:
    """The value of each process, in their order; all must take part."""
    values = [value] * rank_and_size()[1]
    if len(values) > 1:
        torch.distributed.all_gather_object(values, value)
    return values


def barrier() -> None:
    """Waits until all processes are here."""
    gathered(None)


# -------------------------------------------------------------------------------------------------- arguments


class Parser(argparse.ArgumentParser):
    """Shows a script's docstring and the defaults; a wrong argument is one line."""

    class Form(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    def __init__(self, description=None, **options):
        super().__init__(description=description, formatter_class=Parser.Form, **options)

    def error(self, message):
        raise BadInput(f"{message}; {self.prog} --help tells more")


def number(kind, least=None, above=None, most=math.inf):
    """A type of argument: a finite int or float from `least`, or more than `above`, to `most`."""
    bound = f"at least {least}" if above is None else f"more than {above}"
    wanted = f"{'a whole number' if kind is int else 'a number'}, {bound}" + (
        f", at most {most}" if most < math.inf else ""
    )

    def parse(text):
        try:
            value = kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"is {text!r}; it must be {wanted}") from None
        if not math.isfinite(value) or value > most or (value < least if above is None else value <= above):
            raise argparse.ArgumentTypeError(f"is {text}; it must be {wanted}")
        return value

    return parse


COUNT, NATURAL = number(int, least=1, most=10**7), number(int, least=0, most=2**63 - 1)
POSITIVE, NOT_NEGATIVE, SHARE = number(float, above=0), number(float, least=0), number(float, above=0, most=1)
NEUTRAL = ("out", "live", "device", "threads", "vllm_memory", "micro_tokens")  # may change on resuming


def add_dialogue_arguments(parser, turns=4, many=False):
    """The arguments of every script that plays dialogues. many: whether it takes several problem files."""
    add = parser.add_argument_group("dialogues").add_argument
    add("--model", required=True, help="student: a transformers folder or hub name")
    add(
        "--teacher",
        help="teacher: a folder, a hub name, or an OpenAI-compatible endpoint http://HOST/v1#MODEL; or the "
        "initial --model: `informed` (default), `critic` or `self`: without private knowledge",
    )
    add(
        "--problems",
        required=True,
        nargs="+" if many else None,
        help=f"{'one or several: ' * many}file of problem lines, or data set: NAME or NAME:PATH, see README",
    )
    add("--answers", choices=("rule", "all"), default="rule", help="of data sets: what a rule can judge")
    add("--prompts", help="JSON file that replaces prompts of common.py")
    add(
        "--turns",
        type=number(int, least=1, most=1000),
        default=turns,
        help="N, student turns at most; 1 is single-turn",
    )
    add("--out", required=True, help="run folder; an unfinished one is resumed")
    add("--temperature", type=NOT_NEGATIVE, default=1.0, help="of the student; 0: the likeliest tokens")
    add("--teacher-temperature", type=NOT_NEGATIVE, default=1.0, help="of the teacher and the asker")
    add_sampling_arguments(parser)


def add_sampling_arguments(parser):
    """The arguments of whatever samples from a model."""
    add = parser.add_argument_group("sampling").add_argument
    add("--seed", type=NATURAL, default=0, help="seed of everything random")
    add("--max-tokens", type=COUNT, default=1024, help="tokens a turn has at most")
    add("--live", type=COUNT, default=256, help="dialogues that are played at once")
    engines = ("auto", "hf", "vllm")
    add("--engine", choices=engines, default="auto", help="what samples; auto: vLLM on a GPU that has it")
    add(
        "--vllm-memory",
        type=SHARE,
        help="share of the GPU's memory for each vLLM; default: all have 0.4 together in a process that also "
        "has the weights for training or for log-losses, else 0.85",
    )
    add_device_arguments(parser)


def add_device_arguments(parser):
    """The arguments that tell where the numbers are computed."""
    add = parser.add_argument_group("machine").add_argument
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu", help="torch device")
    dtypes = ("auto", "float32", "bfloat16")
    add(
        "--dtype", choices=dtypes, default="auto", help="of all passes; auto: bfloat16 on a GPU, else float32"
    )
    add(
        "--threads",
        type=number(int, least=1, most=1024),
        default=torch.get_num_threads(),
        help="CPU threads of torch",
    )


LORA_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # those that vLLM takes


def lora_rank(text: str) -> int:
    """The type of --lora."""
    if text not in map(str, LORA_RANKS):
        told = f"is {text!r}; it must be one of {', '.join(map(str, LORA_RANKS))}"
        raise argparse.ArgumentTypeError(told)
    return int(text)


def add_training_arguments(parser, batch: int, unit: str, lr: tuple, save_every: int):
    """The arguments of every script that trains. unit: what --batch counts. lr: without and with LoRA.

    The second is ten times the first: Schulman et al., "LoRA Without Regret", Thinking Machines Lab, 2025.
    """
    add = parser.add_argument_group("training").add_argument
    add("--batch", type=COUNT, default=batch, help=f"{unit} an optimiser step")
    add("--lora", type=lora_rank, help="rank of a LoRA adapter to train, in the place of all weights")
    add(
        "--lr",
        type=POSITIVE,
        default=lr,
        help="AdamW's learning rate; of two defaults the second is with --lora",
    )
    add("--micro-tokens", type=COUNT, help="tokens of a micro-batch; limits memory (16384, on a CPU 1024)")
    add("--save-every", type=COUNT, default=save_every, help="steps between saved states")


def settle(args) -> None:
    """Settles what is automatic, tries the device, joins the processes of torchrun. Raises BadInput."""
    if is_address(getattr(args, "model", "")):
        raise BadInput(f"--model {args.model}: the student must be a folder or a hub name")
    if args.device not in ("cuda", "cuda:0") and args.device.startswith("cuda:"):
        card = args.device.removeprefix("cuda:")
        told = f"--device {args.device}: vLLM and torchrun choose cards by the order of those that they see"
        raise BadInput(f"{told}; use CUDA_VISIBLE_DEVICES={card} and --device cuda")
    try:
        torch.zeros(1, device=args.device)
    except (RuntimeError, AssertionError) as e:
        raise BadInput(f"--device {args.device}: cannot be used ({first_line(e)})") from None
    if args.dtype == "auto":
        args.dtype = "bfloat16" if args.device.startswith("cuda") else "float32"
        begun = Path(args.out) / "config.json" if hasattr(args, "out") else None
        if begun and begun.is_file():  # a run that was begun on another device keeps its numbers
            args.dtype = read_config(begun).get("dtype", args.dtype)
    if getattr(args, "micro_tokens", 0) is None:  # without checkpointing, as on CPUs, a token needs far more
        args.micro_tokens = 16384 if args.device.startswith("cuda") else 1024
    if isinstance(getattr(args, "lr", None), tuple):
        args.lr = args.lr[args.lora is not None]
    torch.set_num_threads(args.threads)
    start_processes(args.device)


# ------------------------------------------------------------------------------------------------ run folders


def read_config(file: Path) -> dict:
    """The arguments that a run folder's config.json holds. Raises BadInput."""
    if not file.is_file():
        raise BadInput(f"{file.parent}: holds no run; give a folder that a script of the kit wrote")
    try:
        return dict(json.loads(file.read_text(encoding="utf-8"))["arguments"])
    except (ValueError, KeyError, TypeError):
        raise BadInput(f"{file}: is damaged; restore it, or remove the folder to start anew") from None


def read_templates(path: str | None, known: dict[str, tuple]) -> dict[str, str]:
    """Texts of str.format by name, of a JSON file (None: none). known: the fields that each may have."""
    if not path:
        return {}
    where = f"prompts file {path}"
    try:
        texts = json.loads(Path(path).read_text(encoding="utf-8"))
        unknown = texts.keys() - known
    except (OSError, ValueError, AttributeError) as e:
        told = f"{where}: {type(e).__name__}: {first_line(e)}"
        raise BadInput(f"{told}; it must be a JSON object name → text") from None
    if unknown:
        raise BadInput(f"{where}: unknown name {min(unknown)!r}; known: {', '.join(known)}")
    for name, text in texts.items():
        fields = known[name]
        try:
            text.format(**dict.fromkeys(fields, ""))
        except (ValueError, KeyError, IndexError, AttributeError) as e:
            wanted = f"a text with {' '.join(f'{{{field}}}' for field in fields) or 'no fields'}"
            told = f"{where}, {name}: {type(e).__name__}: {e}"
            raise BadInput(f"{told}; it must be {wanted}, other braces doubled") from None
    return texts


def read_jsonl(path: Path | str) -> list:
    """Objects of a JSONL file, but for a half-written last line; none without a file. Raises BadInput."""
    if not Path(path).exists():
        return []
    lines, rows = Path(path).read_bytes().split(b"\n"), []
    for number_, line in enumerate(lines, 1):
        try:
            if number_ < len(lines) and line.strip():  # what follows the last newline was never completed
                rows.append(json.loads(line))
        except ValueError:
            told = "not JSON; the file was changed by something else, remove it or restore it"
            raise BadInput(f"{path}, line {number_}: {told}") from None
    return rows


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that appears only when it is complete."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def revision() -> str | None:
    """The git revision of the kit, or None."""
    try:
        here = {"cwd": Path(__file__).parent, "capture_output": True, "text": True}
        return subprocess.run(["git", "rev-parse", "HEAD"], **here).stdout.strip() or None
    except OSError:  # there is no git
        return None


class Run:
    """A run folder: config.json, metrics.jsonl, dialogues.jsonl, and whatever the script saves. The same
    command resumes it.

    Until the first result is written there is no config.json: a command that fails at once leaves nothing
    behind that refuses the right one. `writes`: whether this process is the one that writes for all.
    """

    def __init__(self, args):
        """Opens `args.out`; raises BadInput if it holds a run with other arguments, or no run."""
        self.path = Path(args.out)
        self.config = {name: value for name, value in vars(args).items() if name not in NEUTRAL}
        self.config["script"] = Path(sys.argv[0]).name
        read = [self.config.get("problems"), self.config.get("prompts")]
        read += [f"{folder}/dialogues.jsonl" for folder in self.config.get("data", ())]
        for given in read:
            if given and Path(given).is_file():
                self.config[f"content of {given}"] = f"{zlib.crc32(Path(given).read_bytes()):08x}"
        file = self.path / "config.json"
        if self.path.exists() and not self.path.is_dir():
            raise BadInput(f"--out {self.path}: is a file; give a folder")
        if file.exists():
            old = read_config(file)
            changed = sorted(k for k in old.keys() | self.config.keys() if old.get(k) != self.config.get(k))
            if changed:
                name, was, now = changed[0], old.get(changed[0]), self.config.get(changed[0])
                told = f"{self.path} holds a run whose {name} is {was!r}, now {now!r} is asked for"
                raise BadInput(f"{told}; choose another --out, or remove the folder")
        elif self.path.exists() and not all(f.name.startswith("config.json.") for f in self.path.iterdir()):
            raise BadInput(f"{self.path} is not empty and holds no run; choose another --out")
        rank, _ = rank_and_size()
        self.writes = gathered(rank)[0] == rank  # the first process does; all have checked the folder by now
        if self.writes:
            self.path.mkdir(parents=True, exist_ok=True)
            self.lock()
            self.tidy()
        self.check_shared()

    def check_shared(self):
        """Raises BadInput if the processes, perhaps on several machines, do not see one folder."""
        mark = self.path / f"config.json.{os.getpid()}.part"
        if self.writes:
            mark.touch()
        seen = Path(gathered(mark)[0]).exists()
        if not all(gathered(seen)):
            told = "the processes do not see the same folder; on several machines --out must be on a disk"
            raise BadInput(f"{self.path}: {told} that they share")
        if self.writes:
            mark.unlink()

    def lock(self):
        """Holds the folder as long as this object lives, or until the process ends, however it ends."""
        # of a file, not of the folder: that NFS would keep from other machines
        lock = os.open(self.path / "config.json.lock", os.O_RDWR | os.O_CREAT)
        weakref.finalize(self, os.close, lock)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            told = "another process is at work on this run; wait for it, or stop it"
            raise BadInput(f"{self.path}: {told}") from None

    def tidy(self):
        """Removes what a kill has left half-written."""
        for part in self.path.glob("*.part"):
            if part.is_file():
                part.unlink()
        for log in self.path.glob("*.jsonl"):
            data = log.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole == 0:
                log.unlink()  # a log that exists has a line
            elif whole < len(data):
                os.truncate(log, whole)  # writing the rest again could lose it to another kill

    def begin(self):
        """Writes config.json, with the first result; any process may be the first to have one."""
        if not (self.path / "config.json").exists():
            import transformers

            versions = {
                "torch": torch.__version__,
                "transformers": transformers.__version__,
                "python": sys.version.split()[0],
            }
            config = {"arguments": self.config, "versions": versions, "revision": revision()}
            write_atomically(self.path / "config.json", json.dumps(config, indent=1))

    def say(self, text: str) -> None:
        """Prints a line, once however many processes there are."""
        if self.writes:
            tqdm.write(text)

    def steps(self, done: int, last: int, name: str):
        """The numbers of the steps that are left, with a progress bar."""
        shown = {"initial": done, "total": last, "desc": name, "mininterval": 1}
        return tqdm(range(done + 1, last + 1), disable=not self.writes, **shown)

    def append(self, name: str, rows: list[dict], own: bool = False) -> None:
        """Appends rows to a JSONL file; own: each process its own ones, else the first one for all."""
        if not (self.writes or own):
            return
        self.begin()
        with (self.path / name).open("a", encoding="utf-8") as file:
            fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed: lines of several processes must not mix
            file.write("".join(json.dumps(row) + "\n" for row in rows))

    def keep(self, name: str, wanted) -> None:
        """Rewrites a JSONL file to the rows for which wanted(row) holds: what a lost step logged goes."""
        if self.writes and (self.path / name).exists():
            rows = [r for r in read_jsonl(self.path / name) if wanted(r)]
            write_atomically(self.path / name, "".join(json.dumps(r) + "\n" for r in rows))
