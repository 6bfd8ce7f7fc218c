// A chat with the chosen model over the public /v1/chat/completions, as any client would have it.
import { call, events } from './api.js';
import { addEvent, answerView, errorNotice, keepRaw, newAnswer } from './answer.js';
import { attachmentBar, contentOf, preview } from './attachments.js';
import { announce, h } from './dom.js';
import { modelPicker } from './picker.js';
import { chosen, needsKey, state } from './state.js';

const TOLD = ['x-request-id', 'x-flowise-chat-id', 'x-flowise-ignored-params', 'x-conversation-id', 'x-ratelimit-remaining-requests'];
const PAUSE = 50;

export function chatSection() {
  let turns = [];
  let running = null;
  let conversation = newId();
  const list = h('ol', { class: 'talk', 'aria-label': 'Conversation' });
  const files = attachmentBar();
  const field = h('textarea', { id: 'message', rows: 1, placeholder: 'Write a message', 'aria-describedby': 'message-help', on: {
    keydown: (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      submit();
    },
    input: grow,
    paste: (event) => { if (event.clipboardData.files.length) files.add(event.clipboardData.files); },
  } });
  const send = h('button', { type: 'submit', class: 'main' }, 'Send');
  const stop = h('button', { type: 'button', class: 'stop', on: { click: () => running?.abort() } }, 'Stop');
  const anew = h('button', { type: 'button', class: 'quiet', on: { click: startAnew } }, 'New chat');
  const hint = h('p', { class: 'muted hint', id: 'message-help' });
  const form = h('form', { class: 'composer', on: {
    submit: (event) => { event.preventDefault(); submit(); },
    dragover: (event) => event.preventDefault(),
    drop: (event) => { event.preventDefault(); files.add(event.dataTransfer.files); },
  } },
  files.element,
  h('div', { class: 'composer-row' },
    h('label', { for: 'message', class: 'unseen' }, 'Message'), field, files.button, files.input, send, stop),
  hint);
  const welcome = h('div', { class: 'welcome' });
  const element = h('div', { class: 'chat' },
    h('div', { class: 'row chat-head' }, h('h1', null, 'Try it'), h('span', { class: 'spacer' }), modelPicker('try-model'), anew),
    welcome, list, form);

  function submit() {
    const text = field.value.trim();
    if (running || !state.model || (!text && !files.count())) return;
    field.value = '';
    grow();
    ask(text, files.take());
  }

  function ask(text, attached = []) {
    if (running) return;
    for (const button of list.querySelectorAll('.choices button')) button.disabled = true;
    const turn = { text, files: attached, element: null, answer: null, view: null };
    turn.element = questionView(turn);
    turns.push(turn);
    list.append(turn.element);
    run(turn);
  }

  async function run(turn) {
    const request = { model: state.model, messages: messages(), stream: true, stream_options: { include_usage: true } };
    const headers = { 'X-Conversation-Id': conversation };
    turn.view?.element.remove();
    const answer = newAnswer(state.model, request, headers);
    turn.answer = answer;
    turn.view = answerView(answer, { regenerate: () => again(turn, turn.text, turn.files), send: (text) => ask(text) });
    turn.element.after(turn.view.element);
    const controller = new AbortController();
    running = controller;
    let draw;
    showState();
    announce('The flow is running.');
    scrollToEnd();
    try {
      const response = await call('/v1/chat/completions', {
        method: 'POST', body: JSON.stringify(request), headers: { 'Content-Type': 'application/json', ...headers }, signal: controller.signal,
      });
      for (const name of TOLD) if (response.headers.get(name)) answer.told[name] = response.headers.get(name);
      answer.status = 'streaming';
      draw = drawer(turn.view);
      for await (const event of events(response, (text) => keepRaw(answer, text))) {
        addEvent(answer, event);
        draw();
      }
      answer.status = answer.error ? 'failed' : 'done';
    } catch (error) {
      answer.status = error.name === 'AbortError' ? 'stopped' : 'failed';
      if (answer.status === 'failed') answer.error = error.code === undefined ? { message: 'The connection broke off.', code: 'connection_lost' } : error;
    }
    answer.took = (performance.now() - answer.began) / 1000;
    running = null;
    draw?.stop();
    followed(turn.view.update);
    showState();
    announce({ done: 'The answer is complete.', stopped: 'Stopped.', failed: 'The answer failed.' }[answer.status]);
    if (document.activeElement === document.body || document.activeElement === stop) field.focus({ preventScroll: true });
  }

  /** Ask again from a turn on; what came after it is gone. */
  function again(turn, text, attached) {
    if (running) return;
    const at = turns.indexOf(turn);
    for (const gone of turns.splice(at)) {
      gone.view?.element.remove();
      gone.element.remove();
    }
    ask(text, attached);
  }

  // The conversation as the client has it: the server finds out what is new in it.
  function messages() {
    return turns.flatMap(({ text, files: attached, answer }, number) => {
      const user = { role: 'user', content: contentOf({ text, files: attached }) };
      const isLast = number === turns.length - 1;
      return isLast || !answer?.text ? [user] : [user, { role: 'assistant', content: answer.text }];
    });
  }

  function questionView(turn) {
    const body = h('div', { class: 'question-text' }, turn.text);
    const edit = h('button', { type: 'button', class: 'quiet small', on: { click: startEdit } }, 'Edit');
    const attached = turn.files.length > 0 && h('ul', { class: 'files', 'aria-label': 'Attached files' }, ...turn.files.map((file) => h('li', null, preview(file))));
    const item = h('li', { class: 'message question' },
      h('div', { class: 'row' }, h('h2', { class: 'who' }, 'You'), h('span', { class: 'spacer' }), edit), attached, body);

    function startEdit() {
      if (running) return;
      const area = h('textarea', { value: turn.text, rows: Math.min(8, turn.text.split('\n').length + 1), 'aria-label': 'Edit the message' });
      const cancel = () => { editor.replaceWith(body); edit.hidden = false; edit.focus(); };
      const editor = h('form', { class: 'editor', on: {
        submit: (event) => { event.preventDefault(); again(turn, area.value.trim() || turn.text, turn.files); },
        keydown: (event) => { if (event.key === 'Escape') cancel(); },
      } }, area, h('div', { class: 'row' }, h('button', { type: 'submit', class: 'main' }, 'Send anew'),
        h('button', { type: 'button', class: 'quiet', on: { click: cancel } }, 'Cancel')));
      body.replaceWith(editor);
      edit.hidden = true;
      area.focus();
    }
    return item;
  }

  function startAnew() {
    running?.abort();
    turns = [];
    conversation = newId();
    list.replaceChildren();
    showState();
    field.focus();
  }

  function grow() {
    field.style.height = 'auto';
    field.style.height = `${Math.min(field.scrollHeight + 2, 220)}px`;
  }

  function showState() {
    const isLocked = needsKey();
    send.hidden = running !== null;
    stop.hidden = running === null;
    field.disabled = send.disabled = files.button.disabled = !state.model;
    anew.hidden = !turns.length;
    welcome.hidden = turns.length > 0;
    element.classList.toggle('running', running !== null);
    welcome.replaceChildren(...welcomeText(isLocked));
    const { vision, files: takes } = chosen()?.capabilities ?? {};
    const takesNot = [vision === false && 'images', takes === false && 'documents other than text'].filter(Boolean).join(' and no ');
    hint.textContent = files.count() && takesNot ? `This flow takes no ${takesNot}.` : 'Enter sends, Shift+Enter makes a new line.';
  }

  function welcomeText(isLocked) {
    if (isLocked) return [h('p', null, 'This server answers callers with a key. ', h('a', { href: '#/keys' }, 'Enter one'), ' to chat with its flows.')];
    if (state.isLoading) return [h('p', { class: 'muted' }, 'Asking for the models …')];
    if (state.error) return [errorNotice(state.error)];
    if (!state.model) return [h('p', null, 'There is no model to talk to yet. ', h('a', { href: '#/status' }, 'Status'), ' tells why.')];
    const model = chosen();
    return [h('p', { class: 'lead' }, model?.name ?? state.model), model?.description && h('p', { class: 'muted' }, model.description),
      h('p', { class: 'muted' }, 'What you write goes over this server’s own /v1/chat/completions, as any client’s would.')].filter(Boolean);
  }

  files.input.addEventListener('change', () => setTimeout(showState, 50));
  state.addEventListener('change', showState);
  showState();
  return { title: 'Try it', element, entered: () => {
    if (state.model) field.focus({ preventScroll: true });
    if (turns.length) scrollToEnd();
  } };
}

// Each time the whole text is made anew, so a long one is drawn less often.
function drawer(view) {
  let timer = null;
  let pause = PAUSE;
  const draw = () => {
    timer = null;
    const began = performance.now();
    followed(view.update);
    pause = Math.max(PAUSE, 4 * (performance.now() - began));
  };
  const schedule = () => { timer ??= setTimeout(draw, pause); };
  schedule.stop = () => clearTimeout(timer);
  return schedule;
}

// The end stays in sight for those who are there; whoever scrolled up reads on undisturbed.
function followed(update) {
  const page = document.scrollingElement;
  const isAtEnd = page.scrollHeight - page.scrollTop - innerHeight < 80;
  update();
  if (isAtEnd) scrollToEnd();
}

function scrollToEnd() {
  document.scrollingElement.scrollTop = document.scrollingElement.scrollHeight;
}

function newId() {
  if (crypto.randomUUID) return crypto.randomUUID();
  // Browsers have it on HTTPS and on this machine only.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, '0')).join('');
}
