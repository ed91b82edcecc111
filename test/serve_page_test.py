#!/usr/bin/python3
"""The chat page in a real browser (Debian's chromium, headless, driven over its debugging port): it loads without a
network, an answer streams in, seed and hash are shown, the same seed gives the same hash. Skipped without chromium."""
import base64
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import unittest

import serving

try:
    import websocket
except ImportError:
    websocket = None
CHROMIUM = shutil.which("chromium")


class Page:
    """One tab."""

    def __init__(self, directory, url):
        self.browser = subprocess.Popen(
            [CHROMIUM, "--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", "--no-first-run",
             "--disable-extensions", "--disable-dev-shm-usage", "--user-data-dir=" + directory, "--window-size=1100,800",
             "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1", "about:blank"],
            stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
        for line in self.browser.stderr:
            match = re.search(rb"DevTools listening on ws://([\d.:]+)/", line)
            if match:
                break
        else:
            raise AssertionError("chromium does not start")
        self.number = 0
        self.errors = []
        self.requests = []
        import urllib.request
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        tabs = []
        while not tabs: # the browser listens before it has one
            time.sleep(0.05)
            with opener.open(f"http://{match.group(1).decode()}/json/list") as answer:
                tabs = [t for t in json.load(answer) if t["type"] == "page"]
        self.socket = websocket.create_connection(tabs[0]["webSocketDebuggerUrl"], timeout=300, suppress_origin=True,
                                                  http_no_proxy=["*"])
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(domain + ".enable")
        self.call("Page.navigate", url=url)
        self.until("document.readyState === 'complete'")

    def call(self, method, **params):
        self.number += 1
        self.socket.send(json.dumps({"id": self.number, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv())
            if message.get("method") in ("Runtime.exceptionThrown",):
                self.errors.append(message["params"])
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.errors.append(message["params"])
            if message.get("method") == "Network.requestWillBeSent":
                self.requests.append(message["params"]["request"]["url"])
            if message.get("id") == self.number:
                assert "error" not in message, message
                return message["result"]

    def eval(self, expression):
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression, seconds=120):
        for _ in range(int(seconds / 0.05)):
            if self.eval(expression):
                return
            self.eval("new Promise(done => setTimeout(done, 50))")
        raise AssertionError(f"never true: {expression}; page: {self.eval('document.body.innerText')}")

    def say(self, text):
        """Types and presses Enter; returns when the answer is complete."""
        before = self.eval("document.querySelectorAll('.facts, .error').length")
        self.eval("document.getElementById('question').focus()")
        self.call("Input.insertText", text=text)
        for kind in ("rawKeyDown", "char", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key="Enter", code="Enter", text="\r",
                      windowsVirtualKeyCode=13)
        self.until(f"document.querySelectorAll('.facts, .error').length > {before}")

    def picture(self, path):
        with open(path, "wb") as out:
            out.write(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))

    def close(self):
        self.socket.close()
        self.browser.terminate()
        self.browser.wait(20)
        self.browser.stderr.close()


@unittest.skipUnless(CHROMIUM and websocket, "needs Debian's chromium and python3-websocket")
class Chat(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.dir = serving.scratch("page")
        cls.model = serving.stories(cls.dir) or serving.small_model()
        cls.server = serving.Server(cls.model, "--threads", "1", key="open-sesame")
        cls.page = Page(os.path.join(cls.dir, "browser"), f"http://127.0.0.1:{cls.server.port}/?key=open-sesame")

    @classmethod
    def tearDownClass(cls):
        cls.page.close()
        cls.server.ends_well()
        serving.remove(cls.dir)

    def setUp(self):
        self.page.eval("document.getElementById('clear').click()")

    def set(self, name, value):
        self.page.eval(f"document.getElementById({json.dumps(name)}).value = {json.dumps(value)}")

    def last(self, selector, field="textContent"):
        return self.page.eval(f"[...document.querySelectorAll({json.dumps(selector)})].at(-1)?.{field}")

    def test_1_loads_alone(self):
        self.page.until("document.getElementById('about').textContent.includes('context')")
        self.assertNotIn("open-sesame", self.page.eval("location.href"))
        self.assertEqual(self.page.errors, [])
        for url in self.page.requests:
            self.assertTrue(url.startswith((f"http://127.0.0.1:{self.server.port}/", "data:", "about:")), url)

    def test_2_answer_seed_hash(self):
        self.set("mode", "text")
        self.set("seed", "")
        self.set("max_tokens", "60")
        self.page.say("Once upon a time")
        text, seed, shown = self.last("article.assistant"), self.last(".seed"), self.last(".hash", "dataset.hash")
        self.assertEqual(shown, hashlib.sha256(text.encode()).hexdigest())
        self.assertIn("tokens/s", self.last(".rate"))
        self.assertEqual(text, self.server.text("Once upon a time", seed=int(seed), max_tokens=60, temperature=0.8,
                                                top_p=0.95, top_k=40, min_p=0.05))
        self.page.eval("[...document.querySelectorAll('.again')].at(-1).click()")
        self.page.until("document.querySelectorAll('.facts').length === 2")
        self.assertEqual(self.last(".hash", "dataset.hash"), shown)
        self.assertEqual(self.last(".same"), "the same bits")
        self.set("seed", "12345")
        self.page.say("Once upon a time")
        first = self.last(".hash", "dataset.hash")
        self.page.say("Once upon a time")
        self.assertEqual(self.last(".seed"), "12345")
        self.assertEqual(self.last(".hash", "dataset.hash"), first)
        self.assertNotEqual(first, shown)

    def test_3_chat_goes_on(self):
        self.set("mode", "chat")
        self.set("seed", "1")
        self.set("max_tokens", "24")
        self.page.say("Tell me of a dog.")
        self.page.say("And of a cat? \u00e9\u4e2d")
        self.assertEqual(self.page.eval("document.querySelectorAll('article.assistant').length"), 2)
        self.assertEqual(self.page.eval("messages.length"), 4)
        if len(sys.argv) > 1 and sys.argv[-1].endswith(".png"):
            self.page.picture(sys.argv[-1])

    def test_4_stop_and_errors(self):
        self.set("mode", "text")
        self.set("max_tokens", "100000")
        self.page.eval("window.wide = fetch; fetch = async (...a) => { const r = await wide(...a); document.getElementById('stop').click(); return r }")
        self.page.say("Once")
        self.page.eval("fetch = wide")
        self.assertIn("stopped", self.last(".facts"))
        self.set("top_p", "7")
        self.page.say("Once")
        self.assertIn("top_p", self.last("article.error"))
        self.set("top_p", "0.95")

    def test_5_sha256(self):
        for text in ("", "abc", "a" * 55, "a" * 56, "b" * 64, "\u00fc\u4e2d\U0001f600" * 50, "x" * 1000):
            self.assertEqual(self.page.eval(f"sha256({json.dumps(text)})"), hashlib.sha256(text.encode()).hexdigest())

    def test_6_asks_for_a_key(self):
        status, headers, body = self.server.ask("GET", "/", headers={"Authorization": "Bearer no"})
        self.assertEqual(status, 401)
        self.assertIn(b"name=key", body)


if __name__ == "__main__":
    if not (CHROMIUM and websocket):
        print("skipped: needs Debian's chromium and python3-websocket")
        sys.exit(77)
    unittest.main(argv=sys.argv[:1])
