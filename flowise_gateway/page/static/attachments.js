// Files that a person adds to a message, as the parts of a chat completion.
import { announce, bytes, h } from './dom.js';

const IMAGES = ['image/png', 'image/jpeg', 'image/gif', 'image/webp'];
const MAX_BYTES = 20 * 1024 ** 2;

/** The bar of added files, with what adds some and what gives them as parts of a message. */
export function attachmentBar() {
  let files = [];
  const element = h('ul', { class: 'files', 'aria-label': 'Attached files' });
  const input = h('input', { type: 'file', multiple: true, class: 'unseen', tabIndex: -1, 'aria-label': 'Attach files', on: { change: async () => {
    await add(input.files);
    input.value = '';
  } } });
  const button = h('button', { type: 'button', class: 'quiet', on: { click: () => input.click() } }, 'Attach');

  async function add(list) {
    for (const file of list) {
      if (file.size > MAX_BYTES) announceProblem(`${file.name} is larger than ${bytes(MAX_BYTES)}.`);
      else files.push({ name: file.name || 'pasted', type: file.type, size: file.size, data: await dataUri(file) });
    }
    show();
  }

  function announceProblem(text) {
    announce(text);
    element.append(h('li', { class: 'bad' }, text));
  }

  function show() {
    element.replaceChildren(...files.map((file) => h('li', null, preview(file), h('button', {
      type: 'button', class: 'quiet small', 'aria-label': `Remove ${file.name}`, on: { click: () => {
        files = files.filter((other) => other !== file);
        show();
        button.focus();
      } },
    }, 'Remove'))));
    element.hidden = !element.children.length;
  }

  show();
  return { element, input, button, add, count: () => files.length, take: () => { const taken = files; files = []; show(); return taken; } };
}

function dataUri(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}

const isImage = (file) => IMAGES.includes(file.type);

/** A file as it is shown beside a message. */
export function preview(file) {
  return h('span', { class: 'file' },
    isImage(file) && h('img', { src: file.data, alt: '', width: 36, height: 36 }),
    h('span', { class: 'file-name' }, file.name), h('span', { class: 'muted' }, bytes(file.size)));
}

/** The content of a user's message: a plain text unless there are files. */
export function contentOf({ text, files }) {
  if (!files.length) return text;
  const parts = files.map(part);
  return text ? [{ type: 'text', text }, ...parts] : parts;
}

function part(file) {
  if (isImage(file)) return { type: 'image_url', image_url: { url: file.data } };
  if (file.type.startsWith('audio/')) return { type: 'input_audio', input_audio: { format: format(file), data: file.data.replace(/^data:[^,]*,/, '') } };
  return { type: 'file', file: { filename: file.name, file_data: file.data.replace(/^data:(?=;|,)/, 'data:application/octet-stream') } };
}

// `audio/x-m4a` and `audio/webm;codecs=opus` as the API names them; the server says which formats Flowise transcribes.
const format = (file) => file.type.replace(/^audio\/(?:x-)?|;.*$/g, '').replace(/^mpeg$/, 'mp3').replace(/^(?:wave|vnd\.wave)$/, 'wav');
