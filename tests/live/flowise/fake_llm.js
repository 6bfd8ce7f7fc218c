// Fake OpenAI-compatible model server without dependencies. Usage: node fake_llm.js PORT LOGFILE
// (port 0: any free one; the first line of standard output is its address).
// What it answers is ruled by words in the LAST user message:
//   slow            60 tokens, 250 ms apart            token delay otherwise: 15 ms
//   flood           2,000 tokens (18 kB), as fast as they can be written
//   usetool         first offered tool is called once (calculator gets 6*7), then a normal answer; so does the
//                   name of an offered tool, and a forced tool_choice is always obeyed
// Tools that the prompt tells of in words (openai/tools.py) are obeyed as well: the first is called in words,
// unless the last user message brings the result of one. A JSON Schema that the prompt tells of
// (openai/response_format.py) is obeyed too. Texts in either are the last word of the last user message.
//   unicode         multi-byte text                    markdown   text with newlines, quotes, code
//   fail400 fail500 fail401 fail429 failctx            HTTP error before any token
//   failmid         socket destroyed after 4 tokens    failjson   SSE error object after 4 tokens
//   stall           35 s of silence before the first token
//   think           reasoning_content deltas first     empty      no content at all
// Every request, and every early close by the client, is one JSON line in LOGFILE.
const http = require('http')
const fs = require('fs')

const [port, logFile] = [parseInt(process.argv[2], 10), process.argv[3]]
const UNICODE = 'Grüße 世界 🙂👩‍👩‍👧 naïve façade — done. '
const MARKDOWN = '# Title\n\n- "quoted" \\ back\n- <b>tag</b> & amp\n\n```python\nprint("data: x\\n\\n")\n```\n'
const ERRORS = {
    fail400: [400, 'The fake model broke', 'invalid_request_error'],
    fail500: [500, 'The fake model broke', 'server_error'],
    fail401: [401, 'Incorrect API key provided: sk-fake', 'invalid_api_key'],
    fail429: [429, 'Rate limit reached for fake model', 'rate_limit_exceeded'],
    failctx: [400, "This model's maximum context length is 10 tokens.", 'context_length_exceeded']
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds))
const log = (entry) => {
    const line = JSON.stringify({ t: new Date().toISOString(), ...entry })
    fs.appendFileSync(logFile, line + '\n')
}
const sendJson = (res, status, value) => {
    res.writeHead(status, { 'content-type': 'application/json' })
    res.end(JSON.stringify(value))
}
const textOf = (content) =>
    Array.isArray(content)
        ? content.map((part) => (part.type === 'text' ? part.text : `<${part.type}>`)).join(' ')
        : String(content ?? '')

// ---------------------------------------------------------------- embeddings
const vectorOf = (text) => {
    const vector = new Array(16).fill(0.01)
    for (const word of text.toLowerCase().split(/\W+/)) {
        let hash = 0
        for (const char of word) hash = (hash * 31 + char.charCodeAt(0)) >>> 0
        vector[hash % 16] += 1
    }
    return vector
}
const base64 = (vector) => Buffer.from(new Float32Array(vector).buffer).toString('base64')
const embeddings = (body) => {
    const texts = Array.isArray(body.input) ? body.input : [body.input]
    const encode = body.encoding_format === 'base64' ? base64 : (vector) => vector
    const data = texts.map((text, index) => ({ object: 'embedding', index, embedding: encode(vectorOf(text)) }))
    const usage = { prompt_tokens: texts.length, total_tokens: texts.length }
    return { object: 'list', model: body.model, data, usage }
}

// ---------------------------------------------------------------- what to answer
const sampleOf = (schema, otherwise) => {
    if (schema.enum) return schema.enum[0]
    if (schema.type === 'number' || schema.type === 'integer') return 42
    if (schema.type === 'boolean') return true
    return schema.type === 'array' ? [] : otherwise
}
const sampleObject = (properties, otherwise) =>
    Object.fromEntries(Object.entries(properties || {}).map(([key, schema]) => [key, sampleOf(schema, otherwise(key))]))

const toolCallOf = (body, has) => {
    if (!body.tools?.length) return null
    const forced = typeof body.tool_choice === 'object' ? body.tool_choice.function.name : null
    const named = body.tools.find((tool) => tool.function.name === forced || has(tool.function.name))
    if (!forced && (!(named || has('usetool')) || body.messages.at(-1)?.role === 'tool')) return null
    const chosen = (named ?? body.tools[0]).function
    const sample = () => sampleObject(chosen.parameters?.properties, (key) => (forced ? 'value of ' + key : 'x'))
    const args = chosen.name === 'calculator' ? { input: '6*7' } : sample()
    return { name: chosen.name, arguments: JSON.stringify(args) }
}

const TOOLS_TOLD = 'Available tools, one JSON object a line:'
const FORMAT_TOLD = 'Answer with nothing but JSON that fits the JSON Schema'
const wordedAnswer = (messages, lastUser) => {
    const lines = messages.filter((message) => message.role !== 'assistant').flatMap((message) => textOf(message.content).split('\n'))
    const word = lastUser.match(/[\p{L}\p{N}_]+/gu)?.at(-1) ?? ''
    const last = lastUser.split('\n')
    const result = last.findLastIndex((line) => line.startsWith('Tool result of '))
    if (result >= 0 && result > last.lastIndexOf(TOOLS_TOLD)) return `The tool said ${last[result].replace(/^[^:]*: /, '')}. `
    const [heading, format] = [lines.lastIndexOf(TOOLS_TOLD), lines.findLastIndex((line) => line.startsWith(FORMAT_TOLD))]
    if (heading >= 0) {
        const tool = JSON.parse(lines[heading + 1])
        const call = { name: tool.name, arguments: sampleObject(tool.parameters.properties, () => word) }
        return `<tool_call>${JSON.stringify(call)}</tool_call>`
    }
    return format >= 0 ? JSON.stringify(sampleObject(JSON.parse(lines[format + 1]).properties, () => word)) : null
}

