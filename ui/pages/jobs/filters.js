// @ts-check
// The filters of the list of jobs: in the address under the names of the API, as chips, and as a form.

import { get } from '../../lib/api.js';
import { duration, moment } from '../../lib/format.js';
import { readDuration, writeDuration } from '../../lib/notation.js';
import { zone } from '../../lib/prefs.js';
import { signal } from '../../lib/signals.js';
import { html } from '../../lib/view.js';

/** @typedef {import('../../lib/router.js').Query} Query */

export const STATES = ['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'];

/** What each filter is called, in the order of the form. */
const LABELS = /** @type {Record<string, string>} */ ({
    q: 'text',
    name: 'name',
    queue: 'queue',
    group: 'group',
    outcome: 'outcome',
    exit_code: 'exit code',
    signal: 'signal',
    worker: 'worker',
    longer_than_ms: 'longer than',
    shorter_than_ms: 'shorter than',
    category: 'category',
    fingerprint: 'fingerprint',
    since: 'since',
    until: 'until',
});
const NUMBERS = ['exit_code', 'signal', 'longer_than_ms', 'shorter_than_ms'];
const OUTCOMES = /** @type {Record<string, string>} */ ({
    exit: 'exit code',
    signal: 'signal',
    timeout: 'timeout',
    cancelled: 'cancelled',
    oom: 'out of memory',
    spawn_error: 'not started',
    lost: 'lost with its worker',
});
/** The spans that the form offers, under what stands in the address. */
const SPANS = /** @type {Record<string, string>} */ ({
    '15m': 'the last 15 minutes',
    '1h': 'the last hour',
    '24h': 'the last 24 hours',
    '7d': 'the last 7 days',
});

/** The moment of `1h` (an hour ago), a day or a time. @param {string} text */
function momentOf(text) {
    const ago = readDuration(text);
    if (ago !== null) return new Date(Date.now() - ago).toISOString();
    return /^\d{4}-\d\d-\d\d$/.test(text) ? `${text}T00:00:00Z` : text;
}

/** What the address asks for, as the API takes it. @param {Query} query @returns {Record<string, any>} */
export function filterOf(query) {
    /** @type {Record<string, any>} */
    const filter = {};
    for (const name of ['state', 'outcome']) if (query.list(name).length) filter[name] = query.list(name);
    for (const name of Object.keys(LABELS)) {
        const text = query.get(name).trim();
        if (name === 'outcome' || !text) continue;
        if (name === 'since' || name === 'until') filter[name] = momentOf(text);
        else filter[name] = NUMBERS.includes(name) && /^\d+$/.test(text) ? Number(text) : text;
    }
    return filter;
}

/** Takes all filters away. @param {Query} query */
export function clearFilters(query) {
    query.set({ ...Object.fromEntries(Object.keys(LABELS).map((name) => [name, null])), state: null, cursor: null });
}

/** @param {Query} query */
export const hasFilters = (query) => Object.keys(filterOf(query)).length > 0;

/** What a filter asks for, in words. @param {string} name @param {string} text */
function words(name, text) {
    if (name === 'outcome')
        return text
            .split(',')
            .map((kind) => OUTCOMES[kind] ?? kind)
            .join(' or ');
    if (name === 'since' || name === 'until') {
        if (name === 'since' && SPANS[text]) return SPANS[text];
        if (readDuration(text) !== null) return `${text} ago`;
        const at = momentOf(text);
        return Number.isNaN(Date.parse(at)) ? text : moment(at);
    }
    return name.endsWith('_ms') && /^\d+$/.test(text) ? duration(Number(text)) : text;
}

