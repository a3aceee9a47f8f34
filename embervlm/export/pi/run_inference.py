"""Decide which robots to send, on a small board: `embervlm export package` wrote this folder.

    python3 run_inference.py photo.jpg "reach the people on the roof"
    python3 run_inference.py "carry the 8 kg pump up the stairs" --json
    python3 run_inference.py --lines < requests.jsonl > decisions.jsonl
    python3 run_inference.py --listen /run/embervlm/socket

A line has {"id": 7, "task": text or null, "image": path or null}; the answer has the id and the
decision, or the id and an error. Exit code 2, with one sentence, for what the user got wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

HERE = Path(__file__).resolve().parent
# This folder's own modules come first, also under `python3 -I`.
sys.path.insert(0, str(HERE))

if TYPE_CHECKING:
    from embervlm.scenario import Decision
    from embervlm.selector import Selector

# One that says nothing must not keep the others waiting.
CLIENT_TIMEOUT_S = 10


def main() -> int:
    """Read the flags, decide, print; return the exit code."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").split("\n")[0],
        epilog='Begin with:  python3 run_inference.py photo.jpg "reach the people on the roof"',
    )
    parser.add_argument("photo", metavar="PHOTO", nargs="?", help="a JPEG, PNG or WebP file")
    parser.add_argument("request", metavar="REQUEST", nargs="?", help="what is asked, in words")
    parser.add_argument("--image", metavar="PHOTO", help="the photo, whatever its name")
    parser.add_argument("--task", metavar="TEXT", help="the request, whatever its words")
    parser.add_argument("--json", action="store_true", help="print the decision as JSON")
    parser.add_argument("--fleet", type=Path, default=HERE / "fleet.yaml", metavar="F.yaml")
    parser.add_argument("--model", type=Path, default=HERE / "model.gguf", metavar="M.gguf")
    parser.add_argument("--lines", action="store_true", help="decide each line of JSON on stdin")
    parser.add_argument("--listen", type=Path, metavar="SOCKET", help="the same on a UNIX socket")
    open_closed_streams()
    asked = parser.parse_args()
    try:
        words = (asked.photo, asked.request, asked.image, asked.task)
        if (asked.lines or asked.listen) and any(words) or asked.lines and asked.listen:
            raise ValueError("--lines and --listen stand alone: the requests come as lines.")
        if asked.lines:
            answer(open_selector(asked.model, asked.fleet), sys.stdin.buffer, sys.stdout.buffer)
        elif asked.listen:
            listen(asked.listen, open_selector(asked.model, asked.fleet))
        else:
            from embervlm.intake import sort_words
            from embervlm.scenario import Scenario

            photo, request = sort_words(*words)
            scenario = Scenario(task=request, image=photo)
            decision = open_selector(asked.model, asked.fleet).decide(scenario)
            text = json.dumps(decision.to_dict(), indent=2) if asked.json else lines_of(decision)
            sys.stdout.write(text + "\n")
            sys.stdout.flush()
    except ModuleNotFoundError as error:
        package = {"PIL": "pil"}.get(error.name or "", error.name)
        return fail(f"{error.name} is missing: apt install python3-{package}")
    except ValueError as error:
        return fail(str(error))
    except OSError as error:
        # What could not be written must not be tried once more at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            return 1  # nobody reads on
        return fail(f"{error.filename or 'The output'}: {error.strerror or error}.")
    except KeyboardInterrupt:
        return 130
    return 0


def open_closed_streams() -> None:
    """Let a stream that the caller closed, which Python has as None, be empty."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


def open_selector(model: Path, fleet: Path) -> Selector:
    """Read the fleet, compile the engine if that was not done yet, and open the model.

    Raises:
        ValueError: one of them cannot be used.
    """
    from embervlm.backends.native import NativeBackend
    from embervlm.engine import library_path
    from embervlm.fleet import Fleet
    from embervlm.selector import Selector

    robots = Fleet.from_yaml(fleet)
    if library_path() is None:
        compile_engine()
    return Selector(NativeBackend.load(model), robots)


def compile_engine() -> None:
    """Run make, once.

    Raises:
        ValueError: it is not there, or it failed.
    """
    sys.stderr.write("Compiling the engine, once; on a Pi Zero this takes some minutes.\n")
    try:
        made = subprocess.run(["make", "-C", str(HERE)], capture_output=True, text=True)
    except FileNotFoundError as error:
        raise ValueError(
            "The engine must be compiled once: apt install gcc libc6-dev make"
        ) from error
    if made.returncode:
        *_, last = ["no message", *made.stderr.split("\n")[:-1]]
        raise ValueError(f"The engine was not compiled ({last}); run 'make' in {HERE} to see why.")


def answer(selector: Selector, lines: BinaryIO, out: BinaryIO) -> None:
    """Write a line of JSON for each line that comes, at once."""
    from embervlm.intake import decide_line, numbered_lines

    for number, line in numbered_lines(lines):
        record = decide_line(selector, number, line, Path(), top_k=None, reasoning=True)
        out.write(json.dumps(record).encode() + b"\n")
        out.flush()


def listen(path: Path, selector: Selector) -> None:
    """Answer on a UNIX socket, one client after another, until the process is ended."""
    if path.exists() and stat.S_ISSOCK(path.stat().st_mode):
        path.unlink()  # left behind by one that was killed
    with socket.socket(socket.AF_UNIX) as server:
        try:
            server.bind(os.fspath(path))
        except OSError as error:
            raise ValueError(f"Cannot listen on {path} ({error.strerror or error}).") from error
        server.listen()
        sys.stderr.write(f"Listening on {path}.\n")
        while True:
            client, _ = server.accept()
            with client:
                client.settimeout(CLIENT_TIMEOUT_S)
                try:
                    with client.makefile("rwb") as stream:
                        answer(selector, stream, stream)  # type: ignore[arg-type]
                except OSError as error:
                    sys.stderr.write(f"A client was left: {error}.\n")


def lines_of(decision: Decision) -> str:
    """Return a decision as text for people."""
    from embervlm.prompts import describe_robots

    sure = f"{decision.confidence:.0%}"
    if decision.ask:
        sure += ", not sure enough: ask a person"
    facts: list[tuple[str, Any]] = [
        ("send", describe_robots(decision)),
        ("place", decision.environment.replace("_", " ")),
        ("confidence", sure),
    ]
    facts += [("step", f"{step.robot}: {step.subtask}") for step in decision.plan]
    text = "\n".join([*(f"{name:12}{value}" for name, value in facts), *decision.reasoning])
    return "".join(char if char.isprintable() or char == "\n" else "?" for char in text)


def fail(sentence: str) -> int:
    """Say one sentence on stderr and return exit code 2."""
    line = " ".join(sentence.split())
    sys.stderr.write("embervlm: " + "".join(c if c.isprintable() else "?" for c in line) + "\n")
    return 2


if __name__ == "__main__":
    raise SystemExit(main())
