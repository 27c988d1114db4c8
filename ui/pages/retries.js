// @ts-check
// What another attempt is worth: the share of jobs that completes by each attempt, and the price of a win.

import { url } from '../lib/api.js';
import { stepChart } from '../lib/figures.js';
import { count, duration } from '../lib/format.js';
import { chanceCell, interval, rateCell, share } from '../lib/rates.js';
import { resource } from '../lib/scope.js';
import { signal } from '../lib/signals.js';
import { spanFilters, spanOf } from '../lib/span.js';
import { html } from '../lib/view.js';
import { copyable, empty, loading, problemNote } from '../lib/widgets.js';

/** As many attempts as a job has without a word of anybody. */
const USUAL = 3;
/** The slider goes so far beyond what has been tried, and at least to the least. */
const BEYOND = 2;
const LEAST = 10;

/** @type {import('../lib/router.js').Page} */
export default function retries({ scope, query, title }) {
    title('Retries');
    const span = () => spanOf(query);
    const asked = () => Math.min(1000, Math.max(1, Math.round(Number(query.get('attempts'))) || USUAL));
    const report = resource(scope, () => ['/stats/attempts', { ...span(), attempts: asked() }], { every: 60_000 });
    const durations = resource(scope, () => ['/stats/durations', span()]);
    /** What the slider shows while it moves; the address follows when it rests. */
    const thumb = signal(asked());
    let timer = 0;
    scope.onEnd(() => clearTimeout(timer));
    scope.effect(() => {
        thumb.value = asked();
    });
    const slide = (/** @type {Event} */ event) => {
        thumb.value = Number(/** @type {HTMLInputElement} */ (event.target).value);
        clearTimeout(timer);
        timer = setTimeout(() => query.set({ attempts: thumb.peek() === USUAL ? null : String(thumb.peek()) }), 150);
    };
    const items = () => report.data.value?.items ?? [];

    return () => html`
        <div class="row between">
            <h1>Retries</h1>
            ${() => html`<a href=${url('/stats/attempts', { ...span(), format: 'csv' })}
                download="attempts.csv">Download as CSV</a>`}
        </div>
        ${spanFilters(scope, query)}
        ${() => problemNote(report.error.value, report.data.value !== null)}
        ${() => (report.data.value ? null : report.error.value ? null : loading)}
        ${() => (report.data.value && !items().length
            ? empty('No attempt has ended',
                'When jobs have run, this page tells what allowing them another attempt is worth.',
                    'jobber submit NAME --attempts 3') : null)}
        ${() => (report.data.value?.caveat ? html`<div class="note warn"><strong>Take these numbers with
        care.</strong> ${sentence(report.data.value.caveat)}</div>` : null)}
        ${() => (items().length ? html`
            <section class="panel" aria-labelledby="worth">
                <h2 id="worth">Allow how many attempts?</h2>
                <label class="slider">Attempts allowed: ${thumb.value}
                    <input type="range" min="1" max=${Math.max(LEAST, items().length + BEYOND, asked())} step="1"
                        .value=${String(thumb.value)} @input=${slide}
                        aria-valuetext=${`${thumb.value} attempts`}></label>
                ${worth(report.data.value, durations.data.value)}
            </section>
            <section class="panel" aria-labelledby="survival">
                <h2 id="survival">Who completes by which attempt</h2>
                <p class="muted">Each step is the share of all jobs that completes if so many attempts are allowed. It
                    is an estimate: jobs that
                    still run or had no attempt left count as far as they came.</p>
                ${stepChart({
                    label: 'Share of jobs that completes',
                    axis: 'attempts allowed',
                    marked: thumb.value,
                    steps: items().map((/** @type {any} */ line) =>
                        ({ at: line.attempt, value: line.allowed.chance, low: line.allowed.low,
                            high: line.allowed.high })),
                    table: steps(items(), thumb.value),
                })}
            </section>
            <section class="panel" aria-labelledby="price">
                <h2 id="price">What a win costs</h2>
                <p class="muted">CPU time that an attempt takes over all jobs that need it, divided by the jobs that
                    complete by it. The wait between attempts is not in it.</p>
                ${prices(items(), durations.data.value)}
            </section>
            <section class="panel" aria-labelledby="meaning">
                <h2 id="meaning">What these numbers take for granted</h2>
                <ul class="plain-list">
                    <li>Attempts that were cancelled or lost with their worker count for nothing: nobody failed.</li>
                    <li>Of a job that was put back by hand only what came before counts, as somebody had mended
                        something by then.</li>
                    <li>Jobs that stopped earlier are taken to fare like those that went on. Job names that allow
                        different numbers of attempts are estimated apart.</li>
                    <li>An estimate rests on the jobs at the attempt that the fewest have tried, and its band is as wide
                        as these few make it.</li>
                </ul>
            </section>` : null)}`;
}

/** @param {string} text */
function sentence(text) {
    return `${text[0]?.toUpperCase() ?? ''}${text.slice(1)}${/[.!?]$/.test(text) ? '' : '.'}`;
}

