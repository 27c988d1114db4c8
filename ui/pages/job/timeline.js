// @ts-check
// A job's waits and attempts over time.

import { chartWidth } from '../../lib/charts.js';
import { bytes, clock, duration, outcome, succeeded } from '../../lib/format.js';
import { svg, each, html } from '../../lib/view.js';

const ROW = 28;
const LEFT = 34;
const AXIS = 22;

/** @param {string} text */
const time = (text) => new Date(text).getTime();

/** Steps that people count time in, in ms. */
const STEPS = [
    ...[1, 2, 5, 10, 20, 50, 100, 200, 500],
    ...[1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 21_600, 43_200, 86_400].map((s) => s * 1000),
];

/** Round times from 0 to a length. @param {number} length @param {number} wanted how many at most */
function timeMarks(length, wanted) {
    const day = STEPS[STEPS.length - 1];
    const step = STEPS.find((step) => length / step <= wanted) ?? Math.ceil(length / wanted / day) * day;
    return Array.from({ length: Math.floor(length / step) + 1 }, (_, i) => i * step);
}

/** The waits and attempts of a job. @param {any} job @param {any[]} attempts @param {number} now */
export function spans(job, attempts, now) {
    const all = job.attempts ?? [];
    const isOpen = !['completed', 'failed'].includes(job.state);
    const rows = attempts.map((attempt) => {
        const at = all.indexOf(attempt);
        const before = at > 0 ? (all[at - 1].report?.ended_at ?? all[at - 1].started_at) : job.submitted_at;
        const begin = time(attempt.report?.started_at ?? attempt.started_at);
        const isRunning = !attempt.report && attempt === all[all.length - 1] && job.state === 'active';
        const end = attempt.report ? time(attempt.report.ended_at) : isRunning ? now : begin;
        return {
            number: attempt.number,
            attempt,
            waitFrom: Math.min(time(before), begin),
            begin,
            end: Math.max(begin, end),
            isRunning,
        };
    });
    const last = all[all.length - 1];
    if (isOpen && (!last || last.report)) {
        const from = last?.report ? time(last.report.ended_at) : time(job.submitted_at);
        const due = job.state === 'delayed' && job.due_at ? Math.max(now, time(job.due_at)) : now;
        rows.push({
            number: (last?.number ?? 0) + 1,
            attempt: null,
            waitFrom: from,
            begin: due,
            end: due,
            isRunning: false,
        });
    }
    return rows;
}

/** @param {any} attempt */
export function toneOf(attempt) {
    const how = attempt.report?.outcome;
    if (!how) return 'active';
    return succeeded(how) ? 'completed' : how.kind === 'cancelled' ? 'cancelled' : 'failed';
}

/** What a row says in words. @param {ReturnType<typeof spans>[number]} row @param {any} job */
export function sentence(row, job) {
    const waited = duration(row.begin - row.waitFrom);
    if (!row.attempt)
        return job.state === 'delayed'
            ? `Attempt ${row.number} comes after ${waited}.`
            : `Attempt ${row.number} has been waiting for ${waited}.`;
    const { report } = row.attempt;
    if (!report)
        return `Attempt ${row.number} waited ${waited} and ${row.isRunning
            ? `has been running for ${duration(row.end - row.begin)}` : 'has no end in history'}.`;
    const { usage, cpus } = report;
    const used = usage
        ? ` CPU time ${duration((usage.user_us + usage.system_us) / 1000)}, peak memory ${bytes(usage.peak_rss_bytes)}`
        : '';
    const cores = cpus?.length
        ? `${used ? ',' : ''} on ${cpus.length === 1 ? 'core' : 'cores'} ${cpus.join(', ')}`
        : '';
    return `Attempt ${row.number} waited ${waited} and ran ${duration(usage ? usage.wall_us / 1000
        : row.end - row.begin)}: ${outcome(report.outcome)}.${used}${cores}${used || cores ? '.' : ''}`;
}

