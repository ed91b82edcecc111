#!/usr/bin/python3
"""The command as a user meets it: help, exit codes, what errors name, round trips, stop and resume.

Runs the built command (BRIGADE) on small inputs it makes itself; needs no data from elsewhere.
"""
import glob
import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
VERBS = "train generate chat eval join chaos sim trace plan plot verify diff import export inspect tokenizer doctor serve route".split()
TINY = ["model.layers=2", "model.dim=32", "model.heads=2", "model.context=32", "train.micro_batch=2",
        "train.micro_batches=3", "train.steps=8", "train.warmup=2", "train.lr=1e-2", "train.checkpoint_every=3",
        "train.eval_every=4"]


def run(*args, cwd=None, stdin=b"", timeout=120, env=None):
    done = subprocess.run([BRIGADE, *args], cwd=cwd, input=stdin, capture_output=True, timeout=timeout,
                          env=dict(os.environ, **(env or {})))
    return done.returncode, done.stdout, done.stderr.decode(errors="replace")


class Command(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = tempfile.mkdtemp(prefix="brigade-cli-")
        with open(cls.path("corpus.txt"), "w") as out:
            for i in range(600):
                out.write(f"verse {i}: and the {i % 17} ships went over the water, {i * 7 % 23} by {i % 5}.\n")
        code, _, err = run("train", cls.path("corpus.txt"), "run.dir=" + cls.path("run"), *TINY)
        assert code == 0, err

    @classmethod
    def tearDownClass(cls):
        shutil.rmtree(cls.dir)

    @classmethod
    def path(cls, name):
        return os.path.join(cls.dir, name)

    def fails(self, code, words, *args, **how):
        """The command exits with `code` and its message holds every word, on few lines."""
        got, _, err = run(*args, **how)
        self.assertEqual(got, code, err)
        for word in words:
            self.assertIn(word, err)
        return err

    def train(self, name, *more, **how):
        return run("train", self.path("corpus.txt"), "run.dir=" + self.path(name), *TINY, *more, **how)

    def result(self, name):
        with open(self.path(name) + "/result.json") as file:
            return json.load(file)

    def test_help(self):
        code, out, _ = run("--help")
        self.assertEqual(code, 0)
        for verb in VERBS:
            self.assertIn(verb.encode(), out)
            code, text, err = run(verb, "--help")
            self.assertEqual((code, err), (0, ""), verb)
            self.assertIn(b"usage: brigade " + verb.encode(), text)
        self.assertEqual(run()[0], 64)
        self.assertEqual(run("--version")[0], 0)

    def test_misuse(self):
        self.fails(64, ["'trian'", "train"], "trian")
        self.fails(64, ["--tempersture", "--temperature"], "generate", self.path("run"), "--tempersture", "1")
        self.fails(64, ["--tokens", "'many'"], "generate", self.path("run"), "--tokens", "many")
        self.fails(64, ["--seed"], "generate", self.path("run"), "--seed")
        self.fails(64, ["missing"], "train")

    def test_job_file_errors_name_file_line_and_key(self):
        job = self.path("job.yaml")
        for text, words in [("model: {layers: 2}\ntrain:\n  stesp: 3\n", ["job.yaml:3", "stesp", "steps"]),
                            ("model:\n  layers: many\n", ["job.yaml:2", "layers", "many"]),
                            ("model: {heads: 5, dim: 32}\ndata: {train: x}\n", ["heads"])]:
            with open(job, "w") as out:
                out.write(text)
            err = self.fails(78, words, "train", job)
            self.assertLess(len(err.splitlines()), 4)
        with open(job, "w") as out:
            out.write("model: {layers: 2\n")
        self.fails(65, ["job.yaml:2"], "train", job)
        self.fails(78, ["train.stesp", "train.steps"], "train", self.path("corpus.txt"), "train.stesp=3")
        self.fails(66, ["absent.txt"], "train", self.path("absent.txt"), "run.dir=" + self.path("never"))

    def test_a_used_directory_is_refused(self):
        code, _, err = self.train("run")
        self.assertEqual(code, 73, err)
        self.assertIn("--resume", err)
        code, _, err = run("train", "--resume", self.path("run"), "train.lr=5e-3")
        self.assertEqual(code, 65, err)
        self.assertIn("lr", err)
        code, out, err = run("train", "--resume", self.path("run"))
        self.assertEqual(code, 0, err)
        self.assertIn(b"finished already", out)

    def test_files_of_a_run(self):
        for name in ["job.yaml", "plan.txt", "steps.jsonl", "events.jsonl", "result.json"]:
            self.assertTrue(os.path.getsize(self.path("run/" + name)) > 0, name)
        steps = [json.loads(line) for line in open(self.path("run/steps.jsonl"))]
        self.assertEqual([s["step"] for s in steps], list(range(8)))
        for key in "loss loss_bits grad_norm lr tokens tokens_per_second workers generation".split():
            self.assertIn(key, steps[0])
        self.assertLess(steps[-1]["loss"], steps[0]["loss"])
        self.assertLessEqual(len(glob.glob(self.path("run/checkpoints/step-*"))), 3)

    def test_the_machine_is_not_in_the_bits(self):
        want = self.result("run")
        for name, more, env in [("t1", ["run.threads=1"], {}), ("t3", ["run.threads=3"], {}),
                                ("avx2", [], {"BRIGADE_ISA": "avx2"}), ("ref", [], {"BRIGADE_ISA": "ref"}),
                                ("group", ["run.group=1", "run.order=shuffle:3"], {})]:
            code, _, err = self.train(name, *more, env=env)
            if code and "BRIGADE_ISA" in env:
                continue  # this machine lacks it
            self.assertEqual(code, 0, err)
            for key in ("curve_sha256", "weights_sha256", "signature_sha256"):
                self.assertEqual(self.result(name)[key], want[key], (name, key))
        code, out, _ = run("diff", self.path("run"), self.path("t1"))
        self.assertEqual(code, 0, out)

    def test_diff_names_step_and_tensor(self):
        code, _, err = self.train("other", "train.seed=2")
        self.assertEqual(code, 0, err)
        code, out, err = run("diff", self.path("run"), self.path("other"), "--json")
        self.assertEqual(code, 1, err)
        found = json.loads(out)
        self.assertEqual(found["step"]["first"], 0)
        self.assertIn("weight", found["tensor"]["name"])

    def wait_for_steps(self, name, count):
        for _ in range(600):
            path = self.path(name) + "/steps.jsonl"
            if os.path.exists(path) and sum(1 for _ in open(path)) >= count:
                return
            time.sleep(0.02)
        self.fail("the run did not get going")

    def start(self, name, *more):
        return subprocess.Popen([BRIGADE, "train", self.path("corpus.txt"), "run.dir=" + self.path(name), *TINY,
                                 "train.steps=400", "train.checkpoint_every=5", *more], stderr=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL)

    def test_signals_and_kills_then_resume(self):
        code, _, err = self.train("long", "train.steps=400", "train.checkpoint_every=5")
        self.assertEqual(code, 0, err)
        want = self.result("long")
        for name, sig, expected in [("term", signal.SIGTERM, 75), ("int", signal.SIGINT, 75), ("kill", signal.SIGKILL, -9)]:
            code = None
            process = self.start(name)
            self.wait_for_steps(name, 12)
            process.send_signal(sig)
            self.assertEqual(process.wait(60), expected)
            code, _, err = run("train", "--resume", self.path(name))
            self.assertEqual(code, 0, err)
            self.assertEqual(self.result(name)["curve_sha256"], want["curve_sha256"], name)
            self.assertEqual(self.result(name)["weights_sha256"], want["weights_sha256"], name)
        code, out, err = run("verify", self.path("kill"), "--replay", "20")
        self.assertEqual(code, 0, err)
        self.assertIn(b"verified", out)

    def test_one_process_a_directory(self):
        process = self.start("busy", "train.steps=100000")
        self.wait_for_steps("busy", 3)
        try:
            code, _, err = run("train", "--resume", self.path("busy"))
            self.assertEqual(code, 73, err)
            self.assertIn("in use by another process", err)
        finally:
            process.kill()
            process.wait()

    def test_a_damaged_checkpoint_is_named_and_passed_over(self):
        shutil.copytree(self.path("run"), self.path("damaged"))
        newest = max(glob.glob(self.path("damaged/checkpoints/step-*")), key=lambda p: int(p.rsplit("-", 1)[1]))
        with open(newest + "/model.safetensors", "r+b") as file:
            file.seek(-5, 2)
            byte = file.read(1)
            file.seek(-5, 2)
            file.write(bytes([byte[0] ^ 16]))
        code, _, err = run("verify", self.path("damaged"))
        self.assertEqual(code, 65, err)
        self.assertIn("model.safetensors", err)
        code, _, err = run("train", "--resume", self.path("damaged"))
        self.assertEqual(code, 0, err)
        self.assertIn("model.safetensors", err)
        self.assertEqual(self.result("damaged")["weights_sha256"], self.result("run")["weights_sha256"])

    def test_generate(self):
        args = ["generate", self.path("run"), "--prompt", "verse", "--tokens", "20", "--seed", "7"]
        code, one, err = run(*args)
        self.assertEqual((code, err), (0, ""))
        self.assertTrue(one.startswith(b"verse"))
        self.assertEqual(len(one), 25)
        self.assertEqual(run(*args, "--threads", "1")[1], one)
        self.assertNotEqual(run(*args[:-1], "8")[1], one)
        code, out, err = run(*args, "--json")
        self.assertEqual(json.loads(out)["tokens"], 20)
        code, out, err = run("generate", self.path("run"), "--prompt", "a", "--tokens", "100", "--temperature", "0")
        self.assertEqual(code, 0)
        self.assertIn("context", err)
        self.fails(78, ["--context", "32"], "generate", self.path("run"), "--context", "4096")
        self.fails(73, ["context"], "generate", self.path("run"), "--prompt", "x" * 40)
        code, out, err = run("chat", self.path("run"), "--tokens", "5", "--seed", "1", stdin=b"hello\nagain\n")
        self.assertEqual(code, 0, err)
        self.assertGreaterEqual(out.count(b"\n"), 2, out)

    def test_formats_round_trip(self):
        want = run("generate", self.path("run"), "--prompt", "the ", "--tokens", "20", "--temperature", "0")[1]
        chain = [("gguf", "m.gguf"), ("safetensors", "hf")]
        source = self.path("run")
        for form, name in chain:
            code, _, err = run("export", source, "--to", form, "--out", self.path(name))
            self.assertEqual(code, 0, err)
            source = self.path(name)
            self.assertEqual(run("generate", source, "--prompt", "the ", "--tokens", "20", "--temperature", "0")[1], want)
            code, out, err = run("inspect", source, "--json")
            self.assertEqual(code, 0, err)
            self.assertTrue(json.loads(out)["tensors"])
        self.fails(64, ["--to"], "export", source, "--to", "onnx", "--out", self.path("x"))
        code, out, err = run("diff", self.path("hf"), self.path("m.gguf"))
        self.assertEqual(code, 0, out)

    def test_hostile_files(self):
        for name, data in [("a.gguf", b"GGUF" + b"\xff" * 60), ("b.gguf", b""), ("c.safetensors", b"\xff" * 8 + b"{}"),
                           ("d.safetensors", b"\x02" + b"\0" * 7 + b"{}" * 3), ("tokenizer.json", b"{"),
                           ("e.tiktoken", b"!!! 1\n"), ("f.bin", b"\1\0\0\0" * 5)]:
            with open(self.path(name), "wb") as out:
                out.write(data)
            err = self.fails(65, [name], "inspect", self.path(name))
            self.assertLess(len(err.splitlines()), 3, err)
        with open(self.path("config.json"), "w") as out:
            out.write('{"model_type":"llama","num_hidden_layers":99999999999}')
        self.assertIn(run("generate", self.dir)[0], (65, 66, 78))

    def test_disk_full(self):
        mount = self.path("small")
        os.mkdir(mount)
        if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300k", "tmpfs", mount], capture_output=True).returncode:
            self.skipTest("cannot mount a small disk here")
        try:
            code, _, err = run("train", self.path("corpus.txt"), *TINY, "run.dir=" + mount + "/run", "model.dim=64",
                               "data.cache=" + self.path("cache"))
            self.assertEqual(code, 73, err)
            self.assertIn(mount, err)
        finally:
            subprocess.run(["umount", mount], check=True)

    def test_outputs_that_cannot_be_created(self):
        """Into no directory, into one a file stands for, onto a directory: 73, and the path is said."""
        with open(self.path("file"), "w") as out:
            out.write("x")
        corpus, profile, events = self.path("corpus.txt"), self.path("profile.txt"), self.path("events.csv")
        counts = self.path("counts.json")
        with open(events, "w") as out:
            out.write("0,add,1\n1000,remove,1\n")
        with open(counts, "w") as out:
            json.dump({"metadata": {"gap_seconds": 600}, "data": [1] * 40}, out)
        code, _, err = run("plan", "--profile", corpus, *TINY, "--out", profile)
        self.assertEqual(code, 0, err)
        job, schedule = [corpus, *TINY, "--profile", profile], "--schedule 1f1b --stages 2 --micro-batches 2".split()
        deadline = ["sim", "deadline", "--trace", counts, "--policy", "greedy",
                    *"--work 1h --deadline 3h --overhead 0s --spot-price 1 --on-demand-price 3 --window 0".split()]
        verbs = [["plan", *job, "--out"], ["plan", *job, "--svg"], ["plan", *job, "--map-svg"],
                 ["plan", *schedule, "--svg"],
                 ["plan", *"--placement vshape --devices 2 --micro-batches 2 --svg".split()],
                 ["plot", self.path("run"), "--out"], ["trace", events, "--out"], ["trace", events, "--svg"],
                 ["sim", "fleet", "--trace", events, "--policy", "varuna", "--svg"], [*deadline, "--svg"], [*deadline, "--log"]]
        os.mkdir(self.path("taken.csv"))
        for verb in verbs:
            for where in (self.path("nowhere/x.csv"), self.path("file/x.csv"), self.path("taken.csv")):
                with self.subTest(verb=verb):
                    self.fails(73, [where], *verb, where)
        run_dir = self.path("run")
        for verb in (["train", corpus, *TINY, "run.dir={}"], ["plan", "--profile", corpus, *TINY, "--out", "{}"],
                     ["import", run_dir, "--out", "{}"],
                     ["export", run_dir, "--to", "safetensors", "--out", "{}"],
                     ["export", run_dir, "--to", "gguf", "--out", "{}"],
                     ["tokenizer", "train", corpus, "--vocab", "300", "--out", "{}"]):
            where = self.path("file/x")
            with self.subTest(verb=verb):
                self.fails(73, [self.path("file")], *(word.replace("{}", where) for word in verb))

    def test_eval_and_plot(self):
        code, out, err = run("eval", self.path("run"), "--data", self.path("corpus.txt"), "--json", cwd=self.dir)
        self.assertEqual(code, 0, err)
        found = json.loads(out)
        self.assertAlmostEqual(found["bits_per_byte"], found["loss"] / 0.6931471805599453, places=1)
        code, _, err = run("plot", self.path("run"), "--out", self.path("x.svg"))
        self.assertEqual(code, 0, err)
        self.assertIn("<svg", open(self.path("x.svg")).read())
        self.fails(66, ["absent"], "plot", self.path("absent"))

    def test_progress_on_a_terminal(self):
        parent, child = pty.openpty()
        process = subprocess.Popen([BRIGADE, "train", self.path("corpus.txt"), "run.dir=" + self.path("tty"), *TINY],
                                   stderr=child, stdout=subprocess.DEVNULL)
        os.close(child)
        text = b""
        while True:
            try:
                piece = os.read(parent, 4096)
            except OSError:
                break
            if not piece:
                break
            text += piece
        process.wait(60)
        self.assertIn(b"\r\x1b[K", text)
        self.assertTrue(re.search(rb"step 8/8  loss \d+\.\d+  .*tok/s  .*MFU  ETA", text), text)

    def test_a_closed_pipe_is_no_crash(self):
        process = subprocess.Popen([BRIGADE, "inspect", self.path("run")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        process.stdout.close()
        process.wait(30)
        self.assertIn(process.returncode, (0, 74, -signal.SIGPIPE))

    def test_doctor(self):
        code, out, err = run("doctor", "--json", cwd=self.dir)
        self.assertIn(code, (0, 69), err)
        facts = json.loads(out)
        self.assertIn("cpu", facts)
        names = ["ref", "avx2", "avx512", "avx512vnni"]
        here = names[:names.index(facts["isa"]) + 1]
        for i, name in enumerate(here): # what may be asked for, and what it is compared with
            code, out, err = run("doctor", "--json", cwd=self.dir, env={"BRIGADE_ISA": name})
            self.assertIn(code, (0, 69), err)
            facts = json.loads(out)
            self.assertEqual(facts["isa"], name)
            self.assertEqual({key: value for key, value in facts.items() if key.startswith("kernels")},
                             {"kernels " + other: "ok: bit-equal to the reference" for other in here[1:i + 1]})
        code, _, err = run("doctor", cwd=self.dir, env={"BRIGADE_ISA": "avx512vni"})
        self.assertEqual(code, 78, err)
        self.assertIn("avx512vnni?", err)


if __name__ == "__main__":
    unittest.main(verbosity=1, warnings="ignore")
