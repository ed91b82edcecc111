#!/usr/bin/python3
"""`brigade bench serve`: against a server whose times and refusals are known, the table says just those; against our own
server every request of a trace is answered, and a small queue refuses with 429."""
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import serving

FIRST_S, TOKEN_S = 0.3, 0.06


class Known(http.server.BaseHTTPRequestHandler):
    """Answers every third request with 429, breaks off request 5, and keeps the promised times with the others."""
    protocol_version = "HTTP/1.1"
    seen, lock = [], threading.Lock()

    def log_message(self, *args):
        pass

    def send(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        self.send(200, json.dumps({"object": "list", "data": [{"id": "known", "max_model_len": 32}]}).encode())

    def do_POST(self):
        arrived = time.monotonic()
        ask = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.lock:
            number = len(self.seen)
            self.seen.append((arrived, ask))
        if number % 3 == 2:
            self.send(429, b'{"error": {"message": "full"}}')
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.close_connection = True
        self.end_headers()
        for i in range(ask["max_tokens"]):
            time.sleep(max(0, arrived + FIRST_S + i * TOKEN_S - time.monotonic()))
            self.event({"choices": [{"text": "x", "tokens": [i], "finish_reason": None}]})
            if number == 4:
                return
        usage = {"prompt_tokens": len(ask["prompt"]), "completion_tokens": ask["max_tokens"]}
        self.event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\r\n\r\n")

    def event(self, value):
        self.wfile.write(b"data: " + json.dumps(value).encode() + b"\n\n")
        self.wfile.flush()


def trace(rows):
    """Rows of (seconds, prompt, generated) as a file."""
    file = tempfile.NamedTemporaryFile("w", suffix=".csv")
    file.write("TIMESTAMP,ContextTokens,GeneratedTokens\n")
    for at, prompt, generated in rows:
        file.write(f"2023-11-16 18:{15 + int(at) // 60:02}:{at % 60:010.7f},{prompt},{generated}\n")
    file.flush()
    return file


def bench(*args):
    done = subprocess.run([serving.BRIGADE, "bench", "serve", *args], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout, done.stderr


class BenchServe(unittest.TestCase):
    def test_known_times(self):
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Known)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        with trace([(2.0 * i, 10, 5) for i in range(6)] + [(12.0, 1000, 500), (20.0, 1, 1)]) as file:
            args = ("--trace", file.name, "--url", url, "--time-scale", "20", "--vocab", "50")
            code, out, err = bench(*args, "--limit", "7", "--slo-ttft", "5000", "--slo-itl", "1000", "--json")
            self.assertEqual(code, 0, err)
            told = json.loads(out)
            self.assertEqual([told[key] for key in ("requests", "answered", "refused_429", "failed", "cut_to_context")],
                             [7, 4, 2, 1, 1])
            self.assertGreaterEqual(told["ttft_ms"]["p50"], FIRST_S * 1e3)
            self.assertLess(told["ttft_ms"]["p50"], FIRST_S * 1e3 + 250)
            self.assertAlmostEqual(told["itl_ms"]["p50"], TOKEN_S * 1e3, delta=25)
            self.assertEqual(told["good"], 4)
            self.assertEqual(told["generated_tokens"], 3 * 5 + 16)  # half of a context of 32
            self.assertEqual(told["prompt_tokens"], 3 * 10 + 16)
            # Open loop: sent at their times, not when the one before was answered.
            times = sorted(arrived for arrived, ask in Known.seen)
            self.assertAlmostEqual(times[6] - times[0], 0.6, delta=0.3)
            asks = [ask for arrived, ask in Known.seen]
            self.assertTrue(all(0 <= t < 50 for ask in asks for t in ask["prompt"]))
            self.assertNotEqual(asks[0]["prompt"], asks[1]["prompt"])
            self.assertTrue(all(a["temperature"] == 0 and a["ignore_eos"] and a["model"] == "known" for a in asks))
            # Limits that no answer keeps.
            told = json.loads(bench(*args, "--limit", "1", "--slo-itl", "1", "--json")[1])
            self.assertEqual((told["answered"], told["good"]), (1, 0))
            code, out, err = bench(*args, "--limit", "1")  # the ninth: refused
            self.assertEqual(code, 74)
            self.assertIn("no request was answered", err)
        server.shutdown()
        server.server_close()

    def test_own_server(self):
        model = serving.small_model()
        with trace([(i * 0.2, 40 + i, 12) for i in range(30)]) as file:
            code, out, err = bench("--trace", file.name, model, "--json")
            self.assertEqual(code, 0, err)
            told = json.loads(out)
            self.assertEqual((told["answered"], told["failed"]), (30, 0))
            self.assertEqual(told["generated_tokens"], 30 * 12)
            self.assertEqual(told["prompt_tokens"], sum(40 + i for i in range(30)))
            code, out, err = bench("--trace", file.name, model, "--time-scale", "1e6", "--with=--queue=2", "--with=--slots=1")
            self.assertEqual(code, 0, err)
            self.assertRegex(out, r"requests +30 in .*: \d+ answered, [1-9]\d* refused \(429\), 0 failed")
            self.assertRegex(out, r"TTFT ms +[\d.]+ +[\d.]+ +[\d.]+\n")

    def test_misuse(self):
        with trace([(0, 1, 1)]) as file, tempfile.NamedTemporaryFile("w", suffix=".csv") as events:
            events.write("0,add,node1\n5,remove,node1\n")
            events.flush()
            for args, code, said in (
                    (("--url", "http://127.0.0.1:1"), 64, "--trace FILE is missing"),
                    (("--trace", file.name), 64, "one of --url URL"),
                    (("--trace", file.name, "--url", "http://127.0.0.1:1", "m"), 64, "one of --url URL"),
                    (("--trace", file.name, "--url", "http://127.0.0.1:1"), 74, "127.0.0.1"),
                    (("--trace", file.name, "--url", "http://127.0.0.1:1", "--time-scale", "0"), 64, "--time-scale"),
                    (("--trace", events.name, "m"), 78, "trace of events"),
                    (("--trace", "/nowhere", "m"), 66, "/nowhere"),
                    (("--trace", file.name, "/nowhere"), 74, "/nowhere")):
                found, out, err = bench(*args)
                self.assertEqual((found, out), (code, ""), err)
                self.assertIn(said, err)


if __name__ == "__main__":
    os.chdir(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    unittest.main(verbosity=1)
