// @ts-check
// Adds a category, from a preset or from nothing, and edits one.

import { get, post, put, segment } from '../../lib/api.js';
import { signal } from '../../lib/signals.js';
import { each, html } from '../../lib/view.js';
import { dialog, problemNote } from '../../lib/widgets.js';

/** @typedef {{ name: string, takes_effect: string }} Changed */
/** @typedef {{ name: string, description: string, examples: string[] }} Category */

/** @returns {Promise<Changed | null>} */
export function addCategory() {
    return form('Add a category', { name: '', description: '', examples: [] }, 'Add', true, (body) =>
        post('/categories', body));
}

/** @param {Category & { id: string }} category @returns {Promise<Changed | null>} */
export function editCategory(category) {
    return form(`Edit ${category.name}`, { ...category, description: category.description ?? '',
        examples: category.examples ?? [] }, 'Save', false,
        (body) => put(`/categories/${segment(category.id)}`, body));
}

/**
 * @param {string} title @param {Category} start @param {string} yes @param {boolean} offersPresets
 * @param {(body: Category) => Promise<any>} save
 * @returns {Promise<Changed | null>}
 */
function form(title, start, yes, offersPresets, save) {
    const problem = signal(/** @type {any} */ (null));
    const presets = signal(/** @type {any[]} */ ([]));
    const base = signal(start);
    let id = 0;
    const keyed = (/** @type {string[]} */ texts) => texts.map((text) => ({ key: ++id, text }));
    const examples = signal(keyed(start.examples));
    return dialog(title, (close) => {
        if (offersPresets) {
            get('/categories:presets').then(({ items }) => {
                presets.value = items;
            }, () => {});
        }
        const choose = (/** @type {Event} */ event) => {
            const preset = presets.peek().find((p) => p.id === /** @type {HTMLSelectElement} */ (event.target).value);
            base.value = preset ? { name: preset.name, description: preset.description ?? '', examples: preset.examples
                ?? [] } : start;
            examples.value = keyed(base.peek().examples);
        };
        const submit = async (/** @type {SubmitEvent} */ event) => {
            event.preventDefault();
            const data = new FormData(/** @type {HTMLFormElement} */ (event.target));
            const field = (/** @type {string} */ name) => String(data.get(name) ?? '').trim();
            const body = { name: field('name'), description: field('description'),
                examples: data.getAll('example').map((text) => String(text).trim()).filter(Boolean) };
            problem.value = null;
            try {
                close({ name: body.name, takes_effect: (await save(body)).takes_effect });
            } catch (error) {
                problem.value = error;
            }
        };
        return () => html`<form class="stack" @submit=${submit}>
            ${presets.value.length ? html`<label>Begin with <select @change=${choose}>
                <option value="">nothing</option>
                ${presets.value.map((p) => html`<option value=${p.id}>${p.name}</option>`)}
            </select></label>` : null}
            <label>Name <input name="name" required maxlength="100" autofocus .value=${base.value.name}></label>
            <label>What belongs to it <textarea name="description" rows="3" maxlength="4096"
                .value=${base.value.description}></textarea>
                <span class="hint">A sentence with the words that such errors use.</span></label>
            <fieldset class="stack">
                <legend>Examples</legend>
                ${each(examples.value, (e) => e.key, (e) => html`<div class="row example">
                    <textarea name="example" class="line-box grow" rows=${Math.min(4, e.text.split('\n').length)}
                        maxlength="2048" aria-label="Example" .value=${e.text}></textarea>
                    <button type="button" class="plain" aria-label="Remove this example" title="Remove this example"
                        @click=${() => {
                        examples.value = examples.peek().filter((other) => other !== e);
                    }}>✕</button>
                </div>`)}
                <div><button type="button" class="small" @click=${() => {
                    examples.value = [...examples.peek(), ...keyed([''])];
                }}>Add an example</button></div>
            </fieldset>
            ${problemNote(problem.value)}
            <div class="row end">
                <button type="button" @click=${() => close(null)}>Cancel</button>
                <button class="primary">${yes}</button>
            </div>
        </form>`;
    });
}
