// @ts-check
// How near an error must be to its nearest category, and what another threshold would change.

import { post } from '../../lib/api.js';
import { count } from '../../lib/format.js';
import { href } from '../../lib/router.js';
import { resource } from '../../lib/scope.js';
import { signal } from '../../lib/signals.js';
import { html } from '../../lib/view.js';
import { action, attempt, loading, problemNote } from '../../lib/widgets.js';

/** The most errors that the server gives at once, and how many of those that would move are named. */
const MOST = 1000;
const SHOWN = 8;

/**
 * @param {import('../../lib/scope.js').Scope} scope
 * @param {import('../../lib/router.js').Query} query
 * @param {{ list: import('../../lib/scope.js').Resource<any>, changed: (what: string, changed: any) => void }} page
 */
export function thresholdPanel(scope, query, { list, changed }) {
    const groups = resource(scope, () => ['/failures', { limit: MOST }]);
    const now = () => list.data.value?.threshold ?? 0;
    const asked = () => {
        const value = Number(query.get('threshold'));
        return query.get('threshold') && value >= -1 && value <= 1 ? value : now();
    };
    const thumb = signal(0);
    let timer = 0;
    scope.onEnd(() => clearTimeout(timer));
    scope.effect(() => {
        thumb.value = asked();
    });
    scope.effect(() => {
        // New categories have other similarities.
        if (list.data.value) groups.reload();
    });
    const slide = (/** @type {Event} */ event) => {
        thumb.value = Number(/** @type {HTMLInputElement} */ (event.target).value);
        clearTimeout(timer);
        timer = setTimeout(() => query.set({ threshold: same(thumb.peek(), now()) ? null : thumb.peek().toFixed(2) }),
            150);
    };
    const set = async (/** @type {number | null} */ threshold) => {
        const what = threshold === null ? 'The configured threshold holds' : `The threshold is ${threshold.toFixed(2)}`;
        const done = await attempt(() => post('/categories:threshold', { threshold }), what);
        if (!done) return;
        query.set({ threshold: null });
        changed(what, done);
    };

    return html`<section class="panel" aria-labelledby="threshold">
        <h2 id="threshold">Threshold</h2>
        ${() => (list.data.value ? html`
            <p>An error goes to its nearest category from a similarity
                of <strong>${now().toFixed(2)}</strong> on. ${list.data.value.threshold_is_configured
                    ? 'This comes from the configuration.' : 'Somebody has set it here or on the command line.'}</p>
            <label class="slider">What if it were ${thumb.value.toFixed(2)}?
                <input type="range" min="0" max="1" step="0.01" .value=${String(thumb.value)} @input=${slide}></label>
            ${problemNote(groups.error.value)}
            ${groups.data.value ? moves(groups.data.value, thumb.value, now()) : groups.error.value ? null : loading}
            <div class="row">
                ${action(`Set it to ${thumb.value.toFixed(2)}`, () => set(thumb.peek()),
                    { disabled: same(thumb.value, now()), kind: 'primary' })}
                ${list.data.value.threshold_is_configured ? null : action('Use the configured one', () => set(null))}
            </div>` : list.error.value ? null : loading)}
    </section>`;
}

/** @param {number} a @param {number} b */
const same = (a, b) => Math.abs(a - b) < 0.005;

/** What would move. @param {any} report @param {number} wanted @param {number} now */
function moves({ items, total }, wanted, now) {
    const isIn = (/** @type {any} */ g) => g.category !== 'uncategorised' && g.category !== 'pending';
    const known = items.filter((/** @type {any} */ g) => g.similarity !== undefined && g.category !== 'pending');
    const out = known.filter((/** @type {any} */ g) => isIn(g) && g.similarity < wanted);
    const into = known.filter((/** @type {any} */ g) => !isIn(g) && g.similarity >= wanted);
    const cut = total > items.length
        ? ` Of the ${count(total)} different errors the ${count(items.length)} most frequent are looked at.` : '';
    if (same(wanted, now)) return html`<p class="muted">Move the slider to see which errors would go
    elsewhere.${cut}</p>`;
    if (!out.length && !into.length) return html`<p aria-live="polite">No known error would move.${cut}</p>`;
    return html`<div class="stack" aria-live="polite">
        ${part(out, 'would belong to no category any more')}
        ${part(into, 'without a category would get their nearest')}
        ${cut ? html`<p class="muted small">${cut.trim()}</p>` : null}
    </div>`;
}

/** @param {any[]} groups @param {string} what */
function part(groups, what) {
    if (!groups.length) return null;
    const attempts = groups.reduce((sum, g) => sum + g.count, 0);
    return html`<div>
        <p><strong>${count(groups.length)} ${groups.length === 1 ? 'error'
            : 'errors'}</strong> (${count(attempts)} failed attempts) ${what}:</p>
        <ul class="list">${groups.slice(0, SHOWN).map((g) => html`<li class="row between">
            <a class="mono clip error-text grow" href=${href(`/failures/${g.fingerprint}`)}>${g.text.slice(0, 300)}</a>
            <span class="muted small nowrap">${g.category === 'uncategorised'
                ? html`<a href=${href('/categories', { text: g.text.slice(-2000) })}>where to?</a>`
                : g.category_name}, ${g.similarity.toFixed(2)}</span>
        </li>`)}</ul>
        ${groups.length > SHOWN ? html`<p class="muted small">and ${count(groups.length - SHOWN)} more</p>` : null}
    </div>`;
}