/** The filters that are set, each with what takes it away. @param {Query} query */
export function chips(query) {
    const set = Object.keys(LABELS).filter((name) => query.get(name).trim());
    if (!set.length) return null;
    return html`<div class="row" role="group" aria-label="Filters that are set">
        ${set.map(
            (
                name,
            ) => html`<button class="chip removable"
                aria-label="Take away the filter ${LABELS[name]}: ${words(name, query.get(name))}"
                @click=${() => query.set({ [name]: null, cursor: null })}>
                ${`${LABELS[name]}: ${words(name, query.get(name))}`}
                <span aria-hidden="true">✕</span></button>`,
        )}
        ${set.length > 1 || query.get('state') ? html`<button class="small"
            @click=${() => clearFilters(query)}>Clear all</button>` : null}
    </div>`;
}

/**
 * The chips of the states, each with how many there are.
 * @param {Query} query
 * @param {Record<string, string>} counts
 */
export function stateChips(query, counts) {
    const chosen = query.list('state');
    const toggle = (/** @type {string} */ state) => {
        const next = chosen.includes(state) ? chosen.filter((s) => s !== state) : [...chosen, state];
        query.set({ state: next, cursor: null });
    };
    return html`<div class="row" role="group" aria-label="States">
        <button class="small" aria-pressed=${String(!chosen.length)}
            @click=${() => query.set({ state: null, cursor: null })}>all</button>
        ${STATES.map(
            (
                state,
            ) => html`<button class="small" aria-pressed=${String(chosen.includes(state))}
                @click=${() => toggle(state)}>
            <span class=${state}>${state}</span>${counts[state] ? html`<span class="muted">${counts[state]}</span>`
                : null}</button>`,
        )}
    </div>`;
}

/** A time as `datetime-local` has it, in the zone of the user. @param {string} text */
function toInput(text) {
    const at = new Date(momentOf(text));
    if (!text || Number.isNaN(at.getTime())) return '';
    const shift = zone.value === 'utc' ? 0 : at.getTimezoneOffset() * 60e3;
    return new Date(at.getTime() - shift).toISOString().slice(0, 16);
}

/** @param {string} text */
const fromInput = (text) => (text ? new Date(zone.peek() === 'utc' ? `${text}Z` : text).toISOString() : null);

/**
 * The form with all filters, folded until it is wanted.
 * @param {import('../../lib/scope.js').Scope} scope
 * @param {Query} query
 */
