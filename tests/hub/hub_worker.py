"""Runs commands and code in a process whose client knows the Hub of the tests and no other.

The client reads HF_ENDPOINT when it is imported, so that a test cannot turn its own process to
another Hub; and a process for each command would import the client anew each time. A line on stdin
is a job in JSON, a line on stdout its result.
"""

import io
import json
import os
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout

COMMAND = "from embervlm.cli import app; app()"


def done(job: dict[str, object]) -> dict[str, object]:
    """Run `job["code"]` with `job["words"]` as its arguments and `job["token"]` as its token."""
    os.environ.pop("HF_TOKEN", None)
    if job["token"]:
        os.environ["HF_TOKEN"] = str(job["token"])
    sys.argv = ["embervlm", *job["words"]]
    out, err, status = io.StringIO(), io.StringIO(), 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            exec(job["code"], {"__name__": "__main__"})
        except SystemExit as ended:
            status = int(ended.code or 0)
        except Exception:  # noqa: BLE001  # told to the test
            traceback.print_exc()
            status = 1
    return {"status": status, "out": out.getvalue(), "err": err.getvalue()}


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(done(json.loads(line))), flush=True)
