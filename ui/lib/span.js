// @ts-check
// Which jobs the numbers are about: a name, a queue and the days (UTC) of submission, in the address.

import { get } from './api.js';
import { signal } from './signals.js';
import { html } from './view.js';

const DAY = 86400e3;

/** @typedef {{ name: string, queue: string, since: string, until: string }} Span */

/** @param {import('./router.js').Query} query @returns {Span} */
export function spanOf(query) {
    return {
        name: query.get('name'),
        queue: query.get('queue'),
        since: query.get('since'),
        until: query.get('until'),
    };
}

/** The same for requests about jobs, which take moments. @param {Span} span @returns {Span} */
export function moments({ name, queue, since, until }) {
    const moment = (/** @type {string} */ day) => (/^\d{4}-\d\d-\d\d$/.test(day) ? `${day}T00:00:00Z` : day);
    return { name, queue, since: moment(since), until: moment(until) };
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
    const queues = signal(/** @type {string[]} */ ([]));
    get('/queues', {}, scope.signal).then(
        ({ items }) => {
            queues.value = items.map((/** @type {any} */ item) => item.name);
        },
        // Without them the numbers are about all queues, or about that of the address.
        () => {},
    );
    /** Where there is only one queue there is nothing to choose. */
    const queueChoice = () => {
        const chosen = query.get('queue');
        if (!chosen && queues.value.length < 2) return null;
        const all = queues.value.includes(chosen) || !chosen ? queues.value : [chosen, ...queues.value];
        return html`<label>Queue <select @change=${set('queue')}>
            ${['', ...all].map((name) => html`<option value=${name}
                .selected=${name === chosen}>${name || 'all'}</option>`)}
        </select></label>`;
    };
    const set = (/** @type {string} */ name) => (/** @type {Event} */ event) =>
        query.set({ [name]: /** @type {HTMLInputElement} */ (event.target).value.trim() });
    const choose = (/** @type {number | null} */ days) =>
        query.set({ since: days === null ? null : daysAgo(days - 1), until: null });
    const isChosen = (/** @type {number | null} */ days) =>
        !query.get('until') && query.get('since') === (days === null ? '' : daysAgo(days - 1));

    return () => html`<div class="filters" role="group" aria-label="Which jobs">
        <label>Job name <input list="names" placeholder="all" .value=${query.get('name')}
            @change=${set('name')}></label>
        ${queueChoice}
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
