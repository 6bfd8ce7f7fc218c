// Calls of this server's own public API. A key is kept in sessionStorage and nowhere else.

export const BASE = new URL('.', location.origin + location.pathname).href.replace(/\/$/, '');

const STORED = 'flowise-gateway-key';
let key = sessionStorage.getItem(STORED) ?? '';

export const currentKey = () => key;

export const hasKey = () => key !== '';

/** Keep a key for this tab; an empty one is forgotten. */
export function useKey(value) {
  key = value;
  if (value) sessionStorage.setItem(STORED, value);
  else sessionStorage.removeItem(STORED);
}

/** A failed call as the server tells it: a sentence, a code, and whether to try again. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = '', requestId = '', retryAfter = '' } = {}) {
    super(message);
    Object.assign(this, { status, code, requestId, retryAfter });
  }
}

/** Fetch a path of this server. Throws ApiError. */
export async function call(path, { candidate, headers, ...options } = {}) {
  const sent = candidate ?? key;
  const authorization = sent ? { Authorization: `Bearer ${sent}` } : {};
  let response;
  try {
    response = await fetch(`${BASE}${path}`, { cache: 'no-store', ...options, headers: { ...authorization, ...headers } });
  } catch (error) {
    if (error.name === 'AbortError') throw error;
    if (error instanceof TypeError && /header|ISO-8859/i.test(error.message)) {
      throw new ApiError('A key consists of plain ASCII characters.', { code: 'invalid_api_key' });
    }
    throw new ApiError('The server cannot be reached. Is it still running?', { code: 'unreachable' });
  }
  if (!response.ok) throw await failure(response);
  return response;
}

export const getJson = async (path, options) => (await call(path, options)).json();

async function failure(response) {
  const text = await response.text();
  let error = {};
  try {
    error = JSON.parse(text).error ?? {};
  } catch {
    // Something between this page and the server has answered.
  }
  return new ApiError(error.message || text.slice(0, 300) || response.statusText, {
    status: response.status,
    code: error.code || error.type || '',
    requestId: response.headers.get('x-request-id') ?? '',
    retryAfter: response.headers.get('retry-after') ?? '',
  });
}

/** The data of each event of a stream; `raw` gets every event as it came. */
export async function* events(response, raw) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = '';
  for (;;) {
    const { done, value } = await reader.read();
    rest += done ? '\n\n' : value;
    const parts = rest.split('\n\n');
    rest = parts.pop();
    for (const part of parts.filter((text) => text.trim())) {
      raw(part);
      const data = part.split('\n').filter((line) => line.startsWith('data:')).map((line) => line.slice(5).trimStart()).join('\n');
      if (data === '[DONE]') return;
      if (data) yield JSON.parse(data);
    }
    if (done) return;
  }
}
