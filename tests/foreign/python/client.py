"""grpcio with a plain `unix:<path>`: its core puts the path into `:authority`."""

import queue
import sys

from wire import LIMITS, Tap, agent, agent_stubs, check, grpc, orchestrator, orchestrator_stubs, shown, user

from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase


class Sender:
    """The requests of a stream, sent when we say so."""

    def __init__(self):
        self.frames = queue.Queue()

    def send(self, frame):
        self.frames.put(frame)

    def __iter__(self):
        return iter(self.frames.get, None)


def authority(path):
    tap = Tap(path)
    with grpc.insecure_channel("unix:" + tap.path) as channel:
        orchestrator_stubs.OrchestratorServiceStub(channel).ListSessions(orchestrator.ListSessionsRequest(), timeout=10)
    tap.check_authority()


def chat(channel):
    """An assistant and a user, each on its stream."""
    orch = orchestrator_stubs.OrchestratorServiceStub(channel)
    agents = agent_stubs.AgentServiceStub(channel)
    session = orch.CreateSession(orchestrator.CreateSessionRequest()).session_id
    said, heard = Sender(), None
    heard = orch.StreamMessages(iter(said))
    said.send(user(session, "nobody is there"))
    check(next(filter(None, map(shown, heard))), "an error event while nobody is there")

    made = agents.Register(agent.RegisterRequest(
        name="assistant", type=agent.AGENT_TYPE_WORKER, metadata=agent.AgentMetadata(labels={"role": "assistant"})))
    check(made.agent_id and made.registration_token, "an id and a token")
    check(made.agent.state == agent.AGENT_STATE_IDLE, "IDLE")
    out = Sender()
    line = agents.StreamAgent(iter(out))
    out.send(agent.StreamAgentRequest(agent_id=made.agent_id))
    out.send(agent.StreamAgentRequest(heartbeat={}))
    check(next(line).HasField("heartbeat"), "the heartbeat back")
    said.send(user(session, "are you there"))
    asked = next(line).message
    check(asked.data_message.data == b"are you there", "the user's words")
    out.send(agent.StreamAgentRequest(agent_id=made.agent_id, message=agent.AgentMessage(
        type=agent.MESSAGE_TYPE_DATA, timestamp=Timestamp(), source_id=made.agent_id, target_id="orchestrator",
        data_message=agent.DataMessage(content_type="text/plain", data="ja, größtenteils".encode()),
        metadata=asked.metadata)))
    answer = next(filter(None, map(shown, heard)))
    check(answer == "ja, größtenteils", f"the answer, got {answer!r}")
    said.send(None)
    check([shown(frame) for frame in heard if shown(frame)] == [], "nothing after the answer")
    out.send(None)


def health(channel):
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "orchestrator", "agent", "tool", "orchestrator.v1.OrchestratorService"):
        status = stub.Check(health_pb2.HealthCheckRequest(service=name)).status
        check(status == health_pb2.HealthCheckResponse.SERVING, f"{name!r} to serve")
    for name in ("llm", "gateway"):
        stub.Check(health_pb2.HealthCheckRequest(service=name))
    try:
        stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
        raise AssertionError("an unknown name was answered")
    except grpc.RpcError as error:
        check(error.code() == grpc.StatusCode.NOT_FOUND, f"NOT_FOUND, got {error.code()}")


def reflection(channel):
    services = ProtoReflectionDescriptorDatabase(channel).get_services()
    for name in ("orchestrator.v1.OrchestratorService", "agent.v1.AgentService", "proto.orchestrator.v1.OrchestratorService"):
        check(name in services, f"{name} among {services}")


def large(channel):
    stub = orchestrator_stubs.OrchestratorServiceStub(channel)
    session = stub.CreateSession(orchestrator.CreateSessionRequest()).session_id
    text = "0123456789abcdef" * (4 << 20)
    stub.SendMessage(orchestrator.SendMessageRequest(
        session_id=session, message=orchestrator.Message(role=orchestrator.MESSAGE_ROLE_SYSTEM, content=text)))
    kept = stub.GetSession(orchestrator.GetSessionRequest(session_id=session)).session.context.messages
    check([message.content for message in kept] == [text], "the same 64 MiB back")


def churn(channel):
    stub = orchestrator_stubs.OrchestratorServiceStub(channel)
    for n in range(2000):
        headers = ((f"x-rotating-{n % 300}", "v" * (n % 97) + str(n)), ("x-same", "always"))
        try:
            stub.GetSession(orchestrator.GetSessionRequest(session_id="nobody"), metadata=headers, timeout=10)
            raise AssertionError("a session that is not there was found")
        except grpc.RpcError as error:
            check(error.code() == grpc.StatusCode.NOT_FOUND, f"NOT_FOUND at call {n}, got {error}")


def main(path):
    authority(path)
    print("ok authority")
    for play in (health, reflection, chat, churn, large):
        with grpc.insecure_channel("unix:" + path, options=LIMITS) as channel:
            play(channel)
        print("ok", play.__name__, flush=True)


main(sys.argv[1])
