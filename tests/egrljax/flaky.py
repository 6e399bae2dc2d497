"""A program that measures, and fails as it is told: what a board does on a bad day.

Standard input: {"id": a name, "value": a number, "plan": ["exit", "hang", ...]}. The first attempts do what
the plan says, the later ones answer. In its folder it leaves, for the tests to read: count_ID, a letter for
each attempt; seen_PID, how many of it were alive; child_PID, the process that it left sleeping.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

PROGRAM = [sys.executable, "-S", "-E", __file__]  # starts in a moment


def lives(pid: int) -> bool:
    """Whether there is such a process, and not only its exit status."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def main(folder: Path) -> None:
    given = json.load(sys.stdin)
    mine = folder / f"alive_{os.getpid()}"
    mine.touch()
    alive = sum(lives(int(file.name.split("_")[1])) for file in folder.glob("alive_*"))
    (folder / f"seen_{os.getpid()}").write_text(str(alive))
    with open(folder / f"count_{given['id']}", "a") as count:
        count.write("x")
    attempt = (folder / f"count_{given['id']}").stat().st_size
    plan = given.get("plan", [])
    todo = plan[attempt - 1] if attempt <= len(plan) else "answer"
    time.sleep(0.05)
    if todo == "hang":
        child = subprocess.Popen(["sleep", "300"])
        (folder / f"child_{child.pid}").touch()
        time.sleep(300)
    elif todo == "exit":
        print("connecting\nno\tboard on port 7", file=sys.stderr)
        mine.unlink()
        sys.exit(3)
    else:
        print("measured in 3 rounds")
        answer = {"garbage": "a b c", "nan": '{"seconds": NaN}', "other": '{"joules": 1.0}'}
        print(answer.get(todo) or json.dumps({"seconds": given["value"]}))
    mine.unlink()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
