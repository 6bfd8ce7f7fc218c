// What the sections share: who we are to the server, its models, the chosen one. Sections listen for `change`.
import { getJson, hasKey } from './api.js';

export const state = new EventTarget();
Object.assign(state, { ready: null, latency: 0, models: [], model: '', error: null, isKnown: false, isLoading: true, at: 0 });

/** Ask the server anew if what it said is old; it may have got flows since. */
export function refreshIfOld() {
  if (!state.isLoading && performance.now() - state.at > 15_000) refresh();
}

/** Ask the server for everything anew. */
export async function refresh() {
  state.isLoading = true;
  try {
    const began = performance.now();
    state.ready = await getJson('/ready');
    state.latency = (performance.now() - began) / 1000;
    state.isKnown = 'flowise' in state.ready;
    state.error = null;
    // Without a right key there is nothing to ask for: the list would be a 401.
    state.models = state.isKnown ? (await getJson('/v1/models')).data : [];
  } catch (error) {
    state.error = error;
    if (error.status === 401) state.isKnown = false;
    if (!state.isKnown) state.models = [];
  }
  if (!state.models.some((model) => model.id === state.model)) state.model = state.models[0]?.id ?? '';
  state.isLoading = false;
  state.at = performance.now();
  changed();
}

export function choose(model) {
  state.model = model;
  changed();
}

export const chosen = () => state.models.find((model) => model.id === state.model);

export const needsKey = () => !state.isLoading && !state.isKnown && state.ready !== null;

export const isOpen = () => state.isKnown && !hasKey();

function changed() {
  state.dispatchEvent(new Event('change'));
}
