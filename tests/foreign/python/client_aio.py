"""The same with grpc.aio: everything at once on one channel."""

import asyncio
import sys

from wire import LIMITS, Tap, agent, agent_stubs, check, grpc, orchestrator, orchestrator_stubs, shown, user

USERS = 20


async def authority(path):
    tap = Tap(path)
    async with grpc.aio.insecure_channel("unix:" + tap.path) as channel:
        await orchestrator_stubs.OrchestratorServiceStub(channel).ListSessions(orchestrator.ListSessionsRequest())
    tap.check_authority()


async def answer_everybody(line, me):
    """An assistant that says what it was told, backwards."""
    while (frame := await line.read()) is not grpc.aio.EOF:
        if not frame.HasField("message"):
            continue
        asked = frame.message
        words = asked.data_message.data.decode()
        await line.write(agent.StreamAgentRequest(agent_id=me, message=agent.AgentMessage(
            type=agent.MESSAGE_TYPE_DATA, source_id=me, target_id="orchestrator",
            data_message=agent.DataMessage(data=words[::-1].encode(), headers={
                "session_id": asked.metadata.session_id, "correlation_id": asked.metadata.correlation_id}))))


async def talk(orch, name):
    session = (await orch.CreateSession(orchestrator.CreateSessionRequest())).session_id
    stream = orch.StreamMessages()
    for n in range(3):
        words = f"user {name} says {n}"
        await stream.write(user(session, words))
        while not (heard := shown(await stream.read())):
            pass
        check(heard == words[::-1], f"our own answer to {words!r}, got {heard!r}")
    await stream.done_writing()
    check(await stream.read() is grpc.aio.EOF, "the end of the stream")


async def chat(channel):
    orch = orchestrator_stubs.OrchestratorServiceStub(channel)
    agents = agent_stubs.AgentServiceStub(channel)
    me = (await agents.Register(agent.RegisterRequest(name="assistant"))).agent_id
    line = agents.StreamAgent()
    await line.write(agent.StreamAgentRequest(agent_id=me))
    await line.write(agent.StreamAgentRequest(heartbeat={}))
    check((await line.read()).HasField("heartbeat"), "the heartbeat back")
    answering = asyncio.create_task(answer_everybody(line, me))
    await asyncio.gather(*(talk(orch, name) for name in range(USERS)))
    line.cancel()
    await asyncio.gather(answering, return_exceptions=True)


async def churn(channel):
    orch = orchestrator_stubs.OrchestratorServiceStub(channel)

    async def call(n):
        headers = ((f"x-rotating-{n % 300}", "v" * (n % 97) + str(n)),)
        try:
            await orch.GetSession(orchestrator.GetSessionRequest(session_id="nobody"), metadata=headers, timeout=30)
        except grpc.aio.AioRpcError as error:
            return error.code()

    for start in range(0, 2000, 50):
        codes = await asyncio.gather(*(call(start + n) for n in range(50)))
        check(set(codes) == {grpc.StatusCode.NOT_FOUND}, f"NOT_FOUND, got {set(codes)}")


async def main(path):
    await authority(path)
    print("ok authority")
    for play in (chat, churn):
        async with grpc.aio.insecure_channel("unix:" + path, options=LIMITS) as channel:
            await asyncio.wait_for(play(channel), 60)
        print("ok", play.__name__, flush=True)


asyncio.run(main(sys.argv[1]))
