#!/usr/bin/python3
"""`brigade serve` as clients meet it: the same bytes whatever runs beside, clients that leave, signals, queues, hostile
bodies, keys, TLS, load. BRIGADE_CHECK_FULL=1: all of it, at full length."""
import concurrent.futures
import http.client
import json
import os
import random
import re
import resource
import select
import shutil
import signal
import socket
import ssl
import subprocess
import threading
import time
import unittest

import serving
from serving import FULL, Server, events

LONG = {"prompt": "the 7 little bears", "max_tokens": 480, "ignore_eos": True, "n": 32, "seed": 1}


def unchunked(answer):
    """The body of a whole answer: a chunk may end within a word."""
    head, _, rest = answer.partition(b"\r\n\r\n")
    if b"transfer-encoding: chunked" not in head.lower():
        return rest
    body = b""
    while rest:
        size, _, rest = rest.partition(b"\r\n")
        size = int(size, 16)
        body, rest = body + rest[:size], rest[size + 2:]
    return body


def request(path, body, extra=""):
    data = json.dumps(body).encode()
    return (f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n{extra}\r\n"
            ).encode() + data


def is_release():
    try:
        with open(os.path.join(os.environ["BRIGADE_BUILD"], "CMakeCache.txt")) as cache:
            return "CMAKE_BUILD_TYPE:STRING=Release\n" in cache.read()
    except (KeyError, OSError):
        return True


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = serving.scratch("serve")
        cls.addClassCleanup(serving.remove, cls.dir)
        cls.model = cls.make_model()

    @classmethod
    def make_model(cls):
        return serving.small_model()

    def start(self, *args, **more):
        server = Server(self.model, "--threads", more.pop("threads", "1"), *args, **more)
        self.addCleanup(server.stop, signal.SIGKILL)
        return server

    def until(self, what, seconds, fn):
        end = time.monotonic() + seconds * (1 if is_release() else 10)
        while time.monotonic() < end:
            if fn():
                return
            time.sleep(0.01)
        self.fail(f"not within {seconds} s: {what}")

    def refused(self, answer, status, kind=None, param=None):
        got, body = answer
        self.assertEqual(got, status, body)
        self.assertEqual(set(body), {"error"})
        self.assertTrue({"message", "type", "code", "param"} <= set(body["error"]), body)
        self.assertTrue(body["error"]["message"])
        if kind:
            self.assertEqual(body["error"]["type"], kind)
        if param:
            self.assertEqual(body["error"]["param"], param)
        return body["error"]


