#!/usr/bin/env python3
"""`brigade serve` and `brigade route` as an operator meets them: asked to stop or killed while the model loads and while packed
weights are written; what cannot be served is said in a line, with the exit code of its kind."""
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import unittest
import urllib.request

import serving

PROMPT = "the 12 little bears ate 144 honey cakes and 19 pears.\nthe 13 little bears ate"


class Router:
    def __init__(self, *args, host="127.0.0.1"):
        self.process = subprocess.Popen([serving.BRIGADE, "route", "--port", "0", "--no-key", "--host", host, *args], stderr=subprocess.PIPE, text=True)
        self.said = []
        self.port = int(self.wait_for(r"routing at \w+://[\d.]+:(\d+)/").group(1))

    def wait_for(self, pattern):
        """The first line from here on that says it."""
        for line in self.process.stderr:
            self.said.append(line)
            match = re.search(pattern, line)
            if match:
                return match
        raise AssertionError(f"the router does not say {pattern!r}: {self.said}")

    def __enter__(self):
        return self

    def __exit__(self, *unused):
        self.process.kill()
        self.process.communicate()


class LoadingTest(unittest.TestCase):
    def setUp(self):
        self.dir = serving.scratch("life")
        self.addCleanup(shutil.rmtree, self.dir, True)
        self.cache = os.path.join(self.dir, "cache")
        self.model = serving.small_model()

    def start(self, *args, **more):
        server = serving.Server(self.model, *args, **more)
        self.addCleanup(server.stop, 9)
        return server

    def hung(self, point, *args):
        """One that has come to a point while it loads, and stays there."""
        server = self.start(*args, ready=False, env={"BRIGADE_FAULT": f"serve:{point}:1:HANG", "BRIGADE_POINTS": self.points()})
        for _ in range(3000):
            if point in self.read(self.points()):
                return server
            threading.Event().wait(0.02)
        raise AssertionError(f"it does not come to {point}:\n{server.said()}")

    def points(self):
        return os.path.join(self.dir, "points")

    def read(self, path):
        if not os.path.exists(path):
            return ""
        with open(path) as file:
            return file.read()

    def stops(self, server, number):
        self.assertEqual(server.ask("GET", "/health")[0], 503)
        self.assertEqual(server.stop(number, 30), 0, server.said())
        self.assertIn("asked to stop while loading", server.said())
        self.assertNotIn("brigade: serving ", server.said())

    def test_asked_to_stop_while_it_reads(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            with self.subTest(number):
                self.stops(self.hung("serve-load"), number)
                os.remove(self.points())
        server = self.start()
        self.assertEqual(server.ask("GET", "/health")[0], 200)
        server.ends_well()
        self.assertNotIn("while loading", server.said())

    def test_ended_while_packed_weights_are_written(self):
        whole = self.start()
        text = whole.text(PROMPT, max_tokens=20, temperature=0)
        whole.ends_well()
        for end in (signal.SIGTERM, signal.SIGKILL):
            with self.subTest(end):
                server = self.hung("pack-write", "--pack-cache", self.cache)
                if end == signal.SIGTERM:
                    self.stops(server, end)
                else:
                    self.assertEqual(server.stop(end), -end)
                left = os.listdir(self.cache)
                self.assertEqual([name.count(".") for name in left], [2]) # begun, under a name of its own
                server = self.start("--pack-cache", self.cache)
                self.assertIn("MB packed", server.said())
                self.assertEqual(server.text(PROMPT, max_tokens=20, temperature=0), text)
                server.ends_well()
                kept = os.listdir(self.cache)
                self.assertEqual([name.count(".") for name in kept], [1])
                server = self.start("--pack-cache", self.cache)
                self.assertIn("mapped from", server.said())
                self.assertEqual(server.text(PROMPT, max_tokens=20, temperature=0), text)
                server.ends_well()
                shutil.rmtree(self.cache)
                os.remove(self.points())

    def test_a_cache_that_cannot_be_written_stops_nobody(self):
        with open(self.cache, "w"):
            pass
        server = self.start("--pack-cache", self.cache)
        self.assertIn(f"packed weights are not kept: making directory {self.cache}", server.said())
        server.text(PROMPT, max_tokens=1)
        server.ends_well()


class MetricsTest(unittest.TestCase):
    def check(self, text, prefix):
        """Every name is in the tables of docs/serving.md, and the form is Prometheus'."""
        with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "docs", "serving.md")) as file:
            watching = file.read().partition("\n## Watching\n")[2].partition("\n## ")[0]
        table = watching.partition(f"| `{prefix}` |")[2].partition("\n\n")[0]
        told = {name.partition("{")[0] for row in table.splitlines()[2:] for name in re.findall(r"`([^`]+)`", row.split("|")[1])}
        names = set(re.findall(rf"^# TYPE {prefix}(\w+) ", text, re.M))
        self.assertEqual(names, told)
        if shutil.which("promtool"):
            done = subprocess.run(["promtool", "check", "metrics"], input=text.encode(), capture_output=True, timeout=60)
            self.assertEqual((done.returncode, done.stderr), (0, b""))

    def test_names_are_documented(self):
        server = serving.Server(serving.small_model())
        self.addCleanup(server.stop, 9)
        self.check(server.ask("GET", "/metrics")[2].decode(), "brigade_")
        with Router("--replica", f"http://127.0.0.1:{server.port}") as router:
            with urllib.request.urlopen(f"http://127.0.0.1:{router.port}/metrics", timeout=60) as answer:
                self.check(answer.read().decode(), "brigade_route_")
        server.ends_well()


if __name__ == "__main__":
    unittest.main()
