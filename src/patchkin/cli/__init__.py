"""The command line. This file finds the verb; each verb has a file of its own.

Nothing heavy is imported before the verb is known, so that `patchkin --help` answers at once.
"""

from __future__ import annotations

import difflib
import importlib
import io
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from patchkin import _interrupts
from patchkin._version import __version__
from patchkin.errors import Interrupted, PatchkinError, missing_extra

if TYPE_CHECKING:
    from patchkin.method import Method

VERBS = {
    "train": "learn to translate from two folders of images",
    "translate": "translate files, folders or globs with a trained model",
    "evaluate": "score a model, or a folder of translations, by a named protocol",
    "compare": "one table of runs, models and folders: text, CSV, LaTeX, JSON, page",
    "inspect": "what a patch relates to, in the input and in the output",
    "demo": "a page in the browser: translate, click points, watch runs",
    "import-weights": "checkpoints of upstream projects into a patchkin model",
    "push": "a model and its card to the Hugging Face Hub",
    "compress": "a small model from a trained one: distill, search, export",
    "export": "a model as ONNX, for other programs and for machines without torch",
    "data": "download a public set, check a folder, write the toy set",
    "bench": "speed of training and translation against this machine's peak",
    "methods": "list the methods and their presets",
    "models": "list the models that are known by name, and what is known of them",
    "doctor": "what this machine can do",
}
_OF_TORCH = ("torch", "torchvision", "lightning", "lightning_fabric", "safetensors")
"""What the extra `torch` brings."""
_WITHOUT_TORCH = {"translate": " with this model (a .onnx file needs less)"}
DONE, USER_ERROR, OUR_FAULT, INTERRUPTED = 0, 2, 1, 130


def main(
    arguments: Sequence[str] | None = None,
    *,
    methods: Mapping[str, type[Method]] | None = None,
    default_method: str = "semantic-relation",
) -> int:
    """Run the command line and return its exit code.

    0: done; 2: the user can mend it, said in one line; 1: our fault, with a traceback;
    130: interrupted, after a checkpoint was saved.

    Args:
        arguments: those of the process unless given.
        methods: the methods to offer; those of patchkin and of plug-ins unless given.
        default_method: the one that `train` takes where none is named.
    """
    was_left_at_once = _interrupts.is_left_at_once()
    if arguments is None:
        _interrupts.leave_at_once()
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    _escape_what_the_console_cannot_show()
    try:
        code = _run(arguments, methods, default_method)
        sys.stdout.flush()  # now, where what goes wrong can be told
        return code
    except PatchkinError as error:
        return USER_ERROR if error.told else _complain(str(error))
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in _OF_TORCH:
            raise
        what = f"`patchkin {arguments[0]}`{_WITHOUT_TORCH.get(arguments[0], '')}"
        return _complain(missing_extra(what, package=str(error.name), extra="torch"))
    except KeyboardInterrupt as stop:
        program = "patchkin" if methods is None else f"python {shlex.quote(sys.argv[0])}"
        how = _going_on(stop, program, arguments) if isinstance(stop, Interrupted) else ""
        print(f"patchkin: interrupted{how}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        _forget_output()
        return DONE
    except OSError as error:
        name = error.filename if error.filename is not None else _file_of(error)
        if name is not None:
            return _complain(f"`{name}`: {error.strerror}.")
        from patchkin.storage.atomic import is_disk_trouble

        if not is_disk_trouble(error):
            raise
        _forget_output()
        return _complain(f"Cannot write to standard output: {error.strerror}.")
    finally:
        if was_left_at_once:
            _interrupts.leave_at_once()  # Python takes a while to end
        else:
            _interrupts.raise_again()


def _going_on(stop: Interrupted, program: str, arguments: Sequence[str]) -> str:
    """What is saved of a run, and the command that continues it."""
    verb = " ".join(arguments[: 2 if arguments[0] == "compress" else 1])
    again = f"{program} {verb} --resume {shlex.quote(str(stop.run_dir))}"
    return f"; step {stop.step} is saved: {again} goes on from there"


def _escape_what_the_console_cannot_show() -> None:
    """Let no file's name end a command: cp1252 and C consoles get escapes for what they lack."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="backslashreplace")


def _file_of(error: OSError) -> str | None:
    """The file that could not be read or written, which the system names where it is opened only:
    the one that was open where the error came from.
    """
    names: list[str] = []
    place = error.__traceback__
    while place is not None:
        for value in place.tb_frame.f_locals.values():
            name = getattr(value, "name", None) if isinstance(value, io.IOBase) else None
            names += [name] if isinstance(name, str) and not name.startswith("<") else []
        place = place.tb_next
    return names[-1] if names else None


def _forget_output() -> None:
    """Let what is left go nowhere, or Python would try and fail again at its end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _run(
    arguments: list[str], methods: Mapping[str, type[Method]] | None, default_method: str
) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help())
        return DONE
    if arguments[0] in ("-V", "--version"):
        print(f"patchkin {__version__}")
        return DONE
    if arguments[0].partition("=")[0] == "--completion":
        from patchkin.cli import completion
        from patchkin.methods import METHODS

        _, _, shell = arguments[0].partition("=")
        return completion.run([shell] if shell else arguments[1:], methods or METHODS, VERBS)
    verb, *rest = arguments
    if verb == "test":  # of the released CUT
        from patchkin.cli.released_flags import refuse_released_test

        refuse_released_test(rest)
    if verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"Did you mean `{near[0]}`?" if near else f"Verbs: {', '.join(VERBS)}."
        return _complain(f"Unknown verb `{verb}`. {hint}")
    module = importlib.import_module(f"patchkin.cli.{verb.replace('-', '_')}")
    if verb in ("data", "doctor", "models"):  # need no method, and none of their imports
        methods = {}
    elif methods is None and verb != "translate":  # which may need none
        from patchkin.methods import known_methods

        methods = known_methods()
    _interrupts.raise_again()
    if verb == "train":
        return int(module.run(rest, methods, default_method))
    return int(module.run(rest, methods))


def _help() -> str:
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:<{width}}  {summary}" for verb, summary in VERBS.items())
    return (
        "usage: patchkin VERB ...\n\n"
        "Contrastive unpaired image-to-image translation: two folders of images in, a translator\n"
        f"out.\n\nverbs:\n{verbs}\n\n"
        "`patchkin VERB --help` tells the options of a verb; `patchkin --version` the version;\n"
        "`patchkin --completion bash` (or zsh, fish) prints a script that completes them."
    )


def _complain(message: str) -> int:
    line = "".join(filter(str.isprintable, " ".join(message.split())))  # files can hold anything
    print(f"patchkin: error: {line}", file=sys.stderr)
    return USER_ERROR
