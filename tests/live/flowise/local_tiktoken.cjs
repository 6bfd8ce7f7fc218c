// Preloaded into Flowise (node --require) for machines without internet. LangChain's ChatOpenAI with
// "streaming" on, when called without streaming callbacks, downloads the tokenizer's table
// (…/js/<encoding>.json) to estimate usage, and retries for minutes when it cannot.
// That one download is answered from the js-tiktoken package that Flowise installs anyway.
const path = require('path')
const { createRequire } = require('module')

const flowise = path.join(process.env.FLOWISE_ROOT || process.cwd(), 'node_modules', 'flowise', 'package.json')
const requireFromFlowise = createRequire(flowise)
const realFetch = globalThis.fetch

globalThis.fetch = async (input, init) => {
    const url = typeof input === 'string' ? input : input?.url || String(input)
    const wanted = /\/js\/([a-z0-9_]+)\.json$/.exec(url)
    if (!wanted) return realFetch(input, init)
    const table = requireFromFlowise('js-tiktoken/ranks/' + wanted[1])
    const headers = { 'content-type': 'application/json' }
    return new Response(JSON.stringify(table.default || table), { status: 200, headers })
}
