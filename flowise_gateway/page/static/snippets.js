// Set-up of each client for an address, a model and a key. Pure: texts from values, each quoted as its language wants.
// JSON's quoting is right in YAML, JavaScript and Python, too.
const quoted = JSON.stringify;
const shell = (text) => `'${text.replaceAll("'", "'\\''")}'`;
const CONVERSATION = '{{LIBRECHAT_BODY_CONVERSATIONID}}';

/** Each client: id, title, where its text goes, the text's language and the text. `base` has no slash at its end. */
export function snippets({ base, model, key }) {
  const api = `${base}/v1`;
  const socket = `${api.replace(/^http/, 'ws')}/responses`;
  const inContainer = api.replace(/^(https?:\/\/)(?:localhost|127\.0\.0\.1|\[::1\])(?=[:/])/, '$1host.docker.internal');
  return [
    { id: 'curl', title: 'curl', file: 'a terminal', language: 'sh', text: `curl -N ${shell(`${api}/chat/completions`)} \\
  -H ${shell(`Authorization: Bearer ${key}`)} \\
  -H 'Content-Type: application/json' \\
  -d ${shell(JSON.stringify({ model, stream: true, messages: [{ role: 'user', content: 'Hello' }] }))}
` },
    { id: 'librechat', title: 'LibreChat', file: 'librechat.yaml', language: 'yaml', container: true, text: `version: 1.3.17
endpoints:
  custom:
    - name: "Flowise"
      apiKey: ${quoted(key)}
      baseURL: ${quoted(inContainer)}
      models:
        default: [${quoted(model)}]
        fetch: true
      titleConvo: true
      titleModel: ${quoted(model)}
      modelDisplayLabel: "Flowise"
      headers:
        X-Conversation-Id: "${CONVERSATION}"
` },
    { id: 'librechat-azure', title: 'LibreChat, Azure', file: 'librechat.yaml', language: 'yaml', container: true, text: `version: 1.3.17
endpoints:
  azureOpenAI:
    titleConvo: true
    titleModel: ${quoted(model)}
    groups:
      - group: "flowise"
        apiKey: ${quoted(key)}
        instanceName: "flowise"
        baseURL: ${quoted(`${inContainer.replace(/\/v1$/, '')}/openai/deployments/`).slice(0, -1)}\${DEPLOYMENT_NAME}"
        version: "2024-10-21"
        additionalHeaders:
          X-Conversation-Id: "${CONVERSATION}"
        models:
          ${quoted(model)}:
            deploymentName: ${quoted(model)}
            version: "2024-10-21"
` },
    { id: 'open-webui', title: 'Open WebUI', file: 'compose.yaml', language: 'yaml', container: true, text: `services:
  open-webui:
    image: ghcr.io/open-webui/open-webui:main
    ports: ["3000:8080"]
    volumes: ["open-webui:/app/backend/data"]
    extra_hosts: ["host.docker.internal:host-gateway"]
    environment:
      OPENAI_API_BASE_URL: ${quoted(inContainer)}
      OPENAI_API_KEY: ${quoted(key)}
      ENABLE_OLLAMA_API: "false"
      # Tells users and chats apart, so that each chat continues its own session in Flowise.
      ENABLE_FORWARD_USER_INFO_HEADERS: "true"
volumes:
  open-webui:
` },
    { id: 'openai-python', title: 'OpenAI, Python', file: 'pip install openai', language: 'python', text: `from openai import OpenAI

client = OpenAI(base_url=${quoted(api)}, api_key=${quoted(key)})
stream = client.chat.completions.create(
    model=${quoted(model)},
    messages=[{"role": "user", "content": "Hello"}],
    stream=True,
)
for chunk in stream:
    if chunk.choices:
        print(chunk.choices[0].delta.content or "", end="", flush=True)
print()
` },
    { id: 'openai-js', title: 'OpenAI, JavaScript', file: 'npm install openai', language: 'javascript', text: `import OpenAI from 'openai';

const client = new OpenAI({ baseURL: ${quoted(api)}, apiKey: ${quoted(key)} });
const stream = await client.chat.completions.create({
  model: ${quoted(model)},
  messages: [{ role: 'user', content: 'Hello' }],
  stream: true,
});
for await (const chunk of stream) process.stdout.write(chunk.choices[0]?.delta.content ?? '');
` },
    { id: 'azure-openai', title: 'AzureOpenAI', file: 'pip install openai', language: 'python', text: `from openai import AzureOpenAI

client = AzureOpenAI(
    azure_endpoint=${quoted(base)},
    api_key=${quoted(key)},
    api_version="2024-10-21",
)
answer = client.chat.completions.create(
    model=${quoted(model)},
    messages=[{"role": "user", "content": "Hello"}],
)
print(answer.choices[0].message.content)
` },
    { id: 'langchain', title: 'LangChain', file: 'pip install langchain-openai', language: 'python', text: `from langchain_openai import ChatOpenAI

model = ChatOpenAI(
    model=${quoted(model)},
    base_url=${quoted(api)},
    api_key=${quoted(key)},
    stream_usage=True,
)
for chunk in model.stream("Hello"):
    print(chunk.text, end="", flush=True)
print()
` },
    { id: 'llama-index', title: 'LlamaIndex', file: 'pip install llama-index-llms-openai-like', language: 'python', text: `from llama_index.core.llms import ChatMessage
from llama_index.llms.openai_like import OpenAILike

model = OpenAILike(
    model=${quoted(model)},
    api_base=${quoted(api)},
    api_key=${quoted(key)},
    is_chat_model=True,
)
for chunk in model.stream_chat([ChatMessage(role="user", content="Hello")]):
    print(chunk.delta, end="", flush=True)
print()
` },
    { id: 'ai-sdk', title: 'Vercel AI SDK', file: 'npm install ai @ai-sdk/openai-compatible', language: 'javascript', text: `import { createOpenAICompatible } from '@ai-sdk/openai-compatible';
import { streamText } from 'ai';

const flowise = createOpenAICompatible({ name: 'flowise', baseURL: ${quoted(api)}, apiKey: ${quoted(key)}, includeUsage: true });
const { textStream } = streamText({ model: flowise(${quoted(model)}), prompt: 'Hello' });
for await (const text of textStream) process.stdout.write(text);
` },
    { id: 'n8n', title: 'n8n', file: 'pasted into a workflow', language: 'json', container: true,
      note: `Paste it into the canvas, then give the model node an OpenAI credential with your key and the base URL ${inContainer}.`,
      text: `${JSON.stringify(n8n(inContainer, model), null, 2)}\n` },
    { id: 'continue', title: 'Continue', file: '~/.continue/config.yaml', language: 'yaml', text: `name: Flowise
version: 1.0.0
schema: v1
models:
  - name: ${quoted(model)}
    provider: openai
    model: ${quoted(model)}
    apiBase: ${quoted(api)}
    apiKey: ${quoted(key)}
    roles: [chat]
` },
    { id: 'websocket', title: 'WebSocket', file: 'pip install websockets', language: 'python', note: 'Responses over one connection that stays; any number of them, one after the other.', text: `import asyncio
import json

from websockets.asyncio.client import connect


async def main() -> None:
    headers = {"Authorization": "Bearer " + ${quoted(key)}}
    async with connect(${quoted(socket)}, additional_headers=headers) as socket:
        request = {"type": "response.create", "model": ${quoted(model)}, "input": "Hello"}
        await socket.send(json.dumps(request))
        async for message in socket:
            event = json.loads(message)
            if event["type"] == "response.output_text.delta":
                print(event["delta"], end="", flush=True)
            elif event["type"] in ("response.completed", "response.failed", "error"):
                break


asyncio.run(main())
` },
  ];
}

function n8n(baseURL, model) {
  const node = (name, type, typeVersion, position, parameters) => ({
    id: name.toLowerCase().replaceAll(' ', '-'), name, type: `@n8n/n8n-nodes-langchain.${type}`, typeVersion, position, parameters,
  });
  return {
    nodes: [
      node('Chat', 'chatTrigger', 1.1, [0, 0], { options: {} }),
      node('Answer', 'chainLlm', 1.5, [220, 0], {}),
      node('Flowise', 'lmChatOpenAi', 1.2, [220, 200], { model: { __rl: true, mode: 'id', value: model }, options: { baseURL } }),
    ],
    connections: {
      Chat: { main: [[{ node: 'Answer', type: 'main', index: 0 }]] },
      Flowise: { ai_languageModel: [[{ node: 'Answer', type: 'ai_languageModel', index: 0 }]] },
    },
  };
}
