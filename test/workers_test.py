#!/usr/bin/env python3
"""Jobs of many processes: the same bits on every plan and schedule, over deaths of any process, and nothing left behind.

Runs the built command (BRIGADE) on a tiny corpus of its own. Every run is compared with one process.
"""
import glob
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import unittest

from scenarios import BRIGADE, HANG_S, Runs

SHORT = ["train.steps=6", "train.checkpoint_every=3", "train.eval_every=3", "train.eval_tokens=200"]
LONG = ["train.steps=4000", "train.checkpoint_every=200", "train.eval_every=0", "train.eval_tokens=200"]


class Workers(Runs):
    JOB = ["model.layers=2", "model.dim=16", "model.heads=2", "model.context=16", "train.micro_batch=1",
           "train.micro_batches=5", "train.warmup=2", "train.lr=1e-2", "run.threads=1"]

    def wait_healed(self, name, process):
        """Until whoever stands in for the last that was lost has its state."""
        deadline = time.monotonic() + HANG_S
        while True:
            told = [e["event"] for e in self.events(name) if e["event"] in ("lost", "moved")]
            if told and told[-1] == "moved":
                return
            self.assertIsNone(process.poll(), "ended early")
            self.assertLess(time.monotonic(), deadline, "nobody took the place of who was lost")
            time.sleep(0.005)

    def left(self, name):
        """Processes whose command line names the run."""
        found = []
        for entry in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(entry, "rb") as file:
                    if self.path(name).encode() in file.read().split(b"\0"):
                        found.append(entry)
            except OSError:
                pass
        return found

    def nothing_left(self, name):
        deadline = time.monotonic() + 5
        while self.left(name) and time.monotonic() < deadline:
            time.sleep(0.02)
        self.assertEqual(self.left(name), [])
        address = self.read(name, "controller.id").strip()
        self.assertEqual(glob.glob(f"/dev/shm/*{address}*"), [])
        with open("/proc/net/unix") as file:
            self.assertNotIn(address, file.read())
        self.assertEqual(glob.glob(self.path(name, "**", ".*"), recursive=True), [])
        self.assertEqual(glob.glob(self.path(name, "*.tmp")), [])

    def test_steady_steps_allocate_nothing(self):
        for plan in ("1x2", "2x2"):
            name = "steady-" + plan
            self.end(self.start(name, "train.steps=400", "train.eval_every=0", "train.eval_tokens=200", f"run.plan={plan}",
                                "run.shadow=true", env={"BRIGADE_COUNT_ALLOCATIONS": "1"}))
            self.assertEqual([e for e in self.events(name) if e["event"] in ("lost", "failed", "trouble")], [])

    # ---- Identity ----

    def test_plans_and_schedules(self):
        wanted = self.reference(*SHORT)
        runs = [("1x1", ["run.shadow=true"]), ("1x2", []), ("1x4", []), ("2x1", []), ("2x2", ["run.schedule=gpipe"]),
                ("4x1", ["run.schedule=gpipe"]), ("3x1", []), ("1+2", []), ("2x1", ["run.schedule=interleaved"]),
                ("2x2", ["run.schedule=interleaved:2", "run.split=true"]), ("3x1", ["run.split=true"]),
                ("2x1", ["run.schedule=gpipe", "run.split=true"]), ("2x1", ["run.recompute=true"]),
                ("1x2", ["run.group=2", "run.shadow=false"])]
        for i, (plan, keys) in enumerate(runs):
            with self.subTest(plan=plan, keys=keys):
                name = f"plan-{i}"
                self.end(self.start(name, *SHORT, f"run.plan={plan}", *keys))
                found = self.same(name, *SHORT)
                self.assertEqual(found["validation"], wanted["validation"])
                self.assertEqual(found["deaths"], 0)
                self.nothing_left(name)
                shutil.rmtree(self.path(name))

    def test_files_of_a_run(self):
        self.end(self.start("files", *SHORT, "run.plan=2x2"))
        for name in ["job.yaml", "plan.txt", "steps.jsonl", "events.jsonl", "result.json", "log.sqlite"]:
            self.assertGreater(os.path.getsize(self.path("files", name)), 0, name)
        lines = list(map(json.loads, self.lines("files", "steps.jsonl")))
        self.assertEqual([line["step"] for line in lines], list(range(6)))
        self.assertTrue(all(line["workers"] == 4 and line["generation"] >= 1 for line in lines))
        result = self.result("files")
        for key in "workers generations deaths leaves_recomputed steps_redone recovery_ms goodput".split():
            self.assertIn(key, result)
        self.assertEqual(sorted(os.listdir(self.path("files", "checkpoints"))), ["step-3", "step-6"])
        for args in (["verify", self.path("files"), "--replay", "6"], ["diff", self.path("files"), self.path("files")]):
            done = subprocess.run([BRIGADE, *args], capture_output=True, text=True, timeout=HANG_S)
            self.assertEqual(done.returncode, 0, done.stderr)
        err = self.end(self.resume("files"))
        self.assertEqual(err, "")

    def test_a_plan_file(self):
        """plan.txt of a run is a plan file; its cut may be changed."""
        self.end(self.start("drawn", *SHORT, "run.plan=1+2"))
        text = self.plan("drawn")
        self.assertIn("stage 0 0 2\nstage 1 2 4\n", text)
        with open(self.path("mine.txt"), "w") as file:
            file.write(text.replace("stage 0 0 2\nstage 1 2 4\n", "stage 0 0 3\nstage 1 3 4\n"))
        self.end(self.start("mine", *SHORT, "run.plan=" + self.path("mine.txt")))
        self.same("mine", *SHORT)
        self.assertIn("stage 0 0 3\nstage 1 3 4\n", self.plan("mine"))
        self.end(self.start("alone", *SHORT))
        self.end(self.start("again", *SHORT, "run.plan=" + self.path("alone", "plan.txt"), "run.shadow=true"))
        self.same("again", *SHORT)

    def test_refusals(self):
        for keys, words in [(["run.plan=9x1"], ["run.plan", "9 stages"]), (["run.plan=1x6"], ["micro-batches"]),
                            (["run.plan=2x2", "run.workers=3"], ["run.workers", "4 seats"]),
                            (["run.plan=/nowhere.txt"], ["run.plan", "/nowhere.txt"]),
                            (["run.schedule=zigzag"], ["run.schedule", "gpipe"])]:
            process = self.start("refused", *SHORT, *keys)
            _, err = process.communicate(timeout=HANG_S)
            self.assertNotEqual(process.returncode, 0)
            for word in words:
                self.assertIn(word, err.decode())
            self.assertFalse(os.path.exists(self.path("refused")))
        done = subprocess.run([BRIGADE, "join", self.dir], capture_output=True, text=True, timeout=HANG_S)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("job.yaml", done.stderr)
        self.end(self.start("over", *SHORT, "run.plan=1x2"))
        done = subprocess.run([BRIGADE, "join", self.path("over")], capture_output=True, text=True, timeout=HANG_S)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("no job runs", done.stderr)

    # ---- Deaths ----

    def test_kill_worker_and_shadow(self):
        process = self.start("kill", *LONG, "run.plan=2x1")
        for i, who in enumerate(["worker0", "shadow", "worker1"]):
            self.wait_steps("kill", 30 + 60 * i, process)
            if i > 0:
                self.wait_healed("kill", process)
            os.kill(self.pid("kill", who), signal.SIGKILL)
        self.end(process)
        found = self.same("kill", *LONG)
        self.assertEqual(found["deaths"], 3)
        self.assertLessEqual(found["steps_redone"], 3)
        self.assertEqual(sum(e["event"] == "lost" for e in self.events("kill")), 3)
        self.nothing_left("kill")

    def test_deaths_leak_nothing(self):
        """Of those that live on: no file, no mapping more after 25 deaths than after 5."""
        def held(pid):
            with open(f"/proc/{pid}/maps") as maps:
                return len(os.listdir(f"/proc/{pid}/fd")), sum(1 for _ in maps)

        keys = ["train.steps=40000", "train.checkpoint_every=0", "train.eval_every=0", "train.eval_tokens=200"]
        process = self.start("leak", *keys, "run.plan=2x2", "run.shadow=true")
        self.wait_steps("leak", 20, process)
        stay = {"controller": process.pid, "shadow": self.pid("leak", "shadow"), "worker0": self.pid("leak", "worker0")}
        for i in range(26):
            victim = [e["process"] for e in self.events("leak") if e["event"] == "spawned"
                      and e["process"] not in stay.values()][-1]
            before = sum(e["event"] == "joined" for e in self.events("leak"))
            os.kill(victim, signal.SIGKILL)
            deadline = time.monotonic() + HANG_S
            while sum(e["event"] == "joined" for e in self.events("leak")) == before:
                self.assertLess(time.monotonic(), deadline)
                time.sleep(0.005)
            self.wait_steps("leak", self.steps("leak") + 30, process)
            if i == 5:
                first = {who: held(pid) for who, pid in stay.items()}
        last = {who: held(pid) for who, pid in stay.items()}
        process.send_signal(signal.SIGTERM)
        self.end(process, 75)
        for who in stay:
            self.assertLessEqual(last[who][0], first[who][0] + 3, (who, first, last))
            self.assertLessEqual(last[who][1], first[who][1] + 12, (who, first, last))
        self.nothing_left("leak")

    def test_kill_controller(self):
        process = self.start("ctl", *LONG, "run.plan=1x2", "run.shadow=true")
        self.wait_steps("ctl", 250, process)
        workers = {self.pid("ctl", who) for who in ("worker0", "worker1", "shadow")}
        process.kill()
        process.wait()
        process.stderr.close() # the workers have it still
        before = self.steps("ctl")
        process = self.resume("ctl")
        self.end(process)
        found = self.same("ctl", *LONG)
        back = {e["process"] for e in self.events("ctl") if e["event"] == "joined"}
        self.assertTrue(workers <= back)
        self.assertEqual(found["rollbacks"], 0, f"{before} steps were there")
        self.nothing_left("ctl")

    def test_stop_and_resume_with_others(self):
        process = self.start("stop", *LONG, "run.plan=2x2")
        self.wait_steps("stop", 100, process)
        process.terminate()
        self.assertIn("--resume", self.end(process, 75))
        self.nothing_left("stop")
        process = self.resume("stop", "run.plan=auto", "run.workers=3")
        self.wait_steps("stop", self.steps("stop") + 100, process)
        process.terminate()
        self.end(process, 75)
        process = self.resume("stop", "run.plan=auto", "run.workers=1", "run.shadow=false")
        self.wait_steps("stop", self.steps("stop") + 100, process)
        process.terminate()
        self.end(process, 75)
        self.end(self.resume("stop", "run.plan=1+2", "run.workers=0"))
        self.same("stop", *LONG)
        self.nothing_left("stop")

    def test_everything_dies(self):
        process = self.start("all", *LONG, "run.plan=2x1")
        self.wait_steps("all", 450, process)
        pids = [e["process"] for e in self.events("all") if e["event"] == "spawned"]
        process.kill()
        process.wait()
        process.stderr.close() # the workers have it still
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.end(self.resume("all", "run.plan=1x3", "run.workers=0"))
        self.same("all", *LONG)
        self.nothing_left("all")

    def test_join_by_hand(self):
        process = self.start("join", *LONG, "run.plan=1x2", "run.respawn=false", "run.shadow=true")
        self.wait_steps("join", 50, process)
        os.kill(self.pid("join", "worker1"), signal.SIGKILL)
        joiner = subprocess.Popen([BRIGADE, "join", self.path("join")], stderr=subprocess.PIPE)
        self.end(process)
        self.assertEqual(joiner.wait(timeout=10), 0, joiner.stderr.read())
        joiner.stderr.close()
        self.same("join", *LONG)
        self.assertTrue(any(e["event"] == "joined" and e["process"] == joiner.pid for e in self.events("join")))
        self.nothing_left("join")

    def test_a_named_point(self):
        env = {"BRIGADE_FAULT": "worker1:after-vote:2:KILL,worker0:before-apply:4:KILL"}
        self.end(self.start("point", *SHORT, "run.plan=1x2", env=env))
        found = self.same("point", *SHORT)
        self.assertEqual(found["deaths"], 2)


if __name__ == "__main__":
    sys.exit(unittest.main())
