"""What both clients share: stubs made at run time from proto/*.proto, a wire tap, checks."""

import os
import socket
import sys
import tempfile
import threading
import urllib.parse

PROTO = os.path.join(os.path.dirname(__file__), "..", "..", "..", "proto")
sys.path.insert(0, os.path.abspath(PROTO))

import grpc  # noqa: E402

orchestrator, orchestrator_stubs = grpc.protos_and_services("orchestrator.proto")
agent, agent_stubs = grpc.protos_and_services("agent.proto")
llm, llm_stubs = grpc.protos_and_services("llm.proto")

LIMITS = [
    ("grpc.max_receive_message_length", 100 << 20),
    ("grpc.max_send_message_length", 100 << 20),
]


def check(holds, expected):
    if not holds:
        raise AssertionError("expected " + expected)


def user(session, text):
    message = orchestrator.Message(role=orchestrator.MESSAGE_ROLE_USER, content=text)
    return orchestrator.StreamMessageRequest(session_id=session, message=message)


def shown(frame):
    """What an existing client shows of a frame: an assistant's words, or an error."""
    if frame.HasField("message"):
        check(frame.message.role != orchestrator.MESSAGE_ROLE_USER, "nobody to hear themselves")
        return frame.message.content
    return frame.event.data.get("error")


class Tap:
    """A socket that passes everything on to another and keeps what the client sent."""

    def __init__(self, upstream):
        self.sent = b""
        self.place = tempfile.TemporaryDirectory(prefix="tap")
        self.path = os.path.join(self.place.name, "t.sock")
        self.upstream = upstream
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen()
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self):
        while True:
            near, _ = self.listener.accept()
            far = socket.socket(socket.AF_UNIX)
            far.connect(self.upstream)
            threading.Thread(target=self._pass, args=(near, far, True), daemon=True).start()
            threading.Thread(target=self._pass, args=(far, near, False), daemon=True).start()

    def _pass(self, near, far, keep):
        while data := near.recv(65536):
            if keep:
                self.sent += data
            far.sendall(data)

    def check_authority(self):
        path = urllib.parse.quote(self.path.removeprefix("/"), safe="").encode()
        check(path in self.sent, f"{path!r} as authority on the wire, else this proves nothing")
