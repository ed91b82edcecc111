#!/usr/bin/python3
"""`brigade route`: no stream breaks. Replicas are killed, stopped, drained and started again at random while streams run;
every stream must come out as from one server that nobody disturbed. BRIGADE_CHECK_FULL=1: 1,000 streams."""
import concurrent.futures
import http.client
import json
import os
import random
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import serving
from serving import BRIGADE, FULL, Server, events

def is_release():
    try:
        with open(os.path.join(os.environ["BRIGADE_BUILD"], "CMakeCache.txt")) as cache:
            return "CMAKE_BUILD_TYPE:STRING=Release\n" in cache.read()
    except (KeyError, OSError):
        return True


SLOW = 1 if is_release() else 5  # builds with sanitizers take so much longer
LONG = {"prompt": "the 7 little bears", "max_tokens": 450, "ignore_eos": True, "seed": 1}


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Router(Server):
    """What Server does, in front of replicas."""

    def __init__(self, *args, key=None):
        self.key, self.tls, self.sockets = key, None, []
        auth = ["--api-key", key] if key else ["--no-key"]
        self.log = tempfile.NamedTemporaryFile(prefix="brigade-route-", suffix=".log")
        self.process = subprocess.Popen([BRIGADE, "route", "--port", "0", *auth, *args], stderr=self.log)
        self.port = int(self.wait_for(r"routing at http://[\d.]+:(\d+)/").group(1))


class Replica:
    """A server that is started again at the same port."""

    def __init__(self, model, *args):
        self.model, self.args, self.port = model, args, free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.lock = threading.Lock()
        self.server = None
        self.start()

    def start(self):
        for _ in range(20):  # its port may be in use for a moment
            try:
                self.server = Server(self.model, "--threads", "1", "--port", str(self.port), *self.args)
                return
            except AssertionError:
                time.sleep(0.05)
        raise AssertionError(f"no server comes up at port {self.port}")

    def signal(self, number):
        self.server.process.send_signal(number)

    def end(self):
        if self.server and self.server.process.poll() is None:
            self.signal(signal.SIGCONT)
            self.server.process.kill()
        if self.server:
            self.server.process.wait(30)


