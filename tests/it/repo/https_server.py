"""Serves git repositories over https by git's own http-backend, to those who know a token.

https_server.py FOLDER CERTIFICATE KEY TOKEN_FILE: prints its port. The folder `slow/` waits before it answers.
`/moved/HOST/…` sends the caller to another origin.
"""

import base64
import http.server
import os
import ssl
import subprocess
import sys
import time

folder, certificate, key, token_file = sys.argv[1:]
with open(token_file) as file:
    token = file.read().strip()


class Handler(http.server.BaseHTTPRequestHandler):
    def answer(self):
        path, _, query = self.path.partition("?")
        if path.startswith("/moved/"):
            host, _, rest = path.removeprefix("/moved/").partition("/")
            self.send_response(302)
            self.send_header("Location", f"https://{host}/{rest}?{query}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        sent = self.headers.get("Authorization", "")
        _, _, password = base64.b64decode(sent.removeprefix("Basic ")).decode().partition(":")
        with open(os.path.join(folder, "seen"), "a") as seen:
            seen.write(f"{self.headers['Host']} {password}\n")
        if password != token:
            self.send_response(401)
            self.send_header("WWW-Authenticate", 'Basic realm="git"')
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if path.startswith("/slow/"):
            time.sleep(1)
            path = path.removeprefix("/slow")
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        backend = subprocess.run(
            ["git", "http-backend"],
            input=body,
            capture_output=True,
            env={
                "PATH": os.environ["PATH"],
                "GIT_PROJECT_ROOT": folder,
                "GIT_HTTP_EXPORT_ALL": "1",
                "PATH_INFO": path,
                "QUERY_STRING": query,
                "REQUEST_METHOD": self.command,
                "CONTENT_TYPE": self.headers.get("Content-Type", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("Content-Encoding", ""),
                "GIT_PROTOCOL": self.headers.get("Git-Protocol", ""),
                "REMOTE_USER": "test",
            },
        )
        head, _, content = backend.stdout.partition(b"\r\n\r\n")
        lines = [line.partition(": ")[::2] for line in head.decode().split("\r\n") if line]
        status = next((int(value.split()[0]) for name, value in lines if name == "Status"), 200)
        self.send_response(status)
        for name, value in lines:
            if name != "Status":
                self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
print(server.server_address[1], flush=True)
server.serve_forever()