const textFor = (body, messages, lastUser, has) => {
    if (body.response_format?.type === 'json_schema') {
        const { properties } = body.response_format.json_schema.schema
        return JSON.stringify(sampleObject(properties, (key) => 'value of ' + key))
    }
    if (has('empty')) return ''
    if (has('markdown')) return MARKDOWN
    if (has('unicode')) return UNICODE
    if (has('slow')) return Array.from({ length: 60 }, (_, index) => `word${index} `).join('')
    if (has('flood')) return Array.from({ length: 2000 }, (_, index) => `word${String(index).padStart(4, '0')} `).join('')
    const worded = wordedAnswer(messages, lastUser)
    if (worded !== null) return worded
    const last = messages.at(-1)
    if (body.tools?.length && last?.role === 'tool') return `The tool said ${textOf(last.content)}. `
    return `Reply to [${lastUser}] after ${messages.length} messages: ${messages.map((message) => message.role).join(',')}. `
}

const planFor = (id, body) => {
    const messages = body.messages || []
    const lastUser = textOf(messages.findLast((message) => message.role === 'user')?.content)
    const has = (word) => new RegExp('\\b' + word + '\\b').test(lastUser)
    const call = toolCallOf(body, has)
    const tokens = textFor(body, messages, lastUser, has).match(/\S+\s*|\s+/g) || []
    const [prompt, completion] = [7 * messages.length, call ? 5 : tokens.length]
    const usage = { prompt_tokens: prompt, completion_tokens: completion, total_tokens: prompt + completion }
    const head = { id: `chatcmpl-fake${id}`, created: 1700000000, model: body.model, system_fingerprint: 'fp_fake' }
    return { id, has, call, tokens, usage, head }
}

// ---------------------------------------------------------------- how to answer
const answerWhole = async (res, { id, has, call, tokens, usage, head }) => {
    if (has('slow')) await sleep(8000)
    const message = call
        ? { role: 'assistant', content: null, tool_calls: [{ id: `call_${id}`, type: 'function', function: call }] }
        : { role: 'assistant', content: tokens.join('') }
    const choice = { index: 0, message, finish_reason: call ? 'tool_calls' : 'stop', logprobs: null }
    sendJson(res, 200, { ...head, object: 'chat.completion', choices: [choice], usage })
}

const answerStream = async (res, { id, has, call, tokens, usage, head }, wantsUsage) => {
    let sent = 0
    let closed = false
    res.on('close', () => {
        if (res.writableEnded) return
        closed = true
        log({ id, event: 'client closed early', tokens_sent: sent, of: tokens.length })
    })
    const frame = (value) => res.write('data: ' + JSON.stringify(value) + '\n\n')
    const chunk = (choices, extra = {}) => frame({ ...head, object: 'chat.completion.chunk', choices, ...extra })
    const send = (delta, finish = null) => chunk([{ index: 0, delta, finish_reason: finish, logprobs: null }])

    res.writeHead(200, { 'content-type': 'text/event-stream', 'cache-control': 'no-cache' })
    send({ role: 'assistant', content: call ? null : '' })
    if (has('stall')) await sleep(35000)
    if (has('think')) {
        for (const text of ['Let me ', 'think ', 'about it. ']) {
            send({ reasoning_content: text })
            await sleep(15)
        }
    }
    if (call) {
        send({ tool_calls: [{ index: 0, id: `call_${id}`, type: 'function', function: { name: call.name, arguments: '' } }] })
        send({ tool_calls: [{ index: 0, function: { arguments: call.arguments } }] })
    } else {
        for (const token of tokens) {
            if (closed) return
            if (sent === 4 && has('failmid')) {
                log({ id, event: 'server destroys socket' })
                return res.socket.destroy()
            }
            if (sent === 4 && has('failjson')) {
                frame({ error: { message: 'The fake model broke in the middle', type: 'server_error', code: 'server_error' } })
                return res.end()
            }
            send({ content: token })
            sent++
            if (!has('flood')) await sleep(has('slow') ? 250 : 15)
        }
    }
    send({}, call ? 'tool_calls' : 'stop')
    if (wantsUsage) chunk([], { usage })
    res.end('data: [DONE]\n\n')
    log({ id, event: 'stream complete', tokens_sent: sent })
}

// ---------------------------------------------------------------- server
let requests = 0
const server = http.createServer(async (req, res) => {
    const id = ++requests
    const parts = []
    for await (const part of req) parts.push(part)
    let body = {}
    try {
        body = JSON.parse(Buffer.concat(parts).toString())
    } catch {
        // logged as an empty body
    }
    log({ id, method: req.method, url: req.url, auth: req.headers.authorization, body })
    if (req.url.endsWith('/models')) return sendJson(res, 200, { object: 'list', data: [{ id: 'fake', object: 'model' }] })
    if (req.url.endsWith('/embeddings')) return sendJson(res, 200, embeddings(body))
    if (!req.url.endsWith('/chat/completions')) {
        return sendJson(res, 404, { error: { message: 'no such route', type: 'invalid_request_error' } })
    }
    const plan = planFor(id, body)
    for (const [word, [status, message, code]] of Object.entries(ERRORS)) {
        if (plan.has(word)) return sendJson(res, status, { error: { message, type: 'fake_error', param: null, code } })
    }
    return body.stream ? answerStream(res, plan, body.stream_options?.include_usage) : answerWhole(res, plan)
})
server.listen(port, '127.0.0.1', () => console.log(`http://127.0.0.1:${server.address().port}`))
