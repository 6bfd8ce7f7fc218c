// The choice of the model, the same one in each section.
import { h } from './dom.js';
import { choose, state } from './state.js';

export function modelPicker(id) {
  const select = h('select', { id, on: { change: () => choose(select.value) } });
  const element = h('div', { class: 'picker' }, h('label', { for: id }, 'Model'), select);
  const show = () => {
    select.replaceChildren(...state.models.map((model) => h('option', { value: model.id },
      model.name && model.name !== model.id ? `${model.name} (${model.id})` : model.id)));
    select.value = state.model;
    element.hidden = !state.models.length;
  };
  state.addEventListener('change', show);
  show();
  return element;
}
