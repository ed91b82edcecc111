#!/usr/bin/env python3
"""Every process of a job, at every named point of the protocol, killed, stopped or ended: the bits stay.

2 stages x 2 replicas x 4 micro-batches with a shadow. One fault-free run lists the points that every process passes
(BRIGADE_POINTS); the cases are the passes of one step in the middle x {KILL, STOP and CONT after the time-out, TERM}.
A seeded tenth of them runs by default, all with BRIGADE_CHECK_FULL=1; deaths of
several at once always (many_at_once()). BRIGADE_CASES="worker1:after-vote:2:KILL,..." runs
those only.

Of each: curve and weights equal the single-process run, no hang, at most one step redone, nothing left running, and
the recomputed leaves equal what this file predicts from the point alone (predicted()).
"""
import collections
import concurrent.futures
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time

BRIGADE = os.environ["BRIGADE"]
STEPS, HANG_S, SILENCE_MS = 3, 60, 400
JOB = ["model.family=llama", "model.layers=2", "model.dim=16", "model.heads=2", "model.kv_heads=2", "model.ffn=32",
       "model.context=8", "model.tie=false", "data.tokenizer=bytes", "data.valid=0.1", f"train.steps={STEPS}",
       "train.micro_batch=1", "train.micro_batches=4", "train.warmup=1", "train.seed=5", "run.threads=1", "run.group=1",
       "train.checkpoint_every=1"]
FLEET = ["run.workers=4", "run.plan=2x2", "run.shadow=true", "run.schedule=1f1b", f"run.heartbeat_ms={SILENCE_MS}"]


def corpus(directory):
    draw = random.Random(1)
    words = ["bucket", "line", "water", "fire", "hand", "pass", "fall", "close", "rank", "the", "a", "on"]
    path = os.path.join(directory, "corpus.txt")
    with open(path, "w") as out:
        out.write(" ".join(draw.choice(words) for _ in range(4000)))
    return path


def command(text, run, more):
    return [BRIGADE, "train", text, f"run.dir={run}", *JOB, *more, "--quiet"]


def events(run):
    try:
        with open(os.path.join(run, "events.jsonl")) as lines:
            return [json.loads(line) for line in lines if line.endswith("\n")]
    except FileNotFoundError:
        return []


def stopped(pid):
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0] == "T"
    except (FileNotFoundError, ProcessLookupError):
        return False


