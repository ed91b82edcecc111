"""What benches of whole runs share: a corpus, the logs of a run, who is in it, and CPU quotas for its processes (cpu
cgroup, v1; needs root)."""
import json
import os
import random
import time

CGROUP = "/sys/fs/cgroup/cpu"


def corpus(directory):
    draw, path = random.Random(7), os.path.join(directory, "corpus.txt")
    words = ["".join(draw.choice("etaoinshrdlu") for _ in range(draw.randint(2, 8))) for _ in range(800)]
    with open(path, "w") as out:
        while out.tell() < 400000:
            out.write(" ".join(draw.choice(words) for _ in range(12)) + ".\n")
    return path


def read_lines(path):
    try:
        with open(path) as lines:
            return [json.loads(line) for line in lines if line.endswith("\n")]
    except FileNotFoundError:
        return []


def members(run):
    """Live members as the events tell: member -> (process, role)."""
    live = {}
    for event in read_lines(os.path.join(run, "events.jsonl")):
        if event.get("event") == "joined":
            live[event["member"]] = (event["process"], event.get("role"))
        elif event.get("event") in ("lost", "left"):
            live.pop(event.get("member"), None)
    return live


def own_group():
    """The cpu cgroup of this process: quotas go below it, so that its own limits hold."""
    try:
        with open("/proc/self/cgroup") as file:
            for line in file:
                _, controllers, path = line.rstrip("\n").split(":", 2)
                if "cpu" in controllers.split(","):
                    return CGROUP + path.rstrip("/")
    except FileNotFoundError:
        pass
    return CGROUP


def can_throttle():
    return os.access(own_group(), os.W_OK)


class Quota:
    """A CPU quota for each process of a run, so that a lost worker is lost capacity."""

    def __init__(self, period_us=20000):
        self.period_us, self.groups, self.done = period_us, {}, set()

    def take(self, pid, share):
        if pid in self.done:
            return
        self.done.add(pid)
        group = f"{own_group()}/brigade-bench-{pid}"
        try:
            os.makedirs(group, exist_ok=True)
            with open(f"{group}/cpu.cfs_period_us", "w") as file:
                file.write(str(self.period_us))
            with open(f"{group}/cpu.cfs_quota_us", "w") as file:
                file.write(str(int(self.period_us * share)))
            with open(f"{group}/cgroup.procs", "w") as file:
                file.write(str(pid))
            self.groups[pid] = group
        except ProcessLookupError:
            os.rmdir(group)

    def close(self):
        for group in self.groups.values():
            for _ in range(50):
                try:
                    os.rmdir(group)
                    break
                except OSError:
                    time.sleep(0.05)