/** The server's answer, and what it rests on. @param {any} report @param {any} durations */
function worth({ worth, items }, durations) {
    const line = items.find((/** @type {any} */ l) => l.attempt === worth.attempts);
    const by = worth.attempts > 1
        ? `by attempt ${worth.attempts} that would not with ${worth.attempts - 1}`
        : 'at the first attempt';
    const verdict = worth.answer.startsWith('unknown') ? 'Nobody knows yet'
        : worth.answer.startsWith('hardly') ? 'Hardly worth it'
        : `${share(worth.wins)} of all jobs complete ${by}`;
    const rest = worth.answer.replace(/^(unknown|hardly): /, '');
    return html`<div aria-live="polite" class="stack">
        <p class="verdict">${verdict}</p>
        <p>${sentence(rest)}</p>
        ${line ? html`<dl class="facts">
            <dt>Complete at
                attempt ${line.attempt}</dt><dd>${rateCell(line.next, `Complete at attempt ${line.attempt}`)}</dd>
            <dt>Complete by then, of all jobs</dt><dd>${chanceCell(line.allowed, 'Complete by then')}</dd>
            <dt>Each win costs</dt><dd>${line.cpu_seconds_a_win === null ? 'no job has completed by it'
                : `${duration(line.cpu_seconds_a_win * 1000)} of CPU`}${wallOf(line, durations)
                ? `, about ${wallOf(line, durations)} of running` : ''}</dd>
        </dl>` : null}
        ${worth.attempts <= 100 ? copyable(`jobber submit NAME --attempts ${worth.attempts}`) : null}
    </div>`;
}

/**
 * The running time of a win. Only of one name the time of an attempt is known.
 * @param {any} line @param {any} durations
 */
function wallOf(line, durations) {
    const one = durations?.items.length === 1 ? durations.items[0] : null;
    const { hits, n } = line.next;
    return one?.running.p50 === null || !one || !hits ? '' : duration((one.running.p50 * 1000 * n) / hits);
}

/** @param {any[]} lines @param {number} marked */
function steps(lines, marked) {
    return html`<div class="scroll" tabindex="0" role="group" aria-label="Completing by attempt"><table>
        <thead><tr>
            <th scope="col" class="number">Attempt</th>
            <th scope="col" title="Of the jobs that were tried so often">Complete at it</th>
            <th scope="col" title="Of the jobs that stand before it, with all attempts that were ever tried">Complete at
                it or later</th>
            <th scope="col" title="Of all jobs, if no further attempt is allowed">Of all, complete by it</th>
            <th scope="col" class="number"
                title="Stand before it: still run or wait, were cancelled or lost">Undecided</th>
            <th scope="col" class="number" title="Had no attempt left">Exhausted</th>
            <th scope="col" class="number" title="Ended before it, as another attempt was pointless">Hopeless</th>
        </tr></thead>
        <tbody>${lines.map((line) => html`<tr class=${line.attempt === marked ? 'at' : ''}>
            <th scope="row" class="number">${line.attempt}</th>
            <td>${rateCell(line.next, `Complete at attempt ${line.attempt}`)}</td>
            <td>${chanceCell(line.completes, `Complete at attempt ${line.attempt} or later`)}</td>
            <td>${chanceCell(line.allowed, `Complete by attempt ${line.attempt}`)}</td>
            <td class="number">${count(line.undecided)}</td>
            <td class="number">${count(line.exhausted)}</td>
            <td class="number">${count(line.hopeless)}</td>
        </tr>`)}</tbody>
    </table></div>`;
}

/** @param {any[]} lines @param {any} durations */
function prices(lines, durations) {
    const most = Math.max(...lines.map((line) => line.cpu_seconds_a_win ?? 0), 1e-9);
    const isOne = durations?.items.length === 1;
    return html`<div class="scroll" tabindex="0" role="group" aria-label="Price of a win by attempt"><table>
        <thead><tr>
            <th scope="col" class="number">Attempt</th><th scope="col" class="number">Wins</th><th scope="col"
                class="number">CPU an attempt</th>
            <th scope="col" class="number">CPU a win</th><th scope="col"><span class="hear">CPU a win as a
                bar</span></th>
            ${isOne ? html`<th scope="col" class="number">Running a win, about</th>` : null}
        </tr></thead>
        <tbody>${lines.map((line) => html`<tr>
            <th scope="row" class="number">${line.attempt}</th>
            <td class="number"
                title=${`of those tried: ${interval(line.next.low, line.next.high)}`}>${line.next.rate === null
                    ? 'too few' : `${count(line.next.hits)} of ${count(line.next.n)}`}</td>
            <td class="number">${line.cpu_seconds === null ? '–' : duration(line.cpu_seconds * 1000)}</td>
            <td class="number">${line.cpu_seconds_a_win === null ? 'no win yet'
                : duration(line.cpu_seconds_a_win * 1000)}</td>
            <td class="wide"><span class="bar-track block"><span class="bar accent"
                style=${{ width: `${(100 * (line.cpu_seconds_a_win ?? 0)) / most}%` }}></span></span></td>
            ${isOne ? html`<td class="number">${wallOf(line, durations) || '–'}</td>` : null}
        </tr>`)}</tbody>
    </table></div>
    <p class="muted small">${isOne ? 'Running time goes by the median attempt of this job name.'
        : 'Choose one job name to see the running time of a win as well.'}</p>`;
}
