// @ts-check
// Which jobs the numbers are about: a name and the days (UTC) of submission, in the address.

import { get } from './api.js';
import { signal } from './signals.js';
import { html } from './view.js';

const DAY = 86400e3;

/** @typedef {{ name: string, since: string, until: string }} Span */

/** @param {import('./router.js').Query} query @returns {Span} */
export function spanOf(query) {
    return { name: query.get('name'), since: query.get('since'), until: query.get('until') };
}

/** The same for requests about jobs, which take moments. @param {Span} span @returns {Span} */
export function moments({ name, since, until }) {
    const moment = (/** @type {string} */ day) => (/^\d{4}-\d\d-\d\d$/.test(day) ? `${day}T00:00:00Z` : day);
    return { name, since: moment(since), until: moment(until) };
}

/** The day that was so many days ago. @param {number} days */
const daysAgo = (days) => new Date(Date.now() - days * DAY).toISOString().slice(0, 10);

/** @type {[string, number | null][]} Each with the number of its days. */
const SPANS = [['Today', 1], ['7 days', 7], ['30 days', 30], ['All time', null]];

/** @param {import('./scope.js').Scope} scope @param {import('./router.js').Query} query */
export function spanFilters(scope, query) {
    const names = signal(/** @type {string[]} */ ([]));
    get('/stats/durations', {}, scope.signal).then(
        ({ items }) => {
            names.value = items.map((/** @type {any} */ item) => item.name);
        },
        // Without the names, the field still takes one that the user knows.
        () => {},
    );
    const set = (/** @type {string} */ name) => (/** @type {Event} */ event) =>
        query.set({ [name]: /** @type {HTMLInputElement} */ (event.target).value.trim() });
    const choose = (/** @type {number | null} */ days) =>
        query.set({ since: days === null ? null : daysAgo(days - 1), until: null });
    const isChosen = (/** @type {number | null} */ days) =>
        !query.get('until') && query.get('since') === (days === null ? '' : daysAgo(days - 1));

    return () => html`<div class="filters" role="group" aria-label="Which jobs">
        <label>Job name <input list="names" placeholder="all" .value=${query.get('name')}
            @change=${set('name')}></label>
        <datalist id="names">${names.value.map((name) => html`<option value=${name}></option>`)}</datalist>
        <label title="Days in UTC">Submitted from <input type="date" .value=${query.get('since').slice(0, 10)}
            @change=${set('since')}></label>
        <label title="Days in UTC; this day does not count">Before <input type="date"
            .value=${query.get('until').slice(0, 10)} @change=${set('until')}></label>
        <div class="row">${SPANS.map(([name, days]) => html`
            <button class="small" aria-pressed=${String(isChosen(days))}
                @click=${() => choose(days)}>${name}</button>`)}
        </div>
    </div>`;
}
