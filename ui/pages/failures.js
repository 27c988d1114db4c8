// @ts-check
// Why jobs fail: the categories of errors, and the errors themselves, each with what can be done about it.

import { actOnMany } from '../lib/act-on-jobs.js';
import { sparkline } from '../lib/charts.js';
import { trendOf } from '../lib/figures.js';
import { count } from '../lib/format.js';
import { groupList } from '../lib/groups.js';
import { bind } from '../lib/keys.js';
import { rateCell, share } from '../lib/rates.js';
import { href } from '../lib/router.js';
import { resource } from '../lib/scope.js';
import { signal } from '../lib/signals.js';
import { moments, spanFilters, spanOf } from '../lib/span.js';
import { sortTable } from '../lib/table.js';
import { html } from '../lib/view.js';
import { action, empty, loading, problemNote, when } from '../lib/widgets.js';

const DAYS = 14;
/** How many errors are shown, and then more, up to what the server gives at once. */
const SIZES = [30, 100, 300, 1000];
/** A text to compare is the end of an error, as a fingerprint is. */
const MOST_TEXT = 2000;

/** @type {import('../lib/router.js').Page} */
export default function failures({ scope, query, title }) {
    title('Failures');
    const span = () => spanOf(query);
    const limit = () => SIZES.find((size) => size >= Number(query.get('limit'))) ?? SIZES[0];
    const categories = resource(scope, () => ['/stats/categories', { ...span(), trend: DAYS }], { every: 30_000 });
    const groups = resource(
        scope,
        () => ['/failures', { ...span(), category: query.get('category'), trend: DAYS, limit: limit() }],
        { every: 30_000 },
    );
    /** Each search may cost a request to an embedder, so only a new text makes one. */
    const searched = signal('');
    scope.effect(() => {
        searched.value = query.get('text');
    });
    const similar = resource(scope, () => (searched.value ? ['/failures/similar', { text: searched.value, limit: 20 }]
        : null));
    const reload = () => Promise.all([categories.reload(), groups.reload()]);
    /** @param {import('../lib/act-on-jobs.js').Selection} selection @param {string} what */
    const retry = async (selection, what) => {
        if (await actOnMany('retry', { ...moments(span()), ...selection }, what)) await reload();
    };
    const step = (/** @type {number} */ by) => {
        const links = /** @type {HTMLElement[]} */ ([...document.querySelectorAll('a.error-text')]);
        const at = links.findIndex((link) => link === document.activeElement);
        links[Math.max(0, Math.min(links.length - 1, at + by))]?.focus();
    };
    bind(scope, {
        j: ['Next error', () => step(1)],
        k: ['Previous error', () => step(-1)],
        '/': ['Find similar errors', () => document.getElementById('similar-text')?.focus()],
    });

    return () => html`
        <div class="row between">
            <h1>Failures</h1>
            <a href=${href('/categories')}>Edit and test the categories</a>
        </div>
        ${spanFilters(scope, query)}
        <section class="panel" aria-labelledby="categories">
            <h2 id="categories">By category</h2>
            ${() => problemNote(categories.error.value, categories.data.value !== null)}
            ${() => (categories.data.value ? categoryTable(query, categories.data.value.items, retry)
                : categories.error.value ? null : loading)}
        </section>
        <section class="panel" aria-labelledby="errors">
            <div class="row between">
                <h2 id="errors">${() => (query.get('text') ? 'Similar errors' : 'By error')}</h2>
                ${() => (query.get('category') && !query.get('text')
                    ? html`<button class="small" @click=${() =>
                        query.set({ category: null })}>${nameOf(query.get('category'),
                            categories.data.value)}<span> ✕</span></button>` : null)}
            </div>
            ${searchForm(query)}
            ${() => (query.get('text')
                ? html`${problemNote(similar.error.value)}
                    ${similar.data.value ? groupList(similar.data.value.items, { retry, nearness: true, days: DAYS })
                        : similar.error.value ? null : loading}`
                : html`${problemNote(groups.error.value, groups.data.value !== null)}
                    ${groups.data.value ? list(groups.data.value) : groups.error.value ? null : loading}`)}
        </section>`;

    /** @param {{ items: any[], total: number }} answer */
    function list({ items, total }) {
        if (!items.length) return nothing(query);
        const next = SIZES.find((size) => size > limit());
        return html`${groupList(items, { retry, nearness: false, days: DAYS })}
            <div class="row between muted small">
                <span>${count(items.length)} of ${count(total)} different errors, the most frequent first.</span>
                ${items.length < total && next ? html`<button class="small"
                    @click=${() => query.set({ limit: String(next) })}>Show up to ${count(next)}</button>` : null}
            </div>`;
    }
}

