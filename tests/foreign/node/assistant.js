// The assistant as existing ones in TypeScript are built: grpc-js and proto-loader over proto/*.proto from disk. It
// registers, holds its line, asks the model at the same address, and answers. Beside it a user, who sees the answer.
'use strict';

const path = require('node:path');
const grpc = require('@grpc/grpc-js');
const loader = require('@grpc/proto-loader');

const proto = path.join(__dirname, '..', '..', '..', 'proto');
const files = ['orchestrator.proto', 'agent.proto', 'llm.proto', 'common.proto'];
const definition = loader.loadSync(files, {
  keepCase: false, longs: String, enums: String, defaults: false, oneofs: true, includeDirs: [proto],
});
const api = grpc.loadPackageDefinition(definition);
const address = process.argv[2];
const credentials = grpc.credentials.createInsecure();
const limits = { 'grpc.max_receive_message_length': 100 << 20, 'grpc.max_send_message_length': 100 << 20 };

const agents = new api.agent.v1.AgentService(address, credentials, limits);
const models = new api.llm.v1.LLMService(address, credentials, limits);
const orchestrator = new api.orchestrator.v1.OrchestratorService(address, credentials, limits);

const call = (client, method, request) =>
  new Promise((resolve, reject) => client[method](request, (error, answer) => (error ? reject(error) : resolve(answer))));

function check(holds, expected, got) {
  if (!holds) throw new Error(`expected ${expected}, got ${JSON.stringify(got)}`);
}

// Content comes only from chunks; what `complete` carries is not read.
function think(agentId, asked) {
  return new Promise((resolve, reject) => {
    const stream = models.StreamLLM();
    let text = '';
    stream.on('data', (frame) => {
      if (frame.chunk) text += frame.chunk.content || '';
      if (frame.error) reject(new Error(`${frame.error.code}: ${frame.error.message}`));
      if (frame.complete) {
        stream.end();
        resolve(text);
      }
    });
    stream.on('error', reject);
    stream.write({
      request: {
        requestId: `req_${Date.now()}_node`,
        sessionId: asked.metadata.sessionId,
        model: '',
        messages: [{ role: 'user', content: Buffer.from(asked.dataMessage.data).toString('utf8') }],
        parameters: { maxTokens: 4096, temperature: 0.7, stream: false },
        tools: [{ name: 'delegate', description: 'passes work on', inputSchema: { type: 'object', properties: { target: { type: 'string' } }, required: ['target'] } }],
        metadata: { createdAt: { seconds: 0, nanos: 0 }, agentId, correlationId: asked.metadata.correlationId },
      },
    });
  });
}

async function assistant() {
  const made = await call(agents, 'Register', {
    name: 'assistant',
    type: 'AGENT_TYPE_WORKER',
    metadata: { labels: { role: 'assistant' } },
    capabilities: { supportedTasks: ['conversation', 'delegation'], supportedTools: ['delegate'] },
  });
  check(made.agentId && made.registrationToken, 'an id and a token', made);
  check(made.agent.state === 'AGENT_STATE_IDLE', 'AGENT_STATE_IDLE', made.agent);
  await call(agents, 'Heartbeat', { agentId: made.agentId });
  const line = agents.StreamAgent();
  line.on('error', (error) => {
    if (error.code !== grpc.status.CANCELLED) fail(error);
  });
  line.on('data', (frame) => {
    const asked = frame.message;
    if (!asked) return;
    if (asked.sourceId && asked.sourceId !== 'orchestrator') return;
    if (asked.targetId && asked.targetId !== made.agentId) return;
    if (!asked.dataMessage || !asked.metadata?.sessionId) return;
    const { sessionId, correlationId } = asked.metadata;
    think(made.agentId, asked).then((text) => {
      line.write({
        agentId: made.agentId,
        message: {
          id: `msg_${Date.now()}_node`,
          type: 'MESSAGE_TYPE_DATA',
          timestamp: { seconds: 0, nanos: 0 },
          sourceId: made.agentId,
          targetId: 'orchestrator',
          dataMessage: {
            contentType: 'text/plain',
            data: Buffer.from(`node heard: ${text}`),
            headers: { session_id: sessionId, correlation_id: correlationId },
          },
          metadata: { sessionId, correlationId },
        },
      });
    }, fail);
  });
  line.write({ agentId: made.agentId });
  return { line, agentId: made.agentId };
}

// The same first frame is sent as existing assistants do, without a beat, so only an answer tells that the line stands.
async function user() {
  const { sessionId, session } = await call(orchestrator, 'CreateSession', { metadata: { name: 'node' } });
  check(session.metadata.name === 'node', 'the metadata', session);
  const stream = orchestrator.StreamMessages();
  let attempt = 0;
  const say = () => {
    attempt += 1;
    stream.write({ sessionId, message: { role: 'MESSAGE_ROLE_USER', content: `hello ${attempt} from Node` } });
  };
  const answer = await new Promise((resolve, reject) => {
    stream.on('error', reject);
    stream.on('data', (frame) => {
      if (frame.message) resolve(frame.message);
      else if (frame.event?.data?.error && attempt < 5) say();
      else if (frame.event?.data?.error) reject(new Error(frame.event.data.error));
    });
    say();
  });
  check(answer.role === 'MESSAGE_ROLE_ASSISTANT', "an assistant's message", answer);
  check(answer.content.startsWith('node heard: ') && answer.content.includes(`hello ${attempt}`), 'the answer of the model', answer);
  const ended = new Promise((resolve, reject) => {
    stream.on('end', resolve);
    stream.on('error', reject);
  });
  stream.end();
  await ended;
  const kept = await call(orchestrator, 'GetSession', { sessionId });
  const last = kept.session.context.messages.at(-1);
  check(last.content === answer.content, 'the answer to be kept', last);
}

async function churn() {
  for (let n = 0; n < 2000; n += 1) {
    const metadata = new grpc.Metadata();
    metadata.set(`x-rotating-${n % 300}`, 'v'.repeat(n % 97) + n);
    const code = await new Promise((resolve) => {
      orchestrator.GetSession({ sessionId: 'nobody' }, metadata, (error) => resolve(error?.code));
    });
    check(code === grpc.status.NOT_FOUND, 'NOT_FOUND', { n, code });
  }
}

function fail(error) {
  console.error(error);
  process.exit(1);
}

async function main() {
  const { line, agentId } = await assistant();
  await user();
  console.log('ok assistant');
  await churn();
  console.log('ok churn');
  line.cancel();
  const left = await call(agents, 'Unregister', { agentId, reason: 'done' });
  check(left.success, 'to be let go', left);
  console.log('ok unregister');
  for (const client of [agents, models, orchestrator]) client.close();
}

main().catch(fail);