export function filterForm(scope, query) {
    const choices = signal({
        names: /** @type {string[]} */ ([]),
        workers: /** @type {string[]} */ ([]),
        categories: /** @type {string[][]} */ ([]),
    });
    const isCustom = signal(Boolean(query.get('until') || (query.get('since') && !SPANS[query.get('since')])));
    let isLoaded = false;
    const load = async () => {
        if (isLoaded) return;
        isLoaded = true;
        const items = (/** @type {string} */ path) =>
            get(path, {}, scope.signal).then(
                (answer) => answer.items,
                () => [],
            );
        const [binaries, workers, categories] = await Promise.all(['/binaries', '/workers', '/categories'].map(items));
        const names = new Set([
            ...binaries.map((/** @type {any} */ b) => b.name),
            ...workers.flatMap((/** @type {any} */ w) => w.binaries ?? []),
        ]);
        choices.value = {
            names: [...names].sort(),
            workers: workers.map((/** @type {any} */ w) => w.id),
            categories: categories.map((/** @type {any} */ c) => [c.id, c.name]),
        };
    };
    const set = (/** @type {string} */ name) => (/** @type {Event} */ event) =>
        query.set({ [name]: /** @type {HTMLInputElement} */ (event.target).value.trim() || null, cursor: null });
    const setDuration = (/** @type {string} */ name) => (/** @type {Event} */ event) => {
        const input = /** @type {HTMLInputElement} */ (event.target);
        const ms = readDuration(input.value);
        input.setCustomValidity(
            input.value.trim() && ms === null ? 'Write a duration, such as 90s, 15m or 1h 30m.' : '',
        );
        if (!input.reportValidity()) return;
        query.set({ [name]: ms === null ? null : String(ms), cursor: null });
    };
    const setNumber = (/** @type {string} */ name) => (/** @type {Event} */ event) => {
        if (/** @type {HTMLInputElement} */ (event.target).reportValidity()) set(name)(event);
    };
    const setSpan = (/** @type {Event} */ event) => {
        const chosen = /** @type {HTMLSelectElement} */ (event.target).value;
        isCustom.value = chosen === 'custom';
        if (!isCustom.value) query.set({ since: chosen || null, until: null, cursor: null });
    };
    const setTime = (/** @type {string} */ name) => (/** @type {Event} */ event) =>
        query.set({ [name]: fromInput(/** @type {HTMLInputElement} */ (event.target).value), cursor: null });
    const ms = (/** @type {string} */ name) => (query.get(name) ? writeDuration(Number(query.get(name))) : '');
    const categories = () => {
        const known = [
            ['uncategorised', 'uncategorised'],
            ['pending', 'not worked out yet'],
            ...choices.value.categories,
        ];
        const chosen = query.get('category');
        return chosen && !known.some(([id]) => id === chosen) ? [[chosen, chosen], ...known] : known;
    };
    return () => html`<details class="job-filters" @toggle=${load}>
        <summary>More filters</summary>
        ${() => html`<div class="fields">
            <label>Name <input list="filter-names" .value=${query.get('name')} @change=${set('name')}
                autocomplete="off"></label>
            <label>Queue <input .value=${query.get('queue')} @change=${set('queue')} autocomplete="off"></label>
            <label>Group <input .value=${query.get('group')} @change=${set('group')} autocomplete="off"></label>
            <label>Submitted <select @change=${setSpan}>
                ${[['', 'at any time'], ...Object.entries(SPANS), ['custom', 'from … to …']].map(
                    ([value, text]) => html`
                    <option value=${value} .selected=${(isCustom.value ? 'custom'
                        : query.get('since')) === value}>${text}</option>`,
                )}
            </select></label>
            ${
                isCustom.value
                    ? html`
                <label>From <input type="datetime-local" .value=${toInput(query.get('since'))}
                    @change=${setTime('since')}></label>
                <label>Until <input type="datetime-local" .value=${toInput(query.get('until'))}
                    @change=${setTime('until')}></label>`
                    : null
            }
            <label>Last attempt ended by <select @change=${set('outcome')}>
                ${[['', 'anything'], ...Object.entries(OUTCOMES)].map(
                    ([value, text]) => html`
                    <option value=${value} .selected=${query.get('outcome') === value}>${text}</option>`,
                )}
            </select></label>
            <label>Exit code <input type="number" min="0" max="255" .value=${query.get('exit_code')}
                @change=${setNumber('exit_code')}></label>
            <label>Signal <input type="number" min="1" max="64" .value=${query.get('signal')}
                @change=${setNumber('signal')}></label>
            <label>Ran longer than <input placeholder="1m 30s" .value=${ms('longer_than_ms')}
                @change=${setDuration('longer_than_ms')}></label>
            <label>Ran shorter than <input placeholder="250ms" .value=${ms('shorter_than_ms')}
                @change=${setDuration('shorter_than_ms')}></label>
            <label>Category of a failure <select @change=${set('category')}>
                <option value="" .selected=${!query.get('category')}>any</option>
                ${categories().map(([id, name]) => html`<option value=${id}
                    .selected=${query.get('category') === id}>${name}</option>`)}
            </select></label>
            <label>Fingerprint <input class="mono" .value=${query.get('fingerprint')} @change=${set('fingerprint')}
                autocomplete="off"></label>
            <label>Worker <input list="filter-workers" .value=${query.get('worker')} @change=${set('worker')}
                autocomplete="off"></label>
            <datalist id="filter-names">${choices.value.names.map((name) => html`<option
                value=${name}></option>`)}</datalist>
            <datalist id="filter-workers">${choices.value.workers.map((id) => html`<option
                value=${id}></option>`)}</datalist>
        </div>`}
    </details>`;
}
