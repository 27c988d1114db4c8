// @ts-check
// The page of jobs that is shown: asked for by keyset, and kept up to date by the stream of events. No row moves.

import { Problem, get } from '../../lib/api.js';
import { count } from '../../lib/format.js';
import { follow } from '../../lib/live.js';
import { signal, untracked } from '../../lib/signals.js';
import { STATES, filterOf } from './filters.js';

/** @typedef {import('./row.js').Row} Row */

/** Jobs on a page: some 700 nodes. */
export const PAGE = 50;
/** The largest page that the server gives. */
const LARGEST = 200;
/** A search goes on by itself for so long, in ms, before it asks. */
const PATIENCE = 1500;
/** The least time, in ms, between two paintings of what the stream tells. */
const REPAINT = 250;
/** More arrivals are not told apart. */
const MOST_ARRIVALS = 1000;
/** Filters of which an event does not tell whether they hold. */
const UNTOLD = [
    'until',
    'queue',
    'group',
    'outcome',
    'exit_code',
    'signal',
    'worker',
    'longer_than_ms',
    'shorter_than_ms',
    'category',
    'fingerprint',
];
const EVENTS = [
    'submitted',
    'attempt_started',
    'attempt_withdrawn',
    'attempt_finished',
    'finished',
    'cancelled',
    'retried',
    'removed',
];

/**
 * What was shown when the page was left, for the way back.
 * @type {{ search: string, items: any[], next: string | null, scanned: number } | null}
 */
let kept = null;

/** What an event makes of a job. @param {any} job @param {any} event */
export function after(job, event) {
    const last = [job.submitted_at, job.started_at, job.finished_at].reduce((a, b) => (b && b > a ? b : a), '');
    if (event.at < last) return job;
    const { attempt = job.attempts } = event;
    switch (event.type) {
        case 'attempt_started':
            return {
                ...job,
                state: 'active',
                started_at: event.at,
                finished_at: null,
                outcome: null,
                error: null,
                due_at: null,
                duration_ms: null,
                attempts: attempt,
            };
        case 'attempt_withdrawn':
            return { ...job, state: 'waiting', started_at: null, attempts: Math.max(0, attempt - 1) };
        case 'attempt_finished': {
            const ran = job.started_at ? Date.parse(event.at) - Date.parse(job.started_at) : null;
            const isOver = !event.due_at || event.state === 'completed' || event.state === 'failed';
            return {
                ...job,
                outcome: event.outcome,
                duration_ms: ran,
                ...(isOver ? {} : { state: 'delayed', due_at: event.due_at }),
            };
        }
        case 'finished':
            return {
                ...job,
                state: event.state,
                outcome: event.outcome ?? job.outcome,
                finished_at: event.at,
                due_at: null,
            };
        case 'cancelled':
            return { ...job, state: 'failed', outcome: { kind: 'cancelled' }, finished_at: event.at, due_at: null };
        case 'retried':
            return {
                ...job,
                state: 'waiting',
                outcome: null,
                finished_at: null,
                error: null,
                duration_ms: null,
                due_at: null,
            };
        case 'removed':
            return { ...job, state: 'removed' };
        default:
            return job;
    }
}

/** The states of which a job may be after an event. @param {any} event @returns {string[]} */
function statesAfter(event) {
    const states = /** @type {Record<string, string[]>} */ ({
        submitted: ['waiting', 'prioritized', 'delayed'],
        retried: ['waiting', 'prioritized'],
        attempt_started: ['active'],
        cancelled: ['failed'],
    });
    return event.type === 'finished' ? [event.state] : (states[event.type] ?? []);
}

/**
 * @param {import('../../lib/scope.js').Scope} scope
 * @param {import('../../lib/router.js').Query} query
 * @param {{ row: (job: any) => Row, isFrozen: () => boolean, shown: (rows: Row[]) => void }} page
 *   `shown`: called after other rows have been put on the page
 */
