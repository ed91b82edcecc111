"""For the tests of `brigade serve`: a small model, a server on a free port, requests to it."""
import atexit
import functools
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading

BRIGADE = os.path.abspath(os.environ.get("BRIGADE", "build/brigade"))
SHARED = os.environ.get("BRIGADE_SHARED", os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "shared"))
STORIES = os.path.join(SHARED, "data", "models", "stories260K.bin")
FULL = bool(os.environ.get("BRIGADE_CHECK_FULL"))


def scratch(name):
    return tempfile.mkdtemp(prefix=f"brigade-{name}-")


def run(*args):
    done = subprocess.run([BRIGADE, *args], capture_output=True, timeout=300)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode()


def stories(directory):
    """stories260K as a directory; None where it is not there."""
    if not os.path.exists(STORIES):
        return None
    out = os.path.join(directory, "stories260K")
    run("import", STORIES, "--out", out, "--tokenizer", STORIES.replace(".bin", ".tokenizer.bin"))
    return out


@functools.cache
def small_model():
    """A model that knows next to nothing, learnt here once; for tests that do not ask what it says."""
    directory = scratch("model")
    atexit.register(remove, directory)
    text = os.path.join(directory, "text.txt")
    with open(text, "w") as out:
        out.write("".join(f"the {n} little bears ate {n * n} honey cakes and {n + 7} pears.\n" for n in range(400)))
    out = os.path.join(directory, "small")
    run("train", text, "model.family=llama", "model.layers=2", "model.dim=32", "model.heads=4", "model.context=512",
        "train.steps=2", "train.lr=1e-2", "run.dir=" + out)
    return out


class Server:
    def __init__(self, model, *args, key=None, env=None, host="127.0.0.1", ready=True):
        auth = ["--api-key", key] if key else ["--no-key"]
        if key is False:
            auth = []
        self.key, self.sockets = key or None, []
        self.log = tempfile.NamedTemporaryFile(prefix="brigade-serve-", suffix=".log")
        self.process = subprocess.Popen([BRIGADE, "serve", model, "--port", "0", "--host", host, *auth, *args],
                                        stderr=self.log, env={**os.environ, **(env or {})})
        self.port = int(self.wait_for(r"listening at \w+://[\d.]+:(\d+)/").group(1))
        if ready:
            self.wait_for(r"brigade: serving ")

    def said(self):
        with open(self.log.name) as log:
            return log.read()

    def wait_for(self, pattern, seconds=60):
        for _ in range(int(seconds / 0.02)):
            match = re.search(pattern, self.said())
            if match:
                return match
            if self.process.poll() is not None:
                break
            threading.Event().wait(0.02)
        raise AssertionError(f"the server does not say {pattern!r}:\n{self.said()}")

    def connect(self, timeout=60):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def socket(self, timeout=60):
        """Open until the caller, or the server's end, closes it."""
        self.sockets.append(socket.create_connection(("127.0.0.1", self.port), timeout))
        return self.sockets[-1]

    def ask(self, method, path, body=None, headers=None, timeout=60):
        """(status, headers, bytes)"""
        connection = self.connect(timeout)
        try:
            sent = dict(headers or {})
            if self.key and "Authorization" not in sent:
                sent["Authorization"] = "Bearer " + self.key
            data = body if body is None or isinstance(body, (bytes, str)) else json.dumps(body)
            connection.request(method, path, data, sent)
            answer = connection.getresponse()
            return answer.status, answer.headers, answer.read()
        finally:
            connection.close()

    def post(self, path, body, **more):
        status, headers, data = self.ask("POST", path, body, **more)
        return status, json.loads(data)

    def get(self, path, **more):
        status, headers, data = self.ask("GET", path, **more)
        return status, json.loads(data)

    def text(self, prompt, **options):
        status, answer = self.post("/v1/completions", {"prompt": prompt, **options})
        assert status == 200, answer
        return answer["choices"][0]["text"]

    def metrics(self):
        text = self.ask("GET", "/metrics")[2].decode()
        return {m.group(1): float(m.group(2)) for m in re.finditer(r"^(\w[^ ]*) ([^ \n]+)$", text, re.M)}

    def rss(self):
        """Bytes of memory."""
        with open(f"/proc/{self.process.pid}/statm") as statm:
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def cpu(self):
        """Seconds of the processor's time."""
        with open(f"/proc/{self.process.pid}/stat") as stat:
            user, system = stat.read().rpartition(")")[2].split()[11:13]
        return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")

    def stop(self, signum=signal.SIGTERM, seconds=60):
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            for sock in self.sockets:
                sock.close()
            self.sockets = []

    def ends_well(self):
        code = self.stop()
        assert code == 0, f"the server ended with {code}:\n{self.said()}"


def events(lines):
    """The JSON of a stream's events; its last line must be [DONE]."""
    found, done = [], False
    for line in lines:
        line = line.decode() if isinstance(line, bytes) else line
        line = line.strip()
        if line == "data: [DONE]":
            done = True
        elif line.startswith("data: "):
            assert not done
            found.append(json.loads(line[6:]))
    assert done, "a stream without [DONE]"
    return found


def remove(directory):
    shutil.rmtree(directory, ignore_errors=True)
