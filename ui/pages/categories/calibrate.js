// @ts-check
// Finds the threshold that puts most texts where people say that they belong.

import { post } from '../../lib/api.js';
import { timeChart } from '../../lib/charts.js';
import { count, percent } from '../../lib/format.js';
import { signal } from '../../lib/signals.js';
import { html } from '../../lib/view.js';
import { action, attempt, problemNote } from '../../lib/widgets.js';

const HINT = `{"text": "No space left on device", "category": "disk-or-filesystem-error"}
{"text": "attempt 3 did not converge", "category": null}`;

/**
 * @param {import('../../lib/router.js').Query} query
 * @param {{ changed: (what: string, changed: any) => void }} page
 */
export function calibration(query, { changed }) {
    const found = signal(/** @type {any} */ (null));
    const problem = signal(/** @type {any} */ (null));
    const best = () => found.value.best;
    const submit = async (/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        const text = String(new FormData(/** @type {HTMLFormElement} */ (event.target)).get('labelled'));
        problem.value = null;
        try {
            const labelled = read(text);
            found.value = { ...(await post('/categories:calibrate', { labelled })), n: labelled.length };
        } catch (error) {
            problem.value = error;
        }
    };
    const set = async (/** @type {number} */ threshold) => {
        const what = `The threshold is ${threshold.toFixed(2)}`;
        const done = await attempt(() => post('/categories:threshold', { threshold }), what);
        if (done) changed(what, done);
    };
    return html`<section class="panel" aria-labelledby="calibrate">
        <h2 id="calibrate">Find the threshold from labelled texts</h2>
        <details open=${query.get('calibrate') === 'yes'} @toggle=${(/** @type {Event} */ event) => {
            query.set({ calibrate: /** @type {HTMLDetailsElement} */ (event.target).open ? 'yes' : null });
        }}>
            <summary>If you know of some texts where they belong</summary>
            <form class="stack" @submit=${submit}>
                <label>One JSON object a line <textarea name="labelled" rows="5" required
                    placeholder=${HINT}></textarea>
                    <span class="hint">With “text” and “category”: an id or a name, or null for a
                        text that belongs to none.</span></label>
                <div class="row"><button>Find the threshold</button></div>
            </form>
        </details>
        ${() => problemNote(problem.value)}
        ${() => (found.value ? html`
            <p class="verdict">${best().threshold.toFixed(2)} puts ${percent(best().accuracy)} of the texts
                (${count(found.value.n)}) where they belong.</p>
            <p class="muted">Of the texts that it puts into a category, ${percent(found.value.best.precision)} belong
                there; of those that belong somewhere, it
                finds ${percent(found.value.best.recall)}.${found.value.n < 30
                    ? ' That is from few texts: expect less of others.' : ''}</p>
            ${timeChart({
                label: 'What each threshold would do',
                times: found.value.curve.map((/** @type {any} */ point) => point.threshold.toFixed(2)),
                time: String,
                format: percent,
                series: [
                    { name: 'accuracy', tone: 'completed',
                        values: found.value.curve.map((/** @type {any} */ p) => p.accuracy) },
                    { name: 'precision', tone: 'accent',
                        values: found.value.curve.map((/** @type {any} */ p) => p.precision) },
                    { name: 'recall', tone: 'delayed',
                        values: found.value.curve.map((/** @type {any} */ p) => p.recall) },
                ],
            })}
            <div class="row">${action(`Set the threshold to ${found.value.best.threshold.toFixed(2)}`, () =>
                set(found.peek().best.threshold), { kind: 'primary' })}</div>` : null)}
    </section>`;
}

/** @param {string} text @returns {{ text: string, category: string | null }[]} */
function read(text) {
    return text.split('\n').map((line, i) => [line.trim(), i + 1]).filter(([line]) => line).map(([line, number]) => {
        try {
            const { text, category = null } = JSON.parse(String(line));
            if (typeof text === 'string' && (category === null || typeof category === 'string')) return { text,
                category };
        } catch {
            // What follows tells which line it is.
        }
        throw new Error(`Line ${number} is no JSON object with “text” and “category”.`);
    });
}
