// @ts-check
// The categories of errors: what belongs to each, the threshold, and where a text would go.

import { mayAct, remove, segment } from '../lib/api.js';
import { count } from '../lib/format.js';
import { bind } from '../lib/keys.js';
import { href } from '../lib/router.js';
import { resource } from '../lib/scope.js';
import { signal } from '../lib/signals.js';
import { each, html } from '../lib/view.js';
import { action, attempt, confirm, empty, loading, problemNote, toast } from '../lib/widgets.js';
import { calibration } from './categories/calibrate.js';
import { addCategory, editCategory } from './categories/form.js';
import { tester } from './categories/test.js';
import { thresholdPanel } from './categories/threshold.js';

/** After a change the page looks again so often, in ms from the change. */
const LOOKS = [500, 1500, 4000, 10_000];

/** @param {number} n @param {string} what */
const many = (n, what) => `${count(n)} ${what}${n === 1 ? '' : 's'}`;

/** @type {import('../lib/router.js').Page} */
export default function categories({ scope, query, title }) {
    title('Categories');
    const list = resource(scope, () => ['/categories'], { every: 30_000 });
    const told = signal('');
    /** Raised when a change should have taken effect. */
    const changes = signal(0);
    /** Says when a change takes effect, and looks for it. @param {string} what @param {any} changed */
    const changed = (what, changed) => {
        told.value = `${what}. It takes effect ${changed.takes_effect}.`;
        toast(what);
        const timers = LOOKS.map((ms) => setTimeout(() => list.reload(), ms));
        timers.push(setTimeout(() => {
            changes.value++;
        }, LOOKS[1]));
        scope.onEnd(() => timers.forEach(clearTimeout));
    };
    const add = async () => {
        const done = await addCategory();
        if (done) changed(`Added ${done.name}`, done);
    };
    const edit = async (/** @type {any} */ category) => {
        const done = await editCategory(category);
        if (done) changed(`Changed ${done.name}`, done);
    };
    const drop = async (/** @type {any} */ category) => {
        const text = `What belongs to it (${many(category.errors,
            'error')}) goes to other categories or to none. Its description and ${many(category.examples?.length ?? 0,
                'example')} are lost.`;
        if (!(await confirm(`Remove ${category.name}?`, text, 'Remove it'))) return;
        const done = await attempt(() => remove(`/categories/${segment(category.id)}`), `Removed ${category.name}`);
        if (done) changed(`Removed ${category.name}`, done);
    };
    bind(scope, {
        n: ['Add a category', () => mayAct() && add()],
        '/': ['Test a text', () => document.getElementById('test-text')?.focus()],
    });
    const test = tester(scope, query, { list, changed, changes });
    const threshold = thresholdPanel(scope, query, { list, changed });
    const calibrate = calibration(query, { changed });

    return () => html`
        <div class="row between">
            <h1>Categories</h1>
            <div class="row"><a href=${href('/failures')}>Failures</a>${() =>
                action('Add a category …', add, { kind: 'primary' })}</div>
        </div>
        <p class="muted">A category is a name, a description and examples. An error goes to the category that its text
            is nearest to, if it is near enough.</p>
        ${() => problemNote(list.error.value, list.data.value !== null)}
        ${() => (told.value ? html`<div class="note" role="status">${told.value}</div>` : null)}
        ${test}
        <section class="panel" aria-labelledby="all">
            <h2 id="all">All categories</h2>
            ${() => (list.data.value ? table(list.data.value) : list.error.value ? null : loading)}
        </section>
        ${threshold}
        ${calibrate}`;

    /** @param {any} data */
    function table({ items, uncategorised, pending }) {
        if (!items.length) return empty('No category', 'All errors stand under “uncategorised” until there is one.',
            'jobber category add --preset network');
        return html`
            <ul class="list">${each(items, (c) => c.id, (c) => html`<li>
                <details class="category" open=${query.list('open').includes(c.id)}
                    @toggle=${(/** @type {Event} */ event) =>
                        toggled(c.id, /** @type {HTMLDetailsElement} */ (event.target).open)}>
                    <summary><span class="category-name">${c.name}</span> <span
                        class="muted small">${many(c.errors, 'error')}, ${many(c.examples?.length ?? 0,
                            'example')}</span></summary>
                    <div class="stack category-body">
                        <p>${c.description || html`<span class="muted">No description. A sentence with the words that
                            such errors use helps most.</span>`}</p>
                        ${() => (query.list('open').includes(c.id) && c.examples?.length
                            ? html`<ul class="examples" tabindex="0"
                                aria-label="Examples of ${c.name}">${c.examples.map((/** @type {string} */ text) =>
                                    html`<li class="mono">${text}</li>`)}</ul>` : null)}
                        <div class="row">
                            <a class="button" href=${href('/failures', { category: c.id })}>Its errors</a>
                            ${action('Edit …', () => edit(c))}
                            ${action('Remove …', () => drop(c), { kind: 'danger' })}
                        </div>
                    </div>
                </details>
            </li>`)}</ul>
            <p class="muted small"><a
                href=${href('/failures', { category: 'uncategorised' })}>${count(uncategorised)} different
                errors</a> belong to none${pending ? `, and ${count(pending)} wait for the classifier` : ''}.</p>`;
    }

    /** @param {string} id @param {boolean} isOpen */
    function toggled(id, isOpen) {
        const open = query.list('open');
        if (open.includes(id) === isOpen) return;
        query.set({ open: isOpen ? [...open, id] : open.filter((other) => other !== id) });
    }
}