def left_running(run):
    """Processes that name this run directory."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as line:
                if run.encode() in line.read() and int(pid) != os.getpid():
                    found.append(int(pid))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            pass
    return found


class Case:
    def __init__(self, process, point, count, action):
        self.process, self.point, self.count, self.action = process, point, count, action

    def __str__(self):
        return f"{self.process}:{self.point}:{self.count}:{self.action}"


class Together:
    """Several faults in one run; only the bits are judged."""
    process, action = "several", "KILL"

    def __init__(self, name, *cases):
        self.name, self.cases = name, cases

    def __str__(self):
        return ",".join(map(str, self.cases))


def many_at_once():
    """Workers 0, 1 are the replicas of stage 0, workers 2, 3 those of stage 1."""
    for point, count in (("before-send-part", 2), ("after-vote", 1), ("after-apply", 1), ("before-vote", 2)):
        def all_of(name, *processes):
            return Together(f"{name} at {point}", *(Case(p, point if p != "shadow" or "part" not in point else "after-receive",
                                                          count, "KILL") for p in processes))
        yield all_of("a replica row", "worker0", "worker2")
        yield all_of("the first stage", "worker0", "worker1")
        yield all_of("the last stage", "worker2", "worker3")
        yield all_of("three", "worker0", "worker1", "worker2")
        yield all_of("all workers", "worker0", "worker1", "worker2", "worker3")
        yield all_of("a stage and the shadow", "worker0", "worker1", "shadow")
        yield all_of("everybody", "worker0", "worker1", "worker2", "worker3", "shadow")
    for point in ("before-report", "after-report", "after-generation"):
        for second in ("worker0", "worker2", "shadow"):
            yield Together(f"death of {second} at {point} of a recovery", Case("worker1", "before-vote", 2, "KILL"),
                           Case(second, point, 2, "KILL"))
    yield Together("controller and a worker", Case("controller", "after-log", 2, "KILL"),
                   Case("worker3", "after-vote", 2, "KILL"))
    for again in ([], ["run.workers=2", "run.plan=1x2"], ["run.workers=1", "run.plan=1x1", "run.shadow=false"]):
        case = Together("everything", *(Case(p, "after-vote", 2, "KILL") for p in ("worker0", "worker1", "worker2", "worker3", "shadow")), Case("controller", "before-log", 2, "KILL"))
        case.again = again
        yield case
    yield Together("controller and everybody", Case("controller", "before-log", 2, "KILL"),
                   *(Case(p, "after-vote", 2, "KILL") for p in ("worker0", "worker1", "worker2", "worker3", "shadow")))


def execute(text, directory, case):
    """Runs the job under one fault (None: none), starting the controller again as often as it dies. Returns a record."""
    run = tempfile.mkdtemp(prefix="run-", dir=directory)
    os.rmdir(run)
    env = dict(os.environ, BRIGADE_POINTS=run + ".points")
    if case:
        env["BRIGADE_FAULT"] = str(case)
    began, starts, woken = time.monotonic(), 0, {}
    arguments, error = command(text, run, FLEET), ""
    while True:
        starts += 1
        with open(run + ".err", "ab") as log:
            process = subprocess.Popen(arguments, env=env, stdout=log, stderr=log)
        while process.poll() is None:
            time.sleep(0.02)
            now = time.monotonic()
            if now - began > HANG_S:
                error = "hangs"
                for pid in [process.pid] + left_running(run):
                    os.kill(pid, signal.SIGKILL)
            for pid in {process.pid} | {e["process"] for e in events(run) if e.get("event") == "joined"}:
                if pid not in woken and stopped(pid):
                    woken[pid] = now + 2.0 * SILENCE_MS / 1000
                if woken.get(pid, now + 1) < now and stopped(pid):
                    os.kill(pid, signal.SIGCONT)
        if process.returncode == 0 or error or starts > 4:
            break
        if process.returncode not in (-signal.SIGKILL, -signal.SIGTERM, 75):
            error = f"exit {process.returncode}"
            break
        env.pop("BRIGADE_FAULT", None)
        arguments = [BRIGADE, "train", "--resume", run, "--quiet"]
        if not os.path.exists(os.path.join(run, "job.yaml")):
            arguments = command(text, run, FLEET)
            shutil.rmtree(run, ignore_errors=True)
        elif getattr(case, "again", None):
            arguments += case.again
    deadline = time.monotonic() + 5
    while left_running(run) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left_running(run) and not error:
        error = f"left running: {left_running(run)}"
    result = {}
    if not error:
        with open(os.path.join(run, "result.json")) as file:
            result = json.load(file)
    return {"run": run, "error": error, "result": result, "seconds": time.monotonic() - began, "starts": starts}


def list_points(text, directory):
    """{(process, point): passes} of a run without faults."""
    record = execute(text, directory, None)
    if record["error"]:
        sys.exit(f"the run without faults: {record['error']}; see {record['run']}.err")
    passes = collections.Counter()
    with open(record["run"] + ".points") as lines:
        for process, point, count in map(str.split, lines):
            passes[process, point] = max(passes[process, point], int(count))
    return record, passes


def middle_step(passes):
    """The counts of a point that fall into the middle step; all of them where a step passes it less than once."""
    first = passes // STEPS + 1
    return range(1, passes + 1) if passes < STEPS else range(first, 2 * (passes // STEPS) + 1)


def passed(log, process):
    try:
        with open(log) as lines:
            return [point for name, point, count in map(str.split, lines) if name == process]
    except FileNotFoundError:
        return []


def predicted(case, log, passes):
    """Leaves that have to be computed again after a worker's end, from the points that it passed and nothing else.

    Its two, unless its peer of the stage can have every sum of the step: it had sent all its partial sums and, of the
    roots that it owns, all but the last frame, which goes to the shadow. Once it has voted, the step may have been
    committed: then its two of the next step are missing, which nobody has begun."""
    if not case.process.startswith("worker"):
        return {0}
    points = passed(log, case.process)
    if points.count("after-apply") == STEPS:
        return {0}
    done = points.count("after-apply")
    now = points[len(points) - points[::-1].index("after-apply"):] if done else points
    if "before-apply" in now:
        return {2}
    if not done and not any("send" in point for point in now): # perhaps the first plan was still on its way
        return {0, 2}
    if "after-vote" in now:
        return {0, 2}
    parts, roots = (passes[case.process, "after-send-" + kind] // STEPS for kind in ("part", "root"))
    sent_all = now.count("after-send-part") == parts and now.count("after-send-root") >= roots - 1
    return {0} if sent_all else {2}


def judge(case, record, reference, passes):
    wrong = []
    if record["error"]:
        return [record["error"]]
    result = record["result"]
    for key in ("curve_sha256", "weights_sha256"):
        if result[key] != reference[key]:
            wrong.append(f"{key} {result[key][:12]}, expected {reference[key][:12]}")
    if result.get("steps_redone", 0) > 1 and not isinstance(case, Together):
        wrong.append(f"{result['steps_redone']} steps redone")
    if case.action in ("KILL", "TERM") and case.process.startswith("worker"):
        leaves = result.get("leaves_recomputed", -1)
        wanted = predicted(case, record["run"] + ".points", passes)
        if leaves not in wanted:
            wrong.append(f"{leaves} leaves recomputed, predicted {sorted(wanted)}")
    return wrong


def main():
    directory = tempfile.mkdtemp(prefix="brigade-kill-")
    try:
        text = corpus(directory)
        single = os.path.join(directory, "single")
        subprocess.run(command(text, single, ["run.workers=1"]), check=True, stdout=subprocess.DEVNULL)
        with open(os.path.join(single, "result.json")) as file:
            reference = json.load(file)
        plain, passes = list_points(text, directory)
        wrong = judge(Case("none", "-", 0, "-"), plain, reference, passes)
        cases = [Case(process, point, count, action) for (process, point), total in sorted(passes.items())
                 for count in middle_step(total) for action in ("KILL", "STOP", "TERM")]
        total = len(cases)
        if os.environ.get("BRIGADE_CASES") == "together":
            cases = list(many_at_once())
        elif os.environ.get("BRIGADE_CASES"):
            cases = [Case(p, q, int(n), a) for p, q, n, a in
                     (one.split(":") for one in os.environ["BRIGADE_CASES"].split(","))]
        elif os.environ.get("BRIGADE_CHECK_FULL"):
            cases += list(many_at_once())
        else:
            seed = int(os.environ.get("BRIGADE_SEED", "1"))
            cases = random.Random(seed).sample(cases, (total + 9) // 10) + list(many_at_once())
            print(f"seed {seed}")
        print(f"{len(cases)} of {total + len(list(many_at_once()))} cases", flush=True)
        failed, seconds = len(wrong), []
        for line in wrong:
            print(f"FAILED without a fault: {line}")
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            for case, record in zip(cases, pool.map(lambda case: execute(text, directory, case), cases)):
                wrong = judge(case, record, reference, passes)
                seconds.append(record["seconds"])
                for line in wrong:
                    print(f"FAILED {getattr(case, 'name', '')} {case}: {line}", flush=True)
                failed += bool(wrong)
                if not wrong:
                    shutil.rmtree(record["run"], ignore_errors=True)
                elif os.environ.get("BRIGADE_KEEP"):
                    shutil.copytree(record["run"], os.path.join(os.environ["BRIGADE_KEEP"], str(case)), dirs_exist_ok=True)
                    shutil.copy(record["run"] + ".err", os.path.join(os.environ["BRIGADE_KEEP"], str(case)[:80] + ".err"))
        print(f"{len(cases) - failed} of {len(cases)} survive with identical bits; {sum(seconds) / len(seconds):.2f} s each")
        return 1 if failed else 0
    finally:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
