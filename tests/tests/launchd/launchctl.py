#!/usr/bin/env python3
"""Behaves like launchctl for one user's jobs: the same words, the same exit codes, and jobs that really run.

Each loaded job has a keeper, a process that starts the program as the property list says and again after a failure.
What is known of a job lies in $LAUNCHCTL_STATE/<label>.json.
"""

import fcntl
import json
import os
import plistlib
import signal
import subprocess
import sys
import time

STATE = os.environ["LAUNCHCTL_STATE"]
DOMAIN = f"gui/{os.getuid()}"


def fail(code, text):
    print(text, file=sys.stderr)
    sys.exit(code)


def path(label):
    return os.path.join(STATE, f"{label}.json")


def load(label):
    try:
        with open(path(label)) as file:
            return json.load(file)
    except FileNotFoundError:
        return None


def save(label, job):
    fresh = path(label) + f".{os.getpid()}"
    with open(fresh, "w") as file:
        json.dump(job, file)
    os.replace(fresh, path(label))


def alter(label, **changes):
    with open(os.path.join(STATE, "lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        job = load(label)
        if job is not None:
            job.update(changes)
            save(label, job)


def label_of(target):
    domain, _, label = target.rpartition("/")
    if domain != DOMAIN:
        fail(125, f"Could not find domain for {target}")
    return label


def disabled():
    try:
        with open(os.path.join(STATE, "disabled")) as file:
            return set(file.read().split())
    except FileNotFoundError:
        return set()


def set_disabled(label, off):
    labels = disabled()
    (labels.add if off else labels.discard)(label)
    with open(os.path.join(STATE, "disabled"), "w") as file:
        file.write("\n".join(sorted(labels)))


def keep(label, plist):
    """The job's life, in a process of its own."""
    child = None
    wanted = plist.get("RunAtLoad", False)
    leaving = False

    def leave(*_):
        nonlocal leaving
        leaving = True

    def kick(*_):
        nonlocal wanted
        wanted = True

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGUSR1, kick)
    alter(label, keeper=os.getpid())
    begun = 0.0
    runs = 0
    throttle = float(os.environ.get("LAUNCHCTL_THROTTLE", plist.get("ThrottleInterval", 10)))
    while not leaving:
        if child is None and wanted and time.monotonic() - begun >= throttle:
            wanted = False
            begun = time.monotonic()
            runs += 1
            env = dict(os.environ, **plist.get("EnvironmentVariables", {}))
            log = plist.get("StandardErrorPath", "/dev/null")
            os.makedirs(os.path.dirname(log), exist_ok=True)
            with open(log, "a") as err:
                child = subprocess.Popen(
                    plist["ProgramArguments"], env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                    stderr=err, umask=plist.get("Umask", 0o22), start_new_session=True,
                )
            alter(label, state="running", pid=child.pid, runs=runs)
        if child is not None and child.poll() is not None:
            code = child.returncode
            child = None
            alter(label, state="not running", pid=None, exit=code)
            alive = plist.get("KeepAlive", False)
            if alive is True or (isinstance(alive, dict) and alive.get("SuccessfulExit") is (code == 0)):
                wanted = True
                alter(label, state="spawn scheduled")
        time.sleep(0.01)
    if child is not None:
        child.terminate()
        try:
            child.wait(plist.get("ExitTimeOut", 20))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
    os.unlink(path(label))


def bootstrap(domain, file):
    if domain != DOMAIN:
        fail(125, f"Bootstrap failed: 125: Domain does not support specified action")
    with open(file, "rb") as opened:
        plist = plistlib.load(opened)
    label = plist["Label"]
    if load(label) is not None:
        fail(5, "Bootstrap failed: 5: Input/output error")
    if label in disabled():
        fail(119, "Bootstrap failed: 119: Service is disabled")
    save(label, {"state": "not running", "pid": None, "runs": 0, "exit": None, "path": file})
    if os.fork() == 0:
        os.setsid()
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        keep(label, plist)
        os._exit(0)
    # From then on it hears signals.
    while "keeper" not in (load(label) or {"keeper": None}):
        time.sleep(0.002)


def bootout(target):
    job = load(label_of(target))
    if job is None:
        fail(3, "Boot-out failed: 3: No such process")
    os.kill(job["keeper"], signal.SIGTERM)
    while load(label_of(target)) is not None:
        time.sleep(0.01)


def kickstart(*args):
    label = label_of(args[-1])
    job = load(label)
    if job is None:
        fail(113, f'Could not find service "{label}" in domain for user gui: {os.getuid()}')
    if "-k" in args and job["pid"]:
        os.kill(job["pid"], signal.SIGTERM)
    if job["pid"] is None or "-k" in args:
        os.kill(job["keeper"], signal.SIGUSR1)


def show(target):
    label = label_of(target)
    job = load(label)
    if job is None:
        print(f'Bad request.\nCould not find service "{label}" in domain for user gui: {os.getuid()}', file=sys.stderr)
        sys.exit(113)
    lines = [f"path = {job['path']}", "type = LaunchAgent", f"state = {job['state']}", "", f"runs = {job['runs']}"]
    if job["pid"]:
        lines.append(f"pid = {job['pid']}")
    lines.append("last exit code = " + ("(never exited)" if job["exit"] is None else str(job["exit"])))
    print(f"{target} = {{")
    for line in lines:
        print(f"\t{line}" if line else "")
    print("}")


COMMANDS = {
    "bootstrap": bootstrap,
    "bootout": bootout,
    "kickstart": kickstart,
    "print": show,
    "enable": lambda target: set_disabled(label_of(target), False),
    "disable": lambda target: set_disabled(label_of(target), True),
}

if len(sys.argv) < 2 or sys.argv[1] not in COMMANDS:
    fail(64, f"Unrecognized subcommand: {' '.join(sys.argv[1:2])}")
os.makedirs(STATE, exist_ok=True)
COMMANDS[sys.argv[1]](*sys.argv[2:])