/**
 * @param {any} job
 * @param {any[]} attempts those that are shown
 * @param {number | undefined} chosen
 * @param {(number: number) => void} choose
 */
export function timeline(job, attempts, chosen, choose) {
    const now = Date.now();
    const rows = spans(job, attempts, now);
    if (!rows.length) return html`<p class="muted">It never started.</p>`;
    const width = chartWidth();
    const right = width > 700 ? 250 : 12;
    const from = Math.min(...rows.map((row) => row.waitFrom));
    const to = Math.max(from + 1, ...rows.map((row) => row.end));
    const x = (/** @type {number} */ at) => LEFT + ((at - from) / (to - from)) * (width - LEFT - right);
    const height = rows.length * ROW + AXIS;
    const marks = timeMarks(to - from, Math.max(2, Math.floor((width - LEFT - right) / 140)));
    const detail = rows.find((row) => row.number === chosen);
    return html`<div class="gantt chart">
        <div class="legend" aria-hidden="true"><span class="key waiting">waiting</span><span
            class="key completed">completed</span><span class="key failed">failed</span><span
                class="key active">running</span></div>
        <svg viewBox="0 0 ${width} ${height}" role="group"
            aria-label="Attempts over time, from ${clock(from)} to ${clock(to)}">
            ${marks.map(
                (mark) => svg`<line class="grid" x1=${x(from + mark)} x2=${x(from + mark)} y1="0" y2=${height - AXIS} />
                <text class="tick" x=${x(from + mark)} y=${height - 6}
                    text-anchor=${mark ? 'middle' : 'start'}>${mark ? `+${duration(mark)}` : clock(from)}</text>`,
            )}
            ${each(
                rows,
                (row) => row.number,
                (row) => bar(row, rows.indexOf(row) * ROW),
            )}
        </svg>
        <p class="small">${detail ? sentence(detail, job) : ''}</p>
    </div>`;

    /** @param {ReturnType<typeof spans>[number]} row @param {number} y */
    function bar(row, y) {
        const { attempt } = row;
        const [waitX, beginX] = [x(row.waitFrom), x(row.begin)];
        const length = Math.max(3, x(row.end) - beginX);
        const pick = () => attempt && choose(row.number);
        const text = sentence(row, job);
        return svg`<g class="gantt-row ${row.number === chosen ? 'chosen' : ''}" tabindex=${attempt ? '0' : null}
            role=${attempt ? 'button' : 'img'}
            aria-pressed=${attempt ? String(row.number === chosen) : null} @click=${pick}
            @keydown=${(/** @type {KeyboardEvent} */ event) => {
                if (event.key !== 'Enter' && event.key !== ' ') return;
                event.preventDefault();
                pick();
            }}>
            <title>${text}</title>
            <rect class="ground" x="0" y=${y} width=${width} height=${ROW} />
            <text class="tick" x=${LEFT - 8} y=${y + 18} text-anchor="end">${row.number}</text>
            <rect class="wait ${!attempt && job.state === 'delayed' ? 'delayed' : 'waiting'}" x=${waitX} y=${y + 12}
                width=${Math.max(1, beginX - waitX)} height="4" />
            ${attempt ? svg`<rect class="run ${toneOf(attempt)}" x=${Math.min(beginX, width - right - 3)} y=${y + 6}
                width=${length} height="16" rx="2" />` : null}
            ${right > 100 ? svg`<text class="what" x=${width - right + 12} y=${y + 18}>${brief(row)}</text>` : null}
        </g>`;
    }
}

/** What stands beside a row. @param {ReturnType<typeof spans>[number]} row */
function brief(row) {
    if (!row.attempt) return '';
    const { report } = row.attempt;
    if (!report) return row.isRunning ? `running ${duration(row.end - row.begin)}` : 'no end known';
    const { usage } = report;
    return [outcome(report.outcome), usage && duration(usage.wall_us / 1000), usage && bytes(usage.peak_rss_bytes)]
        .filter(Boolean)
        .join(' · ');
}