class Stories(Case):
    """Published figures of stories260K."""

    @classmethod
    def make_model(cls):
        model = serving.stories(cls.dir)
        if not model:
            raise unittest.SkipTest("needs stories260K in ../shared")
        cls.server = Server(model, "--threads", "1")
        cls.addClassCleanup(cls.server.ends_well)
        return model

    def test_counts_tokens_with_bos(self):
        status, answer = self.server.post("/v1/completions", {"prompt": "I believe the meaning of life is", "max_tokens": 1})
        self.assertEqual(answer["usage"]["prompt_tokens"], 18)
        status, answer = self.server.post("/tokenize", {"content": "I believe the meaning of life is", "add_special": True})
        self.assertEqual(len(answer["tokens"]), 18)
        self.assertEqual(self.server.post("/detokenize", answer)[1]["content"].strip(), "I believe the meaning of life is")

    def test_greedy_text(self):
        with open(os.path.join(serving.SHARED, "data", "models", "stories260K.greedy.txt")) as known:
            want = known.read()
        bos = self.server.post("/tokenize", {"content": "", "add_special": True})[1]["tokens"][:1]
        got = self.server.text([bos], temperature=0, max_tokens=255)
        self.assertEqual((len(want), got[:len(want)]), (464, want))

    def test_reuses_all_but_the_tail(self):
        first = self.server.post("/v1/completions", {"prompt": "What is the capital of France?", "max_tokens": 1})[1]["usage"]
        second = self.server.post("/v1/completions", {"prompt": "What is the capital of Germany?", "max_tokens": 1})[1]["usage"]
        again = self.server.post("/v1/completions", {"prompt": "What is the capital of Germany?", "max_tokens": 1})[1]["usage"]
        ids = [self.server.post("/tokenize", {"content": f"What is the capital of {c}?", "add_special": True})[1]["tokens"]
               for c in ("France", "Germany")]
        same = next(i for i, (a, b) in enumerate(zip(*ids)) if a != b)
        self.assertEqual(first["prompt_tokens"], len(ids[0]))
        self.assertEqual(second["prompt_tokens_details"]["cached_tokens"], same)
        self.assertEqual(again["prompt_tokens_details"]["cached_tokens"], len(ids[1]) - 1)

    def test_context_is_refused_with_both_counts(self):
        error = self.refused(self.server.post("/v1/completions", {"prompt": "Lily " * 600}), 400, "exceed_context_size_error")
        self.assertEqual((error["n_ctx"], error["code"]), (512, "context_length_exceeded"))
        self.assertGreater(error["n_prompt_tokens"], 512)

    def test_structured(self):
        ask = {"prompt": "Once", "temperature": 0, "max_tokens": 40}
        self.assertEqual(self.server.text(**ask, grammar='root ::= "a"{5,5}'), "aaaaa")
        chat = {"messages": [{"role": "user", "content": "Hey"}], "max_tokens": 60, "seed": 3}
        for schema, check in (({"const": "42"}, lambda t: t == '"42"'),
                              ({"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"],
                                "additionalProperties": False}, lambda t: isinstance(json.loads(t)["a"], int)),
                              ({"enum": ["red", 7, None]}, lambda t: json.loads(t) in ("red", 7, None))):
            answer = self.server.post("/v1/chat/completions", {
                **chat, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}})[1]
            self.assertTrue(check(answer["choices"][0]["message"]["content"]), answer)
        self.refused(self.server.post("/v1/chat/completions", {
            **chat, "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}}), 400)

    def test_saved_slots(self):
        place = os.path.join(self.dir, "slots")
        os.makedirs(place)
        server = self.start("--slot-save-path", place)
        ask = {"prompt": "Once upon a time there was a girl who", "temperature": 0, "max_tokens": 60}
        first = server.post("/v1/completions", ask)[1]
        tokens = first["usage"]["total_tokens"] - 1
        saved = server.post("/slots/0?action=save", {"filename": "one.kv"})[1]
        self.assertEqual(saved["n_saved"], tokens // 16 * 16)
        self.assertEqual(server.post("/slots/0?action=erase", {})[1]["n_erased"], tokens)
        self.assertEqual(server.post("/slots/1?action=restore", {"filename": "one.kv"})[1]["n_restored"], saved["n_saved"])
        second = server.post("/v1/completions", ask)[1]
        self.assertEqual(second["choices"][0]["text"], first["choices"][0]["text"])
        self.assertEqual(second["usage"]["prompt_tokens_details"]["cached_tokens"], second["usage"]["prompt_tokens"] - 1)
        for name in ("../one.kv", "/etc/passwd", ".x", "", "a/b", "x" * 200, 7):
            self.refused(server.post("/slots/0?action=restore", {"filename": name}), 400, param="filename")
        self.refused(server.post("/slots/0?action=restore", {"filename": "none"}), 404)
        with open(os.path.join(place, "one.kv"), "r+b") as file:
            file.seek(2000)
            file.write(b"?")
        self.refused(server.post("/slots/0?action=restore", {"filename": "one.kv"}), 400)
        self.refused(server.post("/slots/99?action=save", {"filename": "x"}), 404)
        self.refused(server.post("/slots/0?action=dance", {}), 400, param="action")
        os.mkdir(os.path.join(place, "taken"))
        self.refused(server.post("/slots/0?action=save", {"filename": "taken"}), 400)
        self.assertEqual(sorted(os.listdir(place)), ["one.kv", "taken"])
        self.refused(self.server.post("/slots/0?action=save", {"filename": "x"}), 501)

    def test_embeddings(self):
        status, one = self.server.post("/v1/embeddings", {"input": ["a dog", "a cat", "a dog"]})
        rows = [d["embedding"] for d in one["data"]]
        self.assertEqual(rows[0], rows[2])
        self.assertAlmostEqual(sum(x * x for x in rows[1]), 1, places=5)
        self.assertGreater(sum(a * b for a, b in zip(rows[0], rows[0])), sum(a * b for a, b in zip(rows[0], rows[1])))
        self.refused(self.server.post("/v1/embeddings", {"input": "x " * 2000}), 400, "exceed_context_size_error")
        for bad in ([], 7, [1, "a"], [[1], ["a"]], [10 ** 9], [[]], ["a"] * 300, None):
            self.refused(self.server.post("/v1/embeddings", {"input": bad}), 400)


class Identity(Case):
    """The same bytes, whatever runs beside a request and however the server runs."""

    @classmethod
    def make_model(cls):
        return serving.stories(cls.dir) or serving.small_model()

    @staticmethod
    def asks(count):
        rng = random.Random(6)
        words = "once upon a time there was little girl named Lily who had big red ball and she loved to play with dog".split()
        asks = []
        for i in range(count):
            ask = {"prompt": " ".join(rng.choice(words) for _ in range(rng.randint(1, 60))), "seed": rng.randint(0, 1 << 50),
                   "max_tokens": rng.randint(1, 60), "return_tokens": True, "cache_prompt": rng.random() < 0.7}
            if i % 3 == 0:
                ask["temperature"] = 0
            else:
                ask.update(temperature=rng.choice([0.3, 0.8, 1.2]), top_p=rng.choice([1, 0.9]), top_k=rng.choice([0, 20]),
                           min_p=rng.choice([0, 0.05]), repeat_penalty=rng.choice([1, 1.1]))
            if i % 5 == 0:
                ask["prompt"] = asks[rng.randrange(len(asks))]["prompt"] + " again" if asks else ask["prompt"]
            asks.append(ask)
        return asks

    @staticmethod
    def answer(server, ask):
        choice = server.post("/v1/completions", ask)[1]["choices"][0]
        return choice["tokens"], choice["text"], choice["finish_reason"]

    def check_answers(self, weights, count):
        asks = self.asks(count)
        alone = self.start("--slots", "1", *weights)
        want = [self.answer(alone, {**ask, "cache_prompt": False}) for ask in asks]
        alone.stop()
        with open("/proc/cpuinfo") as info:
            cpu = info.read()
        isas = ["ref"] + ["avx2"] * ("avx2" in cpu) + ["avx512"] * ("avx512vl" in cpu)
        isas += ["avx512vnni"] * ("avx512_vnni" in cpu)
        ways = [(["--slots", "16"], {"BRIGADE_ISA": isas[-1]}, "2"),
                (["--slots", "3", "--chunk", "7", "--speculate", "ngram"], {"BRIGADE_ISA": isas[0]}, "1")]
        draft = os.path.join(self.dir, "draft.gguf") # its own weights, rounded: often right, often not
        serving.run("export", self.model, "--to", "gguf", "--weights", "q4_0", "--out", draft)
        for shape in ("2,2,1", "1,1,3,1,2,1")[:2 if FULL else 1]:
            ways.append((["--slots", "5", "--speculate", "tree", "--draft", draft, "--draft-tree", shape],
                         {"BRIGADE_ISA": isas[len(isas) // 2]}, "2"))
        if FULL:
            for i in range(12):
                ways.append((["--slots", str(2 + i), "--chunk", str([1, 3, 16, 17, 64, 512][i % 6]), "--speculate",
                              ["none", "ngram"][i % 2], "--kv-bytes", str([0, 3 << 20][i % 3 == 0])],
                             {"BRIGADE_ISA": isas[i % len(isas)]}, "12"[i % 2]))
        for seed, (args, env, threads) in enumerate(ways):
            rng = random.Random(seed)
            server = self.start(*args, *weights, env=env, threads=threads)
            order = list(range(count))
            rng.shuffle(order)
            with concurrent.futures.ThreadPoolExecutor(rng.choice([2, 5, 16]) if FULL else 16) as pool:
                got = dict(zip(order, pool.map(lambda i: self.answer(server, asks[i]), order)))
            for i in range(count):
                self.assertEqual(got[i], want[i], (args, env, threads, asks[i]))
            counts = server.metrics()
            self.assertGreater(counts["brigade_cached_tokens_total"], 0)
            if "--draft-tree" in args:
                self.assertLess(0, counts["brigade_accepted_tokens_total"])
                self.assertLess(counts["brigade_accepted_tokens_total"], counts["brigade_speculated_tokens_total"])
            self.assertEqual(server.stop(), 0)
        return want

    def test_answers(self):
        self.check_answers([], 200 if FULL else 40)

    def test_answers_of_integers(self):
        count = 200 if FULL else 20
        want = self.check_answers(["--weights", "int8"], count)
        q8_0 = self.start("--weights", "q8_0")
        self.assertNotEqual([self.answer(q8_0, ask) for ask in self.asks(count)], want)  # another class

    def test_a_stream_is_the_answer(self):
        server = self.start()
        for ask in self.asks(6):
            tokens, text, finish = self.answer(server, ask)
            stream = events(server.ask("POST", "/v1/completions", {**ask, "stream": True})[2].splitlines())
            self.assertEqual("".join(e["choices"][0]["text"] for e in stream), text)
            self.assertEqual([t for e in stream for t in e["choices"][0].get("tokens", [])], tokens)
            self.assertEqual([e["choices"][0]["finish_reason"] for e in stream[:-1]], [None] * (len(stream) - 1))
            self.assertEqual(stream[-1]["choices"][0]["finish_reason"], finish)
            if len(tokens) > 4: # goes on where another server left off
                rest = self.answer(server, {**ask, "resume_tokens": tokens[:3], "seed": stream[0]["seed"]})
                self.assertEqual(rest[0], tokens[3:])


class Ends(Case):
    """What a model's files say ends a text."""

    def made(self, config, generation=None, special=(), template=None):
        """The small model with other files beside it: bytes 1, 2, .. are named `special`."""
        path = os.path.join(self.dir, f"made-{self.id().rpartition('.')[2]}")
        shutil.rmtree(path, ignore_errors=True)
        os.makedirs(path)
        checkpoints = os.path.join(self.model, "checkpoints")
        newest = os.path.join(checkpoints, sorted(os.listdir(checkpoints))[-1])
        shutil.copy(os.path.join(newest, "model.safetensors"), path)
        with open(os.path.join(newest, "config.json")) as file:
            values = {**json.load(file), "eos_token_id": config}
        with open(os.path.join(newest, "tokenizer.json")) as file:
            tokenizer = json.load(file)
        vocab = tokenizer["model"]["vocab"]
        for i, name in enumerate(special):
            vocab.pop(next(k for k, v in vocab.items() if v == i + 1))
            vocab[name] = i + 1
            tokenizer["added_tokens"].append({"id": i + 1, "content": name, "single_word": False, "lstrip": False, "rstrip": False,
                                              "normalized": False, "special": True})
        files = {"config.json": values, "tokenizer.json": tokenizer, "tokenizer_config.json": {"chat_template": template}}
        if generation is not None:
            files["generation_config.json"] = {"eos_token_id": generation}
        for name, value in files.items():
            with open(os.path.join(path, name), "w") as file:
                json.dump(value, file)
        return path

    def begin(self, path):
        server = Server(path, "--threads", "1")
        self.addCleanup(server.stop, signal.SIGKILL)
        return server

    def ends(self, server, token, path="/v1/completions", **more):
        """Whether an answer that draws this token first is over."""
        body = {"prompt": "x"} if path == "/v1/completions" else {"messages": [{"role": "user", "content": "x"}]}
        status, answer = server.post(path, {**body, "temperature": 0, "max_tokens": 4, "logit_bias": {str(token): 100}, **more})
        self.assertEqual(status, 200, answer)
        counts = (answer["usage"]["completion_tokens"], answer["choices"][0]["finish_reason"])
        self.assertIn(counts, ((0, "stop"), (4, "length")))
        return counts[0] == 0

    def test_lists_of_both_files(self):
        for config, generation, want in (([0, 101], [102, 0, 4000], {0, 101, 102}), (101, 102, {0, 101, 102}), (None, [102], {0, 102}),
                                         ([101, 103], None, {0, 101, 103})):
            server = self.begin(self.made(config, generation))
            for token in (0, 101, 102, 103, 104):
                self.assertEqual(self.ends(server, token), token in want, (config, generation, token))
            last = max(want)
            self.assertFalse(self.ends(server, last, ignore_eos=True))
            self.assertTrue(self.ends(server, last, grammar="root ::= [a-d]*"))
            self.assertFalse(self.ends(server, last, grammar="root ::= [a-d] [a-d] [a-d] [a-d]")) # not yet
            self.assertEqual(server.stop(), 0)
        done = subprocess.run([serving.BRIGADE, "serve", self.made([0], "</s>"), "--port", "0", "--no-key"], capture_output=True, timeout=60)
        self.assertEqual(done.returncode, 65)
        self.assertIn(b"generation_config.json", done.stderr)

    def test_what_a_template_writes_after_an_answer(self):
        names = ["<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|im_start|>", "<|endoftext|>"]
        here = os.path.join(os.path.dirname(os.path.abspath(__file__)), "templates")
        for family, token in (("chatml", 1), ("llama3", 2), ("gemma", 3), (None, None)):
            template = None
            if family:
                with open(os.path.join(here, family + ".jinja")) as file:
                    template = file.read()
            server = self.begin(self.made(0, None, names, template))
            for i in range(1, 5):
                for path in ("/v1/completions", "/v1/chat/completions"):
                    self.assertEqual(self.ends(server, i, path), i == token, (family, i))
            self.assertEqual(server.stop(), 0)


class Clients(Case):
    """Clients that leave, wait, crowd; servers that end."""

    def slow_socket(self, server):
        """Takes next to nothing until it is read: a long stream to it stays open."""
        sock = socket.socket()
        self.addCleanup(sock.close)
        sock.settimeout(60)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.connect(("127.0.0.1", server.port))
        return sock

    def chunks(self, sock):
        """The events of the stream that comes."""
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        return events(answer.readlines())

    def leaves(self, server, body):
        def ended(how):
            return server.metrics()['brigade_requests_total{finish="%s"}' % how]
        def done():
            return ended("length") + ended("stop")
        for _ in range(20): # the answer may be there before its client has left
            cancelled, before = ended("cancelled"), done()
            sock = server.socket()
            sock.sendall(request("/v1/completions", body))
            if body.get("stream"):
                sock.recv(400)
            else:
                self.until("it runs, or has run", 30, lambda: server.metrics()["brigade_requests_running"] > 0 or done() > before)
            sock.close()
            self.until("all have ended", 60, lambda: ended("cancelled") - cancelled + done() - before == 32)
            self.until("nothing runs", 30, lambda: server.metrics()["brigade_requests_running"] == 0)
            if ended("cancelled") > cancelled:
                return
        self.fail("nothing was ever cancelled")

    def test_who_leaves_is_cancelled(self):
        server = self.start("--chunk", "1")
        self.leaves(server, {**LONG, "stream": True})
        self.leaves(server, LONG)
        self.leaves(server, {**LONG, "prompt": "the 7 little bears " * 24, "max_tokens": 20, "cache_prompt": False})  # prefill
        self.leaves(server, {**LONG, "prompt": "the 7 little bears " * 24, "max_tokens": 20, "cache_prompt": False,
                             "grammar": 'root ::= "a"*'})
        self.assertEqual(server.metrics()["brigade_requests_waiting"], 0)
        self.assertEqual(server.stop(), 0)

    def whole(self, sock):
        """All that comes until the server closes."""
        data = b""
        while got := sock.recv(65536):
            data += got
        return data

    def test_who_only_says_no_more_is_answered(self):
        """shutdown(SHUT_WR) after the request, as `nc -N` does: not gone."""
        server = self.start("--chunk", "1")
        prompt = "the 7 little bears " * 24
        want = server.text(prompt, max_tokens=20, seed=1, ignore_eos=True)
        ask = {"prompt": prompt, "max_tokens": 20, "seed": 1, "ignore_eos": True, "cache_prompt": False}
        for body, crowd in (({**ask}, 1), ({**ask, "stream": True}, 1), ({"input": [prompt] * 5}, 0)):
            socks = []
            for late in (False, True): # with the request, or while it is computed
                before = server.metrics()["brigade_prompt_tokens_total"] if late else 0
                sock = server.socket()
                sock.sendall(request("/v1/embeddings" if "input" in body else "/v1/completions", body))
                if late:
                    self.until("it runs, or has run", 30, lambda: server.metrics()["brigade_prompt_tokens_total"] > before)
                sock.shutdown(socket.SHUT_WR)
                socks.append(sock)
            for sock in socks:
                data = self.whole(sock)
                self.assertEqual(data.count(b" 200 OK"), 1, data[:300])
                if body.get("stream"):
                    text = "".join(e["choices"][0]["text"] for e in events(data.partition(b"\r\n\r\n")[2].splitlines()))
                    self.assertEqual(text, want)
                elif crowd:
                    self.assertEqual(json.loads(data.rpartition(b"\r\n\r\n")[2])["choices"][0]["text"], want)
                else:
                    self.assertEqual(len(json.loads(data.rpartition(b"\r\n\r\n")[2])["data"]), 5)
        values = server.metrics()
        self.assertEqual(values['brigade_requests_total{finish="cancelled"}'], 0)
        asks = [{"prompt": "the", "max_tokens": n, "temperature": 0} for n in (5, 1, 3)]
        sock = server.socket()
        sock.sendall(b"".join(request("/v1/completions", a) for a in asks))
        sock.shutdown(socket.SHUT_WR)
        self.assertEqual([int(n) for n in re.findall(rb'"completion_tokens":(\d+)', self.whole(sock))], [5, 1, 3])
        self.assertEqual(server.stop(), 0)

    def test_who_says_no_more_and_does_not_read_is_given_up(self):
        log = os.path.join(self.dir, "unread.log")
        server = self.start("--idle", "1", "--access-log", log)
        sock = self.slow_socket(server)
        sock.sendall(request("/v1/completions", {**LONG, "stream": True, "return_tokens": True}))
        sock.shutdown(socket.SHUT_WR)
        def written():
            with open(log) as file:
                return file.read()
        self.until("it is given up", 60, lambda: "/v1/completions" in written())
        self.until("nothing runs", 30, lambda: server.metrics()["brigade_requests_running"] == 0)
        self.assertEqual(server.stop(), 0)

    def test_embeddings_go_with_the_others(self):
        server = self.start("--chunk", "16", "--slots", "4", "--queue", "8", threads="2")
        inputs = [f"the {n} little bears ate " * (n % 7 + 1) for n in range(60)]
        alone = [server.post("/v1/embeddings", {"input": text})[1]["data"][0]["embedding"] for text in inputs[:7]]
        want = server.text("the 7", max_tokens=50, seed=1, ignore_eos=True)
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            found = pool.submit(server.post, "/v1/embeddings", {"input": inputs})
            texts = [pool.submit(server.text, "the 7", max_tokens=50, seed=1, ignore_eos=True) for _ in range(2)]
            self.assertEqual([t.result() for t in texts], [want] * 2)
            status, answer = found.result()
        self.assertEqual(status, 200, answer)
        self.assertEqual([e["index"] for e in answer["data"]], list(range(60)))
        self.assertEqual([e["embedding"] for e in answer["data"][:7]], alone)
        before = server.metrics()["brigade_prompt_tokens_total"]
        sock = server.socket()  # who leaves is cancelled
        sock.sendall(request("/v1/embeddings", {"input": ["the 7 little bears " * 24] * 256}))
        self.until("it runs, or has run", 30, lambda: server.metrics()["brigade_prompt_tokens_total"] > before)
        sock.close()
        self.until("it ends", 60, lambda: server.metrics()["brigade_requests_running"] + server.metrics()["brigade_requests_waiting"] == 0)
        status, answer = server.post("/v1/embeddings", {"input": ["a", "b", "x " * 2000] + ["c"] * 50})
        self.refused((status, answer), 400, "exceed_context_size_error", "input")
        self.assertEqual(server.stop(), 0)

    def test_an_engine_that_hangs_holds_nobody_up(self):
        """What waits for the engine does not keep others from their answers."""
        place = serving.scratch("slots")
        self.addCleanup(serving.remove, place)
        server = self.start("--slot-save-path", place, "--watchdog", "3600", env={"BRIGADE_FAULT": "serve:serve-batch:2:HANG"})
        server.text("the", max_tokens=1)
        asks = [("/v1/embeddings", {"input": ["the bears"] * 3}), ("/slots/0?action=save", {"filename": "x"}),
                ("/slots/0?action=erase", {}), ("/kv/save", {"prompt": "the bears"}), ("/v1/completions", {"prompt": "the bears"})]

        def stuck():
            server.socket().sendall(request("/v1/completions", {"prompt": "the bears"}))
            return server.metrics()["brigade_requests_waiting"] > 0
        self.until("it hangs", 30, stuck)
        for path, body in asks:
            server.socket().sendall(request(path, body))
        for path in ("/metrics", "/slots", "/props", "/v1/models"):
            self.assertEqual(server.ask("GET", path)[0], 200)
        self.assertIn(server.ask("GET", "/health")[0], (200, 503))
        for sock in server.sockets:
            sock.close()
        server.sockets = []
        self.assertEqual(server.ask("GET", "/metrics")[0], 200)

    def gaps(self, server, body):
        """Seconds until a body is answered; the longest that anybody else waited meanwhile: /health, and a stream's chunks."""
        chunks, stop = [], threading.Event()

        def drink():
            while not stop.is_set():
                sock = server.socket()
                sock.sendall(request("/v1/completions", {**LONG, "n": 1, "stream": True}, "Connection: close\r\n"))
                while sock.recv(4096):
                    chunks.append(time.monotonic())
                sock.close()
        drinker = threading.Thread(target=drink)
        drinker.start()
        try:
            self.until("the stream has begun", 60, lambda: chunks)
            sock, longest = server.socket(), 0
            sock.sendall(body)
            begin = end = time.monotonic()
            while not select.select([sock], [], [], 0)[0]:
                self.assertEqual(server.ask("GET", "/health")[0], 200)
                longest, end = max(longest, time.monotonic() - end), time.monotonic()
            sock.close()
        finally:
            stop.set()
            drinker.join()
        seen = [begin] + [t for t in chunks if begin < t < end] + [end]
        return end - begin, max([longest] + [b - a for a, b in zip(seen, seen[1:])])

    def test_large_bodies_hold_up_nobody(self):
        """They are read beside the HTTP thread: others do not wait until that is done."""
        server = self.start("--chunk", "16", threads="1")
        for path, field in (("/tokenize", "content"), ("/v1/completions", "prompt")):
            body = request(path, {field: "the 7 little bears ate " * 180000})
            found = []
            while len(found) < 8 and not any(longest < whole / 2 for whole, longest in found):
                found.append(self.gaps(server, body))
            self.assertTrue(any(longest < whole / 2 for whole, longest in found), (path, found))
        self.assertEqual(server.stop(), 0)

    def test_who_comes_while_it_loads_is_told(self):
        server = self.start(key="open", ready=False, env={"BRIGADE_FAULT": "serve:serve-load:1:HANG"})
        server.wait_for("brigade: reading ")
        for method, path, body in (("GET", "/health", None), ("GET", "/v1/models", None), ("GET", "/metrics", None), ("GET", "/", None),
                                   ("POST", "/v1/completions", {"prompt": "x"}), ("POST", "/v1/chat/completions", {}), ("POST", "/tokenize", "{")):
            status, headers, answer = server.ask(method, path, body)
            self.assertIn("Loading", self.refused((status, json.loads(answer)), 503)["message"])
            self.assertGreaterEqual(int(headers["Retry-After"]), 1)
            self.assertIsNone(headers["X-Brigade-Model"])
            status = server.ask(method, path, body, headers={"Authorization": "Bearer x"})[0]
            self.assertEqual(status, 503 if path == "/health" else 401)
        self.assertEqual(server.stop(signal.SIGKILL), -signal.SIGKILL)

    def test_sigterm_finishes_what_runs(self):
        server = self.start(env={"BRIGADE_FAULT": "serve:serve-batch:800:TERM"}) # in the middle of this
        sock = self.slow_socket(server)
        sock.sendall(request("/v1/completions", {**LONG, "stream": True, "return_tokens": True}))
        server.wait_for("draining 1")
        self.until("503", 30, lambda: server.ask("GET", "/health")[0] == 503)
        self.refused(server.post("/v1/completions", {"prompt": "x"}), 503)
        chunks = self.chunks(sock)
        self.assertEqual([c["choices"][0]["finish_reason"] for c in chunks if c["choices"][0]["finish_reason"]], ["length"] * 32)
        self.assertEqual(server.process.wait(60), 0)

    def test_second_sigterm_aborts(self):
        server = self.start("--chunk", "1", env={"BRIGADE_FAULT": "serve:serve-batch:100:TERM,serve:serve-batch:200:TERM"})
        sock = server.socket()
        sock.sendall(request("/v1/completions", {**LONG, "n": 1, "stream": True}))
        self.assertEqual(server.process.wait(60), -signal.SIGTERM)
        self.assertIn("draining", server.said())

    def test_grace_ends(self):
        server = self.start("--grace", "0", env={"BRIGADE_FAULT": "serve:serve-batch:100:TERM"})
        sock = server.socket()
        sock.sendall(request("/v1/completions", {**LONG, "n": 1, "stream": True}))
        self.assertIn("handed-over", [c["choices"][0]["finish_reason"] for c in self.chunks(sock)])
        self.assertEqual(server.process.wait(60), 0)
        self.assertIn("brigade: stopped, 1 requests were handed over\n", server.said())

    def test_crowds_are_told_to_come_back(self):
        for limit in (("--queue", "2"), ("--queue-tokens", "50")):
            with self.subTest(limit):
                self.crowd(self.start("--slots", "1", *limit))
                # The first is never done: of those behind it two may wait.
                server = self.start("--slots", "1", *limit, env={"BRIGADE_FAULT": "serve:serve-batch:1:HANG"})
                self.assertGreaterEqual(self.crowd(server, 9), 9)
                for sock in server.sockets: # before it is killed
                    sock.close()

    def crowd(self, server, enough=12):
        """Twelve at once; how many of so many answers say 429."""
        body = {**LONG, "n": 1, "stream": True}
        sockets = [server.socket() for _ in range(12)]
        for sock in sockets:
            sock.sendall(request("/v1/completions", body, "Connection: close\r\n"))
        answers, data, refused = 0, {sock: b"" for sock in sockets}, 0
        while answers < enough:
            for sock in select.select(list(data), [], [], 60)[0]:
                got = sock.recv(65536)
                data[sock] += got
                if got:
                    continue
                head, rest = data[sock].partition(b"\r\n\r\n")[0], unchunked(data.pop(sock))
                answers += 1
                if b" 200 " in head.splitlines()[0]:
                    self.assertIn(b"data: [DONE]", rest)
                    continue
                refused += 1
                self.assertIn(b" 429 ", head.splitlines()[0])
                self.assertGreaterEqual(int(re.search(rb"Retry-After: (\d+)", head).group(1)), 1)
                self.assertEqual(json.loads(rest)["error"]["code"], "rate_limit_exceeded")
        return refused

    def test_slow_and_silent_peers(self):
        server = self.start()
        slow = self.slow_socket(server)
        slow.sendall(request("/v1/completions", {**LONG, "stream": True, "return_tokens": True}, "Connection: close\r\n"))
        silent = [server.socket() for _ in range(200)]
        for i, sock in enumerate(silent):
            sock.sendall([b"", b"POST /v1/completions HTTP/1.1\r\nHo", b"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\n{"][i % 3])
        for _ in range(20):
            self.assertEqual(server.post("/v1/completions", {"prompt": "x", "max_tokens": 2})[0], 200)
        data = b""
        while True:
            got = slow.recv(65536)
            if not got:
                break
            data += got
        data = unchunked(data)
        self.assertEqual(data.count(b'"finish_reason":"length"'), 32)
        self.assertIn(b"data: [DONE]", data)
        for sock in silent:
            sock.close()

    def test_pipelined(self):
        server = self.start()
        sock = server.socket()
        asks = [{"prompt": "the", "max_tokens": n, "temperature": 0} for n in (5, 1, 3)]
        sock.sendall(b"".join(request("/v1/completions", a) for a in asks) + b"GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        data = b""
        while True:
            got = sock.recv(65536)
            if not got:
                break
            data += got
        self.assertEqual([int(n) for n in re.findall(rb'"completion_tokens":(\d+)', data)], [5, 1, 3])
        self.assertIn(b'"version"', data)

    def test_load(self):
        """Streams that wait or are not read, and many small requests beside them: only 429 past the limit, memory flat."""
        idle, seconds, rate = (2000, 60, 100) if FULL else (150, 4, 50)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536) if hard > 0 else 65536, hard))
        if resource.getrlimit(resource.RLIMIT_NOFILE)[0] < idle + 200:
            self.skipTest("too few files may be open")
        server = self.start("--queue", str(idle + 50), "--queue-tokens", str(50 * idle), threads="2")
        body = {"prompt": "the 7 little bears", "max_tokens": 480 if FULL else 100, "ignore_eos": True,
                "stream": True, "priority": -1}
        data = request("/v1/completions", body)
        streams = []
        for _ in range(idle):
            sock = server.socket()
            sock.sendall(data)
            streams.append(sock)
        codes, memory, lock = {}, [], threading.Lock()
        begin = time.monotonic()

        def small(i):
            time.sleep(max(0, begin + i / rate - time.monotonic()))
            status = server.ask("POST", "/v1/completions", {"prompt": f"bear {i % 10}", "max_tokens": 2})[0]
            with lock:
                codes[status] = codes.get(status, 0) + 1
                if i % rate == 0:
                    memory.append(server.rss())

        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            list(pool.map(small, range(int(seconds * rate))))
        self.assertEqual(set(codes) - {200, 429}, set())
        self.assertGreater(codes[200], 0.9 * seconds * rate)
        for sock in streams:
            data = b""
            while b"data: [DONE]" not in data[-32:]: # the connection stays, all the time
                got = sock.recv(65536)
                if not got:
                    break
                data += got
            self.assertIn(b"data: [DONE]", data)
            sock.close()
        if is_release():
            memory.append(server.rss())
            self.assertLess(memory[-1] - memory[len(memory) // 4], 24 << 20, memory)
        self.assertEqual(server.stop(), 0)


class Hostile(Case):
    """Bodies and headers that mean harm are refused, in bounded time and memory; the server goes on."""

    @classmethod
    def make_model(cls):
        model = serving.small_model()
        cls.server = Server(model, "--threads", "1", "--cors", "https://example.org")
        cls.addClassCleanup(cls.server.ends_well)
        return model

    def tearDown(self):
        self.assertEqual(self.server.ask("GET", "/health")[0], 200)

    def bounded(self, path, body, statuses=(400,), seconds=5):
        begin, before = self.server.cpu(), self.server.rss()
        status, answer = self.server.post(path, body)
        self.assertIn(status, statuses, str(answer)[:300])
        if is_release():
            self.assertLess(self.server.cpu() - begin, seconds)
            self.assertLess(self.server.rss() - before, 200 << 20)
        return answer

    def test_bodies(self):
        for body in ("", "{", "[]", "7", '"x"', "null", '{"prompt": "a"', '{"prompt": "a", "prompt": "b"}', '{"prompt": "\\u0000"}',
                     '{"prompt": "\\ud800"}', b'{"prompt": "\xff"}', b"\0" * 1000, "[" * 200000, '{"a":' * 200000,
                     '{"prompt": ' + "[" * 3000 + "]" * 3000 + "}", '{"prompt": 1e999}', '{"prompt": "a"} x',
                     '{"seed": 99999999999999999999, "prompt": "a"}'):
            for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/detokenize", "/apply-template"):
                self.refused(self.server.post(path, body), 400)

    def test_fields(self):
        many = [f"stop {i}" for i in range(10000)]
        for more in ({"stop": many}, {"stop": ""}, {"stop": "x" * 5000}, {"stop": [7]}, {"n": 0}, {"n": 33}, {"n": 1.5},
                     {"max_tokens": 0}, {"max_tokens": -1}, {"max_tokens": "9"}, {"temperature": -1}, {"temperature": "hot"},
                     {"top_p": 1.1}, {"min_p": -0.1}, {"top_k": 1e10}, {"logprobs": 21}, {"logprobs": True}, {"seed": 0.5},
                     {"logit_bias": {"1": 101}}, {"logit_bias": {"999999": 1}}, {"logit_bias": {"-1": 1}}, {"logit_bias": []},
                     {"logit_bias": {"01": 1, "1": 1}}, {"logit_bias": {str(i): 1 for i in range(5000)}}, {"stream": "yes"},
                     {"stream_options": {"include_usage": True}}, {"suffix": "x"}, {"best_of": 3}, {"tools": [{}]}, {"model": 7},
                     {"min_tokens": 3}, {"repetition_penalty": 1.5}, {"guided_json": {}}, {"mirostat": 2}, {"n_predict": 9}, {"use_beam_search": True},
                     {"echo": True, "logprobs": 1}, {"prompt": []}, {"prompt": [[]]}, {"prompt": [[1], "a"]}, {"prompt": [-1]},
                     {"prompt": [2 ** 40]}, {"prompt": ["a"] * 1000}, {"prompt": ["a"] * 20, "n": 20}, {"prompt": {}},
                     {"resume_tokens": [1]}, {"resume_tokens": [10 ** 9], "seed": 1}, {"priority": 1 << 40}, {"timeout_ms": 0}):
            self.refused(self.server.post("/v1/completions", {"prompt": "x", **more}), 400)
        idle = {"min_tokens": 0, "repetition_penalty": 1.0, "mirostat": 0, "n_predict": -1, "tools": [], "suffix": None, "use_beam_search": False}
        self.assertEqual(self.server.post("/v1/completions", {"prompt": "x", "max_tokens": 1, **idle})[0], 200)
        self.refused(self.server.post("/v1/completions", {"prompt": "x", "model": "gpt-4"}), 404, param="model")
        for messages in (None, [], [7], [{}], [{"role": "user"}], [{"role": "user", "content": 7}], "hello", [{"role": 1, "content": ""}],
                         [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]):
            self.refused(self.server.post("/v1/chat/completions", {"messages": messages}), 400)
        self.refused(self.server.get("/nothing"), 404)
        self.refused(self.server.get("/v1/completions"), 405)
        self.refused(self.server.post("/v1/models", {}), 405)
        for method, path, right in (("POST", "/health", "GET"), ("PUT", "/v1/completions", "POST"), ("DELETE", "/v1/models/x", "GET")):
            status, headers, body = self.server.ask(method, path)
            self.refused((status, json.loads(body)), 405)
            self.assertEqual(headers["Allow"], right)
        for more in ({"stream": True, "stream_options": 7}, {"stream": True, "stream_options": {"include_usage": 1}}, {"modalities": ["audio"]},
                     {"modalities": "text"}, {"web_search_options": {}}, {"chat_template_kwargs": 7}, {"functions": [{}]}):
            self.refused(self.server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], **more}), 400)
        self.assertEqual(self.server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "modalities": ["text"],
                                                                   "max_tokens": 1})[0], 200)
        for path, body in (("/tokenize", {"content": "x", "add_special": "yes"}), ("/tokenize", {"content": "x", "parse_special": 1}),
                           ("/apply-template", {"messages": []}), ("/apply-template", {"messages": [{"role": "user"}]}),
                           ("/kv/save", {"prompt": ["a", "b"]})):
            self.refused(self.server.post(path, body), 400)
        parts = [{"type": "text", "text": "he"}, {"type": "text", "text": "y"}]
        self.assertEqual(*(self.server.post("/apply-template", {"messages": [{"role": "user", "content": c}]}) for c in ("hey", parts)))
        drawn = self.server.post("/v1/completions", {"prompt": "x", "max_tokens": 8, "logprobs": 1, "temperature": 5, "seed": 1})[1]
        logprobs = drawn["choices"][0]["logprobs"]
        for token, value, top in zip(logprobs["tokens"], logprobs["token_logprobs"], logprobs["top_logprobs"]):
            self.assertIn(token, top)

    def test_structures(self):
        def nest(n):
            schema = {"type": "string"}
            for _ in range(n):
                schema = {"type": "object", "properties": {"a": schema}}
            return schema
        loop = {"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}}
        schemas = [nest(400), loop, {"anyOf": [{"const": i} for i in range(20000)]}, {"type": "string", "pattern": "(a*)*b"},
                   {"type": "string", "minLength": 10 ** 9}, {"type": "array", "minItems": 10 ** 9}, {"enum": []}, {"not": {}}, 7, "x",
                   {"type": "object", "properties": {f"p{i}": {"type": "integer"} for i in range(3000)}}, {"type": "array", "items": loop},
                   {"type": "integer", "minimum": 10 ** 30}, {"$ref": "http://example.org/x"}, {"allOf": [{"type": "string"}, {"type": "integer"}]}]
        for schema in schemas:
            self.bounded("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 3, "response_format": {
                "type": "json_schema", "json_schema": {"name": "x", "schema": schema}}}, (200, 400))
        self.refused(self.server.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "response_format": {
            "type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}}), 400, param="response_format")
        for grammar in ("", "root ::= root", "root ::= root \"a\"", "root ::= x", "root ::= \"a\"{4000}{4000}", "root ::= (" * 10000,
                        "root ::= [", "root ::= [b-a]", "root ::= \"\\q\"", "root ::= " + "\"a\" | " * 20000 + "\"b\"", "x", "\0", "root ::= a\n" * 5000,
                        "root ::= a a\na ::= b b\nb ::= c c\nc ::= root \"x\"", "root ::= \"a\"{99999999999}", "root ::= (\"a\"*)*",
                        "root ::= ((\"a\"{0,4096}){0,4096}){0,4096}", "root ::= [^q] ((\"a\"{0,90}){0,90}){0,90}", "root ::= \"a\"" + "{0,4096}" * 8000,
                        "root ::= " + " ".join(f"[\\x{a:02x}-\\x{b:02x}]" for a in range(128) for b in range(a, 128) if (a + b) % 2)):
            self.bounded("/v1/completions", {"prompt": "x", "max_tokens": 3, "grammar": grammar}, (200, 400))
        self.refused(self.server.post("/v1/completions", {"prompt": "x", "grammar": "root ::= root \"a\""}), 400, param="grammar")

    def test_large_bodies(self):
        before = self.server.rss()
        sock = self.server.socket()
        size = 100 << 20
        sock.sendall(f"POST /v1/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {size}\r\n\r\n".encode())
        block = b" " * (1 << 20)
        for _ in range(100):
            sock.sendall(block)
        self.assertIn(b" 413 ", sock.recv(4096).split(b"\r\n")[0])
        sock.close()
        if is_release():
            self.assertLess(self.server.rss() - before, 30 << 20)

    def test_headers(self):
        for head in (b"GET /health HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 300000 + b"\r\n\r\n", b"GET /" + b"a" * 300000 + b" HTTP/1.1\r\n\r\n",
                     b"GET /health HTTP/1.1\r\n" + b"".join(b"X%d: y\r\n" % i for i in range(20000)) + b"\r\n", b"\x16\x03\x01" + b"\xff" * 500,
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
                     b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n"):
            sock = self.server.socket(timeout=1)
            try:
                sock.sendall(head)
                got = sock.recv(4096)
            except (ConnectionError, BrokenPipeError, TimeoutError): # a line without an end waits until it has been silent for a minute
                got = b""
            self.assertTrue(got == b"" or got.split()[1][:1] == b"4", got[:100])
            sock.close()

    def test_cors_head_options(self):
        status, headers, body = self.server.ask("OPTIONS", "/v1/chat/completions", headers={"Origin": "https://example.org"})
        self.assertEqual((status, body), (204, b""))
        self.assertEqual(headers["Access-Control-Allow-Origin"], "https://example.org")
        self.assertIn("Authorization", headers["Access-Control-Allow-Headers"])
        for path in ("/", "/health", "/v1/models", "/metrics", "/props", "/slots", "/version"):
            got, head = self.server.ask("GET", path), self.server.ask("HEAD", path)
            self.assertEqual((got[0], head[0], head[2]), (200, 200, b""))
            self.assertEqual(got[1]["Content-Type"], head[1]["Content-Type"])


class Doors(Case):
    """Keys, TLS, the log, the metrics."""

    OPEN = {"/health"}
    PATHS = ("/health", "/", "/v1/models", "/metrics", "/props", "/slots", "/version", "/nothing")

    def test_keys(self):
        server = self.start(key="open-sesame")
        for path in self.PATHS:
            for headers in ({"Authorization": ""}, {"Authorization": "Bearer "}, {"Authorization": "Bearer open-sesam"},
                            {"Authorization": "Bearer open-sesame "}, {"Authorization": "Basic open-sesame"}):
                self.assertEqual(server.ask("GET", path, headers=headers)[0], 200 if path in self.OPEN else 401, (path, headers))
            self.assertEqual(server.ask("GET", path)[0], 404 if path == "/nothing" else 200)
            query = server.ask("GET", path + "?key=open-sesame", headers={"Authorization": ""})[0]
            self.assertEqual(query, 200 if path in ("/", "/health") else 401)
        for path in ("/v1/completions", "/v1/chat/completions", "/v1/embeddings", "/tokenize", "/slots/0?action=save"):
            status, headers, body = server.ask("POST", path, {"prompt": "x"}, headers={"Authorization": "Bearer x"})
            self.assertEqual((status, headers["WWW-Authenticate"]), (401, "Bearer"))
            self.assertEqual(json.loads(body)["error"]["type"], "authentication_error")
        self.assertEqual(server.text("x", max_tokens=1, seed=1), server.text("x", max_tokens=1, seed=1))

    def test_keys_of_a_file(self):
        path = os.path.join(self.dir, "keys")
        with open(path, "w") as file:
            file.write("one\r\n\n  two \n")
        server = self.start("--api-key-file", path, key="three")
        for key, status in (("one", 200), ("two", 200), ("three", 200), ("", 401), ("four", 401)):
            self.assertEqual(server.ask("GET", "/v1/models", headers={"Authorization": "Bearer " + key})[0], status, key)
        self.assertNotIn("key=", server.said())
        for content, code in (("\n \n", 78), ("good\nbad key\n", 78), (None, 66)):
            empty = os.path.join(self.dir, "empty")
            if content:
                with open(empty, "w") as file:
                    file.write(content)
            done = subprocess.run([serving.BRIGADE, "serve", self.model, "--api-key-file", empty if content else empty + "-not"], capture_output=True)
            self.assertEqual(done.returncode, code, done.stderr)

    def test_a_key_is_drawn(self):
        server = self.start(key=False)
        key = server.wait_for(r"brigade: key (\w{32})\n").group(1)
        self.assertIn(f"/?key={key}", server.said())
        self.assertEqual(server.ask("GET", "/v1/models")[0], 401)
        self.assertEqual(server.ask("GET", "/v1/models", headers={"Authorization": "Bearer " + key})[0], 200)
        for args in (["serve", self.model, "--no-key", "--host", "0.0.0.0"], ["serve", self.model, "--api-key", ""],
                     ["route", "--replica", "http://127.0.0.1:1", "--api-key", "k", "--api-key", ""]):
            self.assertEqual(subprocess.run([serving.BRIGADE, *args], capture_output=True, timeout=30).returncode, 64, args)

    def test_tls(self):
        if not shutil.which("openssl"):
            self.skipTest("needs openssl")
        cert, key = os.path.join(self.dir, "cert.pem"), os.path.join(self.dir, "key.pem")
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", key, "-out", cert, "-days", "2",
                        "-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
        server = self.start("--tls-cert", cert, "--tls-key", key)
        context = ssl.create_default_context(cafile=cert)

        def wrapped():
            sock = context.wrap_socket(server.socket(), server_hostname="127.0.0.1")
            self.addCleanup(sock.close)
            return sock
        sock = wrapped()
        sock.sendall(request("/v1/completions", {**LONG, "n": 2, "stream": True}, "Connection: close\r\n"))
        data = b""
        while True:
            got = sock.recv(65536)
            if not got:
                break
            data += got
        self.assertEqual(data.count(b'"finish_reason":"length"'), 2)
        self.assertIn(b"data: [DONE]", data)
        sock = wrapped()  # leaves in mid-stream
        sock.sendall(request("/v1/completions", {**LONG, "stream": True}))
        sock.recv(400)
        sock.close()
        plain = server.socket()
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        plain.close()
        sock = wrapped()
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        self.assertIn(b"200", sock.recv(4096))
        self.assertEqual(server.stop(), 0)
        done = subprocess.run([serving.BRIGADE, "serve", self.model, "--port", "0", "--no-key", "--tls-cert", key, "--tls-key", cert],
                              capture_output=True, timeout=30)
        self.assertNotEqual(done.returncode, 0)
        self.assertIn(b"certificate", done.stderr)

    def test_log_and_metrics(self):
        log = os.path.join(self.dir, "access.log")
        server = self.start("--access-log", log, "--vllm-metrics")
        server.text("a secret word", max_tokens=3)
        server.ask("GET", "/x%0A%22%7B?key=hidden")
        server.ask("POST", "/v1/completions", "{")
        def written():
            with open(log) as file:
                return file.read()
        self.until("three lines", 30, lambda: written().count("\n") == 3) # a line is written when its answer has gone
        text = written()
        lines = [json.loads(line) for line in text.splitlines()]
        self.assertEqual([(l["method"], l["status"]) for l in lines], [("POST", 200), ("GET", 404), ("POST", 400)])
        self.assertEqual((lines[0]["tokens"], lines[0]["finish"]), (3, "length"))
        self.assertNotIn("secret", text)
        self.assertNotIn("hidden", text)
        values = server.metrics()
        self.assertEqual(values["brigade_generated_tokens_total"], 3)
        self.assertEqual(values['brigade_requests_total{finish="length"}'], 1)
        self.assertEqual(values["vllm:generation_tokens_total"], 3)
        if not shutil.which("promtool"):
            self.skipTest("needs promtool (package prometheus) to check the metrics' form")
        done = subprocess.run(["promtool", "check", "metrics"], input=server.ask("GET", "/metrics")[2], capture_output=True)
        complaints = [l for l in done.stderr.decode().splitlines() if "should not contain ':'" not in l]  # vLLM's names have one
        self.assertEqual(complaints, [], done.stderr)
        plain = self.start()
        done = subprocess.run(["promtool", "check", "metrics"], input=plain.ask("GET", "/metrics")[2], capture_output=True)
        self.assertEqual((done.returncode, done.stderr), (0, b""))


if __name__ == "__main__":
    unittest.main()
