"""A gateway in front of Pebble, with answers that Pebble does not give.

Usage: acme_gateway.py DIRECTORY PORT PEBBLE_PORT

DIRECTORY has server.pem, server-key.pem, ca.pem and answers.json: a list of objects with method,
path (a prefix), status, headers, body, and optionally times, the number of uses. Without an answer,
the gateway forwards the request. It adds renewalInfo to the directory, and replaces to orders (RFC
9773), which Pebble of Debian 12 does not know.
"""

import base64
import http.client
import http.server
import json
import pathlib
import ssl
import sys

directory, port, pebble = pathlib.Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
used = {}


class Gateway(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_request(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        answer = self.scripted()
        if answer is not None:
            text = json.dumps(answer["body"]).encode()
            headers = {"Content-Type": "application/problem+json", **answer.get("headers", {})}
            return self.send(answer["status"], headers, text)

        trust = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        connection = http.client.HTTPSConnection("localhost", pebble, context=trust, timeout=30)
        connection.request(self.command, self.path, body, dict(self.headers))
        response = connection.getresponse()
        text, headers = response.read(), dict(response.getheaders())
        if self.path == "/dir":
            text = json.loads(text)
            text["renewalInfo"] = f"https://localhost:{port}/renewal-info"
            text = json.dumps(text).encode()
        elif self.path == "/order-plz" and response.status == 201:
            payload = json.loads(body)["payload"]
            payload = json.loads(base64.urlsafe_b64decode(payload + "=="))
            if "replaces" in payload:
                text = json.loads(text)
                text["replaces"] = payload["replaces"]
                text = json.dumps(text).encode()
        self.send(response.status, headers, text)

    do_GET = do_POST = do_HEAD = handle_request

    def scripted(self):
        for number, answer in enumerate(json.loads((directory / "answers.json").read_text())):
            matches = self.command == answer["method"] and self.path.startswith(answer["path"])
            if not matches or used.get(number, 0) >= answer.get("times", sys.maxsize):
                continue
            used[number] = used.get(number, 0) + 1
            return answer
        return None

    def send(self, status, headers, body):
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection", "date"):
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", port), Gateway)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain(directory / "server.pem", directory / "server-key.pem")
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
