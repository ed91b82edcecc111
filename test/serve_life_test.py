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
        self.assertIn("brigade: stopped, 0 requests were handed over\n", server.said())
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


class OperatorTest(unittest.TestCase):
    """What does not go is said in one line that names it, with the exit code of its kind, and at once."""

    @classmethod
    def setUpClass(cls):
        cls.dir = serving.scratch("operator")
        cls.addClassCleanup(shutil.rmtree, cls.dir, True)
        cls.model = serving.small_model()
        cls.gguf = os.path.join(cls.dir, "whole.gguf")
        serving.run("export", cls.model, "--to", "gguf", "--out", cls.gguf)

    def file(self, name, content):
        path = os.path.join(self.dir, name)
        with open(path, "wb") as out:
            out.write(content)
        return path

    def fails(self, code, said, *args):
        with self.subTest(args):
            done = subprocess.run([serving.BRIGADE, *args], capture_output=True, timeout=120, stdin=subprocess.DEVNULL)
            text = done.stderr.decode(errors="replace")
            self.assertEqual(done.returncode, code, text)
            self.assertRegex(text.splitlines()[-1], said)
            self.assertNotIn("brigade: serving ", text)

    def serve(self, code, said, *args):
        self.fails(code, said, "serve", "--port", "0", *args)

    def test_models(self):
        with open(self.gguf, "rb") as file:
            whole = file.read()
        self.serve(66, "/no/such: no such file", "/no/such")
        self.serve(66, "no model here: expected a config.json", self.dir)
        self.serve(78, "pipe or device", "/dev/null")
        self.serve(78, "not a model: give a directory", self.file("text", b"hello"))
        for size in (0, 3, 20, 100, len(whole) // 2, len(whole) - 1):
            self.serve(65, r"cut\.gguf: ", self.file("cut.gguf", whole[:size]))
        directory = os.path.join(self.dir, "hf")
        serving.run("export", self.model, "--to", "safetensors", "--out", directory)
        weights, config = os.path.join(directory, "model.safetensors"), os.path.join(directory, "config.json")
        with open(weights, "rb") as file:
            whole = file.read()
        for size in (0, 7, 100, len(whole) // 2, len(whole) - 1):
            self.file("hf/model.safetensors", whole[:size])
            self.serve(65, r"hf/model\.safetensors: ", directory)
        os.remove(weights)
        self.serve(66, "hf: holds neither model.safetensors nor", directory)
        self.file("hf/config.json", b"{")
        self.serve(65, r"hf/config\.json", directory)
        os.remove(config)
        self.serve(66, "hf: no model here", directory)

    def test_places(self):
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            for verb in (("serve", self.model), ("route", "--replica", "http://127.0.0.1:1")):
                self.fails(74, "the port is in use; another one: --port", *verb, "--port", str(taken.getsockname()[1]))
                self.fails(78, "192.0.2.1: no address of this machine", *verb, "--port", "0", "--host", "192.0.2.1")
                self.fails(78, "--host here: expected an IPv4 address", *verb, "--port", "0", "--host", "here")
                text = self.file("text.pem", b"hello")
                self.fails(78, "expected a certificate", *verb, "--port", "0", "--tls-cert", text, "--tls-key", text)
                self.fails(66, "/no/such", *verb, "--port", "0", "--tls-cert", text, "--tls-key", "/no/such")

    def test_options(self):
        for name, values in (("slots", "0 4097"), ("chunk", "0 65537"), ("queue", "0"), ("body-limit", "0 1025"), ("grace", "86401"),
                             ("idle", "0 86401"), ("watchdog", "0"), ("draft-max", "0 16"), ("batch-wait", "-1 2e6"), ("port", "65536")):
            for value in values.split():
                self.serve(64, f"--{name} .*: expected ", self.model, "--" + name, value)
        self.serve(64, "--threads: expected a whole number", self.model, "--threads", "two")
        self.serve(78, "threads: 100000 is more than", self.model, "--threads", "100000")
        self.serve(64, "--cors: expected an origin", self.model, "--cors", "a\nb")
        self.serve(64, "--api-key: expected a key", self.model, "--api-key", "a\r\nb")
        self.serve(78, "line 2: expected one key", self.model, "--api-key-file", self.file("keys", b"a\n\x01b\n"))
        self.serve(78, 'the model\'s name, "", is empty', self.model, "--name", "")
        self.serve(78, "no UTF-8: give it one with --name", self.model, "--name", b"a\xff")
        self.serve(66, "--slot-save-path /no/such: expected a directory", self.model, "--slot-save-path", "/no/such")
        self.serve(66, "--slot-save-path .*: expected a directory", self.model, "--slot-save-path", self.gguf)
        self.serve(73, "--disk-cache: making directory .*whole.gguf: not a directory", self.model, "--disk-cache", self.gguf + "/x")
        self.serve(73, "/no/such/log", self.model, "--access-log", "/no/such/log")
        self.serve(78, r"bad\.jinja: line 1", self.model, "--chat-template", self.file("bad.jinja", b"{% for x in %}"))
        for args in (("--body-limit", "0"), ("--queue", "0"), ("--replica-key", "a\nb"), ("--cors", "")):
            self.fails(64, f"{args[0]}.*expected", "route", "--replica", "http://127.0.0.1:1", *args)
        for url in ("http://", "http://:80", "http://a:", "http://a:0", "http://a:65536", "http://a:99999999999/x"):
            self.fails(78, "expected a URL", "route", "--replica", url, "--port", "0", "--no-key")

    def test_a_name_is_the_last_part_of_the_path(self):
        server = serving.Server(self.model + "//")
        self.addCleanup(server.stop, 9)
        self.assertEqual(server.get("/v1/models")[1]["data"][0]["id"], os.path.basename(self.model))
        server.ends_well()

    def test_who_reads_the_log_goes_away(self):
        process = subprocess.Popen([serving.BRIGADE, "serve", self.model, "--port", "0", "--no-key", "--access-log", "-"],
                                   stderr=subprocess.PIPE, text=True)
        self.addCleanup(process.kill)
        said = ""
        for line in process.stderr:
            said += line
            if "brigade: serving " in line:
                break
        process.stderr.close()
        url = re.search(r"listening at (\S+)", said).group(1)
        for _ in range(3): # each writes a line
            with urllib.request.urlopen(url + "health", timeout=60) as answer:
                self.assertEqual(answer.status, 200)
        process.terminate()
        self.assertEqual(process.wait(60), 0)

    def test_a_router_says_what_it_waits_for(self):
        with socket.socket() as nobody: # bound, and nobody listens
            nobody.bind(("127.0.0.1", 0))
            url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
            with Router("--replica", url + "," + url + "/") as router:
                router.wait_for(f"brigade: {url} away: Failed to connect")
                router.process.terminate()
                router.wait_for("draining 0 requests for at most 30 s")
                router.wait_for("stopped, 0 requests were not finished")
                self.assertEqual(router.process.wait(60), 0)

    def test_a_router_without_replicas_says_so(self):
        path = self.file("replicas", b"# none yet\n")
        with Router("--replicas", path) as router:
            self.assertIn(f"brigade: {path} lists no replica: until it does, nobody answers\n", router.said)
            self.file("replicas", b"http://127.0.0.1:1\n")
            router.wait_for(f"{path} lists 1 replicas")
            router.wait_for("brigade: http://127.0.0.1:1 away: ")

    def test_a_second_signal_ends_a_router_at_once(self):
        with socket.socket() as silent: # takes connections, and never answers
            silent.bind(("127.0.0.1", 0))
            silent.listen()
            with Router("--replica", f"http://127.0.0.1:{silent.getsockname()[1]}", "--wait", "600", "--grace", "600") as router:
                router.wait_for("away: ")
                with socket.create_connection(("127.0.0.1", router.port), 60) as client:
                    client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 15\r\n\r\n{\"prompt\": \"x\"}")
                    while "brigade_route_requests_open 1\n" not in self.metrics(router):
                        threading.Event().wait(0.02)
                    router.process.terminate()
                    router.wait_for("draining 1 requests")
                    router.process.terminate()
                    self.assertEqual(router.process.wait(60), -signal.SIGTERM)

    def metrics(self, router):
        with urllib.request.urlopen(f"http://127.0.0.1:{router.port}/metrics", timeout=60) as answer:
            return answer.read().decode()


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
