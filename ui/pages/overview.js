// @ts-check
// What the queue does now: counts, rates, what fails, who works, and how far history is.

import { follow } from '../lib/live.js';
import { get } from '../lib/api.js';
import { timeChart } from '../lib/charts.js';
import { clock, compact, count, duration } from '../lib/format.js';
import { href } from '../lib/router.js';
import { resource } from '../lib/scope.js';
import { signal } from '../lib/signals.js';
import { html } from '../lib/view.js';
import { at, copyable, empty, jobLink, loading, problemNote, when } from '../lib/widgets.js';
import { regressionNotes } from './stats/builds.js';

const STATES = ['waiting', 'prioritized', 'delayed', 'active', 'completed', 'failed'];
/** The spans that the chart offers, in minutes. */
const SPANS = ['30', '60', '360', '1440'];

/** @type {import('../lib/router.js').Page} */
export default function overview({ scope, query, title }) {
    title('Overview');
    const now = signal(/** @type {any} */ (null));
    const problem = signal(/** @type {any} */ (null));
    const { connected } = follow(scope, '/api/v1/overview', ['overview'], (_, data) => {
        now.value = data;
    }, { replays: true });
    // The first look does not wait for the stream, which another tab may hold.
    get('/overview', {}, scope.signal).then(
        (data) => {
            now.value ??= data;
        },
        (error) => {
            if (!scope.signal.aborted) problem.value = error;
        },
    );
    const span = () => query.get('span') || '60';
    const series = resource(scope, () => ['/stats/throughput', { minutes: span() }], { every: 10_000 });

    return () => html`
        <div class="row between">
            <h1>Overview</h1>
            <span class="muted small">${() => (connected.value ? 'live' : 'not connected')}</span>
        </div>
        ${() => (now.value ? null : problemNote(problem.value))}
        ${() => (now.value ? troubles(now.value) : null)}
        ${() => (now.value ? tiles(now.value.queue) : problem.value ? null : loading)}
        ${() => (now.value && isNew(now.value) ? firstSteps() : null)}
        <section class="panel" aria-labelledby="rates">
            <div class="row between">
                <h2 id="rates">Throughput</h2>
                <div class="row" role="group" aria-label="Span">${() => SPANS.map((minutes) => html`
                    <button class="small" aria-pressed=${String(span() === minutes)} @click=${() => query.set({ span: minutes })}>${duration(Number(minutes) * 60e3)}</button>`)}
                </div>
            </div>
            ${() => rates(now.value?.rates)}
            ${() => problemNote(series.error.value, series.data.value !== null)}
            ${() => (series.data.value ? chart(series.data.value) : null)}
        </section>
        <div class="grid2">
            <section class="panel" aria-labelledby="failing">
                <h2 id="failing">What fails</h2>
                ${() => (now.value ? failing(now.value.failing) : loading)}
            </section>
            <section class="panel" aria-labelledby="working">
                <h2 id="working">Workers and history</h2>
                ${() => (now.value ? working(now.value) : loading)}
            </section>
        </div>`;
}

/** @param {any} now */
function isNew({ queue }) {
    return queue && STATES.every((state) => queue[state] === 0);
}

function firstSteps() {
    return empty(
        'No job yet',
        html`Put a program into the jobs directory and submit it, on the command line or with the <a href=${href('/submit')}>form</a>.`,
        'jobber submit hello',
    );
}

