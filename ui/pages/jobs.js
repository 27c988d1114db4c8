// @ts-check
// All jobs: filters in the address, pages by keyset, live states, and actions on one, on some or on all that match.

import { VERBS, actOnMany } from '../lib/act-on-jobs.js';
import { mayAct, post, segment } from '../lib/api.js';
import { count } from '../lib/format.js';
import { bind } from '../lib/keys.js';
import { href } from '../lib/router.js';
import { signal } from '../lib/signals.js';
import { each, html } from '../lib/view.js';
import { attempt, confirm, empty, loading, problemNote } from '../lib/widgets.js';
import { chips, clearFilters, filterForm, filterOf, hasFilters, stateChips } from './jobs/filters.js';
import { jobList } from './jobs/list.js';
import { rowView } from './jobs/row.js';

/** @typedef {import('./jobs/row.js').Row} Row */
/** @typedef {import('../lib/act-on-jobs.js').Verb} Verb */

/** @type {import('../lib/router.js').Page} */
export default function jobs({ scope, query, title }) {
    title('Jobs');
    /** The row that the keys are at. */
    const at = signal(String(history.state?.at ?? ''));
    const selected = signal(/** @type {Set<string>} */ (new Set()));
    /** Whether all jobs that match are chosen, shown or not. */
    const isAll = signal(false);
    /** The row that gets the focus when the rows have come: its id, or `first`. */
    let wanted = at.peek();
    let lastToggled = '';
    /** The ids of the rows that are shown. @type {string[]} */
    let ids = [];
    /** @type {HTMLInputElement | null} */
    let search = null;
    /** @type {HTMLElement | null} */
    let listElement = null;

    const list = jobList(scope, query, {
        row: makeRow,
        isFrozen: () => selected.peek().size > 0 || isAll.peek(),
        shown: keepFocus,
    });

    /** @param {any} job @returns {Row} */
    function makeRow(job) {
        /** @type {Row} */
        const row = { id: job.id, job: signal(job), link: null, view: () => null };
        const hold = (/** @type {HTMLElement | null} */ link) => {
            row.link = link;
        };
        row.view = () =>
            rowView(row, {
                isAt: at.value === row.id,
                isSelected: isAll.value || selected.value.has(row.id),
                at: stand,
                toggle,
                hold,
            });
        return row;
    }

    // ---- Where the keys are

    /** Notes the row in the history entry, so that "back" finds it. @param {Row} row */
    function stand(row) {
        if (at.peek() === row.id) return;
        at.value = row.id;
        history.replaceState({ at: row.id }, '');
    }
    /** @param {Row | undefined} row @param {ScrollLogicalPosition} [block] */
    function focusRow(row, block = 'nearest') {
        if (!row?.link) return;
        row.link.focus({ preventScroll: true });
        row.link.closest('li')?.scrollIntoView({ block });
    }
    const place = () => list.rows.peek().findIndex((row) => row.id === at.peek());
    /** @param {number} step */
    const move = (step) => {
        const rows = list.rows.peek();
        const from = place();
        wanted = '';
        focusRow(rows[from < 0 ? 0 : Math.max(0, Math.min(rows.length - 1, from + step))]);
    };
    /**
     * After other rows have come: the focus stays at its row, or goes to the one that took its place.
     * @param {Row[]} rows
     */
    function keepFocus(rows) {
        const hadFocus = listElement?.contains(document.activeElement);
        const index = Math.max(0, ids.indexOf(at.peek()));
        ids = rows.map((row) => row.id);
        const goal = wanted === 'first' || ids.includes(wanted) ? wanted : '';
        if (goal) wanted = '';
        if (!hadFocus && !goal) return;
        // The rows are on the page after the frame in which signals run.
        requestAnimationFrame(() =>
            requestAnimationFrame(() => {
                if (goal === 'first') focusRow(rows[0]);
                else if (goal)
                    focusRow(
                        rows.find((row) => row.id === goal),
                        'center',
                    );
                else if (!listElement?.contains(document.activeElement))
                    focusRow(rows[Math.min(index, rows.length - 1)]);
            }),
        );
    }

    // ---- Choosing

    /** @param {Row} row @param {Event} event with Shift: all rows between this one and the one before */
    function toggle(row, event) {
        const next = new Set(isAll.peek() ? ids : selected.peek());
        const isOn = !next.has(row.id);
        const [a, b] = [ids.indexOf(lastToggled), ids.indexOf(row.id)].sort((x, y) => x - y);
        const span = event instanceof MouseEvent && event.shiftKey && a >= 0 ? ids.slice(a, b + 1) : [row.id];
        for (const id of span) isOn ? next.add(id) : next.delete(id);
        lastToggled = row.id;
        isAll.value = false;
        selected.value = next;
    }
    const clear = () => {
        isAll.value = false;
        selected.value = new Set();
    };
    const selectShown = () => {
        isAll.value = false;
        selected.value = new Set(ids);
    };

    // ---- Acting

    /** @param {Verb} verb */
    async function act(verb) {
        if (!mayAct()) return;
        const n = selected.peek().size;
        if (!isAll.peek() && !n) return actOnOne(verb, list.rows.peek()[place()]);
        const chosen = isAll.peek() ? filterOf(query) : { ids: [...selected.peek()] };
        const which = isAll.peek() ? 'all jobs that match' : n === 1 ? 'one job' : `${count(n)} jobs`;
        if ((await actOnMany(verb, chosen, which)) === null) return;
        clear();
        // The button that was pressed has nothing to act on now.
        wanted = ids.includes(at.peek()) ? at.peek() : 'first';
        list.load();
        list.recount();
    }
    /** @param {Verb} verb @param {Row | undefined} row */
    async function actOnOne(verb, row) {
        if (!row) return;
        const name = row.job.peek().name;
        const isGrave = verb === 'cancel' || verb === 'remove';
        if (isGrave && !(await confirm(`${VERBS[verb].yes} ${name}?`, VERBS[verb].means, `${VERBS[verb].yes} it`)))
            return;
        await attempt(
            () => post(`/jobs/${segment(row.id)}:${verb}`),
            `${name}: ${verb === 'retry' ? 'put back' : 'asked to stop'}`,
        );
    }

    bind(scope, {
        '/': ['Search', () => search?.focus()],
        j: ['Next job', () => move(1)],
        k: ['Job before', () => move(-1)],
        Enter: [
            'Open the job',
            (event) => {
                const target = event.target instanceof HTMLElement ? event.target.closest('a, button, summary') : null;
                // A link or button that has the focus knows itself what Enter means.
                if (target instanceof HTMLElement) target.click();
                else list.rows.peek()[place()]?.link?.click();
            },
        ],
        ...(mayAct()
            ? {
                  x: [
                      'Select the job',
                      (/** @type {Event} */ event) => {
                          const row = list.rows.peek()[place()];
                          if (row) toggle(row, event);
                      },
                  ],
                  a: ['Select all shown', selectShown],
                  r: ['Retry', () => act('retry')],
                  c: ['Cancel', () => act('cancel')],
              }
            : {}),
        n: ['Show new jobs', () => list.arrivals.peek() && showNew()],
        Escape: [
            'Clear the selection, then the search',
            () => {
                if (selected.peek().size || isAll.peek()) clear();
                else if (query.get('q')) query.set({ q: null, cursor: null });
            },
        ],
    });

    // ---- The search box

    let timer = 0;
    const type = (/** @type {any} */ event) => {
        clearTimeout(timer);
        timer = setTimeout(() => query.set({ q: event.target.value.trim() || null, cursor: null }), 250);
    };
    scope.onEnd(() => clearTimeout(timer));
    scope.effect(() => {
        if (query.get('focus') !== 'search') return;
        // After the page is there, and its heading has had the focus.
        requestAnimationFrame(() => {
            query.set({ focus: null });
            search?.focus();
        });
    });
    // Another filter, another choice.
    let asked = '';
    scope.effect(() => {
        const { focus: _, ...now } = query.all();
        const key = JSON.stringify(now);
        if (asked && key !== asked) clear();
        asked = key;
    });

    /** @param {string | null} cursor */
    const turnPage = (cursor) => {
        wanted = 'first';
        query.set({ cursor }, { push: true });
        window.scrollTo(0, 0);
    };
    const showNew = () => {
        const focus = document.activeElement;
        wanted = focus === document.body || focus?.classList.contains('arrivals') ? 'first' : '';
        list.load();
    };

    const form = filterForm(scope, query);
    return () => html`
        <div class="row between">
            <div class="row"><h1>Jobs</h1>${() => (query.get('group') ? html`
                <a href=${href(`/groups/${segment(query.get('group'))}`)}>Progress and results of the
                    group</a>` : null)}</div>
            <span class="muted small">${() => (list.connected.value ? 'live' : 'not connected')}</span>
        </div>
        <div class="stack">
            <div class="row">
                <label class="grow search"><span class="hidden-label">Search</span>
                    <input type="text" role="searchbox" enterkeyhint="search" placeholder="Search id, name or error"
                        autocomplete="off" spellcheck="false"
                        ref=${(/** @type {any} */ e) => {
                            search = e;
                            // Typed text is not taken back while the address follows it.
                            if (e && document.activeElement !== e) e.value = query.get('q');
                        }} @input=${type}></label>
            </div>
            ${() => {
                const q = query.get('q');
                if (search && document.activeElement !== search) search.value = q;
                return stateChips(query, list.counts.value);
            }}
            ${form()}
            ${() => chips(query)}
        </div>
        <section class="panel jobs-panel" aria-label="List of jobs">
            <div class="row between jobs-head">
                <span class="muted" aria-live="polite">${() => countLine()}</span>
                <span class="row">${() => (list.arrivals.value ? html`<button class="small primary arrivals"
                    @click=${showNew}>${arrivals()}</button>` : null)}
                    ${() => (query.get('cursor') ? html`<button class="small"
                        @click=${() => turnPage(null)}>Newest</button>` : null)}</span>
            </div>
            ${() => (mayAct() && list.rows.value.length ? bulkBar() : null)}
            ${() => problemNote(list.problem.value, list.isLoaded.value)}
            <ul class="list jobs" ref=${(/** @type {any} */ e) => {
                listElement = e;
            }}>${() =>
                each(
                    list.rows.value,
                    (row) => row.id,
                    (row) => html`<li>${row.view}</li>`,
                )}</ul>
            ${() => (list.isLoaded.value ? (list.rows.value.length ? null : nothing()) : list.problem.value ? null
                : loading)}
            ${() => footer()}
        </section>`;

    function arrivals() {
        const n = list.arrivals.value;
        return `${count(n)}${n >= 1000 ? '+' : ''} new`;
    }

    function countLine() {
        const all = list.counts.value.all;
        const searching = list.scanned.value ? `, ${count(list.scanned.value)} looked at` : '';
        if (list.busy.value && !list.isLoaded.value) return 'Loading …';
        if (!all) return list.isLoaded.value ? `${count(list.rows.value.length)} shown${searching}` : '';
        return `${all} ${all === '1' ? 'job' : 'jobs'}${query.get('cursor') ? ', an older page' : ''}${searching}`;
    }

    function bulkBar() {
        const n = selected.value.size;
        const all = list.counts.value.all;
        const isSome = n > 0 || isAll.value;
        const isWhole = isAll.value || (n > 0 && list.rows.value.every((row) => selected.value.has(row.id)));
        return html`<div class="row bulk" role="group" aria-label="Actions on selected jobs">
            <label class="inline"><input type="checkbox" .checked=${isWhole} .indeterminate=${isSome && !isWhole}
                @click=${() => (isSome ? clear() : selectShown())}> ${isAll.value ? `all ${all ?? ''} that match` : n
                    ? `${count(n)} selected` : 'Select all shown'}</label>
            ${
                /** @type {Verb[]} */ (['retry', 'cancel', 'promote', 'remove']).map(
                    (verb) => html`
                <button class="small ${verb === 'remove' ? 'danger' : ''}" disabled=${!isSome}
                    @click=${() => act(verb)}>${VERBS[verb].yes} …</button>`,
                )
            }
            ${
                isSome && !isAll.value
                    ? html`<button class="small" disabled=${!hasFilters(query)} title=${hasFilters(query) ? null
                        : 'Set a filter first: no action is on all jobs there are'} @click=${() => {
                          isAll.value = true;
                      }}>Select all ${all ?? ''} that match</button>`
                    : null
            }
            ${isSome ? html`<button class="small" @click=${clear}>Clear</button>` : null}
        </div>`;
    }

    function nothing() {
        if (list.busy.value) return loading;
        if (list.next.value) return null;
        if (hasFilters(query) || query.get('cursor')) {
            return html`<div class="empty"><h2>No job matches</h2><p>${list.scanned.value
                ? `The search has looked at all ${count(list.scanned.value)} jobs of the other filters.`
                    : 'Jobs that match appear here as soon as there are any.'}</p>
                <button @click=${() => clearFilters(query)}>Clear all filters</button></div>`;
        }
        return empty(
            'No job yet',
            html`Submit one on the command line or with the <a href=${href('/submit')}>form</a>.`,
            'jobber submit hello',
        );
    }

    function footer() {
        const next = list.next.value;
        if (!next) return list.rows.value.length ? html`<p class="muted small">These are the oldest.</p>` : null;
        const isShort = list.scanned.value > 0 && list.rows.value.length < 50;
        if (!isShort)
            return html`<div class="row"><button disabled=${list.busy.value}
                @click=${() => turnPage(next)}>Older</button></div>`;
        return html`<div class="row"><span>${list.busy.value ? 'Searching …'
            : 'Not all were searched.'} ${count(list.scanned.value)} jobs looked
                at, ${count(list.rows.value.length)} found.</span>
            <button disabled=${list.busy.value} @click=${() => list.goOn()}>Search on</button></div>`;
    }
}
