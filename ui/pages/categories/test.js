// @ts-check
// Where does this text belong?

import { post } from '../../lib/api.js';
import { putInto } from '../../lib/put-into.js';
import { href } from '../../lib/router.js';
import { signal } from '../../lib/signals.js';
import { html } from '../../lib/view.js';
import { action, problemNote } from '../../lib/widgets.js';

/**
 * @param {import('../../lib/scope.js').Scope} scope
 * @param {import('../../lib/router.js').Query} query
 * @param {{ list: import('../../lib/scope.js').Resource<any>, changed: (what: string, changed: any) => void,
 *   changes: import('../../lib/signals.js').Signal<number> }} page
 */
export function tester(scope, query, { list, changed, changes }) {
    const found = signal(/** @type {any} */ (null));
    const problem = signal(/** @type {any} */ (null));
    /** Each test may cost a request to an embedder, so only a new text makes one, or changed categories. */
    const text = signal('');
    scope.effect(() => {
        text.value = query.get('text');
    });
    scope.effect(() => {
        void changes.value;
        if (text.value) test(text.value);
        else found.value = null;
    });
    /** @param {string} text */
    async function test(text) {
        try {
            const answer = await post('/categories:test', { text }, { signal: scope.signal });
            if (query.get('text') !== text) return;
            found.value = answer;
            problem.value = null;
        } catch (error) {
            if (!scope.signal.aborted) problem.value = error;
        }
    }
    const submit = (/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
        query.set({ text: String(form.get('text')).trim().slice(-2048) });
    };
    const add = async () => {
        const done = await putInto(query.get('text'), found.peek()?.nearest ?? '');
        if (done) changed(`Added an example to ${done.name}`, done);
    };
    const name = (/** @type {string} */ id) => list.data.value?.items.find((/** @type {any} */ c) => c.id === id)?.name
        ?? id;

    return html`<section class="panel" aria-labelledby="test">
        <h2 id="test">Where does a text belong?</h2>
        <form class="stack" @submit=${submit}>
            <label>What an attempt might say <textarea id="test-text" name="text" rows="3" required maxlength="20000"
                .value=${query.get('text')}></textarea></label>
            <div class="row"><button>Test</button>${() =>
                (found.value ? action('Put it into a category …', add) : null)}</div>
        </form>
        ${() => problemNote(problem.value)}
        ${() => (found.value ? result(found.value, name) : null)}
    </section>`;
}

/** @param {any} found @param {(id: string) => string} name */
function result(found, name) {
    const isPlaced = found.category !== 'uncategorised';
    const verdict = isPlaced ? `It belongs to ${name(found.category)}.`
        : found.nearest ? `It belongs to none: its nearest is ${name(found.nearest)}, which is not near enough.`
        : 'It belongs to none, as there is no category.';
    const place = (/** @type {number} */ similarity) => `${Math.max(0, Math.min(1, similarity)) * 100}%`;
    return html`<div class="stack" role="status">
        <p class="verdict">${verdict}</p>
        <div class="nearness ${isPlaced ? 'completed' : 'waiting'}" role="img"
            aria-label="Similarity ${found.similarity.toFixed(2)}, threshold ${found.threshold.toFixed(2)}">
            <span class="bar" style=${{ width: place(found.similarity) }}></span><span class="edge"
                style=${{ left: place(found.threshold) }}></span>
        </div>
        <dl class="facts">
            <dt>Nearest</dt><dd>${found.nearest ? name(found.nearest) : 'none'}</dd>
            <dt>Similarity</dt><dd>${found.similarity.toFixed(3)}, it needs ${found.threshold.toFixed(2)}</dd>
            <dt>Told apart by</dt><dd><pre class="code" tabindex="0"
                aria-label="The masked text">${found.masked}</pre><span class="muted small">What varies between two runs
                is masked. Errors with the same masked text count as one.</span></dd>
            <dt>Fingerprint</dt><dd><a class="mono"
                href=${href(`/failures/${found.fingerprint}`)}>${found.fingerprint.slice(0, 16)}…</a></dd>
        </dl>
    </div>`;
}
