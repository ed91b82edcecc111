"""What tests of whole training runs share: a directory with a corpus, runs by name in it, what they wrote, deaths, and the
hashes of one process to compare with. Runs the built command (BRIGADE)."""
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
HASHES = ("curve_sha256", "weights_sha256", "signature_sha256")
HANG_S = 300


class Runs(unittest.TestCase):
    VERSES = 200       # of the corpus
    JOB = []           # keys of every run
    FLAGS = ["--quiet"]

    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix=f"brigade-{cls.__name__.lower()}-")
        cls.addClassCleanup(shutil.rmtree, cls.dir)
        with open(cls.path("corpus.txt"), "w") as out:
            for i in range(cls.VERSES):
                out.write(f"verse {i}: and the {i % 17} ships went over the water, {i * 7 % 23} by {i % 5}.\n")
        cls.single = {}

    @classmethod
    def path(cls, *names):
        return os.path.join(cls.dir, *names)

    def command(self, name, *keys):
        return [BRIGADE, "train", self.path("corpus.txt"), "run.dir=" + self.path(name), *self.JOB, *keys, *self.FLAGS]

    def start(self, name, *keys, env=None):
        return subprocess.Popen(self.command(name, *keys), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
                                env=dict(os.environ, **(env or {})))

    def resume(self, name, *keys):
        return subprocess.Popen([BRIGADE, "train", "--resume", self.path(name), *keys, *self.FLAGS],
                                stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)

    def end(self, process, code=0):
        try:
            _, err = process.communicate(timeout=HANG_S)
        except subprocess.TimeoutExpired:
            process.kill()
            self.fail("hangs")
        err = err.decode(errors="replace")
        self.assertEqual(process.returncode, code, err)
        return err

    # ---- What it wrote ----

    def read(self, *names):
        with open(self.path(*names)) as file:
            return file.read()

    def result(self, name):
        return json.loads(self.read(name, "result.json"))

    def plan(self, name):
        return self.read(name, "plan.txt")

    def lines(self, name, file):
        """Those that are written to their end."""
        try:
            return [line for line in self.read(name, file).splitlines(True) if line.endswith("\n")]
        except FileNotFoundError:
            return []

    def events(self, name):
        return [json.loads(line) for line in self.lines(name, "events.jsonl")]

    def steps(self, name):
        return len(self.lines(name, "steps.jsonl"))

    def wait_steps(self, name, count, process):
        deadline = time.monotonic() + HANG_S
        while self.steps(name) < count:
            self.assertIsNone(process.poll(), "ended early")
            self.assertLess(time.monotonic(), deadline, f"no step {count}")
            time.sleep(0.005)

    def pid(self, name, who):
        """The newest process of that name."""
        return [e["process"] for e in self.events(name) if e["event"] == "spawned" and e["name"] == who][-1]

    # ---- One process ----

    def reference(self, *keys):
        """The result of one process with these keys."""
        if keys not in self.single:
            name = f"single-{len(self.single)}"
            self.end(self.start(name, *keys))
            self.single[keys] = self.result(name)
        return self.single[keys]

    def same(self, name, *keys):
        found, wanted = self.result(name), self.reference(*keys)
        for key in HASHES:
            self.assertEqual(found[key], wanted[key], (name, key))
        return found


class Budgets(Runs):
    """Jobs whose machines a policy rents."""
    GAP = 600
    JOB = ["model.layers=2", "model.dim=16", "model.heads=2", "model.context=16", "train.micro_batch=1",
           "train.micro_batches=4", "train.warmup=2", "train.lr=1e-2", "train.eval_every=0", "train.eval_tokens=200",
           "train.checkpoint_every=0", "run.threads=1"]
    FLAGS = ["--quiet", "--json"]

    @classmethod
    def trace(cls, name, data, gap=GAP):
        with open(cls.path(name), "w") as out:
            json.dump({"metadata": {"gap_seconds": gap}, "data": data}, out)
        return cls.path(name)

    def train(self, name, steps, keys, timeout=HANG_S):
        done = subprocess.run(self.command(name, f"train.steps={steps}", *keys), capture_output=True, text=True,
                              timeout=timeout)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def check_same(self, found, steps):
        wanted = self.reference(f"train.steps={steps}", "run.plan=1x1", "run.shadow=false")
        for key in ("curve_sha256", "weights_sha256"):
            self.assertEqual(found[key], wanted[key], key)

    def replayed(self, name):
        """What `sim replay` says of its decisions."""
        done = subprocess.run([BRIGADE, "sim", "replay", self.path(name, "decisions.log"), "--json"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def killed_twice(self, name, command, more, torn, pause=0):
        """The result of a job whose controller is killed when `more` bytes of decisions are there, and again."""
        log, result = self.path(name, "decisions.log"), self.path(name + ".json")
        for kill in range(3):
            at = os.path.getsize(log) if kill else 0
            with open(result, "w") as out: # no pipe: workers outlive a controller, and would hold it
                process = subprocess.Popen(command if kill == 0 else [BRIGADE, "train", "--resume", self.path(name), *self.FLAGS],
                                           stdout=out)
            until = time.monotonic() + 60
            while kill < 2 and time.monotonic() < until and process.poll() is None:
                if os.path.isfile(log) and os.path.getsize(log) > at + more:
                    process.send_signal(signal.SIGKILL)
                    break
                time.sleep(0.01)
            process.wait(timeout=200)
            if kill < 2: # as a controller leaves it that died while it wrote
                self.assertEqual(process.returncode, -signal.SIGKILL)
                with open(log, "a") as broken:
                    broken.write(torn)
                time.sleep(pause)
        self.assertEqual(process.returncode, 0)
        return json.loads(self.read(result))

    def check_refused(self, budget, words):
        keys = [f"budget.{key}={value}" for key, value in budget.items() if value is not None]
        done = subprocess.run(self.command("misuse", "train.steps=10", "run.plan=1x2", *keys), capture_output=True, text=True,
                              timeout=60)
        self.assertNotEqual(done.returncode, 0, keys)
        for word in words:
            self.assertIn(word, done.stderr)
        self.assertFalse(os.path.exists(self.path("misuse")), keys)

    def steps_for(self, name, seconds, scale):
        """As many as take so long here, at most 40,000, and what was measured of 1,500."""
        steady = self.train(f"{name}-steady", 1500, ["run.plan=1x1", "budget.policy=on-demand", "budget.deadline=90d",
                                                     f"budget.time_scale={scale}"])["budget"]["simulated"]
        return int(max(1000, min(40000, seconds * scale / steady["work_s"] * 1500))), steady

    def check_agreement(self, attempts, policy, *args, **kwargs):
        """Live and simulated: by at most a tenth of all steps apart."""
        for attempt in range(attempts): # a loaded machine is not as fast in the one minute as in the next
            apart, told = self.live_against_simulated(f"agree-{policy}-{attempt}", policy, *args, **kwargs)
            print(told, flush=True)
            if apart <= 0.1:
                return
        self.fail(told)
