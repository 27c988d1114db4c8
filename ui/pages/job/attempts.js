// @ts-check
// The attempts of a job: a timeline, its table, and all about the one that is chosen.

import { segment, session } from '../../lib/api.js';
import { plain } from '../../lib/ansi.js';
import { asTable } from '../../lib/charts.js';
import { bytes, count, duration, outcome, shortBuild } from '../../lib/format.js';
import { href } from '../../lib/router.js';
import { signal } from '../../lib/signals.js';
import { html } from '../../lib/view.js';
import { at, copy, timeOfDay, when } from '../../lib/widgets.js';
import { crashView } from './crash.js';
import { filesView } from './files.js';
import { timeline, toneOf } from './timeline.js';

/** How many attempts are shown at first, and how many more each time. */
const STEP = 30;
/** The most characters of an output's tail that are shown. */
const TAIL = 16_000;

/** @param {{ id: string, query: import('../../lib/router.js').Query, readonly job: any }} known */
export function attemptsView(known) {
    const shown = signal(STEP);
    const { query } = known;
    const choose = (/** @type {number} */ number) => query.set({ show: String(number) });
    const chosen = () => {
        const all = known.job.attempts ?? [];
        return all.find((/** @type {any} */ a) => String(a.number) === query.get('show')) ?? all[all.length - 1];
    };
    return html`
        <section class="panel" aria-labelledby="timeline">
            <h2 id="timeline">Timeline</h2>
            ${() => timeline(known.job, known.job.attempts?.slice(-shown.value) ?? [], chosen()?.number, choose)}
            ${() => {
                const more = (known.job.attempts?.length ?? 0) - shown.value;
                return more > 0
                    ? html`<div class="row"><button class="small"
                        @click=${() => (shown.value += STEP)}>Show ${Math.min(STEP, more)} earlier attempts
                            of ${more}</button></div>`
                    : null;
            }}
            ${() => table(known.job.attempts?.slice(-shown.value) ?? [])}
        </section>
        ${() => {
            const attempt = chosen();
            return attempt ? details(known.job, known.id, attempt) : null;
        }}`;
}

/** The CPU time of an attempt, in ms. @param {any} usage */
const cpu = (usage) => (usage ? (usage.user_us + usage.system_us) / 1000 : null);

/** @param {any[]} attempts */
function table(attempts) {
    if (!attempts.length) return null;
    return asTable(
        ['attempt', 'outcome', 'began', 'took', 'CPU time', 'peak memory', 'cores', 'beside it'],
        attempts.map(({ number, started_at: started, report }) => [
            number,
            outcome(report?.outcome),
            timeOfDay(report?.started_at ?? started),
            report?.usage ? duration(report.usage.wall_us / 1000) : '–',
            duration(cpu(report?.usage)),
            bytes(report?.usage?.peak_rss_bytes),
            report?.cpus?.join(', ') ?? '–',
            report ? count(report.peak_beside) : '–',
        ]),
    );
}

