"""Signals as requests: when a process that hangs on its way out ends all the same."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

HANGS = """
import sys, time
from fusiondistill_runner.driving import interruption
interruption.LIMIT = float(sys.argv[1])
try:
    with interruption.Interruption() as request:
        print("ready", flush=True)
        while True:
            request.check()
            time.sleep(0.05)
finally:
    print("leaving", flush=True)
    time.sleep(600)  # a tracker, say, that does not answer
"""


@pytest.mark.parametrize(("limit", "again", "words"), [(2, False, "not at an end after 2 s"), (500, True, "twice")])
def test_who_hangs_on_the_way_out_is_ended(limit: int, again: bool, words: str) -> None:
    line = [sys.executable, "-c", HANGS, str(limit)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
            process.send_signal(signal.SIGTERM)
            assert process.stdout.readline() == "leaving\n"
            if again:
                time.sleep(0.5)  # what comes sooner may be the same signal, sent to a whole group
                process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == 75 and words in said and "start the same command again to go on" in said, said


@pytest.mark.parametrize(("ignored", "code"), [(False, 75), (True, -signal.SIGKILL)])
def test_a_terminal_that_hangs_up_is_heeded_but_under_nohup(ignored: bool, code: int) -> None:
    opening = f"import signal; signal.signal(signal.SIGHUP, signal.{'SIG_IGN' if ignored else 'SIG_DFL'})\n"
    program = opening + HANGS.replace("time.sleep(600)", "sys.exit(75)")
    with subprocess.Popen([sys.executable, "-c", program, "500"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        if ignored:
            assert process.poll() is None
            process.kill()
        process.communicate(timeout=60)
    assert process.returncode == code


def test_a_signal_while_python_ends_leaves_the_exit_code() -> None:
    slow = "import os\nclass Slow:\n    def __del__(self, write=os.write, sleep=time.sleep):\n"
    slow += "        write(1, b'closing\\n'); sleep(2)\nslow = Slow()\n"
    program = HANGS.replace("try:", slow + "try:", 1).replace("time.sleep(600)", "sys.exit(75)")
    with subprocess.Popen([sys.executable, "-c", program, "500"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGINT)
        assert [process.stdout.readline() for _ in range(2)] == ["leaving\n", "closing\n"]
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)
    assert process.returncode == 75