export function jobList(scope, query, { row, isFrozen, shown }) {
    /** @type {import('../../lib/signals.js').Signal<Row[]>} */
    const rows = signal(/** @type {any[]} */ ([]));
    const state = {
        rows,
        next: signal(/** @type {string | null} */ (null)),
        /** Jobs that a search has looked at; 0 when it was none. */
        scanned: signal(0),
        problem: signal(/** @type {Problem | null} */ (null)),
        busy: signal(true),
        isLoaded: signal(false),
        /** Jobs that have come to match since the list was asked for. */
        arrivals: signal(0),
        counts: signal(/** @type {Record<string, string>} */ ({})),
    };
    /** @type {Map<string, Row>} */
    let byId = new Map();
    /**
     * Events since the list was last asked for, so that an answer that is older than they are is put right.
     * @type {any[]}
     */
    let recent = [];
    const arrived = new Set();
    /** @type {AbortController | null} */
    let under = null;

    /** @param {any[]} jobs */
    const show = (jobs) => {
        const before = byId;
        byId = new Map();
        for (const job of jobs) {
            const known = before.get(job.id) ?? row(job);
            known.job.value = job;
            byId.set(job.id, known);
        }
        for (const event of recent) patch(event);
        rows.value = [...byId.values()];
        state.isLoaded.value = true;
        shown(rows.value);
    };
    /** @param {any} event */
    const patch = (event) => {
        const known = byId.get(event.job);
        if (known) known.job.value = after(known.job.peek(), event);
    };

    /**
     * Asks for what comes after `cursor`, and goes on while a search finds little.
     * @param {any[]} jobs those that stand before
     * @param {string} cursor
     */
    const ask = async (jobs, cursor) => {
        under?.abort();
        const mine = (under = new AbortController());
        const signal = AbortSignal.any([mine.signal, scope.signal]);
        state.busy.value = true;
        const filter = untracked(() => filterOf(query));
        const late = performance.now() + PATIENCE;
        let scanned = jobs.length ? state.scanned.peek() : 0;
        try {
            for (let isFirst = true; ; isFirst = false) {
                const page = await get('/jobs', { ...filter, cursor, limit: PAGE - (jobs.length % PAGE) }, signal);
                if (signal.aborted) return;
                jobs = [...jobs, ...page.items];
                scanned += page.scanned ?? 0;
                cursor = page.next_cursor;
                // What is shown stays until there is something better, or until the search is over.
                // A whole id finds its job at once; others that mention it are looked for when asked.
                const isFound = filter.q !== undefined && page.items[0]?.id === filter.q;
                const isSearch = page.scanned !== undefined && page.scanned !== null;
                const isEnough = !cursor || !isSearch || isFound || jobs.length >= PAGE || performance.now() > late;
                if (isFirst || page.items.length || isEnough) {
                    state.next.value = cursor;
                    state.scanned.value = scanned;
                    show(jobs);
                }
                state.problem.value = null;
                if (isEnough) return;
            }
        } catch (problem) {
            if (signal.aborted) return;
            if (!(problem instanceof Problem)) throw problem;
            state.problem.value = problem;
        } finally {
            if (under === mine) end();
        }
    };
    const load = () => {
        recent = [];
        arrived.clear();
        state.arrivals.value = 0;
        return ask(
            [],
            untracked(() => query.get('cursor')),
        );
    };
    /**
     * Puts right what is shown, where it is shown, and counts what has arrived since: no row moves.
     * Not while somebody is choosing among the rows.
     */
    const review = async () => {
        if (isFrozen() || under || !byId.size) return;
        const mine = (under = new AbortController());
        recent = [];
        state.busy.value = true;
        try {
            const params = {
                ...untracked(() => filterOf(query)),
                cursor: untracked(() => query.get('cursor')),
                limit: LARGEST,
            };
            const page = await get('/jobs', params, AbortSignal.any([mine.signal, scope.signal]));
            if (mine.signal.aborted || scope.signal.aborted) return;
            const fresh = new Map(page.items.map((/** @type {any} */ job) => [job.id, job]));
            for (const id of fresh.keys()) {
                if (byId.has(id)) break;
                if (arrived.size < MOST_ARRIVALS) arrived.add(id);
            }
            state.arrivals.value = arrived.size;
            state.problem.value = null;
            show([...byId.values()].map((r) => fresh.get(r.id) ?? r.job.peek()));
        } catch (problem) {
            if (!mine.signal.aborted && problem instanceof Problem) state.problem.value = problem;
        } finally {
            if (under === mine) end();
        }
    };
    const end = () => {
        under = null;
        state.busy.value = false;
    };

    // ---- Counts

    /** @type {AbortController | null} */
    let counting = null;
    const recount = async () => {
        counting?.abort();
        const mine = (counting = new AbortController());
        const signal = AbortSignal.any([mine.signal, scope.signal]);
        const filter = untracked(() => filterOf(query));
        const one = async (/** @type {Record<string, any>} */ filter) => {
            const answer = await get('/jobs:count', filter, signal);
            return count(answer.count) + (answer.capped ? '+' : '');
        };
        try {
            // One after the other: the count of the whole matters first, and requests for rows go before counts.
            const counts = /** @type {Record<string, string>} */ ({ all: await one(filter) });
            state.counts.value = { ...state.counts.peek(), ...counts };
            for (const name of STATES) counts[name] = await one({ ...filter, state: [name] });
            state.counts.value = counts;
        } catch {
            // The list itself says what is wrong; it can do without counts.
            if (!signal.aborted) state.counts.value = {};
        }
    };

    // ---- Live

    /** What the address asks for now. @type {Record<string, any>} */
    let filter = {};
    /** Whether nothing that arrives can belong to the page: it is an older one, or events do not tell. */
    let isClosed = false;
    /** Whether a job of which only an event is known may belong to the list. @param {any} event */
    const mayMatch = (event) => {
        if (isClosed || (filter.name && filter.name !== event.name)) return false;
        if (filter.q && !`${event.job} ${event.name}`.toLowerCase().includes(filter.q.toLowerCase())) return false;
        return filter.state ? statesAfter(event).some((s) => filter.state.includes(s)) : event.type === 'submitted';
    };
    /** Events of rows that are shown, until the next frame in which they are. @type {any[]} */
    let waiting = [];
    let paintedAt = 0;
    let timer = 0;
    const paint = () => {
        timer = 0;
        paintedAt = performance.now();
        for (const event of waiting) patch(event);
        waiting = [];
        state.arrivals.value = arrived.size;
    };
    scope.onEnd(() => clearTimeout(timer));
    const { connected } = follow(scope, '/api/v1/events', EVENTS, (_, event) => {
        if (state.busy.peek() && recent.length < 5000) recent.push(event);
        if (byId.has(event.job)) waiting.push(event);
        else if (arrived.size < MOST_ARRIVALS && mayMatch(event)) arrived.add(event.job);
        else return;
        // The first is seen at once; in a storm the page is painted some times a second.
        timer ||= setTimeout(paint, Math.max(0, paintedAt + REPAINT - performance.now()));
    });
    let wasConnected = false;
    scope.effect(() => {
        const is = connected.value;
        // Whatever happened while nobody listened was missed.
        if (is && !wasConnected && state.isLoaded.peek()) untracked(review);
        wasConnected = is;
    });
    scope.effect(() => {
        // Nobody reads an empty list: the first job may show itself.
        if (state.arrivals.value > 0 && state.isLoaded.value && !rows.value.length && !state.busy.value)
            untracked(load);
    });
    scope.every(15_000, () => {
        if (!connected.peek()) review();
        recount();
    });

    // ---- The beginning and the end

    const isBack = Boolean(history.state?.at) && kept?.search === location.search;
    let asked = '';
    let search = location.search;
    scope.effect(() => {
        const { focus: _, ...wanted } = query.all();
        search = location.search;
        const key = JSON.stringify(wanted);
        if (key === asked) return;
        const wasFirst = asked === '';
        asked = key;
        untracked(() => {
            filter = filterOf(query);
            isClosed = Boolean(query.get('cursor')) || UNTOLD.some((name) => filter[name] !== undefined);
            if (wasFirst && isBack && kept?.items.length) {
                state.next.value = kept.next;
                state.scanned.value = kept.scanned;
                show(kept.items);
                review();
            } else {
                load();
            }
            recount();
        });
    });
    scope.onEnd(() => {
        kept = {
            search,
            items: rows.peek().map((r) => r.job.peek()),
            next: state.next.peek(),
            scanned: state.scanned.peek(),
        };
    });
    return {
        ...state,
        connected,
        load,
        recount,
        /** Goes on with a search that has stopped. */
        goOn: () =>
            ask(
                rows.peek().map((r) => r.job.peek()),
                state.next.peek() ?? '',
            ),
    };
}
