"""A hub on loopback with one model, for tests: the answers that huggingface_hub and plmconv ask for.

Run as a program it prints its address and serves until it is killed: ``python hub.py ORG/NAME FOLDER``.
"""

import hashlib
import http.server
import json
import sys
import threading
from pathlib import Path

COMMIT = "5d0f1c3a9b7e2468ace013579bdf02468ace1357"


def handler(name, folder):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            path = self.path.split("?")[0]
            if path.startswith(f"/api/models/{name}/revision/"):
                files = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                self.answer(json.dumps({"sha": COMMIT, "siblings": files}).encode())
            elif path.startswith(f"/{name}/resolve/{COMMIT}/") and (folder / Path(path).name).is_file():
                self.answer((folder / Path(path).name).read_bytes())
            else:
                self.send_error(404)

        def answer(self, content):
            self.send_response(200)
            self.send_header("content-length", str(len(content)))
            self.send_header("etag", f'"{hashlib.sha256(content).hexdigest()}"')
            self.send_header("x-repo-commit", COMMIT)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, *_):
            pass

    return Handler


def serve(name, folder):
    """The running server; its address is ``http://127.0.0.1:<port>``."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(name, Path(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"http://127.0.0.1:{server.server_port}"


if __name__ == "__main__":
    print(serve(*sys.argv[1:])[1], flush=True)
    threading.Event().wait()