/** What does not work. @param {any} now */
function troubles({ components, queue, workers, regressions }) {
    const names = /** @type {Record<string, string>} */ ({ queue: 'The queue', store: 'History', events: 'The event log' });
    const away = Object.entries(components).filter(([, c]) => /** @type {any} */ (c).status !== 'ok');
    const waits = queue && queue.waiting + queue.prioritized > 0;
    return html`
        ${away.map(([name, c]) => html`<div class="note bad"><strong>${names[name] ?? name} is ${/** @type {any} */ (c).status}.</strong> ${/** @type {any} */ (c).error}</div>`)}
        ${queue?.paused ? html`<div class="note warn"><strong>The queue is paused.</strong> Nothing new starts until it <a href=${href('/queue')}>goes on</a>.</div>` : null}
        ${workers && workers.total === 0 && waits ? html`<div class="note warn"><strong>No worker is running,</strong> so nothing starts. ${copyable('jobber work')}</div>` : null}
        ${workers?.unhealthy ? html`<div class="note warn"><strong>${workers.unhealthy} of ${workers.total} workers can't start jobs.</strong> <a href=${href('/workers')}>See why.</a></div>` : null}
        ${regressionNotes(regressions ?? [])}`;
}

/** @param {any} queue */
function tiles(queue) {
    return html`<div class="tiles">${STATES.map((state) => html`
        <a class="tile" href=${href('/jobs', { state })}>
            <span class="${state} small">${state}</span>
            <span class="big" title=${count(queue?.[state])}>${compact(queue?.[state])}</span>
        </a>`)}</div>`;
}

/** @param {any} rates */
function rates(rates) {
    if (!rates) return null;
    const perSecond = (/** @type {number} */ n) => (n / rates.window_s).toFixed(n / rates.window_s < 10 ? 1 : 0);
    return html`<p class="muted">In the last minute: ${count(rates.submitted)} submitted, ${count(rates.completed)} completed
        (${perSecond(rates.completed)} a second), ${count(rates.failed)} failed${rates.attempts_failed > rates.failed ? `, ${count(rates.attempts_failed)} failed attempts` : ''}.</p>`;
}

/** @param {any} series */
function chart({ items, whole_since: since }) {
    // The running minute would always look like a drop.
    const whole = items.slice(0, -1);
    const unknown = whole.findIndex((/** @type {any} */ item) => item.at >= since);
    if (unknown < 0) return html`<p class="muted">The server counts since ${at(since)}. The chart begins with its first whole minute.</p>`;
    const unknownUntil = unknown;
    const of = (/** @type {string} */ field) => whole.map((/** @type {any} */ item, /** @type {number} */ i) => (i < unknownUntil ? null : item[field]));
    return timeChart({
        label: 'Jobs a minute',
        times: whole.map((/** @type {any} */ item) => item.at),
        time: (time) => clock(time, false),
        series: [
            { name: 'submitted', tone: 'waiting', values: of('submitted') },
            { name: 'completed', tone: 'completed', values: of('completed') },
            { name: 'failed', tone: 'failed', values: of('failed') },
        ],
        unknownUntil,
        caption: unknownUntil > 0 ? 'The server does not know the shaded time: it counts once a page asks, and knows before that what the event log still holds.' : null,
    });
}

/** @param {any} list */
function failing(list) {
    if (!list) return html`<p class="muted">History does not answer.</p>`;
    if (!list.length) return html`<p class="muted">No attempt has failed since yesterday.</p>`;
    const most = Math.max(...list.map((/** @type {any} */ c) => c.count));
    return html`<div class="bars">${list.map((/** @type {any} */ c) => html`
        <a class="bar-name" href=${href('/failures', { category: c.category })}>${c.category_name}</a>
        <span class="bar-track"><span class="bar failed" style=${{ width: `${(100 * c.count) / most}%` }}></span></span>
        <span class="number">${count(c.count)}</span>`)}</div>
        <p class="muted small">Failed attempts of today and yesterday.</p>`;
}

/** @param {any} now */
function working({ workers, oldest_waiting: oldest, history }) {
    return html`<dl class="facts">
        <dt>Workers</dt><dd>${workers ? html`<a href=${href('/workers')}>${workers.taking} of ${workers.total} take jobs</a>${workers.draining ? `, ${workers.draining} draining` : ''}` : 'not known'}</dd>
        ${workers ? html`
            <dt>Slots</dt><dd>${meter(workers.running, workers.slots)}</dd>
            <dt>Cores</dt><dd>${meter(workers.cores_busy, workers.cores)}</dd>` : null}
        <dt>Oldest waiting</dt><dd>${oldest ? html`${jobLink(oldest.id)} <span>${oldest.name}</span>, ${when(oldest.since)}` : 'none'}</dd>
        ${history ? html`
            <dt>History</dt><dd>${history.caught_up ? 'has caught up with the log' : `is behind the log${history.lag_ms ? ` by ${duration(history.lag_ms)}` : ''}`}${history.parked ? html`, <span class="bad-text">${count(history.parked)} events could not be read</span>` : ''}</dd>
            <dt>Event log</dt><dd>${meter(history.log_length, history.log_cap)}</dd>` : null}
    </dl>`;
}

/** @param {number} part @param {number} whole */
function meter(part, whole) {
    return html`<span>${count(part)} of ${count(whole)}</span><div class="meter accent"><span style=${{ width: `${whole ? Math.min(100, (100 * part) / whole) : 0}%` }}></span></div>`;
}