def stream(port, path, body):
    """(chunks, longest silence) of a stream; the whole answer and 0 where it is none."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        if not body.get("stream") or answer.status != 200:
            data = json.loads(answer.read())
            if answer.status != 200:
                raise AssertionError(f"{answer.status}: {data}")
            return [data], 0
        lines, longest, last = [], 0, time.monotonic()
        while line := answer.readline():
            lines.append(line)
            now = time.monotonic()
            longest, last = max(longest, now - last), now
        if not lines or lines[-2:-1] != [b"data: [DONE]\n"]:
            raise AssertionError(f"{body}: the stream ends with {lines[-4:]}")
        return events(lines), longest
    finally:
        connection.close()


def shape(chunks):
    """What must be the same whoever answers: all but names, and how much of a prompt was cached."""
    assert len({c["id"] for c in chunks}) == 1 and len({c["created"] for c in chunks}) == 1
    by_choice, rest = {}, []
    for chunk in chunks:
        chunk = {k: v for k, v in chunk.items() if k not in ("id", "created")}
        if chunk.get("usage"):
            chunk["usage"] = {**chunk["usage"], "prompt_tokens_details": None}
        if len(chunk["choices"]) == 1:
            by_choice.setdefault(chunk["choices"][0]["index"], []).append(json.dumps(chunk))  # bytes: the order counts
        else:
            rest.append(json.dumps(chunk))
    return by_choice, rest


def make_requests(count, seed):
    draw = random.Random(seed)
    words = ["Once upon a time", "The little dog", "Lily and Tom", "the 7 little bears ate", "One day, a big", "She said"]
    made = []
    for i in range(count):
        body = {"seed": draw.randrange(1 << 30), "max_tokens": draw.choice([40, 200, 400, 450]), "stream": draw.random() < 0.85,
                "temperature": draw.choice([0, 0.7, 1, 1.5]), "ignore_eos": draw.random() < 0.7}
        if body["stream"] and draw.random() < 0.5:
            body["stream_options"] = {"include_usage": True}
        if draw.random() < 0.3:
            body["stop"] = draw.choice([["zebra"], [". The", "the end"], ["e and", "\n\n"], ["day"]])
        if draw.random() < 0.3:
            body.update(top_k=draw.randrange(1, 60), top_p=0.9, frequency_penalty=0.3)
        if draw.random() < 0.2:
            body.update(repeat_penalty=1.1, presence_penalty=0.2, logit_bias={"5": -3})
        if draw.random() < 0.2:
            body["return_tokens"] = True
        text = draw.choice(words) + " " + str(i)
        if draw.random() < 0.15:
            body.update(n=draw.randrange(2, 4), max_tokens=150)
        if draw.random() < 0.3:
            path = "/v1/chat/completions"
            body["messages"] = [{"role": "user", "content": text}]
            if draw.random() < 0.3:
                body.update(logprobs=True, top_logprobs=2)
        else:
            path = "/v1/completions"
            body["prompt"] = [text, text + " and"] if draw.random() < 0.1 else text
            if draw.random() < 0.2:
                body["logprobs"] = 1
            elif draw.random() < 0.2:
                body["echo"] = True
        made.append((path, body))
    return made


class Chaos(unittest.TestCase):
    def run_chaos(self, model, count, seed):
        requests = make_requests(count, seed)
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            replicas = list(pool.map(lambda grace: Replica(model, "--grace", grace, "--queue", "1000"), "010"))
            for replica in replicas:
                self.addCleanup(replica.end)
            wanted = [shape(chunks) for chunks, _ in pool.map(lambda r: stream(replicas[0].port, *r), requests)]
            router = Router("--replica", ",".join(r.url for r in replicas), "--notice", "1", "--wait", "60")
            self.addCleanup(router.stop, signal.SIGKILL)
            over, blows = threading.Event(), {"kill": 0, "stop": 0, "drain": 0}
            chaos = threading.Thread(target=self.disturb, args=(replicas, over, blows, random.Random(seed)))
            chaos.start()
            begin = time.monotonic()
            try:
                got = list(pool.map(lambda r: stream(router.port, *r), requests))
            except AssertionError:
                print(router.said())
                raise
            finally:
                over.set()
                chaos.join()
        seconds = time.monotonic() - begin
        for request, want, (chunks, _) in zip(requests, wanted, got):
            self.assertEqual(shape(chunks), want, request)
        metrics = router.metrics()
        resumed = metrics["brigade_route_resumed_total"]
        p99 = next(le for le, n in self.buckets(router) if n >= 0.99 * resumed)
        print(f"{count} requests in {seconds:.1f} s; {blows}; resumed {resumed:.0f} times with "
              f"{metrics['brigade_route_resumed_tokens_total']:.0f} tokens, p99 <= {p99} s, mean "
              f"{metrics['brigade_route_resume_seconds_sum'] / max(resumed, 1):.3f} s; "
              f"longest silence {max(s for _, s in got):.2f} s; stalled {metrics['brigade_route_stalled_total']:.0f}, "
              f"handed over {metrics['brigade_route_handed_over_total']:.0f}", flush=True)
        if sum(blows.values()) >= 8:
            self.assertGreater(resumed, 0)
        self.assertEqual(router.stop(), 0)

    def buckets(self, router):
        text = router.ask("GET", "/metrics")[2].decode()
        found = re.findall(r'brigade_route_resume_seconds_bucket\{le="([^"]+)"\} (\d+)', text)
        return [(float(le), int(n)) for le, n in found]

    def disturb(self, replicas, over, blows, draw):
        restarts = []

        def again(replica, wait):
            if wait:
                replica.server.process.wait(30)
            time.sleep(draw.random() * 0.2)
            replica.start()
            replica.lock.release()

        def go_on(replica, seconds):
            time.sleep(seconds)
            replica.signal(signal.SIGCONT)
            replica.lock.release()

        while not over.wait(SLOW * (0.02 + 0.15 * draw.random())):
            replica = draw.choice(replicas)
            if sum(r.lock.locked() for r in replicas) == 2 or not replica.lock.acquire(blocking=False):
                continue  # one is always left: what is measured is the router, not how fast servers start
            what = draw.choice(["kill", "kill", "stop", "drain"])
            blows[what] += 1
            if what == "stop":
                replica.signal(signal.SIGSTOP)
                restarts.append(threading.Thread(target=go_on, args=(replica, 0.2 + 1.3 * draw.random())))
            else:
                replica.signal(signal.SIGKILL if what == "kill" else signal.SIGTERM)
                restarts.append(threading.Thread(target=again, args=(replica, True)))
            restarts[-1].start()
        for thread in restarts:
            thread.join()

    def test_streams_of_stories(self):
        directory = serving.scratch("route")
        self.addCleanup(serving.remove, directory)
        model = serving.stories(directory)
        if not model:
            self.skipTest("stories260K is not there")
        self.run_chaos(model, 1000 if FULL else 200 // SLOW, 1)

    def test_streams_of_bytes(self):
        """A model that has learnt next to nothing: characters in pieces, and bytes that are none."""
        self.run_chaos(serving.small_model(), 300 if FULL else 100 // SLOW, 2)


class Route(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.model = serving.small_model()

    def replica(self, *args):
        made = Replica(self.model, *args)
        self.addCleanup(made.end)
        return made

    def router(self, *args, **more):
        made = Router(*args, **more)

        def end():
            died = made.process.poll()
            made.stop(signal.SIGKILL)
            self.assertIsNone(died, made.said())
        self.addCleanup(end)
        return made

    def until(self, what, fn, seconds=20):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if fn():
                return
            time.sleep(0.02)
        self.fail(f"not within {seconds} s: {what}")

    def test_nobody_there(self):
        ports = [free_port(), free_port()]
        router = self.router("--replica", f"http://127.0.0.1:{ports[0]},http://127.0.0.1:{ports[1]}/", "--wait", "1",
                             "--queue", "2")
        begin = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(5) as pool:
            answers = list(pool.map(lambda _: router.ask("POST", "/v1/completions", {"prompt": "x"}), range(5)))
        self.assertLess(time.monotonic() - begin, 15)
        self.assertEqual(sorted(a[0] for a in answers), [429, 429, 429, 503, 503])
        for status, headers, data in answers:
            self.assertGreaterEqual(int(headers["Retry-After"]), 1)
            if status == 503:
                for port in ports:
                    self.assertIn(f"http://127.0.0.1:{port} (away: Failed to connect", json.loads(data)["error"]["message"])
        self.assertEqual(router.ask("GET", "/health")[0], 503)
        self.assertEqual(router.ask("GET", "/v1/models")[0], 503)

    def test_refusals_are_the_replicas(self):
        replica = self.replica()
        router = self.router("--replica", replica.url)
        bodies = [{"prompt": "x", "temperature": "hot"}, {"prompt": 7}, {"prompt": []}, {"prompt": "x", "n": 0}, [], {},
                  {"prompt": "x", "n": 3, "best_of": 4}, {"prompt": "x" * 3000}, {"prompt": "x", "stream": 1},
                  {"prompt": "x", "stream_options": {}}, {"prompt": "x", "resume_tokens": [1]}, {"prompt": "x", "model": "other"},
                  {"prompt": "x", "stream": True, "stop": [""]}]
        for body in bodies:
            want, got = (s.ask("POST", "/v1/completions", body) for s in (replica.server, router))
            self.assertEqual((got[0], json.loads(got[2])), (want[0], json.loads(want[2])), body)
            self.assertIn(got[0], (400, 404), body)
        self.assertEqual(router.ask("POST", "/v1/completions", b"{")[0], 400)
        self.assertEqual(router.post("/tokenize", {"content": "bears"}), replica.server.post("/tokenize", {"content": "bears"}))
        self.assertEqual(router.get("/v1/models")[0], 200)
        self.assertIn(b"<html", router.ask("GET", "/")[2])
        self.assertEqual(router.ask("GET", "/nothing")[0], 404)
        self.assertEqual(router.ask("GET", "/slots")[0], 501)

    def test_goes_on_where_a_client_was(self):
        replica = self.replica()
        router = self.router("--replica", replica.url)
        body = {"prompt": "the bears", "seed": 5, "max_tokens": 30, "return_tokens": True, "ignore_eos": True, "temperature": 1}
        whole = router.post("/v1/completions", body)[1]["choices"][0]
        rest = [router.post("/v1/completions", {**body, "resume_tokens": whole["tokens"][:n]})[1]["choices"][0] for n in (1, 29)]
        for n, each in zip((1, 29), rest):
            self.assertEqual(each["tokens"], whole["tokens"][n:])

    def test_client_goes_away(self):
        replica = self.replica()
        router = self.router("--replica", replica.url)
        body = json.dumps({**LONG, "n": 16, "stream": True}).encode()
        cancelled = 'brigade_requests_total{finish="cancelled"}'
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", router.port)) as client:
                client.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
                client.recv(100)
            self.until("nothing runs any more", lambda: replica.server.metrics()["brigade_requests_running"] == 0)
            if replica.server.metrics()[cancelled] > 0:
                break
        self.assertGreater(replica.server.metrics()[cancelled], 0)
        self.until("nothing is open", lambda: router.metrics()["brigade_route_requests_open"] == 0)

    def test_router_is_asked_to_stop(self):
        replica = self.replica("--slots", "64")
        router = Router("--replica", replica.url)
        self.addCleanup(router.stop, signal.SIGKILL)
        bodies = [{**LONG, "seed": i, "n": 8, "stream": True} for i in range(4)]
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            going = [pool.submit(stream, router.port, "/v1/completions", b) for b in bodies]
            self.until("they run", lambda: router.metrics()["brigade_route_requests_open"] == 4 or all(g.done() for g in going))
            router.process.send_signal(signal.SIGTERM)
            for each, body in zip(going, bodies):
                self.assertEqual(shape(each.result()[0]), shape(stream(replica.port, "/v1/completions", body)[0]))
        self.assertEqual(router.process.wait(20), 0)

    def test_keys(self):
        server = Server(self.model, "--threads", "1", key="inner")
        self.addCleanup(server.stop, signal.SIGKILL)
        url = f"http://127.0.0.1:{server.port}"
        router = self.router("--replica", url, "--replica-key", "inner", key="outer")
        self.until("it is up", lambda: router.ask("GET", "/health")[0] == 200)
        self.assertEqual(router.ask("GET", "/v1/models")[0], 200)
        for key in ("inner", "oute", "outer1", ""):
            self.assertEqual(router.ask("GET", "/v1/models", headers={"Authorization": "Bearer " + key})[0], 401)
        self.assertEqual(router.ask("GET", "/?key=outer", headers={"Authorization": ""})[0], 200) # as of the server
        self.assertEqual(router.ask("GET", "/?key=inner", headers={"Authorization": ""})[0], 401)
        wrong = self.router("--replica", url, "--replica-key", "no", "--wait", "1")
        status, _, data = wrong.ask("POST", "/v1/completions", {"prompt": "x"})
        self.assertEqual(status, 503)
        self.assertIn("is --replica-key its key?", json.loads(data)["error"]["message"])

    def test_file_of_replicas(self):
        first, second = self.replica(), self.replica()
        with tempfile.NamedTemporaryFile("w", suffix=".txt") as file:
            def listed(text):
                with open(file.name, "w") as out:
                    out.write(text)
            listed(f"# ours\n  {first.url}/  # here\n\n")
            router = self.router("--replicas", file.name)

            def up():
                return {r["url"] for r in router.get("/replicas")[1]["data"] if r["state"] == "up"}
            self.until("the first", lambda: up() == {first.url})
            listed(f"{first.url}\n{second.url}\n")
            self.until("both", lambda: up() == {first.url, second.url})
            listed(f"{second.url}\nftp://nowhere\n")  # changes nothing, and says why
            router.wait_for(r"txt:2: replica \"ftp://nowhere\"")
            self.assertEqual(up(), {first.url, second.url})
            listed(f"{second.url}\n")
            self.until("the second", lambda: up() == {second.url})
            self.assertEqual(router.post("/v1/completions", {"prompt": "x"})[0], 200)

    def test_keys_and_values_travel(self):
        one, two = self.replica(), self.replica()
        body = {"prompt": "the 7 little bears ate 49 honey cakes", "max_tokens": 60, "seed": 3, "return_tokens": True,
                "ignore_eos": True}
        tokens = one.server.post("/v1/completions", body)[1]["choices"][0]["tokens"]
        body["resume_tokens"] = tokens[:50]
        want = one.server.post("/v1/completions", body)[1]["choices"]
        status, headers, saved = one.server.ask("POST", "/kv/save", body)
        self.assertEqual((status, headers["Content-Type"]), (200, "application/octet-stream"))
        restored = two.server.post("/kv/restore", saved)
        self.assertEqual(restored[0], 200)
        self.assertGreaterEqual(restored[1]["n_restored"], 80)
        answer = two.server.post("/v1/completions", body)[1]
        self.assertEqual(answer["choices"], want)
        prompt = answer["usage"]["prompt_tokens"]
        self.assertEqual(answer["usage"]["prompt_tokens_details"]["cached_tokens"], prompt)
        for bad in (b"", b"x", saved[:-1], saved[:100] + b"!" + saved[101:]):
            self.assertEqual(two.server.ask("POST", "/kv/restore", bad)[0], 400)
        self.assertEqual(two.server.ask("POST", "/kv/save", {"prompt": 5})[0], 400)

    def is_measured(self, router, which):
        replica = router.get("/replicas")[1]["data"][which]
        return replica["in_flight"] > 0 and replica["token_seconds"] > 0

    def test_notice(self):
        """A machine that will go: its requests ship their keys and values, and go on with the same bytes."""
        replicas = [self.replica("--slots", "64", "--queue", "1000") for _ in range(2)]
        router = self.router("--replica", ",".join(r.url for r in replicas))
        self.assertEqual(router.ask("POST", "/replicas", {"url": "http://nowhere:1", "leaves_in_s": 1})[0], 404)
        for bad in ({}, [], {"url": 5, "leaves_in_s": 1}, {"url": replicas[0].url, "leaves_in_s": -1}):
            self.assertEqual(router.ask("POST", "/replicas", bad)[0], 400, bad)
        bodies = [{**LONG, "prompt": f"the {i} little bears ate honey cakes", "seed": i, "n": 4, "stream": True,
                   "temperature": 1} for i in range(8)]
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            want = list(pool.map(lambda b: shape(stream(replicas[0].port, "/v1/completions", b)[0]), bodies))
            for attempt, share in enumerate((0.5, 0.2, 0.05, 0)):  # of what finishing takes, as it is measured
                self.until("both are up", lambda: all(r["state"] == "up" for r in router.get("/replicas")[1]["data"]))
                going = [pool.submit(stream, router.port, "/v1/completions", b) for b in bodies]
                self.until("it has some", lambda: self.is_measured(router, attempt % 2))
                token_s = router.get("/replicas")[1]["data"][attempt % 2]["token_seconds"]
                leaves = {"url": replicas[attempt % 2].url + "/", "leaves_in_s": share * 450 * token_s}
                self.assertEqual(router.ask("POST", "/replicas", leaves)[0], 200)
                self.assertEqual([shape(g.result()[0]) for g in going], want)
                if router.metrics()["brigade_route_shipped_total"]:
                    break
        metrics = router.metrics()
        print(f"shipped {metrics['brigade_route_shipped_total']:.0f} with {metrics['brigade_route_shipped_bytes_total']:.0f} "
              f"bytes, resumed {metrics['brigade_route_resumed_total']:.0f}", flush=True)
        self.assertGreater(metrics["brigade_route_resumed_total"], 0)  # how many ship in time is the machine's affair

    def test_prefix_prefers_who_had_it(self):
        replicas = [self.replica(), self.replica()]
        router = self.router("--replica", replicas[0].url, "--replica", replicas[1].url)
        self.until("both are up", lambda: router.metrics()[f'brigade_route_replica_up{{replica="{replicas[1].url}"}}'] and
                   router.metrics()[f'brigade_route_replica_up{{replica="{replicas[0].url}"}}'])
        story = "the 7 little bears ate 49 honey cakes and 14 pears. " * 4
        cached = []
        for i in range(6):
            usage = router.post("/v1/completions", {"prompt": story + str(i), "max_tokens": 2})[1]["usage"]
            cached.append(usage["prompt_tokens_details"]["cached_tokens"])
        self.assertEqual(cached[0], 0)
        self.assertTrue(all(c >= 150 for c in cached[1:]), cached)

    def test_misuse(self):
        for args, said in ((["route"], "no replicas"), (["route", "--replica", "here"], "expected a URL"),
                           (["route", "--replica", "http://a", "--host", "0.0.0.0", "--no-key"], "give --api-key"),
                           (["route", "--replicas", "/no/such/file", "--no-key"], "/no/such/file")):
            done = subprocess.run([BRIGADE, *args], capture_output=True, timeout=20)
            self.assertNotEqual(done.returncode, 0, args)
            self.assertIn(said, done.stderr.decode())


if __name__ == "__main__":
    unittest.main(verbosity=2)