/** @param {string} category @param {any} report */
function nameOf(category, report) {
    return report?.items.find((/** @type {any} */ c) => c.category === category)?.name ?? category;
}

/** @param {import('../lib/router.js').Query} query */
function nothing(query) {
    const isFiltered = ['name', 'queue', 'since', 'until', 'category'].some((name) => query.get(name));
    return isFiltered
        ? empty('No failure here', html`No attempt of these jobs has failed so.${' '}<button class="small"
            @click=${() =>
            query.set({ name: null, queue: null, since: null, until: null, category: null })}>Show all</button>`)
        : empty('No attempt has failed', 'When one does, what it says stands here, with all others that say the same.');
}

/** @param {import('../lib/router.js').Query} query */
function searchForm(query) {
    const search = (/** @type {SubmitEvent} */ event) => {
        event.preventDefault();
        const form = new FormData(/** @type {HTMLFormElement} */ (event.target));
        query.set({ text: String(form.get('text')).trim().slice(-MOST_TEXT) }, { push: true });
    };
    const submitByKey = (/** @type {KeyboardEvent} */ event) => {
        if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
        event.preventDefault();
        /** @type {HTMLTextAreaElement} */ (event.target).form?.requestSubmit();
    };
    return html`<form class="search" role="search" @submit=${search}>
        <label>Similar to this text <textarea id="similar-text" name="text" rows="1" class="line-box"
            placeholder="paste what a job has said"
            .value=${query.get('text')} @keydown=${submitByKey}></textarea></label>
        <div class="row">
            <button>Find</button>
            ${() => (query.get('text') ? html`<button type="button" class="plain"
                @click=${() => query.set({ text: null })}>Show all errors</button>` : null)}
        </div>
    </form>`;
}

/**
 * @param {import('../lib/router.js').Query} query
 * @param {any[]} items
 * @param {(selection: import('../lib/act-on-jobs.js').Selection, what: string) => void} retry
 */
function categoryTable(query, items, retry) {
    if (!items.length) return html`<p class="muted">No attempt of these jobs has failed.</p>`;
    const span = spanOf(query);
    return sortTable(query, {
        label: 'Categories',
        rows: items,
        key: (c) => c.category,
        usual: '-failures',
        mark: (c) => c.category === query.get('category'),
        columns: [
            { key: 'name', name: 'Category', wide: true, value: (c) => c.name, cell: (c) => html`
                <a href=${href('/failures', { ...span, category: c.category })}
                    aria-current=${c.category === query.get('category') ? 'true' : null}>${c.name}</a>` },
            { key: 'failures', name: 'Failed attempts', number: true, value: (c) => c.failures,
                cell: (c) => count(c.failures) },
            { key: 'trend', name: `${DAYS} days`, title: 'By the day on which the jobs were submitted',
                cell: (c) => trend(c.trend) },
            { key: 'jobs', name: 'Jobs', number: true, value: (c) => c.jobs, cell: (c) => html`
                <a href=${href('/jobs', { ...moments(span), category: c.category })}>${count(c.jobs)}<span
                    class="hear"> jobs with ${c.name}</span></a>` },
            { key: 'rate', name: 'Completed in the end', value: (c) => c.completed.rate,
                cell: (c) => rateCell(c.completed, 'Completed in the end'),
                title: 'Of the jobs that met such an error and have ended, those that completed all the same' },
            { key: 'cpu', name: 'Share of CPU', number: true, value: (c) => c.cpu_share,
                cell: (c) => share(c.cpu_share),
                title: 'CPU time of these failed attempts, of that of all attempts' },
            { key: 'last', name: 'Last seen', value: (c) => c.last_seen,
                cell: (c) => html`<span class="nowrap">${when(c.last_seen)}</span>` },
            { key: 'act', name: '', cell: (c) => action('Retry …', () =>
                retry({ category: c.category }, `failed jobs with “${c.name}”`), { kind: 'small',
                title: `Retry the failed jobs with ${c.name}` }) },
        ],
    });
}

/** @param {any} trend */
function trend(trend) {
    const days = trendOf(trend);
    if (!days.length) return html`<span class="muted">–</span>`;
    const all = days.reduce((sum, day) => sum + day.count, 0);
    return sparkline(days.map((day) => day.count),
        `${count(all)} failures in ${days.length} days, ${count(days[days.length - 1].count)} of them today`, 'failed');
}
