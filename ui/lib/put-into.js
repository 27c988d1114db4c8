// @ts-check
// Puts an error into a category: its text becomes an example of one that exists, or of a new one.

import { get, post, put, segment } from './api.js';
import { signal } from './signals.js';
import { html } from './view.js';
import { dialog, loading, problemNote } from './widgets.js';

/** @typedef {{ id: string, name: string, takes_effect: string }} Put */

/** Asks for the category. @param {string} text @param {string} [suggested] an id @returns {Promise<Put | null>} */
export function putInto(text, suggested = '') {
    const categories = signal(/** @type {any[] | null} */ (null));
    const problem = signal(/** @type {any} */ (null));
    const chosen = signal('');
    const busy = signal(false);
    return dialog('Put this into a category', (close) => {
        get('/categories').then(
            ({ items }) => {
                chosen.value = items.some((/** @type {any} */ c) => c.id === suggested) ? suggested
                    : (items[0]?.id ?? '');
                categories.value = items;
            },
            (error) => {
                problem.value = error;
            },
        );
        const submit = async (/** @type {SubmitEvent} */ event) => {
            event.preventDefault();
            const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
            const field = (/** @type {string} */ name) => String(form.get(name) ?? '').trim();
            busy.value = true;
            problem.value = null;
            try {
                close(await save(chosen.peek(), field('example'), field('name'), field('description')));
            } catch (error) {
                problem.value = error;
            }
            busy.value = false;
        };
        return () => html`
            ${categories.value ? null : problem.value ? null : loading}
            ${categories.value ? html`<form class="stack" @submit=${submit}>
                <label>Category <select autofocus @change=${(/** @type {Event} */ event) => {
                    chosen.value = /** @type {HTMLSelectElement} */ (event.target).value;
                }}>
                    ${categories.value.map((c) => html`<option value=${c.id}
                        selected=${c.id === chosen.value}>${c.name}</option>`)}
                    <option value="" selected=${chosen.value === ''}>A new category …</option>
                </select></label>
                ${chosen.value === '' ? html`
                    <label>Its name <input name="name" required maxlength="100"></label>
                    <label>What belongs to it <textarea name="description" maxlength="4096" rows="2"></textarea>
                        <span class="hint">A sentence with the words that such errors use. It may stay
                            empty.</span></label>` : null}
                <label>Example <textarea name="example" required maxlength="2048" rows="5" .value=${text}></textarea>
                    <span class="hint">Keep what tells this error from others. Similar errors come along, past ones
                        too.</span></label>
                ${problemNote(problem.value)}
                <div class="row end">
                    <button type="button" @click=${() => close(null)}>Cancel</button>
                    <button class="primary" disabled=${busy.value}>Add the example</button>
                </div>
            </form>` : html`${problemNote(problem.value)}<div class="row end"><button
                @click=${() => close(null)}>Close</button></div>`}`;
    });
}

/**
 * @param {string} id @param {string} example @param {string} name @param {string} description
 * @returns {Promise<Put>}
 */
async function save(id, example, name, description) {
    if (!id) {
        const made = await post('/categories', { name, description, examples: [example] });
        return { id: made.id, name, takes_effect: made.takes_effect };
    }
    // Somebody may have edited it while the dialog was open.
    const { items } = await get('/categories');
    const now = items.find((/** @type {any} */ c) => c.id === id);
    const examples = now?.examples ?? [];
    const changed = await put(`/categories/${segment(id)}`, {
        name: now?.name ?? id,
        description: now?.description ?? '',
        examples: examples.includes(example) ? examples : [...examples, example],
    });
    return { id, name: now?.name ?? id, takes_effect: changed.takes_effect };
}