/** @param {any} job @param {string} id @param {any} attempt */
function details(job, id, attempt) {
    const { report, number } = attempt;
    const usage = report?.usage;
    const category = attempt.fingerprint ? job.categories?.[attempt.fingerprint] : null;
    const began = report?.started_at ?? attempt.started_at;
    const tone = toneOf(attempt);
    return html`<section class="panel" aria-labelledby="attempt">
        <div class="row between">
            <h2 id="attempt">Attempt ${number}: <span class=${tone}>${outcome(report?.outcome)}</span></h2>
            <a href=${href(`/jobs/${encodeURIComponent(id)}`, { tab: 'log', attempt: String(number) })}>Its log</a>
        </div>
        ${report?.error ? html`<pre class="code error-text" tabindex="0"
            aria-label="Error">${withoutEscapes(report.error)}</pre>` : null}
        ${
            attempt.fingerprint
                ? html`<p>
            ${category ? html`<span class="muted">Category</span> <a
                href=${href('/failures', { category })}>${category}</a> · ` : null}
            <a href=${href(`/failures/${encodeURIComponent(attempt.fingerprint)}`)}>all failures like this
                one</a> · <code
                class="muted" title=${attempt.fingerprint}>${attempt.fingerprint.slice(0, 12)}</code></p>`
                : null
        }
        <dl class="facts">
            <dt>Began</dt><dd>${at(began)}${report ? null : html`, ${when(began)}`}</dd>
            ${report ? html`<dt>Ended</dt><dd>${at(report.ended_at)}</dd>` : null}
            ${
                usage
                    ? html`
                <dt>Took</dt><dd>${duration(usage.wall_us / 1000)}</dd>
                <dt>CPU time</dt><dd>${duration(cpu(usage))} (${times(usage)})${share(usage, report.cpus)}</dd>
                <dt>Peak memory</dt><dd>${bytes(usage.peak_rss_bytes)}${job.options?.memory_bytes
                    ? ` of ${bytes(job.options.memory_bytes)}` : ''}</dd>`
                    : null
            }
            <dt>Worker</dt><dd><a
                href=${href('/workers', { worker: attempt.worker })}>${attempt.worker}</a>${attempt.host
                    ? ` on ${attempt.host}` : ''}${(attempt.pid ?? report?.pid)
                        ? `, process ${attempt.pid ?? report.pid}` : ''}</dd>
            ${report?.build
                ? html`<dt>Build</dt><dd><code title=${report.build.digest}>${shortBuild(report.build.digest)}</code>, ${
                    bytes(report.build.bytes)}, of ${at(report.build.modified_at)}</dd>` : null}
            ${report?.cpus?.length ? html`<dt>Cores</dt><dd>${report.cpus.join(', ')}</dd>` : null}
            ${report ? html`<dt>Beside it</dt><dd>${beside(report)}</dd>` : null}
            ${report?.no_retry ? html`<dt>Retry</dt><dd>none after this outcome</dd>` : null}
        </dl>
        ${report?.crash ? crashView(report.crash) : null}
        ${filesView(id, number, report)}
        ${report ? outputs(id, number, report) : html`<p class="muted">It runs. What it writes is in its log.</p>`}
    </section>`;
}

/** @param {string} text */
const withoutEscapes = (text) => text.split('\n').map(plain).join('\n');

/** @param {any} usage */
const times = (usage) => `${duration(usage.user_us / 1000)} user, ${duration(usage.system_us / 1000)} system`;

/** What ran beside it. @param {any} report */
function beside({ peak_beside: most, beside_at_start: first }) {
    if (!most) return 'no other job on its worker';
    return `${count(most)} other ${most === 1 ? 'job' : 'jobs'} at most, ${count(first)} at its start`;
}

/** How much of its cores it used. @param {any} usage @param {number[] | undefined} cpus */
function share(usage, cpus) {
    if (!cpus?.length || usage.wall_us < 10_000) return '';
    const used = Math.round((100 * (usage.user_us + usage.system_us)) / (usage.wall_us * cpus.length));
    return `, ${used} % of ${cpus.length === 1 ? 'its core' : `its ${cpus.length} cores`}`;
}

/** @param {string} id @param {number} number @param {any} report */
function outputs(id, number, report) {
    if (session.value?.hides_data) return html`<div class="note">This server hides output from viewers.</div>`;
    return html`<div class="grid2">
        ${['stdout', 'stderr'].map((stream) => output(id, number, stream, report[stream]))}</div>`;
}

/** @param {string} id @param {number} number @param {string} stream @param {any} tail */
function output(id, number, stream, tail) {
    if (!tail) return null;
    const text = withoutEscapes(tail.text.slice(-TAIL));
    const isPart = tail.truncated || tail.text.length > TAIL;
    return html`<div class="stack">
        <div class="row between">
            <h3>${stream} <span class="muted small">${bytes(tail.total_bytes)}${isPart ? ', its end' : ''}</span></h3>
            ${
                tail.total_bytes
                    ? html`<span class="row small">
                <button class="small" aria-label="Copy ${stream}" @click=${() => copy(text)}>Copy</button>
                <a href="/api/v1/jobs/${segment(id)}/attempts/${number}/${stream}"
                    download="">Download ${stream}</a></span>`
                    : null
            }
        </div>
        ${tail.total_bytes ? html`<pre class="code tail" tabindex="0"
            aria-label="${stream} of attempt ${number}">${text}</pre>`
                : html`<p class="muted">It wrote nothing there.</p>`}
    </div>`;
}
