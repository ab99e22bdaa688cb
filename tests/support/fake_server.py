"""An OpenAI-compatible server that misbehaves as it is told: `python fake_server.py --port N [--exit STATUS] …`."""

from __future__ import annotations

import argparse
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any


def main() -> None:
    options = _options()
    print(f"serving {options.model} with token {os.environ.get('HF_TOKEN')}", flush=True)
    if options.grandchild:
        # In a session of its own, as far away as a process can be.
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"], start_new_session=True)
        _note(options, child.pid)
    _note(options, os.getpid())
    if options.stubborn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if options.exit is not None:
        print("CUDA out of memory. Tried to allocate 2.00 GiB", flush=True)
        sys.exit(options.exit)
    if not options.pause_at:
        _wait(options.wait_for)
    server = _Server(("127.0.0.1", options.port), _Handler)
    server.options = options
    server.serve_forever()


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--ttft-ms", type=float, default=2.0)
    parser.add_argument("--itl-ms", type=float, default=0.5)
    parser.add_argument("--exit", type=int, help="with this status, before anything answers")
    parser.add_argument("--wait-for", help="answer only once this file is there")
    parser.add_argument("--key", help="environment variable with the key that its API wants")
    parser.add_argument("--guard-health", action="store_true", help="want the key at /health, too")
    parser.add_argument("--no-health", action="store_true", help="405 at /health")
    parser.add_argument("--hang", action="store_true", help="take connections and say nothing")
    parser.add_argument("--refuse", action="store_true", help="status 400 for completions")
    parser.add_argument("--stubborn", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--grandchild", action="store_true", help="start a process in a session of its own")
    parser.add_argument("--pids", help="a file that gets the process ids")
    parser.add_argument("--crash-at", type=int, help="die when so many requests are in flight")
    parser.add_argument("--stall-at", type=int, help="stop answering when so many requests are in flight")
    parser.add_argument("--pause-at", type=int, help="wait for the file of --wait-for when so many are in flight")
    parser.add_argument("--variant", default="", help="what it is started for")
    parser.add_argument("--delays", help="a file with [TTFT, ITL] in ms by variant, tokens of prompt, and load")
    parser.add_argument("--only", default="", help="misbehave for this variant alone")
    options = parser.parse_known_args()[0]
    if options.variant != options.only:
        options.exit = options.crash_at = options.stall_at = None
    return options


def _wait(file: str | None) -> None:
    while file and not Path(file).exists():
        time.sleep(0.02)


def _note(options: argparse.Namespace, pid: int) -> None:
    if options.pids:
        with Path(options.pids).open("a") as file:
            file.write(f"{pid}\n")


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512
    options: argparse.Namespace
    in_flight = 0
    peaks: dict[int, int] = {}
    lock = threading.Lock()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        if self.server.options.hang:
            time.sleep(3600)
        guarded = "/" if self.server.options.guard_health else "/v1/"
        if self.path.startswith(guarded) and not self._may():
            return
        if self.path == "/v1/models":
            self._json({"data": [{"id": self.server.options.model, "max_model_len": 4096}]})
        elif self.path == "/version":
            self._json({"version": "0.32.0"})
        elif self.path == "/health" and not self.server.options.no_health:
            self._json({})
        else:
            self.send_error(405 if self.server.options.no_health else 404)

    def do_POST(self) -> None:
        options = self.server.options
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self._may():
            return
        if options.refuse:
            self._json({"error": f"no such model with token {os.environ.get('HF_TOKEN')}"}, 400)
            return
        with self.server.lock:
            self.server.in_flight += 1
            in_flight = self.server.in_flight
        if options.crash_at and in_flight >= options.crash_at:
            print("RuntimeError: the engine died", flush=True)
            os._exit(7)
        if options.pause_at and in_flight >= options.pause_at:
            _wait(options.wait_for)
        if options.stall_at and in_flight >= options.stall_at:
            time.sleep(3600)
        self._complete(body, in_flight)

    def _may(self) -> bool:
        """Whether who asks has the key; otherwise this answers."""
        variable = self.server.options.key
        if variable is None or self.headers["Authorization"] == f"Bearer {os.environ[variable]}":
            return True
        self._json({"error": "Unauthorized"}, 401)
        return False

    def _complete(self, body: dict[str, Any], in_flight: int) -> None:
        options = self.server.options
        tokens = body.get("max_tokens", 16)
        prompt = len(body["prompt"]) if isinstance(body["prompt"], list) else len(body["prompt"].split())
        usage = {"prompt_tokens": prompt, "completion_tokens": tokens, "total_tokens": prompt + tokens}
        start = time.perf_counter()
        ttft_ms, itl_ms = options.ttft_ms, options.itl_ms
        if options.delays:
            by_load = json.loads(Path(options.delays).read_text())[options.variant].get(str(prompt), {})
            # The load that is sent, not that of the moment: the first of a round would find none of the others.
            peak = self.server.peaks[prompt] = max(self.server.peaks.get(prompt, 0), in_flight)
            if known := [load for load in by_load if int(load) >= peak]:
                ttft_ms, itl_ms = by_load[min(known, key=int)]
        if not body.get("stream"):
            self._end()
            self._json({"choices": [{"text": "w " * tokens}], "usage": usage})
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for token in range(tokens):
            time.sleep(max(0.0, start + (ttft_ms + itl_ms * token) / 1000 - time.perf_counter()))
            self._event({"choices": [{"text": f"w{token} ", "finish_reason": None}]})
        self._end()
        self._event({"choices": [], "usage": usage})
        self.wfile.write(b"data: [DONE]\n\n")

    def _end(self) -> None:
        """Before its client knows, and sends the next one."""
        with self.server.lock:
            self.server.in_flight -= 1

    def _event(self, document: dict[str, Any]) -> None:
        self.wfile.write(b"data: " + json.dumps({"object": "text_completion", **document}).encode() + b"\n\n")
        self.wfile.flush()

    def _json(self, document: dict[str, Any], status: int = 200) -> None:
        text = json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    main()
